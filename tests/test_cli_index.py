"""`glossator index`: what each command prints and writes, and what it refuses, in one line."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from glossator.index import Index, IndexWriter, join
from index_reference import corpus, folder_bytes
from tiny_runs import command

PLAIN = corpus(11, window=4, windows=2, segment_contexts=4, n_latents=6)
PLAIN.dense[..., 5] = 0  # A latent that is dead.


@pytest.fixture
def index(tmp_path):
    return PLAIN.build(tmp_path / "index", durable=False)


def part(path, begin, end, plain=PLAIN):
    """An index of some contexts."""
    latents, activations = plain.topk()
    parameters = {**plain.parameters, "first_context": begin, "durable": False}
    with IndexWriter(path, **parameters) as writer:
        rows = slice(begin, end)
        writer.add(plain.tokens[rows], latents[rows], activations[rows], plain.documents[rows])
    return path


def unfinished(path):
    latents, activations = PLAIN.topk()
    writer = IndexWriter(path, durable=False, **PLAIN.parameters)
    writer.add(PLAIN.tokens, latents, activations, PLAIN.documents)
    writer.abandon()
    return path


def ok(*arguments):
    """What a command printed that did what it should."""
    done = command("index", *arguments)
    assert done.code == 0, done.err
    assert set(done.stages) <= {"verify", "join", "compact", "export"}  # Nothing else was said.
    return done.out


def refused(*arguments):
    """The line of a command that did not."""
    done = command("index", *arguments)
    assert done.code == 2, (done.out, done.err)
    assert "Traceback" not in done.err
    assert not done.out
    return done.error


# --- inspect -----------------------------------------------------------------------------------


def test_inspect_prints_as_json_what_the_library_says(index):
    said = json.loads(ok("inspect", index, "--json"))
    opened = Index.open(index)
    assert said == opened.describe()
    assert (said["nnz"], said["hash"], said["complete"]) == (opened.nnz, opened.hash, True)
    assert said["precision"] == "code, 1/32"
    assert said["latents"] == {"active": 5, "dead": 1}
    assert said["attributes"] == {"hookpoint": "h.0"}
    assert [segment["contexts"] for segment in said["segments"]] == [4, 4, 3]
    assert sum(segment["nnz"] for segment in said["segments"]) == opened.nnz


def test_inspect_counts_every_byte_of_every_kind_of_file(index):
    said = json.loads(ok("inspect", index, "--json"))
    found = {}
    for file in index.rglob("*"):
        if file.is_file() and file.name not in ("manifest.json", "lock"):
            kind = f"{file.relative_to(index).parts[0]}/{file.name}"
            found[kind] = found.get(kind, 0) + file.stat().st_size
    assert {kind: of["bytes"] for kind, of in said["files"].items()} == found
    assert said["bytes"] == sum(found.values())
    for of in [said, *said["files"].values()]:
        assert of["bits_per_posting"] == 8 * of["bytes"] / said["nnz"]


def test_inspect_prints_the_same_for_people(index):
    # A long path is folded within its words.
    words = "".join(ok("inspect", index).split())
    opened = Index.open(index)
    for said in (
        f"index {index} complete yes hash {opened.hash} hookpoint h.0",
        f"activations {opened.nnz:,} over {opened.n_tokens} tokens precision code, 1/32",
        "latents 6: 5 active, 1 dead",
        "contexts 11 of 8 tokens, from 0 on, in windows of 4",
        "segments 3 of at most 4 contexts",
        f"split seed {opened.split_seed}",
    ):
        assert "".join(said.split()) in words


def test_inspect_says_how_far_an_unfinished_index_is(tmp_path):
    path = unfinished(tmp_path / "index")
    assert "complete no, committed up to context 8" in " ".join(ok("inspect", path).split())
    assert json.loads(ok("inspect", path, "--json"))["complete"] is False


def test_an_index_without_a_posting_has_no_bits_per_posting(tmp_path):
    with IndexWriter(tmp_path / "index", n_latents=3, context_length=32) as writer:
        pass
    assert writer.next_context == 0
    said = json.loads(ok("inspect", tmp_path / "index", "--json"))
    assert (said["nnz"], said["bits_per_posting"], said["files"]) == (0, None, {})
    assert "3: 0 active, 3 dead" in ok("inspect", tmp_path / "index")


# --- verify ------------------------------------------------------------------------------------


def test_verify_says_that_an_index_is_whole_and_shows_progress(index):
    done = command("index", "verify", index)
    assert (done.code, done.stages) == (0, ["verify"])
    files = [f for f in index.rglob("*") if f.is_file() and f.name not in ("manifest.json", "lock")]
    size = sum(file.stat().st_size for file in files)
    assert done.out == f"{index}: whole ({len(files)} files, {size:,} bytes)\n"


def test_verify_names_the_segment_and_the_file_that_is_damaged(index):
    for file in sorted(index.rglob("*")):
        if not file.is_file() or file.name == "lock":
            continue
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        line = refused("verify", index)
        named = f"`{file.name}` of the index `{index}`"
        if file.name != "manifest.json":
            named = f"segment {int(file.parent.name)}, file {named}"
        assert named in line
        file.write_bytes(content)
    ok("verify", index)


# --- join and compact --------------------------------------------------------------------------


def test_parts_are_joined_and_compacted_to_the_bytes_of_one_build(tmp_path, index):
    parts = [part(tmp_path / f"part{begin}", begin, end) for begin, end in ((0, 6), (6, 11))]
    before = [folder_bytes(path) for path in parts]
    out = tmp_path / "joined"
    done = command("index", "join", out, *parts[::-1])
    assert (done.code, done.out, done.stages) == (0, f"{out}\n", ["join"])
    assert [folder_bytes(path) for path in parts] == before
    assert len(Index.open(out).segments()) == 4
    done = command("index", "compact", out)
    assert (done.code, done.out, done.stages) == (0, f"{out}\n", ["compact"])
    assert folder_bytes(out) == folder_bytes(index)


def test_parts_that_cannot_be_joined_leave_nothing_behind(tmp_path):
    first, late = part(tmp_path / "first", 0, 4), part(tmp_path / "late", 6, 11)
    middle = part(tmp_path / "middle", 4, 6)
    out = tmp_path / "out"
    assert "contexts 4 to 6 are missing" in refused("join", out, first, late)
    assert f"there is no index at `{tmp_path / 'none'}`" in refused(
        "join", out, first, tmp_path / "none"
    )
    assert "is not finished" in refused("join", out, unfinished(tmp_path / "begun"))
    assert "Missing argument 'PART'" in refused("join", out)
    lists = next(middle.glob("segments/*/lists.bin"))
    lists.write_bytes(lists.read_bytes()[:-1])
    assert f"`lists.bin` of the index `{middle}`" in refused("join", out, first, middle, late)
    assert not out.exists()


def test_a_join_over_an_index_or_something_else_leaves_it_as_it_was(tmp_path, index):
    before = folder_bytes(index)
    assert "holds an index already" in refused("join", index, part(tmp_path / "part", 0, 4))
    assert folder_bytes(index) == before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    assert "holds `thesis.tex`" in refused("join", mine, tmp_path / "part")
    assert [entry.name for entry in mine.iterdir()] == ["thesis.tex"]


def test_hookpoints_are_joined_and_compacted_together_and_inspected_one_by_one(tmp_path):
    latents, activations = PLAIN.topk()
    shape = {**PLAIN.parameters, "n_latents": {"a": 6, "b": 6}, "durable": False}
    for begin, end in ((0, 6), (6, 11)):
        with IndexWriter(tmp_path / f"{begin}", **{**shape, "first_context": begin}) as writer:
            rows = slice(begin, end)
            writer.add(
                PLAIN.tokens[rows],
                dict.fromkeys("ab", latents[rows]),
                dict.fromkeys("ab", activations[rows]),
                PLAIN.documents[rows],
            )
    out = tmp_path / "both"
    ok("join", out, tmp_path / "0", tmp_path / "6")
    ok("compact", out)
    said = json.loads(ok("inspect", out / "a", "--json"))
    assert len(said["segments"]) == 3
    assert "../text/tokens.u16" in said["files"]
    for name in ("inspect", "verify"):
        line = refused(name, out)
        assert line == f"{out}: is no index, but holds `{out / 'a'}`, `{out / 'b'}`; name that"
    assert "compact the folder above it" in refused("compact", out / "a")


# --- export ------------------------------------------------------------------------------------


def test_export_writes_the_postings_of_some_latents_or_of_all(index, tmp_path):
    opened = Index.open(index)
    out = tmp_path / "postings.parquet"
    done = command("index", "export", index, out)
    assert (done.code, done.out, done.stages) == (0, f"{out}\n", ["export"])
    assert pq.read_metadata(out).num_rows == opened.nnz
    assert pq.read_schema(out).metadata[b"glossator.precision"] == b"code, 1/32"
    ok("export", index, out, "--latents", "1,3-4")
    counts = opened.counts()
    assert pq.read_metadata(out).num_rows == counts[1] + counts[3] + counts[4]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index", "postings.parquet"]


def test_an_export_that_fails_leaves_nothing_or_what_was_there(index, tmp_path):
    out = tmp_path / "postings.parquet"
    assert "latent 6: the index has 6 latents" in refused("export", index, out, "--latents", "6")
    assert "neither a list of ids" in refused("export", index, out, "--latents", "x")
    assert "is a folder; name a file" in refused("export", index, tmp_path)
    assert "/proc/x: cannot be written" in refused("export", index, "/proc/x")
    assert not out.exists()
    out.write_text("before")
    lists = sorted(index.glob("segments/*/lists.bin"))[-1]
    content = lists.read_bytes()
    lists.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    assert "`lists.bin` of the index" in refused("export", index, out)
    assert out.read_text() == "before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["index", "postings.parquet"]


# --- top ---------------------------------------------------------------------------------------


def test_top_shows_the_strongest_windows_as_the_library_has_them(index):
    opened = Index.open(index)
    said = json.loads(ok("top", index, "3", "0-1", "--number", "4", "--json"))
    top = opened.top([3, 0, 1], 4)
    found = [
        (w["latent"], w["context"] * 8 + w["offset"], w["activation"], w["exact"])
        for w in said["windows"]
    ]
    assert found == list(zip(*(column.tolist() for column in top), strict=True))
    assert (said["hash"], said["precision"]) == (opened.hash, "code, 1/32")
    words = " ".join(ok("top", index, "3", "0-1", "-n", "4").split())
    for latent, start, activation, _ in found:
        assert f" {latent} {start // 8} {start % 8} {activation:.4g} " in words
    assert words.endswith("activations: each exact in bf16; precision of the index: code, 1/32")


def test_top_of_a_side_holds_windows_of_that_side_alone(index):
    opened = Index.open(index)
    sides = opened.sides()
    for code, side in enumerate(("explain", "score")):
        said = json.loads(ok("top", index, "0-4", "-n", "99", "--side", side, "--json"))
        places = [w["context"] * 2 + w["offset"] // 4 for w in said["windows"]]
        assert places
        assert (sides[places] == code).all()
        assert all(window["exact"] for window in said["windows"])


def test_top_marks_what_is_not_exact_and_names_who_is_silent(tmp_path):
    plain = corpus(800, window=1, windows=8, segment_contexts=800, n_latents=2)
    plain.dense[..., 1] = 0
    path = plain.build(tmp_path / "index")
    words = " ".join(ok("top", path, "0-1", "-n", "900").split())
    assert " ~0." in words
    assert "not active: 1" in words
    assert "exact in bf16, after ~ within 1/32" in words
    path = plain.build(tmp_path / "lossless", lossless=True)
    words = " ".join(ok("top", path, "0", "-n", "900").split())
    assert "~" not in words
    assert words.endswith("each exact in bf16; precision of the index: bf16")


def test_top_shows_the_text_with_its_strongest_token_marked(tmp_path):
    words = [f"w{token}" for token in range(60)] + ["\x1b[31m"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = np.arange(64).reshape(2, 32) % 60
    tokens[1, 3] = 60
    activations = np.zeros((2, 32, 1), np.float32)
    activations[0, 5], activations[0, 6], activations[1, 4] = 1.0, 2.0, 1.5
    with IndexWriter(
        tmp_path / "index", n_latents=2, context_length=32, window=8, lossless=True
    ) as writer:
        writer.add(tokens, np.zeros((2, 32, 1), int), activations, [7, 8])
    options = ["--tokenizer", tmp_path / "tokenizer.json"]
    said = json.loads(ok("top", tmp_path / "index", "0", *options, "--json"))
    first, second = (window["text"] for window in said["windows"])
    assert first == "¶w0 w1 w2 w3 w4 w5 <<w6>> w7"
    assert second == "¶w32 w33 w34 �[31m <<w36>> w37 w38 w39"
    assert "<<w6>>" in ok("top", tmp_path / "index", "0", *options)
    none = tmp_path / "none.json"
    assert f"tokenizer `{none}`" in refused("top", tmp_path / "index", "0", "--tokenizer", none)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["6"], "latent 6 is not in the index"),
        (["0", "4294967295"], "latent 4294967295 is not in the index"),
        (["x"], "LATENT: `x` is neither a list of ids (3,17,40-49) nor a file of them"),
        (["9-3"], "LATENT: `9-3` is no range of latent ids"),
        ([], "Missing argument 'LATENT'"),
        (["0", "--side", "both"], "'both' is not one of 'explain', 'score'"),
        (["0", "--number", "0"], "'--number'"),
        (["0", "--number", "99999999999"], "`n` is 99999999999"),
    ],
)
def test_what_top_cannot_answer_is_one_line(arguments, said, index):
    assert said in refused("top", index, *arguments)


# --- what is no index --------------------------------------------------------------------------

ON_AN_INDEX = {
    "inspect": [],
    "verify": [],
    "compact": [],
    "export": ["out.parquet"],
    "top": ["0"],
}


@pytest.fixture(params=ON_AN_INDEX)
def ask(request, tmp_path, monkeypatch):
    """A command on a folder."""
    monkeypatch.chdir(tmp_path)
    return lambda path, *more: (request.param, path, *ON_AN_INDEX[request.param], *more)


def test_what_is_no_index_is_named(ask, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for name in ("none", "folder", "file"):
        line = refused(*ask(tmp_path / name))
        assert str(tmp_path / name) in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_newer_version_is_refused_naming_both(ask, index, tmp_path):
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps({**manifest, "version": 12}))
    before = folder_bytes(tmp_path)
    line = refused(*ask(index))
    assert "has format version 12, and this glossator reads up to version 1" in line
    assert folder_bytes(tmp_path) == before


def test_a_file_that_was_cut_is_named(ask, tmp_path):
    path = tmp_path / "index"  # With segments that compacting merges.
    join([part(tmp_path / f"{begin}", begin, end) for begin, end in ((0, 6), (6, 11))], path)
    text = sorted(path.glob("text/*/tokens.*"))[1]
    text.write_bytes(text.read_bytes()[:-2])
    before = folder_bytes(tmp_path)
    assert f"segment 4, file `{text.name}` of the index `{path}`" in refused(*ask(path))
    assert folder_bytes(tmp_path) == before


def test_an_unfinished_index_is_taken_only_where_it_is_asked_for(ask, tmp_path):
    path = unfinished(tmp_path / "index")
    name, *arguments = ask(path)
    if name in ("inspect", "compact"):  # One says how far it is, the other merges what there is.
        ok(name, *arguments)
        return
    assert "is not finished: it is committed up to context 8" in refused(name, *arguments)
    ok(name, *arguments, "--unfinished")


@contextlib.contextmanager
def reader_alone():
    """As a user who may write nowhere; the superuser may, whatever the mode says."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_written_is_read_and_stays_as_it_is():
    with tempfile.TemporaryDirectory() as folder:
        path = PLAIN.build(Path(folder) / "index", durable=False)
        out = Path(folder) / "out"
        entries = [Path(folder), *Path(folder).rglob("*")]
        for entry in entries:
            entry.chmod(0o555 if entry.is_dir() else 0o444)
        before = folder_bytes(path)
        with reader_alone():
            ok("verify", path)
            ok("top", path, "0")
            assert json.loads(ok("inspect", path, "--json"))["complete"]
            assert "Permission denied" in refused("export", path, out)
            assert "Permission denied" in refused("join", out, path)
            assert "Permission denied" in refused("compact", path)
        assert folder_bytes(path) == before
        assert sorted(entry.name for entry in Path(folder).iterdir()) == ["index"]
        for entry in entries:
            entry.chmod(0o755 if entry.is_dir() else 0o644)
