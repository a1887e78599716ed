"""A score for each kind of negative: the same figures as for that kind alone, and by rank."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.atlas.columns import explainers
from glossator.errors import InputError
from glossator.judges.openai_server import OpenAIJudge
from glossator.records import TABLES, table_of
from glossator.sampling import KINDS, ExplainPlan, NegativePlan, SamplingPlan
from glossator.score import score, scores_from, specificity_by_rank, summary
from glossator.score.judged import MIN_NEGATIVE
from glossator.score.shares import share_figure
from judge_servers import ChatServer
from planted import answering, planted_explanations, planted_index, truth_of

FEW = settings(max_examples=30, deadline=None)
OF_NEGATIVES = ("balanced_accuracy", "specificity", "accuracy", "sampled_precision", "sampled_f1")


def judged(seed, kinds, *, negatives=14, missing=0.05, scorer="detection"):
    """Verdicts and examples of one explanation, with these kinds of negatives."""
    rng = np.random.default_rng(seed)
    examples = [{"decile": d, "kind": None, "source_rank": None} for d in range(1, 11)] * 5
    for kind in kinds:
        ranked = kind not in ("random", None)
        examples += [
            {"decile": 0, "kind": kind, "source_rank": int(rng.integers(1, 4)) if ranked else None}
            for _ in range(negatives)
        ]
    examples = [{**row, "example_id": f"{at:04}"} for at, row in enumerate(examples)]
    order = rng.permutation(len(examples))
    verdicts = []
    for at, row in enumerate(examples):
        answer = bool(rng.random() < (0.8 if row["decile"] else 0.3))
        verdicts.append(
            {
                "explanation_id": "e",
                "protocol_id": "p",
                "scorer": scorer,
                "example_id": row["example_id"],
                "prompt_id": f"{order[at] // 5:03}",
                "slot": int(order[at] % 5),
                "truth": row["decile"] > 0,
                "answer": None if rng.random() < missing else answer,
            }
        )
    return (
        pa.Table.from_pylist(verdicts, schema=TABLES["verdicts"]),
        pa.Table.from_pylist(examples, schema=TABLES["examples"]),
    )


def rows_of(scores, kind="all"):
    return {
        (row["metric"], row["decile"]): {**row, "kind": None}
        for row in scores.to_pylist()
        if row["kind"] == kind
    }


@FEW
@given(
    st.integers(0, 2**32),
    st.sets(st.sampled_from(KINDS[1:]), min_size=2, max_size=4),
    st.integers(MIN_NEGATIVE - 3, 16),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_the_rows_of_a_kind_are_those_of_a_scoring_against_it_alone(seed, kinds, n, missing):
    verdicts, examples = judged(seed, sorted(kinds), negatives=n, missing=missing)
    scores = scores_from(verdicts, examples)
    kind_of = dict(zip(*(examples[c].to_pylist() for c in ("example_id", "kind")), strict=True))
    found = {row["kind"] for row in scores.to_pylist()}
    assert found == {"all", *kinds}
    for kind in kinds:
        own = [kind_of[key] in (None, kind) for key in verdicts["example_id"].to_pylist()]
        alone = scores_from(verdicts.filter(pa.array(own)), examples)
        assert {row["kind"] for row in alone.to_pylist()} == {"all"}
        rows = rows_of(scores, kind)
        assert list(rows) == [(metric, 0) for metric in OF_NEGATIVES]
        expected = rows_of(alone)
        assert rows == {key: expected[key] for key in rows}
    pooled = scores_from(verdicts, examples.drop_columns(["kind"]))
    assert rows_of(pooled) == rows_of(scores)


def test_one_kind_or_none_adds_no_rows():
    for kinds in (["random"], ["decoder"], [None], ["random", None]):
        verdicts, examples = judged(3, kinds)
        assert {row["kind"] for row in scores_from(verdicts, examples).to_pylist()} == {"all"}


def test_precision_at_the_firing_rate_stands_on_random_negatives_alone():
    verdicts, examples = judged(1, ["decoder", "random"], negatives=60, missing=0.02)
    kind_of = dict(zip(*(examples[c].to_pylist() for c in ("example_id", "kind")), strict=True))
    keep = [kind_of[key] in (None, "random") for key in verdicts["example_id"].to_pylist()]
    rates = {"e": 0.3}
    alone = rows_of(scores_from(verdicts.filter(pa.array(keep)), examples, firing_rates=rates))
    mixed = rows_of(scores_from(verdicts, examples, firing_rates=rates))
    for metric in ("precision", "f1"):
        assert mixed[metric, 0] == alone[metric, 0]
        assert mixed[metric, 0]["value"] is not None
        assert mixed[metric, 0]["n_negative"] <= 60
    verdicts, examples = judged(1, ["decoder", "peak_token"], negatives=60)
    none = rows_of(scores_from(verdicts, examples, firing_rates=rates))
    assert none["precision", 0]["value"] is None
    assert "negatives are needed" in none["precision", 0]["reason"]


@FEW
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3]))
def test_specificity_by_rank_is_the_share_of_that_ranks_negatives(seed, missing):
    verdicts, examples = judged(seed, ["random", "decoder", "embedding"], missing=missing)
    found = specificity_by_rank(verdicts, examples)
    rows = {row["example_id"]: row for row in examples.to_pylist()}
    groups = {}
    for verdict in verdicts.to_pylist():
        row = rows[verdict["example_id"]]
        if row["source_rank"] is not None and verdict["answer"] is not None:
            key = row["kind"], row["source_rank"]
            groups.setdefault(key, []).append((not verdict["answer"], int(verdict["prompt_id"])))
    assert found.num_rows == len(groups)
    assert "random" not in found["kind"].to_pylist()
    for row, (key, members) in zip(found.to_pylist(), sorted(groups.items()), strict=True):
        yes, prompts = (np.array(column) for column in zip(*members, strict=True))
        figure = share_figure(yes, prompts)
        assert (row["kind"], row["source_rank"], row["n"]) == (*key, len(members))
        assert row["value"] == pytest.approx(yes.mean())
        assert row["low"] == (None if figure.low is None else pytest.approx(figure.low))
        assert row["high"] == (None if figure.high is None else pytest.approx(figure.high))


def test_tables_that_do_not_fit_are_refused():
    verdicts, examples = judged(0, ["decoder"])
    with pytest.raises(InputError, match="table `examples`: column `source_rank` is missing"):
        specificity_by_rank(verdicts, examples.drop_columns(["source_rank"]))
    with pytest.raises(InputError, match="table `verdicts`: column `answer` is missing"):
        specificity_by_rank(verdicts.drop_columns(["answer"]), examples)
    with pytest.raises(InputError, match="is judged but not there"):
        specificity_by_rank(verdicts, examples.slice(1))
    empty = specificity_by_rank(*(TABLES[name].empty_table() for name in ("verdicts", "examples")))
    assert empty.num_rows == 0


@dataclass(frozen=True)
class Table:
    """What a draw reads of a table of neighbours."""

    ids: np.ndarray
    relation: np.ndarray | None = None
    coder_hash: str = ""


def test_a_judge_is_scored_against_each_kind_and_the_unfiltered_one_shows_in_the_figures(tmp_path):
    """Latents share half their windows: a judge that is always right is wrong there, unfiltered."""
    index, text = planted_index(tmp_path / "index", latents=8, per_decile=30)
    ids = np.array([[(own + step) % 8 for step in (1, 2, 3)] for own in range(8)], np.uint32)
    table = Table(ids, np.zeros((8, 3), np.uint8), "aa")
    kinds = ("random", "decoder", "decoder_unfiltered")
    plan = SamplingPlan(
        explain=ExplainPlan(n=0),
        per_decile=7,
        negatives=tuple(NegativePlan(kind=kind, n=20, ranks=(1, 3)) for kind in kinds),
    )

    def right(description, line):
        truth, decile = truth_of(description, line)
        return truth, truth, decile

    with ChatServer(answering(right)) as server:
        judge = OpenAIJudge(server.url, server.model)
        explanations = planted_explanations([0, 1])
        scored = score(index, explanations, judge=judge, text=text, plan=plan, neighbours=table)
    rows = scored.scores.to_pylist()
    detection = [row for row in rows if row["scorer"] in ("detection", "neighbours")]
    assert {(row["scorer"], row["kind"]) for row in detection} == {
        *(("detection", "all"), ("neighbours", "all")),
        *(("neighbours", kind) for kind in kinds[1:]),
    }
    assert {row["kind"] for row in rows if row["scorer"] == "fuzzing"} == {"all"}
    specificity = {
        (scorer, kind): [
            row["value"]
            for row in detection
            if (row["scorer"], row["metric"], row["kind"]) == (scorer, "specificity", kind)
        ]
        for scorer in ("detection", "neighbours")
        for kind in ("all", *kinds)
    }
    assert specificity["detection", "all"] == specificity["neighbours", "decoder"] == [1.0, 1.0]
    assert max(specificity["neighbours", "decoder_unfiltered"]) < 1.0
    ranks = specificity_by_rank(
        scored.verdicts.filter(pa.compute.equal(scored.verdicts["scorer"], "neighbours")),
        scored.examples,
    )
    assert set(ranks["kind"].to_pylist()) == {"decoder", "decoder_unfiltered"}
    assert set(ranks["source_rank"].to_pylist()) == {1, 2, 3}
    assert scored.protocol.parameters["neighbours"] == {"coder_hash": "aa", "k": 3}
    assert len(summary(scored.scores)) == 3


def test_the_atlas_shows_the_score_of_all_kinds_in_whatever_order_they_come():
    explanation = planted_explanations([1])[0]
    rows = [
        {
            "explanation_id": explanation.explanation_id,
            "scorer": "detection",
            "metric": "balanced_accuracy",
            "kind": kind,
            "decile": 0,
            "value": value,
        }
        for kind, value in (("DECODER", 0.25), ("all", 0.5), ("random", 0.75))
    ]
    explanations = table_of("explanations", [explanation])
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        scores = table_of("scores", [rows[at] for at in order])
        (one,) = explainers(explanations, scores, 3)
        assert one.metrics["detection"][1] == 0.5
