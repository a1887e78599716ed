"""What an index refuses, and that the text names the place and the remedy."""

import json
import subprocess
import sys

import numpy as np
import pytest

from glossator.errors import CorruptIndexError, InputError
from glossator.index import NO_DOCUMENT, Index, IndexWriter, compact, join
from index_reference import corpus, folder_bytes

SHAPE = {"n_latents": 5, "context_length": 8, "window": 4, "segment_contexts": 3}


def batch(contexts=2, k=2):
    """A batch that is taken."""
    return {
        "tokens": np.arange(contexts * 8).reshape(contexts, 8),
        "latents": np.broadcast_to(np.arange(k), (contexts, 8, k)).copy(),
        "activations": np.ones((contexts, 8, k), np.float32),
        "document_ids": np.repeat(np.arange(contexts, dtype=np.uint64)[:, None], 8, axis=1),
        "mask": np.ones((contexts, 8), np.bool_),
    }


def put(name, at, value, dtype=None):
    """A change of one value of a batch."""

    def change(given):
        array = given[name] if dtype is None else given[name].astype(dtype)
        array[at] = value
        given[name] = array

    return change


def swap(name, value):
    """A change of a whole argument."""
    return lambda given: given.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put("activations", (1, 5, 0), -1), "context 8, offset 5: latent 0 has activation -1"),
        (put("activations", (0, 2, 1), np.nan), "context 7, offset 2: latent 1 has activation NaN"),
        (put("activations", (0, 2, 1), np.inf), "context 7, offset 2: latent 1 has activation inf"),
        (put("latents", (1, 3, 0), 1), "context 8, offset 3: latent 1 is given twice"),
        (put("latents", (1, 3, 0), 5), "context 8, offset 3: latent 5 is not below `n_latents` 5"),
        (put("latents", (1, 3, 0), -1), "context 8, offset 3: `latents` is -1"),
        (put("latents", (1, 3, 0), 2**32), "context 8, offset 3: `latents` is 4294967296"),
        (put("tokens", (1, 3), -5), "context 8, offset 3: `tokens` is -5"),
        (put("tokens", (1, 3), 2**32), "context 8, offset 3: `tokens` is 4294967296"),
        (put("document_ids", (1, 3), -1, np.int64), "context 8, offset 3: `document_ids` is -1"),
        (put("document_ids", (1, 3), NO_DOCUMENT), "context 8, offset 3: a position without"),
        (swap("tokens", np.zeros((2, 7), int)), "`tokens` has shape (2, 7)"),
        (swap("tokens", np.zeros(16, int)), "`tokens` has shape (16,)"),
        (swap("tokens", np.zeros((2, 8))), "`tokens` has dtype float64"),
        (swap("latents", np.zeros((2, 8, 2))), "`latents` has dtype float64"),
        (swap("latents", np.zeros((2, 8), int)), "`latents` has shape (2, 8)"),
        (swap("latents", np.zeros((2, 8, 3), int)), "they must agree"),
        (swap("activations", np.ones((3, 8, 2), "f4")), "`activations` has shape (3, 8, 2)"),
        (swap("activations", np.ones((2, 8, 2))), "`activations` has dtype float64"),
        (swap("document_ids", np.zeros(3, int)), "`document_ids` has shape (3,)"),
        (swap("document_ids", np.zeros(2)), "`document_ids` has dtype float64"),
        (swap("mask", np.ones((2, 8), int)), "`mask` is int64"),
        (swap("mask", np.ones((1, 8), bool)), "`mask` is bool of shape (1, 8)"),
        (swap("context", 8), "context 8 cannot be added"),
        (swap("context", 6), "context 6 cannot be added"),
        (swap("context", -1), "`context` is -1"),
        (swap("context", 2**61), "cannot be added"),
        (swap("context", 1.5), "`context` is 1.5"),
    ],
)
def test_a_bad_batch_is_refused_whole_naming_the_place(tmp_path, change, text):
    with IndexWriter(tmp_path / "index", first_context=7, **SHAPE) as writer:
        given = batch()
        change(given)
        with pytest.raises(InputError) as caught:
            writer.add(**given)
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
        assert writer.next_context == 7
        writer.add(**batch())
    with IndexWriter(tmp_path / "good", first_context=7, **SHAPE) as writer:
        writer.add(**batch())
    assert folder_bytes(tmp_path / "index") == folder_bytes(tmp_path / "good")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ((2, 0, 0, 1.0), "entry 0: row 2"),
        ((-1, 0, 0, 1.0), "entry 0: `rows` is -1"),
        ((1, 8, 0, 1.0), "context 8: offset 8"),
        ((1, 0, 5, 1.0), "context 8, offset 0: latent 5"),
        ((1, 0, 0, -1.0), "context 8, offset 0: latent 0 has activation -1"),
        ((0, 3, 3, 1.0), "context 7, offset 3: latent 3 is given twice"),
    ],
)
def test_a_bad_entry_is_refused_naming_the_place(tmp_path, entry, text):
    given = batch()
    row, offset, latent, activation = entry
    with IndexWriter(tmp_path / "index", first_context=7, **SHAPE) as writer:
        with pytest.raises(InputError) as caught:
            writer.add_coo(
                given["tokens"],
                [row, 0],
                [offset, 3],
                [latent, 3],
                np.array([activation, 1], np.float32),
                [0, 1],
            )
        assert text in str(caught.value)
        one = np.ones(1, np.float32)
        with pytest.raises(InputError, match="equally many"):
            writer.add_coo(given["tokens"], [0, 1], [0, 1], [0, 1], one, [0, 1])
        with pytest.raises(InputError, match="one dimension"):
            writer.add_coo(given["tokens"], [[0]], [0], [0], one, [0, 1])


@pytest.mark.parametrize(
    ("starts", "positions", "values", "text"),
    [
        ([0, 1, 1, 1, 1], [3], [1], "`starts` must hold 6, one more than latents"),
        ([0, 1, 1, 1, 1, 1], [3], [1, 1], "and the others equally many"),
        ([1, 1, 1, 1, 1, 1], [3], [1], "`starts` must ascend from 0 to the number of positions 1"),
        ([0, 2, 1, 2, 2, 2], [3, 4], [1, 1], "`starts` must ascend from 0"),
        ([0, 1, 1, 1, 1, 2], [3], [1], "`starts` must ascend from 0"),
        ([[0]], [3], [1], "`starts` has shape (1, 1)"),
        ([0, 2, 2, 2, 2, 2], [4, 3], [1, 1], "offset 3: the positions of latent 0 do not ascend"),
        ([0, 0, 2, 2, 2, 2], [4, 4], [1, 1], "context 7, offset 4: latent 1 is given twice"),
        ([0, 1, 1, 1, 1, 1], [16], [1], "latent 0 has position 16, which is not below 16"),
        ([0, 1, 1, 1, 1, 1], [2**32], [1], "entry 0: `positions` is 4294967296"),
        ([0, 0, 1, 1, 1, 1], [9], [-1], "context 8, offset 1: latent 1 has activation -1"),
        ([0, 0, 1, 1, 1, 1], [9], [np.nan], "context 8, offset 1: latent 1 has activation NaN"),
    ],
)
def test_bad_sorted_entries_are_refused_naming_the_place(tmp_path, starts, positions, values, text):
    tokens = np.arange(16).reshape(2, 8)
    with IndexWriter(tmp_path / "index", first_context=7, **SHAPE) as writer:
        with pytest.raises(InputError) as caught:
            writer.add_sorted(tokens, starts, positions, np.array(values, np.float32), [0, 1])
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
        assert writer.next_context == 7


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"context_length": 10}, "`context_length` 10 is not a multiple of `window` 4"),
        ({"context_length": 0}, "must be at least 1"),
        ({"window": 0}, "must be at least 1"),
        ({"n_latents": 0}, "`n_latents` is 0"),
        ({"n_latents": 2**32 - 1}, "`n_latents` is 4294967295"),
        ({"n_latents": 2**32}, "`n_latents` is 4294967296"),
        ({"n_latents": "5"}, "`n_latents` is '5'"),
        ({"segment_contexts": 0}, "`segment_contexts` is 0"),
        ({"segment_contexts": 2**30}, "`segment_contexts` is 1073741824"),
        ({"first_context": -1}, "`first_context` is -1"),
        ({"first_context": 2**62}, "positions above 2^64"),
        ({"split_seed": 2**64}, "`split_seed` is"),
    ],
)
def test_bad_parameters_are_refused_by_name_and_leave_nothing(tmp_path, changes, text):
    with pytest.raises(InputError) as caught:
        IndexWriter(tmp_path / "index", **{**SHAPE, **changes})
    assert text in str(caught.value)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"n_latents": 6},
        {"context_length": 16},
        {"window": 8},
        {"segment_contexts": 4},
        {"split_seed": 1},
        {"first_context": 1},
        {"lossless": True},
        {"text": "../text"},
        {"attributes": {"hookpoint": "h.1"}},
        {"attributes": {}},
    ],
)
def test_other_parameters_than_the_index_has_are_refused(tmp_path, changes):
    plain = corpus(4)
    plain.build(tmp_path / "index")
    with pytest.raises(InputError, match=next(iter(changes))):
        IndexWriter(tmp_path / "index", **{**plain.parameters, **changes})


def test_another_context_under_a_number_that_is_taken_is_refused(tmp_path):
    plain = corpus(7)
    plain.build(tmp_path / "index")
    before = folder_bytes(tmp_path / "index")
    for change in ("tokens", "documents", "dense", "mask"):
        other = corpus(7)
        array = getattr(other, change)
        array[4, 2] = ~array[4, 2] if change == "mask" else array[4, 2] + 1
        with pytest.raises(InputError, match="context 4 is not the one"):
            other.build(tmp_path / "index")
    assert folder_bytes(tmp_path / "index") == before


def test_a_second_writer_is_refused_in_this_and_in_another_process(tmp_path):
    code = (
        "import sys; from glossator.index import IndexWriter\n"
        "from glossator.errors import InputError\n"
        "try: IndexWriter(sys.argv[1], n_latents=5, context_length=8, window=4)\n"
        "except InputError as error: print(error)"
    )
    with IndexWriter(tmp_path / "index", **SHAPE):
        with pytest.raises(InputError, match="another writer is at work on the index"):
            IndexWriter(tmp_path / "index", **SHAPE)
        command = [sys.executable, "-c", code, str(tmp_path / "index")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "another writer is at work on the index" in done.stdout
    IndexWriter(tmp_path / "index", **SHAPE).abandon()


def test_a_second_writer_of_a_shared_text_is_refused(tmp_path):
    path = tmp_path / "run"
    several = {**SHAPE, "n_latents": {"a": 2, "b": 3}}
    beside = {**SHAPE, "text": "../text"}
    with IndexWriter(path, **several):
        for ask in (
            lambda: IndexWriter(path, **several),
            lambda: IndexWriter(path / "a", attributes={"hookpoint": "a"}, **beside),
            lambda: compact(path),
        ):
            with pytest.raises(InputError, match="another writer is at work on the index"):
                ask()
    IndexWriter(path, **several).abandon()


@pytest.mark.parametrize("name", ["..", ".", "text", "segments", "building", "lock", "a/b", "a\0"])
def test_hookpoints_whose_names_are_no_folders_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot be the name of a folder") as caught:
        IndexWriter(tmp_path / "run", **{**SHAPE, "n_latents": {"good": 2, name: 3}})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_parts_that_do_not_fit_are_not_joined(tmp_path):
    def part(name, first, **changes):
        return corpus(4, first_context=first).build(tmp_path / name, **changes)

    first, late, early = part("first", 0), part("late", 6), part("early", 3)
    other, lossless = corpus(4, first_context=4, n_latents=6), part("lossless", 4, lossless=True)
    other.build(tmp_path / "other")
    with IndexWriter(tmp_path / "unfinished", **other.parameters) as writer:
        writer.abandon()
    out = tmp_path / "out"
    for parts, text in [
        ([], "there are no parts to join"),
        ([tmp_path / "none"], f"there is no index at `{tmp_path / 'none'}`"),
        ([first, late], "contexts 4 to 6 are missing"),
        ([early, first], "contexts 3 to 4 are in two parts"),
        ([first, first], "contexts 0 to 4 are in two parts"),
        ([first, tmp_path / "other"], "`n_latents` 6, and 5 is asked for"),
        ([first, lossless], "has `lossless` true"),
        ([tmp_path / "unfinished"], "is not finished"),
    ]:
        with pytest.raises(InputError) as caught:
            join(parts, out)
        assert text in str(caught.value)
        assert not out.exists()
    before = folder_bytes(early)
    with pytest.raises(InputError, match="holds an index already"):
        join([first], early)
    assert folder_bytes(early) == before


def test_compacting_is_refused_where_it_cannot_be(tmp_path):
    plain = corpus(4)
    with pytest.raises(InputError, match="there is no index at"):
        compact(tmp_path / "none")
    path = plain.build(tmp_path / "index")
    with IndexWriter(path, **plain.parameters), pytest.raises(InputError, match="another writer"):
        compact(path)
    with IndexWriter(tmp_path / "run", **{**SHAPE, "n_latents": {"a": 2, "b": 3}}):
        pass
    with pytest.raises(InputError, match=r"shares its text .* compact the folder above it"):
        compact(tmp_path / "run" / "a")


def test_a_closed_writer_is_refused(tmp_path):
    writer = IndexWriter(tmp_path / "index", **SHAPE)
    writer.finish()
    with pytest.raises(InputError, match="is closed"):
        writer.add(**batch())
    with pytest.raises(InputError, match="is closed"):
        writer.finish()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds `notes\.txt` and no index"):
        IndexWriter(tmp_path, **SHAPE)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match=r"notes\.txt"):
        IndexWriter(tmp_path / "notes.txt", **SHAPE)


def test_what_is_no_index_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=f"there is no index at `{path}`"):
            Index.open(path)


def test_a_newer_version_is_refused_naming_both(tmp_path):
    corpus(4).build(tmp_path / "index")
    manifest = tmp_path / "index" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["version"] = 12
    content["a field of the future"] = True
    manifest.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"format version 12, and this glossator reads up to .* 1"):
        Index.open(tmp_path / "index")
    content["format"] = "another"
    manifest.write_text(json.dumps(content))
    with pytest.raises(CorruptIndexError, match="has format `another`"):
        Index.open(tmp_path / "index")


@pytest.mark.parametrize("ask", [Index.open, lambda path: IndexWriter(path, **SHAPE), compact])
def test_an_older_version_is_refused_in_one_line(tmp_path, ask):
    path = tmp_path / "index"
    path.mkdir()
    (path / "manifest.json").write_text(
        '{"format": "glossator-index", "version": 0, "windows": []}'
    )
    with pytest.raises(InputError) as caught:
        ask(path)
    said = "has format version 0, which this glossator no longer reads (it reads version 1); "
    assert str(caught.value) == f"the index `{path}` {said}build the index again"
    assert json.loads((path / "manifest.json").read_text())["version"] == 0


def test_an_unfinished_index_is_opened_only_when_asked_for(tmp_path):
    plain = corpus(7)
    writer = IndexWriter(tmp_path / "index", **plain.parameters)
    latents, activations = plain.topk()
    writer.add(plain.tokens, latents, activations, plain.documents)
    writer.abandon()
    with pytest.raises(InputError, match="is not finished: it is committed up to context 6"):
        Index.open(tmp_path / "index")
    index = Index.open(tmp_path / "index", unfinished=True)
    assert (index.n_contexts, index.complete) == (6, False)


def test_questions_beyond_the_index_are_refused(tmp_path):
    index = corpus(4, first_context=2).index(tmp_path / "index")
    for ask, text in [
        (lambda: index.postings(5), "`latent` is 5; it must be between 0 and 4"),
        (lambda: index.windows(-1), "`latent` is -1"),
        (lambda: index.contexts([1]), "context 1 is not in the index"),
        (lambda: index.contexts([6]), "holds contexts 2 to 6"),
        (lambda: index.contexts([[3]]), "one dimension"),
        (lambda: index.activations(0, [15], 1), "position 15 is not in the index"),
        (lambda: index.activations(0, [48], 1), "position 48 is not in the index"),
        (lambda: index.activations(0, [17], 8), "8 tokens from position 17 on reach beyond"),
        (lambda: index.activations(0, [-1], 8), "`starts` is -1"),
        (lambda: index.sample([5]), "latent 5 is not in the index"),
        (lambda: index.sample([0, -1]), "entry 1: `latents` is -1"),
        (lambda: index.sample([2**32]), "entry 0: `latents` is 4294967296"),
        (lambda: index.sample([True]), "`latents` has dtype bool"),
        (lambda: index.sample([0.0]), "`latents` has dtype float64"),
        (lambda: index.sample([0], seed=-1), "`seed` is -1"),
    ]:
        with pytest.raises(InputError) as caught:
            ask()
        assert text in str(caught.value)
