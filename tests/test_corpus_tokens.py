"""Corpora that come as tokens are packed like texts, and say where they know no documents."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glossator._core import document_sides
from glossator.corpus import NO_DOCUMENT, open_corpus, open_tokens, pack
from glossator.errors import InputError
from tiny_models import prose, tokenizer


def _documents(seed=0, n=60, longest=50):
    random = np.random.default_rng(seed)
    return [random.integers(10, 200, random.integers(1, longest)).tolist() for _ in range(n)]


def _read(corpus):
    """Id and tokens of each document."""
    parts = itertools.groupby(corpus.parts(), key=lambda part: part.document)
    return [(key, [t for part in some for t in part.tokens.tolist()]) for key, some in parts]


def _packed(contexts):
    """Tokens by document as they stand in the contexts, and the rows."""
    found, rows = {}, []
    for batch in contexts.batches():
        for tokens, owners, mask in zip(batch.tokens, batch.document_ids, batch.mask, strict=True):
            rows.append((tokens, owners, mask))
            inner = slice(len(contexts.prefix), None)
            for token, owner in zip(tokens[inner].tolist(), owners[inner].tolist(), strict=True):
                if owner != NO_DOCUMENT:
                    found.setdefault(owner, []).append(token)
    return found, rows


def _ways(folder, documents):
    """The same documents in every form that says where they end."""
    line = np.concatenate(documents).astype(np.uint16)
    starts = np.cumsum([0, *(len(d) for d in documents)])[:-1]
    np.savez(folder / "starts.npz", tokens=line, document_starts=starts)
    pq.write_table(pa.table({"input_ids": documents}), folder / "lists.parquet", row_group_size=7)
    rows = "\n".join(json.dumps({"input_ids": document}) for document in documents)
    (folder / "hub").mkdir()
    (folder / "hub" / "train.jsonl").write_text(rows)
    return {
        "starts": open_tokens(folder / "starts.npz"),
        "parquet": open_tokens(folder / "lists.parquet"),
        "dataset": open_tokens(f"hf:{folder / 'hub'}"),
    }


def test_every_form_gives_the_same_documents_and_contexts(tmp_path):
    documents = [list(d) for d in dict.fromkeys(map(tuple, _documents()))]
    ways = _ways(tmp_path, documents)
    read = {name: _read(corpus) for name, corpus in ways.items()}
    assert [tokens for _, tokens in read["starts"]] == documents
    assert read["starts"] == read["parquet"] == read["dataset"]
    census = {pack(corpus, context_length=16).census() for corpus in ways.values()}
    assert len(census) == 1
    assert census.pop().notes == ()


@given(st.integers(0, 50), st.integers(3, 40), st.sampled_from([None, 250]))
def test_packing_keeps_each_document_whole_and_each_context_on_one_side(seed, length, bos):
    documents = _documents(seed)
    ids = np.arange(len(documents)) + 1_000 * seed
    line = np.concatenate(documents)
    owners = np.repeat(ids, [len(document) for document in documents])
    contexts = pack(
        open_tokens({"tokens": line, "document_ids": owners}), context_length=length, bos=bos
    )
    found, rows = _packed(contexts)
    assert found == dict(zip(ids.tolist(), documents, strict=True))
    for tokens, its, mask in rows:
        sides = document_sides(its[its != NO_DOCUMENT], 0)
        assert len(set(sides.tolist())) == 1
        assert not mask[0]
        assert mask[1:].tolist() == (its[1:] != NO_DOCUMENT).tolist()
        assert bos is None or tokens[0] == bos
    assert contexts.census().tokens == sum(int(mask.sum()) for _, _, mask in rows)


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=12), st.integers(1, 9)
)
def test_a_separator_ends_documents_and_never_counts(documents, cut):
    line = [token for document in documents for token in [*document, 0]]
    corpus = open_tokens(np.array(line), separator=0)
    wanted = dict.fromkeys((*document, 0) for document in documents)
    assert [tuple(tokens) for _, tokens in _read(corpus)] == list(wanted)
    left_out = len(documents) - len(wanted)
    assert corpus.notes == ((f"{left_out} duplicate documents left out",) if left_out else ())
    for batch in pack(corpus, context_length=4 + cut).batches():
        assert not batch.mask[batch.tokens == 0].any()
        assert batch.attended[batch.tokens != 0].all()


def test_a_separator_is_found_across_stretches(monkeypatch):
    monkeypatch.setattr("glossator.corpus.tokens._AT_ONCE", 3)
    line = np.array([1, 2, 3, 4, 0, 5, 0, 6, 7, 8, 9, 1, 2])
    read = [tokens for _, tokens in _read(open_tokens(line, separator=0))]
    assert read == [[1, 2, 3, 4, 0], [5, 0], [6, 7, 8, 9, 1, 2]]
    owners = np.array([7, 7, 7, 7, 7, 8, 8, 9, 9, 9, 9, 9, 9])
    read = _read(open_tokens({"tokens": line, "document_ids": owners}))
    assert read == [(7, [1, 2, 3, 4, 0]), (8, [5, 0]), (9, [6, 7, 8, 9, 1, 2])]


def test_a_line_without_documents_gets_one_a_context_and_says_so(tmp_path):
    line = np.random.default_rng(0).integers(0, 300, 1_003).astype(np.int32)
    np.save(tmp_path / "line.npy", line)
    contexts = pack(open_tokens(tmp_path / "line.npy"), context_length=16)
    found, rows = _packed(contexts)
    assert len(found) == len(rows) == 63
    assert [
        t for tokens, its, _ in rows for t in tokens[its != NO_DOCUMENT].tolist()
    ] == line.tolist()
    sides = document_sides(np.array(list(found), np.uint64), 0)
    assert set(sides.tolist()) == {0, 1}
    census = contexts.census()
    assert (
        "does not say where a document ends: each context counts as a document" in census.notes[0]
    )
    assert census.tokens == 1_003 - 63
    assert contexts.store(tmp_path / "c").census() == census
    few = pack(open_tokens(line), context_length=16, tokens=100).census()
    assert (few.contexts, few.tokens) == (7, 100 - 7)


def test_rows_of_one_length_stay_rows_and_the_census_says_so():
    rows = np.random.default_rng(0).integers(5, 300, (50, 16))
    contexts = pack(open_tokens(rows), context_length=16)
    kept = sorted(tokens.tolist() for tokens, _, _ in _packed(contexts)[1])
    assert kept == sorted(rows.tolist())
    assert "all rows have 16 tokens" in contexts.census().notes[0]


def test_rows_with_an_owner_each_and_padding():
    rows = np.arange(40).reshape(10, 4)
    whole = open_tokens({"tokens": rows, "document_ids": np.arange(10) // 2})
    assert _read(whole) == [(n, list(range(8 * n, 8 * n + 8))) for n in range(5)]
    owners = np.repeat(np.arange(10, dtype=np.uint64)[:, None], 4, axis=1)
    owners[:, 3] = NO_DOCUMENT
    padded = open_tokens({"tokens": rows, "document_ids": owners})
    assert _read(padded) == [(n, [4 * n, 4 * n + 1, 4 * n + 2]) for n in range(10)]


def test_bos_stands_first_and_never_counts_for_texts_too():
    from glossator.corpus import Corpus, Document

    texts = [Document.of("", prose(number, 30)) for number in range(60)]
    corpus = Corpus("memory", lambda tally: iter(texts))
    contexts = pack(corpus, tokenizer("byte-level"), context_length=16, bos=0)
    for tokens, its, mask in _packed(contexts)[1]:
        assert tokens[0] == 0
        assert not mask[0]
        assert mask[1]
        assert its[0] == its[1]  # attended, and of the text beside it
    # A tokenizer that puts one itself is not given another.
    own = pack(corpus, tokenizer("wordpiece"), context_length=16, bos=2)
    assert own.census() == pack(corpus, tokenizer("wordpiece"), context_length=16).census()


def test_special_tokens_among_the_text_are_read_and_do_not_count():
    rows = np.random.default_rng(0).integers(3, 9, (50, 16))
    rows[:, 5] = 1
    batch = next(pack(open_tokens(rows, special=[1]), context_length=16).batches())
    assert batch.attended.all()
    assert (batch.mask == ((batch.tokens != 1) & (np.arange(16) > 0))).all()


@given(
    st.sampled_from(["line", "separated", "starts", "owned", "rows"]),
    st.integers(0, 99),
    st.sampled_from([2**18, 5]),
    st.integers(2, 9),
    st.sampled_from([6, 20]),  # documents: above and below the fewest that are kept whole
)
def test_masked_tokens_are_read_and_do_not_count_and_padding_is_not_there(
    form, seed, at_once, length, width
):
    random = np.random.default_rng(seed)
    tokens = 100 + random.permutation(240).reshape(-1, width)  # each once, so it names itself
    counted, there = random.random(tokens.shape) < 0.7, random.random(tokens.shape) < 0.8
    arrays = {"tokens": tokens, "mask": counted, "attention_mask": there.astype(np.uint8)}
    if form != "rows":
        arrays = {name: array.reshape(-1) for name, array in arrays.items()}
    if form == "starts":
        arrays["document_starts"] = np.arange(0, 240, width)
    if form == "owned":
        arrays["document_ids"] = np.arange(240) // width
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glossator.corpus.tokens._AT_ONCE", at_once)
        corpus = open_tokens(arrays, separator=150 if form == "separated" else None)
        read = [t for part in corpus.parts() for t in part.tokens.tolist()]
        assert read == tokens[there].tolist()
        said = dict(zip(tokens.reshape(-1).tolist(), counted.reshape(-1).tolist(), strict=True))
        if form == "separated":
            said[150] = False
        seen = []
        for batch in pack(corpus, context_length=length).batches():
            inside = batch.document_ids != NO_DOCUMENT
            assert not batch.mask[~inside].any()
            assert not batch.mask[:, 0].any()
            seen += batch.tokens[inside].tolist()
            for token, counts in zip(
                batch.tokens[:, 1:][inside[:, 1:]].tolist(),
                batch.mask[:, 1:][inside[:, 1:]].tolist(),
                strict=True,
            ):
                assert counts == said[token]
        assert sorted(seen) == sorted(read)


def test_masks_of_files_are_read(tmp_path):
    tokens = np.arange(60).reshape(20, 3)
    np.savez(tmp_path / "a.npz", tokens=tokens, mask=tokens % 2 == 0)
    parts = list(open_tokens(tmp_path / "a.npz").parts())
    assert [part.counts().tolist() for part in parts[:2]] == [
        [True, False, True],
        [False, True, False],
    ]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"tokens": np.ones(4)}, "`tokens` is float64; it must be of integers"),
        ({"tokens": np.array([[1, 2]], object)}, "`tokens` is object"),
        ({"ids": np.ones(4, int)}, "holds `ids`; it needs `tokens`"),
        ({"tokens": np.ones((2, 2, 2), int)}, r"shape \(2, 2, 2\)"),
        ({"tokens": np.ones(0, int)}, "not empty"),
        ({"tokens": np.array([1, -1]), "document_ids": np.array([1, 1])}, "-1 at 0"),
        ({"tokens": np.array([1, 2**32]), "document_ids": np.array([1, 1])}, "4294967296 at 0"),
        ({"tokens": np.ones(4, int), "document_ids": np.ones(3, int)}, r"shape \(3,\); with"),
        ({"tokens": np.ones(4, int), "document_ids": -np.ones(4, int)}, "holds -1; none is"),
        ({"tokens": np.ones(4, int), "document_starts": np.array([1, 2])}, "ascend from 0"),
        ({"tokens": np.ones(4, int), "document_starts": np.array([0, 2, 2])}, "ascend from 0"),
        ({"tokens": np.ones(4, int), "document_starts": np.array([0, 4])}, "behind the last of 4"),
        (
            {"tokens": np.ones(4, int), "document_starts": [0], "document_ids": np.ones(4, int)},
            "at most `document_ids` or `document_starts`",
        ),
        ({"tokens": np.ones(4, int), "mask": np.ones(3, bool)}, r"`mask` has shape \(3,\); it"),
        ({"tokens": np.ones(4, int), "mask": np.ones(4)}, "`mask` holds more than true and"),
        ({"tokens": np.ones(4, int), "attention_mask": np.full(4, 2)}, "`attention_mask` holds"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_tokens_are_refused_by_field(arrays, said):
    with pytest.raises(InputError, match=said):
        list(open_tokens(arrays).parts())


def test_files_that_are_no_tokens_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.npy`: no such file"):
        open_tokens(tmp_path / "nothing.npy")
    (tmp_path / "a.npy").write_bytes(b"no array")
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "a.txt").write_text("text")
    for name, said in (
        ("a.npy", "not readable"),
        ("pickled.npy", "not readable"),
        ("a.txt", "text"),
    ):
        with pytest.raises(InputError, match=rf"{name}`.*{said}"):
            open_tokens(tmp_path / name)
    pq.write_table(
        pa.table({"text": ["x"], "ids": [[1, None]], "f": [[0.5]]}), tmp_path / "a.parquet"
    )
    for column, said in (
        ("input_ids", "no field `input_ids`; there are `text`, `ids`, `f`"),
        ("text", "field `text` is string, no list of integers"),
        ("f", "field `f` is list.*no list of integers"),
        ("ids", r"a\.parquet:0`: holds a null"),
    ):
        with pytest.raises(InputError, match=said):
            list(open_tokens(tmp_path / "a.parquet", column=column).parts())
    (tmp_path / "a.jsonl").write_text('{"input_ids": [1, 2]}')
    with pytest.raises(InputError, match="tokens are for `open_tokens`"):
        list(open_corpus(tmp_path / "a.jsonl", column="input_ids"))


# --- datasets ----------------------------------------------------------------------------------


def test_a_dataset_of_parquet_files_is_streamed_by_split_and_configuration(tmp_path):
    for config in ("one", "two"):
        (tmp_path / config).mkdir()
        for split in ("train", "test"):
            texts = [f"{config} {split} {number}" for number in range(5)]
            table = pa.table({"body": texts, "other": [None] * 5})
            pq.write_table(table, tmp_path / config / f"{split}.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {config}\n  data_files:\n"
            + "".join(
                f"  - split: {s}\n    path: {config}/{s}.parquet\n" for s in ("train", "test")
            )
            for config in ("one", "two")
        )
        + "---\n"
    )
    read = [d.text for d in open_corpus(f"hf:{tmp_path}@two:test", column="body")]
    assert read == [f"two test {number}" for number in range(5)]
    read = [d.text for d in open_corpus(f"hf:{tmp_path}:test", column="body", subset="one")]
    assert read[0] == "one test 0"
    with pytest.raises(InputError, match=r"corpus `hf:.*three.*`: "):
        list(open_corpus(f"hf:{tmp_path}@three", column="body"))
    with pytest.raises(InputError, match="no field `text`; there are `body`, `other`"):
        list(open_corpus(f"hf:{tmp_path}@one"))


def test_a_dataset_that_breaks_off_is_refused_in_one_line(tmp_path):
    rows = "\n".join([json.dumps({"text": "x" * 40}) for _ in range(3)])
    (tmp_path / "a.jsonl").write_text(rows + '\n{"text": ')
    with pytest.raises(InputError, match=r"corpus `hf:.*: ") as caught:
        list(open_corpus(f"hf:{tmp_path}"))
    assert "\n" not in str(caught.value)
