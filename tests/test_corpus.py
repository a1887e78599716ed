"""Documents from every source, and the contexts that they are packed into."""

import functools
import itertools
import json
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator._core import document_sides
from glossator.corpus import NO_DOCUMENT, Corpus, Document, open_contexts, open_corpus, pack
from glossator.errors import InputError
from tiny_models import KINDS, prose, tokenizer


def _corpus(texts):
    named = [Document.of(f"text {number}", text) for number, text in enumerate(texts)]
    return Corpus("memory", lambda tally: iter(named))


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def _flat(lists):
    return list(itertools.chain.from_iterable(lists))


def _texts(corpus):
    return [document.text for document in corpus]


# --- sources -----------------------------------------------------------------------------------


@functools.cache
def _standard_library():
    corpus = open_corpus("stdlib")
    return [(document.id, document.name) for document in corpus], corpus.notes


def test_the_standard_library_is_read_in_one_order_each_text_once():
    documents, notes = _standard_library()
    again = itertools.islice(open_corpus("stdlib"), 500)
    assert [(document.id, document.name) for document in again] == documents[:500]
    assert len({identity for identity, _ in documents}) == len(documents) > 5_000
    names = [name for _, name in documents]
    assert names[0].startswith("topic ")
    assert {"argparse.ArgumentParser", "json.decoder.JSONDecoder.decode", "zlib.crc32"} <= set(
        names
    )
    assert "duplicate" in notes[0]


def test_sources_are_parsed_and_never_imported():
    documents, _ = _standard_library()
    assert "antigravity" not in sys.modules
    assert "turtle" not in sys.modules
    assert any(name.startswith("turtle.") for _, name in documents)


def test_packages_gives_docstrings_of_installed_packages():
    names = []
    for document in open_corpus("packages"):
        names.append(document.name)
        if len(names) == 200:
            break
    assert len(set(names)) == 200
    assert not any(".tests." in name for name in names)


def test_a_document_id_is_the_hash_of_its_text(tmp_path):
    text = "one text\nover two lines"
    (document,) = open_corpus(_write(tmp_path / "a.txt", text))
    assert document.id == xxhash.xxh3_64_intdigest(text.encode())
    assert Document.of("elsewhere", text).id == document.id


def test_text_jsonl_parquet_folders_and_several_paths_are_read_in_order(tmp_path):
    lines = "\n".join(json.dumps({"text": text}) for text in ("b", "c", "", "b"))
    _write(tmp_path / "2.jsonl", lines + "\n\n")
    _write(tmp_path / "1.txt", "a\n")
    _write(tmp_path / "left_out.csv", "no")
    pq.write_table(pa.table({"text": ["d", None, "e"], "n": [1, 2, 3]}), tmp_path / "3.parquet")
    corpus = open_corpus(tmp_path)
    assert _texts(corpus) == ["a\n", "b", "c", "d", "e"]
    assert corpus.notes == (
        "1 duplicate documents left out",
        "2 documents without text left out",
    )
    several = open_corpus([tmp_path / "3.parquet", str(tmp_path / "1.txt")])
    assert _texts(several) == ["d", "e", "a\n"]
    topic = next(iter(open_corpus("stdlib"))).text
    mixed = open_corpus([tmp_path / "1.txt", "stdlib"])
    assert _texts(itertools.islice(mixed, 2)) == ["a\n", topic]


def _compressed(path, data):
    """Write a file as its last suffix says."""
    if path.suffix not in (".gz", ".zst"):
        path.write_bytes(data)
        return path
    with pa.CompressedOutputStream(str(path), {".gz": "gzip", ".zst": "zstd"}[path.suffix]) as file:
        file.write(data)
    return path


@pytest.mark.parametrize("end", ["gz", "zst"])
def test_compressed_files_are_read_as_what_is_in_them(tmp_path, end):
    rows = "\n".join(json.dumps({"text": prose(number, 300)}) for number in range(200)).encode()
    text = b"\xef\xbb\xbf" + "é\ufffd".encode() + b"\xff" + prose(0, 20_000).encode()
    for folder, more in (("plain", ""), ("packed", f".{end}")):
        (tmp_path / folder).mkdir()
        _compressed(tmp_path / folder / f"a.jsonl{more}", rows)
        _compressed(tmp_path / folder / f"b.txt{more}", text)
    _compressed(tmp_path / "packed" / "left_out.csv.gz", b"no")
    _compressed(tmp_path / "packed" / "left_out.parquet.gz", b"no")
    plain, packed = open_corpus(tmp_path / "plain"), open_corpus(tmp_path / "packed")
    assert [(d.id, d.text) for d in packed] == [(d.id, d.text) for d in plain]
    assert len(_texts(packed)) == 201
    assert packed.notes == plain.notes
    assert packed.notes[0].startswith("1 invalid UTF-8")


def test_parts_of_a_compressed_file_end_to_end_are_one_file(tmp_path):
    for end in ("gz", "zst"):
        path = tmp_path / f"a.jsonl.{end}"
        halves = [json.dumps({"text": text}).encode() + b"\n" for text in ("one", "two")]
        whole = b"".join(_compressed(path, half).read_bytes() for half in halves)
        path.write_bytes(whole)
        assert _texts(open_corpus(path)) == ["one", "two"]


def _damaged(end, way):
    def spoil(folder):
        rows = "\n".join(json.dumps({"text": prose(n, 300)}) for n in range(99)).encode()
        whole = _compressed(folder / f"whole.{end}", rows).read_bytes()
        half = len(whole) // 2
        return {
            "cut short": whole[:half],
            "another format": rows,
            "changed inside": whole[:half]
            + bytes(b ^ 0x55 for b in whole[half : half + 9])
            + whole[half + 9 :],
            "more behind it": whole + b"no more of the same",
        }[way]

    return spoil


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.gz"])
@pytest.mark.parametrize("way", ["cut short", "another format", "changed inside", "more behind it"])
def test_a_damaged_compressed_file_is_refused_in_one_line(tmp_path, name, way):
    path = tmp_path / name
    path.write_bytes(_damaged(name.rpartition(".")[2], way)(tmp_path))
    with pytest.raises(InputError) as caught:
        list(open_corpus(path))
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    if way == "cut short":
        assert "Truncated" in said


def test_a_line_without_end_is_refused_before_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("glossator.corpus.compressed._LONGEST_LINE", 1_000)
    path = _compressed(tmp_path / "a.jsonl.gz", b'{"text": "x"}\n' + b"0" * 5_000_000)
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:2`: a line of more than 1,000 bytes"):
        list(open_corpus(path))


def test_a_hugging_face_dataset_is_streamed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for split in ("train", "test"):
        rows = "\n".join(json.dumps({"body": f"{split} {number}"}) for number in range(3))
        _write(tmp_path / f"{split}.jsonl", rows)
    corpus = open_corpus(f"hf:{tmp_path}:test", column="body")
    assert _texts(corpus) == ["test 0", "test 1", "test 2"]
    assert _texts(open_corpus(f"hf:{tmp_path}", column="body"))[0] == "train 0"


def test_another_column_is_read_by_name(tmp_path):
    _write(tmp_path / "a.jsonl", '{"body": "x", "text": 3}')
    assert _texts(open_corpus(tmp_path / "a.jsonl", column="body")) == ["x"]


def test_invalid_utf8_is_replaced_and_counted_and_a_real_replacement_character_is_not(tmp_path):
    padding = b"x" * 65_535
    (tmp_path / "a.txt").write_bytes(padding + "é\ufffd".encode() + b"\xff ok \xc3")
    corpus = open_corpus(tmp_path / "a.txt")
    assert _texts(corpus)[0][65_535:] == "é\ufffd\ufffd ok \ufffd"
    assert corpus.notes == ("2 invalid UTF-8 sequences replaced by U+FFFD",)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\xffb"}\n{"text": "lone \\ud800 half"}')
    corpus = open_corpus(tmp_path / "a.jsonl")
    assert _texts(corpus) == ["a\ufffdb", "lone ? half"]
    assert corpus.notes[0].startswith("1 invalid")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", b"", "no document with any text"),
        ("blank.txt", b" \n\t", "no document with any text"),
        ("binary.txt", b"ab\0cd", "NUL"),
        ("a.jsonl", b'{"body": "x"}', "no field `text`; there are `body`"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 3}', "a.jsonl:2`: field `text` is int"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl:2`: not JSON"),
        ("a.jsonl", b'["x"]', "a.jsonl:1`: the line is no JSON object"),
        ("a.parquet", b"PAR1 no", "not readable as Parquet"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_that_names_the_file(
    tmp_path, name, content, said
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(open_corpus(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_parquet_column_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="the folder holds no file of"):
        open_corpus(tmp_path)
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet`: no field `text`; there are `body`, `n`"):
        list(open_corpus(tmp_path))
    with pytest.raises(InputError, match="field `n` is int"):
        list(open_corpus(tmp_path, column="n"))
    with pytest.raises(InputError, match="no source"):
        open_corpus([])


def test_a_dataset_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"corpus `hf:.*nowhere`"):
        list(open_corpus(f"hf:{tmp_path}/nowhere"))


# --- pieces ------------------------------------------------------------------------------------


@given(st.text(alphabet="ab \n\u3000中", max_size=300), st.integers(1, 40), st.integers(1, 50))
def test_pieces_are_bounded_and_join_to_the_text(text, limit, part):
    parts = [text[begin : begin + part] for begin in range(0, len(text), part)]
    pieces = list(Document(0, "x", lambda: parts).pieces(limit))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_pieces_give_the_tokens_of_the_whole():
    text = prose(0, 5_000)
    pieces = list(Document.of("x", text).pieces(1_000))
    assert len(pieces) > 20
    made = tokenizer("byte-level")
    assert _flat(made.encode(piece).ids for piece in pieces) == made.encode(text).ids


def test_a_long_file_is_never_held_whole(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("some words and more words\n" * 800_000)
    tracemalloc.start()
    (document,) = open_corpus(path)
    length = sum(len(piece) for piece in document.pieces())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == path.stat().st_size
    assert peak < 4_000_000


# --- packing -----------------------------------------------------------------------------------


def _content(contexts, made):
    """The rows' tokens and documents without what the tokenizer adds and without padding."""
    prefix, suffix = contexts.prefix, contexts.suffix
    rows = []
    for batch in contexts.batches():
        for tokens, documents, mask in zip(
            batch.tokens, batch.document_ids, batch.mask, strict=True
        ):
            length = int((documents != NO_DOCUMENT).sum())
            assert (documents[:length] != NO_DOCUMENT).all()
            assert tokens[: len(prefix)].tolist() == prefix
            assert tokens[length - len(suffix) : length].tolist() == suffix
            inner = slice(len(prefix), length - len(suffix))
            wanted = np.zeros_like(mask)
            wanted[inner] = True
            wanted[0] = False
            assert (mask == wanted).all()
            rows.append((tokens[inner], documents[inner]))
    return rows


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(KINDS), st.integers(0, 3))
def test_packing_keeps_every_token_of_each_side_in_order(data, kind, seed):
    made = tokenizer(kind)
    lengths = data.draw(st.lists(st.integers(1, 60), min_size=40, max_size=70))
    length = data.draw(st.integers(6, 40))
    limit = data.draw(st.none() | st.integers(1_500, 4_000))
    texts = list(dict.fromkeys(prose(1_000 * seed + at, n) for at, n in enumerate(lengths)))
    encoded = [(Document.of("", text).id, _tokens(kind, text)) for text in texts]
    if limit is not None:
        total = np.cumsum([len(tokens) for _, tokens in encoded])
        encoded = encoded[: int((total <= limit).sum())]
    if len(encoded) < 40:
        return
    contexts = pack(_corpus(texts), made, context_length=length, tokens=limit, split_seed=seed)
    rows = _content(contexts, made)
    sides = document_sides(np.array([document for document, _ in encoded], np.uint64), seed)
    for side in (0, 1):
        mine = [
            (tokens, documents)
            for tokens, documents in rows
            if document_sides(documents[:1], seed)[0] == side
        ]
        wanted = [one for one, its in zip(encoded, sides, strict=True) if its == side]
        assert _flat(tokens.tolist() for tokens, _ in mine) == _flat(tokens for _, tokens in wanted)
        assert _flat(documents.tolist() for _, documents in mine) == [
            document for document, tokens in wanted for _ in tokens
        ]
        room = length - len(contexts.prefix) - len(contexts.suffix)
        assert all(len(tokens) == room for tokens, _ in mine[:-1])
    census = contexts.census()
    assert census.contexts == len(rows)
    assert census.notes == ()


@functools.cache
def _tokens(kind, text):
    return tuple(tokenizer(kind).encode(text, add_special_tokens=False).ids)


def test_the_batch_size_and_the_start_change_nothing_but_the_cutting():
    texts = [prose(number, 30) for number in range(60)]
    contexts = pack(_corpus(texts), tokenizer("byte-level"), context_length=32)
    whole = np.concatenate([batch.tokens for batch in contexts.batches(size=1_000)])
    by_seven = list(contexts.batches(start=5, size=7))
    assert {len(batch) for batch in by_seven[:-1]} == {7}
    assert (np.concatenate([batch.tokens for batch in by_seven]) == whole[5:]).all()
    again = pack(_corpus(texts), tokenizer("byte-level"), context_length=32)
    assert again.census() == contexts.census()
    other = pack(_corpus(texts), tokenizer("byte-level"), context_length=32, split_seed=1)
    assert other.census().hash != contexts.census().hash


def test_documents_longer_than_what_is_tokenised_at_once_keep_their_tokens():
    texts = [prose(0, 120_000), *(prose(number, 5) for number in range(1, 50))]
    assert len(texts[0]) > 2**19
    contexts = pack(_corpus(texts), tokenizer("byte-level"), context_length=128)
    rows = _content(contexts, None)
    first = Document.of("", texts[0]).id
    mine = [tokens[documents == first].tolist() for tokens, documents in rows]
    assert _flat(mine) == tokenizer("byte-level").encode(texts[0]).ids


@pytest.mark.parametrize("limit", [None, 700])
@pytest.mark.parametrize("kind", KINDS)
def test_fewer_than_forty_documents_are_cut_to_one_document_a_context(kind, limit):
    texts = [prose(number, 300) for number in range(5)]
    contexts = pack(_corpus(texts), tokenizer(kind), context_length=32, tokens=limit)
    rows = _content(contexts, tokenizer(kind))
    room = 32 - len(contexts.prefix) - len(contexts.suffix)
    full = [documents for tokens, documents in rows if len(set(documents.tolist())) == 1]
    assert len(full) >= len(rows) - 5
    assert len({int(documents[0]) for documents in full}) == len(full)
    assert set(document_sides(np.array([d[0] for d in full], np.uint64), 0)) == {0, 1}
    for _, documents in rows:
        assert len(set(document_sides(documents, 0).tolist())) == 1
    counted = sum(len(tokens) for tokens, _ in rows)
    everything = _flat(_tokens(kind, text) for text in texts)
    assert counted == (len(everything) if limit is None else limit)
    assert rows[0][0].tolist() == everything[:room]
    assert "fewer than 40 documents" in contexts.census().notes[-1]


def test_a_limit_below_the_first_document_still_gives_that_many_tokens():
    texts = [prose(number, 400) for number in range(60)]
    contexts = pack(_corpus(texts), tokenizer("byte-level"), context_length=32, tokens=200)
    assert sum(len(tokens) for tokens, _ in _content(contexts, None)) == 200
    assert "fewer than 40" in contexts.census().notes[-1]


def test_text_that_names_a_special_token_stays_text():
    texts = [f"[SEP] [CLS] {prose(number, 20)}" for number in range(50)]
    contexts = pack(_corpus(texts), tokenizer("wordpiece"), context_length=16)
    special = set(contexts.prefix + contexts.suffix)
    assert special == {2, 3}
    for tokens, _ in _content(contexts, None):
        assert not special & set(tokens.tolist())


def test_the_tokenizers_own_truncation_and_padding_are_ignored():
    from tokenizers import Tokenizer

    cut = Tokenizer.from_str(tokenizer("byte-level").to_str())
    cut.enable_truncation(4)
    cut.enable_padding(length=100)
    texts = [prose(number, 20) for number in range(50)]
    plain = pack(_corpus(texts), tokenizer("byte-level"), context_length=32).census()
    assert pack(_corpus(texts), cut, context_length=32).census() == plain


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(InputError, match="context_length = 2: no room"):
        pack(_corpus(["x"]), tokenizer("wordpiece"), context_length=2)
    with pytest.raises(InputError, match="not a fast one"):
        pack(_corpus(["x"]), object(), context_length=32)


# --- contexts on disk --------------------------------------------------------------------------


def test_stored_contexts_are_those_that_were_packed(tmp_path):
    texts = [prose(number, 30) for number in range(60)]
    packing = pack(_corpus(texts), tokenizer("wordpiece"), context_length=32)
    stored = packing.store(tmp_path / "contexts")
    assert stored.census() == packing.census()
    for mine, theirs in zip(stored.batches(3, 5), packing.batches(3, 5), strict=True):
        assert (mine.tokens == theirs.tokens).all()
        assert (mine.document_ids == theirs.document_ids).all()
        assert (mine.mask == theirs.mask).all()
        assert (mine.attended == (theirs.document_ids != NO_DOCUMENT)).all()
    assert open_contexts(tmp_path / "contexts").census() == stored.census()
    assert [path.name for path in tmp_path.iterdir()] == ["contexts"]
    with pytest.raises(InputError, match="exists"):
        packing.store(tmp_path / "contexts")


def test_a_failure_while_storing_leaves_nothing(tmp_path):
    def broken(tally):
        yield from (Document.of("", prose(number, 50)) for number in range(60))
        raise KeyboardInterrupt

    packing = pack(Corpus("broken", broken), tokenizer("byte-level"), context_length=32)
    with pytest.raises(KeyboardInterrupt):
        packing.store(tmp_path / "contexts")
    assert list(tmp_path.iterdir()) == []


def test_damaged_contexts_are_refused_by_name(tmp_path):
    texts = [prose(number, 30) for number in range(60)]
    pack(_corpus(texts), tokenizer("byte-level"), context_length=32).store(tmp_path / "c")
    with pytest.raises(InputError, match=r"contexts\.json"):
        open_contexts(tmp_path)
    with (tmp_path / "c" / "mask.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InputError, match=r"mask\.u8`: 100 bytes where"):
        open_contexts(tmp_path / "c")
    (tmp_path / "c" / "contexts.json").write_text("{}")
    with pytest.raises(InputError, match="not readable"):
        open_contexts(tmp_path / "c")
