"""Tables as Parquet: the run's columns, types and nulls, one file a table, whole or absent."""

from __future__ import annotations

import json
import math
import tracemalloc

import pyarrow.parquet as pq
import pytest

from glossator import store as store_module
from glossator.errors import InputError
from glossator.export import export_tables, groups
from glossator.records import TABLES, Explanation, LedgerEntry, Protocol, Rule, Score, Verdict
from glossator.store import Store


class Letters:
    """The text of a token is the letter of its number, and of 9 half of a surrogate pair."""

    def pieces(self, tokens):
        return ["\ud83d" if token == 9 else chr(97 + token) for token in tokens]


class Run:
    def __init__(self, store):
        self.store, self.text, self.precision = store, Letters(), "bf16"


@pytest.fixture
def run(tmp_path):
    with Store.open(tmp_path / "run") as store:
        yield Run(store)


def exported(run, out, name):
    return export_tables(run, out)[list(TABLES).index(name)]


def example(example_id, tokens, **more):
    row = dict.fromkeys(TABLES["examples"].names)
    return row | {"example_id": example_id, "tokens": tokens, "document": 2**64 - 2} | more


def score(**more):
    known = {"explanation_id": "e", "protocol_id": "p", "scorer": "corpus", "metric": "f1"}
    return Score(**known, **more)


def test_every_table_is_a_file_of_its_own_with_the_schema_of_the_records(run, tmp_path):
    paths = export_tables(run, tmp_path / "out")
    assert [path.name for path in paths] == [f"{name}.parquet" for name in TABLES]
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted(paths)
    for name, path in zip(TABLES, paths, strict=True):
        assert pq.read_schema(path).equals(TABLES[name])
        assert pq.read_table(path).num_rows == 0


def test_the_examples_say_how_exact_their_activations_are(run, tmp_path):
    for known in ("bf16", None):
        run.precision = known
        paths = export_tables(run, tmp_path / f"out-{known}")
        found = [pq.read_schema(path).metadata for path in paths]
        said = [metadata for metadata in found if metadata and b"glossator.precision" in metadata]
        assert said == ([{b"glossator.precision": b"bf16"}] if known else [])


def test_what_a_run_stores_comes_back_from_the_files(run, tmp_path):
    rule = Rule(tokens=(1, 2))
    explanation = Explanation.of("h", 3, "rules", "says </script> “so” ☕", rule)
    protocol = Protocol.of(
        preset="detection",
        parameters={"n": 5, "margin": 0.5},
        prompt_hash="",
        judge="",
        seed=2**40,
        index_hash="i",
        versions={"glossator": "0.1.0"},
    )
    verdict = Verdict(
        explanation_id=explanation.explanation_id,
        protocol_id=protocol.protocol_id,
        scorer="fuzzing",
        example_id="x",
        prompt_id="q",
        slot=0,
        marks=(0, 4),
        truth=True,
        answer=None,
        value=(0.25,),
        failure="refused",
    )
    rows = [score(value=0.1, low=None, high=1.0, n=3), score(decile=4, reason="nothing to count")]
    store = run.store
    store.add("explanations", [explanation])
    store.add("protocols", [protocol])
    store.add("verdicts", [verdict])
    store.add("scores", rows)
    store.add("ledger", [LedgerEntry(stage="score", requests=7, seconds=1.5)])
    store.add("examples", [example("x", [0, 1, 2], activations=[0.0, 1.5, 0.25])])
    paths = dict(zip(TABLES, export_tables(run, tmp_path / "out"), strict=True))
    for name in set(TABLES) - {"examples"}:
        assert pq.read_table(paths[name]).equals(store.table(name)), name
    (found,) = pq.read_table(paths["explanations"]).to_pylist()
    assert found["text"] == explanation.text
    assert Rule.model_validate_json(found["rule"]) == rule
    (found,) = pq.read_table(paths["verdicts"]).to_pylist()
    assert found["answer"] is None
    assert found["marks"] == [0, 4]
    (found,) = pq.read_table(paths["protocols"]).to_pylist()
    assert json.loads(found["parameters"]) == {"n": 5, "margin": 0.5}
    (found,) = pq.read_table(paths["examples"]).to_pylist()
    assert found["text"] == "abc"
    assert found["activations"] == [0.0, 1.5, 0.25]
    assert found["document"] == 2**64 - 2


def test_a_missing_figure_is_null_and_never_nan(run, tmp_path):
    rows = [score(value=math.nan), score(value=0.5, decile=1)]
    run.store.add("scores", [row.model_dump() for row in rows])
    found = pq.read_table(exported(run, tmp_path / "out", "scores"))["value"]
    assert found.to_pylist() == [None, 0.5]
    assert found.null_count == 1


def test_texts_are_found_from_tokens_and_given_ones_are_kept(run, tmp_path):
    rows = [
        example("a", [7, 4, 11, 11, 14]),
        example("b", [1], text="kept"),
        example("c", None),
        example("d", []),
        example("e", [0, 9]),
    ]
    run.store.add("examples", rows)
    found = pq.read_table(exported(run, tmp_path / "out", "examples"))["text"]
    assert found.to_pylist() == ["hello", "kept", None, "", "a?"]


def test_files_are_compressed_with_zstd(run, tmp_path):
    run.store.add("scores", [score(value=0.5)])
    written = pq.ParquetFile(exported(run, tmp_path / "out", "scores")).metadata
    assert written.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("size", [3, 4, 7])
def test_rows_are_the_same_in_whatever_steps_they_are_read(run, tmp_path, monkeypatch, size):
    run.store.add("scores", [score(decile=i, value=i / 7, n=i) for i in range(11)])
    whole = run.store.table("scores")
    monkeypatch.setattr(store_module, "_ROWS", size)
    monkeypatch.setattr(groups, "_BYTES", 1)
    path = exported(run, tmp_path / "out", "scores")
    assert pq.ParquetFile(path).metadata.num_row_groups == -(-11 // size)
    assert pq.read_table(path).equals(whole)
    assert run.store.table("scores").equals(whole)


def test_what_is_held_does_not_grow_with_the_table(run, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_ROWS", 256)
    monkeypatch.setattr(groups, "_BYTES", 1 << 14)

    def peak(name):
        tracemalloc.start()
        export_tables(run, tmp_path / name)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    def examples(first, end):
        tokens = list(range(20))
        return [example(f"{i:05}", tokens, activations=[0.5] * 20) for i in range(first, end)]

    run.store.add("examples", examples(0, 500))
    peak("first")  # what is imported on the way
    few = peak("few")
    run.store.add("examples", examples(500, 6_000))
    assert peak("many") < 1.5 * few


def test_a_place_that_cannot_be_used_is_refused(run, tmp_path):
    out = tmp_path / "out"
    first = [path.read_bytes() for path in export_tables(run, out)]
    run.store.add("scores", [score(value=0.5)])
    with pytest.raises(InputError, match="out: is there already; name a new folder"):
        export_tables(run, out)
    assert [path.read_bytes() for path in sorted(out.iterdir())] == [
        one for _, one in sorted(zip(TABLES, first, strict=True))
    ]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export_tables(run, tmp_path / "file" / "below")


def test_nothing_is_left_of_an_export_that_fails(run, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    run.store.add("scores", [score(value=0.5)])
    monkeypatch.setattr("glossator.export.groups.Groups.write", fails)
    with pytest.raises(InputError, match=r"out.*: cannot be written \(No space left"):
        export_tables(run, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
