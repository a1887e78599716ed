"""Nulls, lift, q-values and the summary: what is no better than another latent's is said so."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from glossator.errors import InputError
from glossator.records import TABLES
from glossator.score.nulls import always_yes, lifts, with_null_values
from glossator.score.over_latents import difference_figure, mean_figure
from glossator.score.permutation import (
    classification_p_value,
    ranking_p_value,
    with_q_values,
)
from glossator.score.summary import summary

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def tables(rng, own, null, latents=60, metric="balanced_accuracy"):
    """Scores and explanations of latents, `own` and `null` the means of the figure."""
    scores, explanations = [], []
    for explainer, mean in (("words", own), ("null:words", null)):
        for latent in range(latents):
            key = f"{explainer}/{latent}"
            explanations.append(
                {"explanation_id": key, "hookpoint": "h", "latent": latent, "explainer": explainer}
            )
            value = float(np.clip(rng.normal(mean, 0.08), 0, 1))
            scores.append(
                {
                    "explanation_id": key,
                    "protocol_id": "p",
                    "scorer": "detection",
                    "metric": metric,
                    "kind": "all",
                    "decile": 0,
                    "value": value,
                    "n_missing": 0,
                    "p_value": float(1 - stats.norm.cdf((value - 0.5) / 0.08)),
                }
            )
    return (
        pa.Table.from_pylist(scores, schema=TABLES["scores"]),
        pa.Table.from_pylist(explanations, schema=TABLES["explanations"]),
    )


def explainers(explanations):
    return dict(
        zip(*(explanations[c].to_pylist() for c in ("explanation_id", "explainer")), strict=True)
    )


def test_null_values_are_the_means_over_the_null_of_the_same_explainer():
    scores, explanations = tables(np.random.default_rng(0), 0.7, 0.5)
    found = with_null_values(scores, explanations).to_pylist()
    null = np.mean([row["value"] for row in found if row["explanation_id"].startswith("null:")])
    own = [row for row in found if not row["explanation_id"].startswith("null:")]
    assert [row["null_value"] for row in own] == pytest.approx([null] * 60)
    assert all(row["null_value"] is None for row in found if row not in own)
    with pytest.raises(InputError, match="is scored but not there"):
        with_null_values(scores, explanations.slice(3))


def test_the_lift_is_the_difference_and_its_interval_holds_it():
    rng, held, naive = np.random.default_rng(1), 0, 0
    for _ in range(200):
        (lift,) = lifts(*tables(rng, 0.62, 0.55, latents=20))
        figure = lift.difference
        assert figure.value == pytest.approx(lift.value - lift.null_value)
        held += figure.low <= 0.07 <= figure.high
        half = (figure.high - figure.low) / 2 / np.sqrt(2)
        naive += abs(figure.value - 0.07) <= half
    assert 0.89 * 200 <= held <= 0.99 * 200
    assert naive < 0.89 * 200  # an interval that forgets that the null is estimated, too


@pytest.mark.parametrize(("n", "m"), [(5, 40), (30, 12), (6_000, 300)])
def test_differences_of_means_hold_what_was_planted(n, m):
    rng, held = np.random.default_rng(2), []
    for _ in range(100):
        one, other = rng.beta(6, 4, n), rng.beta(4, 6, m)
        figure = difference_figure(one, other)
        held.append(figure.low <= 0.2 <= figure.high)
    assert 0.88 <= np.mean(held) <= 1.0
    alone = mean_figure(rng.beta(6, 4, n))
    assert alone.low < alone.value < alone.high


def test_a_judge_at_chance_has_no_lift_and_no_score_called_good():
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores, explanations = tables(rng, 0.5, 0.5)
        scores = with_q_values(scores, explainers(explanations))
        (line,) = summary(scores, explainers(explanations))
        if line.above_chance:  # one interval in forty lies above
            continue
        assert line.good == 0
        assert "no score called good" in str(line)
        assert "not above 0" in str(line)
        assert abs(line.lift.value) < 0.06


def test_a_judge_that_knows_has_good_scores_and_its_denominators():
    scores, explanations = tables(np.random.default_rng(4), 0.8, 0.5)
    groups = explainers(explanations)
    latents = pa.table({"status": ["live"] * 60 + ["dead"] * 3 + ["rare"]})
    (line,) = summary(with_q_values(scores, groups), groups, latents=latents)
    assert line.good > 40
    assert line.lift.value == pytest.approx(0.3, abs=0.05)
    assert (line.latents, line.null_latents) == (60, 60)
    assert "of 64 latents 60 live, 1 rare, 0 dense, 3 dead" in str(line)
    assert f"{line.good} scores called good" in str(line)


def test_scores_above_a_half_are_not_good_where_the_null_gets_as_much():
    scores, explanations = tables(np.random.default_rng(5), 0.75, 0.75)
    groups = explainers(explanations)
    (line,) = summary(with_q_values(scores, groups), groups)
    assert line.low > 0.5
    assert line.above_chance is False
    assert line.good == 0


@FEW
@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1)), min_size=1, max_size=30))
def test_q_values_equal_the_step_up_procedure(rows):
    table = pa.Table.from_pylist(
        [
            {
                "explanation_id": str(at),
                "protocol_id": protocol,
                "scorer": "detection",
                "metric": "balanced_accuracy",
                "kind": "all",
                "decile": 0,
                "p_value": p,
            }
            for at, (protocol, p) in enumerate(rows)
        ],
        schema=TABLES["scores"],
    )
    found = with_q_values(table)["q_value"].to_pylist()
    for protocol in "ab":
        family = [(p, q) for (name, p), q in zip(rows, found, strict=True) if name == protocol]
        ordered = sorted(p for p, _ in family)
        m = len(ordered)
        for p, q in family:
            expected = min(
                [1.0, *(m * other / (at + 1) for at, other in enumerate(ordered) if other >= p)]
            )
            assert q == pytest.approx(expected, abs=1e-12)


def test_rows_without_a_p_value_have_no_q_value():
    scores, _ = tables(np.random.default_rng(6), 0.7, 0.5, latents=4)
    rows = scores.to_pylist()
    rows[1]["p_value"] = None
    found = with_q_values(pa.Table.from_pylist(rows, schema=TABLES["scores"]))
    assert found["q_value"].to_pylist()[1] is None
    assert found["q_value"].null_count == 1


@pytest.mark.parametrize("one_a_prompt", [True, False])
def test_p_values_of_a_judge_that_knows_nothing_are_not_small_too_often(one_a_prompt):
    rng = np.random.default_rng(7)
    found = []
    strata = np.concatenate([np.repeat(np.arange(1, 11), [3, 2] * 5), np.zeros(25, int)])
    for _ in range(400):
        answer = rng.random(50) < rng.choice([0.2, 0.5, 0.8])
        found.append(classification_p_value(strata > 0, answer, strata, exact=one_a_prompt))
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(found) <= level) <= level + 3 * np.sqrt(level / 400)
    assert np.mean(found) < 0.75


def test_the_exact_p_value_is_fishers_and_the_drawn_one_agrees():
    strata = np.concatenate([np.repeat(np.arange(1, 11), [4, 1] * 5), np.zeros(25, int)])
    truth = strata > 0
    rng = np.random.default_rng(8)
    answer = rng.random(50) < np.where(truth, 0.65, 0.4)
    table = [[(truth & answer).sum(), (truth & ~answer).sum()]]
    table += [[(~truth & answer).sum(), (~truth & ~answer).sum()]]
    exact = classification_p_value(truth, answer, strata, exact=True)
    assert exact == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
    weights = np.where(truth, 1 / (10 * np.bincount(strata)[strata]), -1 / 25)
    found, more = weights[answer].sum(), 0
    for _ in range(4000):
        more += weights[rng.permutation(50)[: answer.sum()]].sum() >= found - 1e-12
    drawn = classification_p_value(truth, answer, strata, exact=False)
    assert drawn == pytest.approx(more / 4000, abs=0.03)
    assert drawn >= 1e-4


def test_the_p_value_of_a_ranking_is_mann_and_whitneys_with_ties_or_without():
    rng = np.random.default_rng(9)
    truth = np.arange(50) < 25
    score = rng.standard_normal(50) + 0.5 * truth
    test = {"alternative": "greater", "method": "exact"}
    expected = stats.mannwhitneyu(score[truth], score[~truth], **test).pvalue
    assert ranking_p_value(score, truth) == pytest.approx(expected)
    tied = np.round(score, 1)
    assert ranking_p_value(tied, truth) == pytest.approx(
        stats.mannwhitneyu(tied[truth], tied[~truth], alternative="greater").pvalue, abs=0.02
    )
    assert ranking_p_value(score, np.ones(50, bool)) is None


def test_always_yes_gets_what_yes_to_everything_gets():
    rate = 0.02
    truth = np.arange(10_000) < 10_000 * rate
    precision, recall = truth.mean(), 1.0
    assert always_yes("f1", firing_rate=rate) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )
    assert always_yes("precision", firing_rate=rate) == pytest.approx(precision)
    assert always_yes("balanced_accuracy") == 0.5
    assert always_yes("correlation", firing_rate=rate) is None
