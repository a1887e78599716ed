"""Planted truth from end to end: over HTTP as in process, the null at chance, the sides apart."""

import re

import numpy as np
import pytest

from glossator.explain import null_explanations
from glossator.index import document_sides
from glossator.judges.openai_server import OpenAIJudge
from glossator.records import Explanation, table_of
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from glossator.score import (
    ScoringOptions,
    lifts,
    score,
    summary,
    with_null_values,
    with_q_values,
)
from judge_servers import ChatServer, coin
from planted import HOOKPOINT, PlantedJudge, answering, erring, planted_explanations, planted_index

LATENTS = 400
RECALL = {decile: 0.45 + 0.05 * decile for decile in range(1, 11)}
SPECIFICITY = 0.85
PLANTED = (np.mean(list(RECALL.values())) + SPECIFICITY) / 2
FIVE = {
    "plan": SamplingPlan(explain=ExplainPlan(n=5), per_decile=5, negatives=(NegativePlan(n=20),)),
    "options": ScoringOptions(),
    "scorers": ("detection",),
}
ONE = {"preset": "glossator", "scorers": ("detection",)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return planted_index(folder / "index", latents=LATENTS, per_decile=20)


def judged(planted, judge, explanations, **options):
    index, text = planted
    return score(index, explanations, judge=judge, text=text, **options)


def main_rows(scores, metric="balanced_accuracy"):
    return [
        row
        for row in scores.to_pylist()
        if (row["metric"], row["kind"], row["decile"]) == (metric, "all", 0)
    ]


def test_over_http_every_figure_is_the_one_in_process_and_the_intervals_hold_the_truth(planted):
    explanations = planted_explanations(range(LATENTS))
    judge = erring(RECALL, SPECIFICITY)
    with ChatServer(answering(judge)) as server:
        far = OpenAIJudge(server.url, server.model)
        there = judged(planted, far, explanations, **FIVE)
    near = PlantedJudge(judge)
    near.name = far.name
    here = judged(planted, near, explanations, **FIVE)
    assert there.missing == 0
    order = [(name, "ascending") for name in ("prompt_id", "slot")]
    columns = ["explanation_id", "example_id", "truth", "answer", "failure"]
    ours, theirs = (one.verdicts.sort_by(order).select(columns) for one in (here, there))
    assert ours.equals(theirs)
    assert here.scores.equals(there.scores)
    rows = main_rows(there.scores)
    assert len(rows) == LATENTS
    held = np.mean([row["low"] <= PLANTED <= row["high"] for row in rows])
    assert 0.92 <= held <= 0.995
    assert np.mean([row["value"] for row in rows]) == pytest.approx(PLANTED, abs=0.01)


def test_the_sides_never_meet(planted):
    index, _ = planted
    drawn = index.sample(np.arange(LATENTS), FIVE["plan"])
    documents = [set(drawn.document[drawn.split == side].tolist()) for side in (0, 1)]
    assert documents[0]
    assert documents[1]
    assert not documents[0] & documents[1]
    scored = judged(planted, PlantedJudge(erring(RECALL, 0.9)), planted_explanations([3]), **ONE)
    found = np.array(scored.examples["document"].to_pylist(), np.uint64)
    assert (document_sides(found, index.split_seed) == 1).all()


def with_nulls(planted, judge, latents, **options):
    own = planted_explanations(latents)
    explanations = [*own, *null_explanations(own, latents=len(own), seed=1)]
    scored = judged(planted, judge, explanations, **options)
    table = table_of("explanations", explanations)
    return scored, table, {one.explanation_id: one.explainer for one in explanations}


def test_the_null_is_at_chance_and_the_lift_is_what_the_judge_knows(planted):
    judge = PlantedJudge(erring(RECALL, SPECIFICITY))
    scored, table, groups = with_nulls(planted, judge, range(60), **ONE)
    (lift,) = (one for one in lifts(scored.scores, table) if one.metric == "balanced_accuracy")
    assert lift.null_value == pytest.approx(0.5, abs=0.03)
    assert lift.difference.low < PLANTED - 0.5 < lift.difference.high + 0.02
    filled = with_null_values(scored.scores, table)
    own = {one.explanation_id for one in planted_explanations(range(60))}
    found = {row["null_value"] for row in main_rows(filled) if row["explanation_id"] in own}
    assert list(found) == pytest.approx([lift.null_value])
    (line,) = summary(with_q_values(filled, groups), groups)
    assert line.above_chance
    assert line.good > 40


def test_a_judge_that_guesses_has_no_lift_and_no_score_is_called_good(planted):
    judge = PlantedJudge(lambda description, line: (coin(0.5, description, line),))
    scored, _, groups = with_nulls(planted, judge, range(60), **ONE)
    (line,) = summary(with_q_values(scored.scores, groups), groups)
    assert abs(line.lift.value) < 0.04
    assert line.above_chance is False
    assert "no score called good" in str(line)
    assert "lift" in str(line)


def test_a_broader_explanation_lowers_precision_and_a_narrower_one_recall(planted):
    """`latent 3 or more` says yes to other latents' windows, `latent 3, the strong` to fewer."""

    def fits(description, line):
        latent = int(re.search(r"\d+", description)[0])
        hits = {int(who): int(decile) for who, decile in re.findall(r"\bhit(\d+)d(\d+)", line)}
        if "strong" in description:
            return (hits.get(latent, 0) > 5,)
        steps = range(40 if "or more" in description else 1)
        return (any((latent + step) % LATENTS in hits for step in steps),)

    ways = ("latent {}", "latent {} or more", "latent {}, the strong")
    explanations = [
        Explanation.of(HOOKPOINT, latent, way, way.format(latent))
        for latent in range(20)
        for way in ways
    ]
    plan = SamplingPlan(per_decile=5, negatives=(NegativePlan(n=1000),))
    scored = judged(planted, PlantedJudge(fits), explanations, **{**FIVE, "plan": plan})
    who = {one.explanation_id: one.explainer for one in explanations}
    means = {
        (way, metric): np.mean(
            [
                row["value"]
                for row in main_rows(scored.scores, metric)
                if who[row["explanation_id"]] == way and row["value"] is not None
            ]
        )
        for way in ways
        for metric in ("precision", "recall", "specificity")
    }
    true, broad, narrow = ways
    assert means[broad, "precision"] < means[true, "precision"] - 0.1
    assert means[broad, "recall"] == means[true, "recall"] == 1.0
    assert means[narrow, "recall"] == pytest.approx(0.5)
    assert means[narrow, "specificity"] == 1.0


def test_the_presets_quintiles_reach_the_figures(planted):
    judge = PlantedJudge(erring(RECALL, 0.95))
    scored = judged(planted, judge, planted_explanations(range(10)), **ONE)
    recalls = [row for row in scored.scores.to_pylist() if row["metric"] == "recall"]
    assert {row["decile"] for row in recalls} == {0, 2, 4, 6, 8, 10}
    assert {row["n"] for row in recalls if row["decile"]} == {5}
    # The planted words stand nowhere else: that stratum is empty, and known to be.
    rows = main_rows(scored.scores, "precision")
    assert len(rows) == 10
    assert {row["n_negative"] for row in rows} == {13}
