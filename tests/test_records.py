"""Records and columns as tables: what `table_of` gives is what the run's database gives back."""

import numpy as np
import pytest

from glossator.records import TABLES, Explanation, Near, Protocol, Rule, Score, Verdict, table_of
from glossator.store import Store

RULE = Rule(tokens=(3, 5), require=Near(tokens=(8,), before=3))
RECORDS = {
    "explanations": [
        Explanation.of("layers.5", 1, "rules", "Activates on “née”.", rule=RULE),
        Explanation.of("layers.5", 2, "delimited:judge", "numbers"),
    ],
    "protocols": [
        Protocol.of(
            preset="default",
            parameters={"window": 32, "kinds": ["random"]},
            prompt_hash="a",
            judge="judge",
            seed=0,
            index_hash="b",
            versions={"numpy": "2"},
        )
    ],
    "verdicts": [
        Verdict(
            explanation_id="a",
            protocol_id="b",
            scorer="fuzzing",
            example_id="c",
            prompt_id="d",
            slot=0,
            marks=(1, 2),
            truth=True,
            answer=None,
            failure="timeout",
        )
    ],
    "scores": [Score(explanation_id="a", protocol_id="b", scorer="corpus", metric="f1", value=0.5)],
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_table_of_records_is_what_the_database_gives_back(name, tmp_path):
    with Store.open(tmp_path / "run") as store:
        store.add(name, RECORDS[name])
        there = store.table(name)
    key = there.column_names[0]
    assert table_of(name, RECORDS[name]).sort_by(key).equals(there.sort_by(key))


def test_columns_are_filled_up_with_what_is_the_same_in_every_row_and_null():
    table = table_of("latents", {"latent": range(2), "count": np.array([4, 0])}, hookpoint="a")
    assert table.schema.equals(TABLES["latents"])
    assert table.select(["hookpoint", "latent", "count", "status"]).to_pylist() == [
        {"hookpoint": "a", "latent": 0, "count": 4, "status": None},
        {"hookpoint": "a", "latent": 1, "count": 0, "status": None},
    ]


def test_of_no_records_there_is_an_empty_table():
    assert table_of("scores", []).equals(TABLES["scores"].empty_table())
