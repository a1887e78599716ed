"""Tables as Parquet: the run's columns, types and nulls, one file a table, whole or absent."""

from __future__ import annotations

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glossator.errors import InputError
from glossator.export import export_tables
from glossator.records import TABLES, Explanation, LedgerEntry, Protocol, Rule, Score, Verdict
from glossator.store import Store


class Letters:
    """The text of a token is the letter of its number, and of 9 half of a surrogate pair."""

    def pieces(self, tokens):
        return ["\ud83d" if token == 9 else chr(97 + token) for token in tokens]


class Run:
    def __init__(self, tables=None):
        self.tables, self.text, self.precision = tables or {}, Letters(), "bf16"

    def table(self, name):
        return self.tables.get(name, TABLES[name].empty_table())


def example(example_id, tokens, **more):
    row = dict.fromkeys(TABLES["examples"].names)
    return row | {"example_id": example_id, "tokens": tokens, "document": 2**64 - 2} | more


def scores(*rows):
    return pa.Table.from_pylist([row.model_dump() for row in rows], TABLES["scores"])


def score(**more):
    known = {"explanation_id": "e", "protocol_id": "p", "scorer": "corpus", "metric": "f1"}
    return Score(**known, **more)


def test_every_table_is_a_file_of_its_own_with_the_schema_of_the_records(tmp_path):
    paths = export_tables(Run(), tmp_path / "out")
    assert [path.name for path in paths] == [f"{name}.parquet" for name in TABLES]
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted(paths)
    for name, path in zip(TABLES, paths, strict=True):
        assert pq.read_schema(path).equals(TABLES[name])
        assert pq.read_table(path).num_rows == 0


def test_the_examples_say_how_exact_their_activations_are(tmp_path):
    run = Run()
    for known in ("bf16", None):
        run.precision = known
        export_tables(run, tmp_path)
        found = [pq.read_schema(tmp_path / f"{name}.parquet").metadata for name in TABLES]
        said = [metadata for metadata in found if metadata and b"glossator.precision" in metadata]
        assert said == ([{b"glossator.precision": b"bf16"}] if known else [])


def test_what_a_run_stores_comes_back_from_the_files(tmp_path):
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
    with Store.open(tmp_path / "run") as store:
        store.add("explanations", [explanation])
        store.add("protocols", [protocol])
        store.add("verdicts", [verdict])
        store.add("scores", rows)
        store.add("ledger", [LedgerEntry(stage="score", requests=7, seconds=1.5)])
        store.add("examples", [example("x", [0, 1, 2], activations=[0.0, 1.5, 0.25])])
        run = Run({name: store.table(name) for name in TABLES})
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


def test_a_missing_figure_is_null_and_never_nan(tmp_path):
    columns = {name: [None, None] for name in TABLES["scores"].names}
    columns["value"] = [math.nan, 0.5]
    table = pa.table(columns, schema=TABLES["scores"])
    path = export_tables(Run({"scores": table}), tmp_path / "out")[list(TABLES).index("scores")]
    found = pq.read_table(path)["value"]
    assert found.to_pylist() == [None, 0.5]
    assert found.null_count == 1


def test_texts_are_found_from_tokens_and_given_ones_are_kept(tmp_path):
    rows = [
        example("a", [7, 4, 11, 11, 14]),
        example("b", [1], text="kept"),
        example("c", None),
        example("d", []),
        example("e", [0, 9]),
    ]
    table = pa.Table.from_pylist(rows, TABLES["examples"])
    path = export_tables(Run({"examples": table}), tmp_path / "o")[list(TABLES).index("examples")]
    assert pq.read_table(path)["text"].to_pylist() == ["hello", "kept", None, "", "a?"]


def test_columns_in_another_order_or_narrower_types_take_the_schema(tmp_path):
    table = scores(score(value=0.5))
    shuffled = table.select(table.schema.names[::-1])
    at = shuffled.schema.get_field_index("n")
    shuffled = shuffled.set_column(at, "n", shuffled["n"].cast(pa.int32()))
    path = export_tables(Run({"scores": shuffled}), tmp_path / "o")[list(TABLES).index("scores")]
    assert pq.read_table(path).equals(table)


def test_files_are_compressed_with_zstd(tmp_path):
    paths = export_tables(Run({"scores": scores(score(value=0.5))}), tmp_path / "out")
    written = pq.ParquetFile(paths[list(TABLES).index("scores")]).metadata
    assert written.row_group(0).column(0).compression == "ZSTD"


def test_an_export_replaces_an_earlier_one_and_clears_nothing_else(tmp_path):
    out = tmp_path / "out"
    first = [path.read_bytes() for path in export_tables(Run(), out)]
    (out / ".scores.parquet.tmp").write_bytes(b"half")  # of an export that was killed
    assert [path.read_bytes() for path in export_tables(Run(), out)] == first
    assert not (out / ".scores.parquet.tmp").exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds `notes\.txt`, which is no exported table"):
        export_tables(Run({"scores": scores(score(value=0.5))}), out)
    assert pq.read_table(out / "scores.parquet").num_rows == 0


def test_a_place_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; name a folder"):
        export_tables(Run(), tmp_path / "file")
    with pytest.raises(InputError, match="cannot be used"):
        export_tables(Run(), tmp_path / "file" / "below")


def test_a_table_of_another_version_is_refused_by_name(tmp_path):
    other = scores(score(value=0.5)).drop_columns(["reason"])
    with pytest.raises(InputError, match="table scores: its columns are not those of this version"):
        export_tables(Run({"scores": other}), tmp_path / "out")
    bad = pa.table({name: ["x"] for name in TABLES["ledger"].names})
    with pytest.raises(InputError, match="table ledger"):
        export_tables(Run({"ledger": bad}), tmp_path / "other")


def test_a_file_that_fails_leaves_no_part_of_itself(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glossator.export.tables.pq.write_table", fails)
    with pytest.raises(InputError, match=r"latents.parquet: cannot be written \(No space left"):
        export_tables(Run(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
