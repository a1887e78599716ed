"""The arithmetic of scores: equal to brute force, right in coverage, silent where it must be."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from glossator.errors import InputError
from glossator.records import TABLES
from glossator.score import scores_from, summary
from glossator.score.classification import scores_of
from glossator.score.judged import Judged
from glossator.score.natural import Wild, natural
from glossator.score.shares import Figure, joined, ratio_figure, share_figure


def judged_from(rng, recall, specificity, *, spread=0.0, per_decile=5, negatives=20, size=5):
    """One latent as `detection` lays it out; `spread`: how much a whole prompt leans."""
    decile = np.concatenate([np.repeat(np.arange(1, 11), per_decile), np.zeros(negatives, int)])
    order = rng.permutation(len(decile))
    prompt = np.empty(len(decile), int)
    prompt[order] = np.arange(len(decile)) // size
    truth = decile > 0
    right = np.where(truth, recall[decile], specificity)
    if spread:
        # Beta draws per prompt keep the mean and correlate the verdicts of a prompt by `spread`.
        k = 1 / spread - 1
        lean = rng.random(prompt.max() + 1)
        right = stats.beta.ppf(lean[prompt], right * k + 1e-9, (1 - right) * k + 1e-9)
    correct = rng.random(len(decile)) < right
    return Judged(truth, truth == correct, decile, prompt)


def by_metric(rows, decile=0):
    return {row.metric: row for row in rows if row.decile == decile}


def rows_of(judged, **options):
    return scores_of(judged, explanation_id="e", protocol_id="p", scorer="detection", **options)


verdict_lists = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(1, 10), st.integers(0, 8)),
    min_size=60,
    max_size=120,
)


@given(verdict_lists)
@settings(max_examples=60, deadline=None)
def test_values_equal_brute_force(verdicts):
    truth, answer, decile, prompt = (np.array(column) for column in zip(*verdicts, strict=True))
    judged = Judged(truth, answer, decile, prompt)
    rows = by_metric(rows_of(judged))
    if judged.refusal():
        assert all(row.value is None and row.reason for row in rows.values())
        return
    recalls = [
        sum(a for t, a, d, _ in verdicts if t and d == x)
        / sum(1 for t, _, d, _ in verdicts if t and d == x)
        for x in range(1, 11)
    ]
    negatives = [a for t, a, _, _ in verdicts if not t]
    specificity = 1 - sum(negatives) / len(negatives)
    tp = sum(t and a for t, a, _, _ in verdicts)
    fp, fn = sum(negatives), sum(t and not a for t, a, _, _ in verdicts)
    expected = {
        "recall": sum(recalls) / 10,
        "specificity": specificity,
        "balanced_accuracy": (sum(recalls) / 10 + specificity) / 2,
        "accuracy": sum(t == a for t, a, _, _ in verdicts) / len(verdicts),
        "sampled_precision": tp / (tp + fp) if tp + fp else None,
        "sampled_recall": tp / (tp + fn),
        "sampled_f1": 2 * tp / (2 * tp + fp + fn),
    }
    for metric, value in expected.items():
        assert rows[metric].value == (None if value is None else pytest.approx(value))
        if rows[metric].low is not None:
            assert 0 <= rows[metric].low <= rows[metric].value + 1e-9
            assert rows[metric].value - 1e-9 <= rows[metric].high <= 1


@given(verdict_lists, st.randoms())
@settings(max_examples=20, deadline=None)
def test_the_order_of_verdicts_does_not_matter(verdicts, random):
    def figures(rows):
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        return [
            (row.metric, row.decile, row.value, row.low, row.high)
            for row in rows_of(Judged(*columns), wild=Wild(0.2))
        ]

    shuffled = list(verdicts)
    random.shuffle(shuffled)
    for ours, theirs in zip(figures(verdicts), figures(shuffled), strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2:] == pytest.approx(theirs[2:])


@pytest.mark.parametrize("spread", [0.0, 0.15])
@pytest.mark.parametrize(("slope", "specificity"), [(0.0, 0.7), (0.05, 0.9), (0.08, 0.97)])
def test_intervals_of_balanced_accuracy_cover_what_was_planted(spread, slope, specificity):
    recall = np.clip(0.75 + slope * (np.arange(11) - 5.5), 0.02, 0.98)
    planted = (recall[1:].mean() + specificity) / 2
    rng = np.random.default_rng(7)
    draws = 600
    covered = 0
    for _ in range(draws):
        row = by_metric(rows_of(judged_from(rng, recall, specificity, spread=spread)))
        figure = row["balanced_accuracy"]
        covered += figure.low <= planted <= figure.high
    # The limits are 93 and 99 %, each with three standard errors of 600 draws.
    assert 0.90 <= covered / draws <= 1.0


def test_verdicts_that_agree_within_prompts_widen_the_interval():
    prompt = np.repeat(np.arange(10), 5)
    together = np.repeat(np.arange(10) < 5, 5)
    mixed = np.tile([True, False], 25)
    apart = share_figure(mixed, prompt)
    clustered = share_figure(together, prompt)
    assert clustered.value == apart.value == 0.5
    assert clustered.high - clustered.low > 1.5 * (apart.high - apart.low)


def test_a_design_effect_below_one_counts_as_one():
    prompt = np.repeat(np.arange(10), 4)
    balanced = share_figure(np.tile([True, False], 20), prompt)
    t = stats.t.ppf(0.975, 9)
    n, p = 40, 0.5
    half = t * np.sqrt(p * (1 - p) / n + t * t / (4 * n * n)) / (1 + t * t / n)
    assert balanced.high - balanced.low == pytest.approx(2 * half)


def test_one_prompt_gives_a_value_without_an_interval():
    figure = share_figure(np.array([True, False]), np.array([0, 0]))
    assert (figure.value, figure.low, figure.high) == (0.5, None, None)
    assert "one prompt" in figure.reason


def test_mover_joins_two_equal_intervals_to_the_root_of_two_narrower():
    part = Figure(0.7, 0.6, 0.8)
    both = joined(part, part)
    assert both.value == pytest.approx(0.7)
    assert both.high - both.low == pytest.approx(0.2 / np.sqrt(2))


def test_a_ratio_over_nothing_has_no_value():
    never = np.zeros(10, bool)
    figure = ratio_figure(never, never, np.arange(10), "yes")
    assert figure.value is None
    assert "no yes" in figure.reason


def test_precision_at_the_natural_rate_is_bayes_and_never_one_by_luck():
    truth = np.array([True] * 5000 + [False] * 5000)
    answer = np.array([True] * 4000 + [False] * 1000 + [True] * 500 + [False] * 4500)
    precision, f1 = natural(truth, answer, Wild(0.1), seed=0)
    found, false = 0.1 * 0.8, 0.9 * 0.1
    assert precision.value == pytest.approx(found / (found + false), abs=0.01)
    assert f1.value == pytest.approx(2 * found / (found + false + 0.1), abs=0.01)
    assert precision.low < precision.value < precision.high
    lucky = np.array([True] * 50 + [False] * 20)
    precision, _ = natural(lucky, lucky, Wild(0.001), seed=0)
    assert precision.value is None
    assert "negatives are needed" in precision.reason


def test_the_negatives_that_the_reason_asks_for_are_enough():
    lucky = np.array([True] * 50 + [False] * 20)
    precision, _ = natural(lucky, lucky, Wild(0.01), seed=0)
    needed = int(precision.reason.split("some ")[1].split(" ")[0].replace(",", ""))
    more = np.array([True] * 50 + [False] * needed)
    precision, _ = natural(more, more, Wild(0.01), seed=0)
    assert precision.value is not None


def test_too_many_missing_give_no_value_and_a_reason():
    judged = judged_from(np.random.default_rng(0), np.full(11, 0.8), 0.8)
    enough = Judged(judged.truth, judged.answer, judged.decile, judged.prompt, 17)
    assert by_metric(rows_of(enough))["balanced_accuracy"].value is not None
    too_many = Judged(judged.truth, judged.answer, judged.decile, judged.prompt, 18)
    rows = rows_of(too_many, wild=Wild(0.1))
    assert all(row.value is None and "18 of 88" in row.reason for row in rows)
    assert by_metric(rows)["precision"].n_missing == 18


def test_a_decile_without_a_verdict_gives_no_value_and_names_it():
    judged = judged_from(np.random.default_rng(0), np.full(11, 0.8), 0.8)
    part = judged.where(~np.isin(judged.decile, [3, 7]))
    row = by_metric(rows_of(part))["balanced_accuracy"]
    assert row.value is None
    assert "decile 3, 7" in row.reason


def test_natural_figures_are_for_detection_alone():
    judged = judged_from(np.random.default_rng(0), np.full(11, 0.8), 0.8)
    assert "precision" in by_metric(rows_of(judged, wild=Wild(0.3)))
    assert "precision" not in by_metric(rows_of(judged))


def test_verdicts_on_unknown_examples_are_refused():
    verdicts = pa.Table.from_pylist(
        [
            {
                "explanation_id": "e",
                "protocol_id": "p",
                "scorer": "detection",
                "example_id": "gone",
                "prompt_id": "q",
                "slot": 0,
                "truth": True,
                "answer": True,
            }
        ],
        schema=TABLES["verdicts"],
    )
    with pytest.raises(InputError, match="`gone` is judged but not there"):
        scores_from(verdicts, TABLES["examples"].empty_table())
    with pytest.raises(InputError, match="column `prompt_id` is missing"):
        scores_from(verdicts.drop_columns(["prompt_id"]), TABLES["examples"].empty_table())


def test_no_verdicts_give_an_empty_table():
    scores = scores_from(TABLES["verdicts"].empty_table(), TABLES["examples"].empty_table())
    assert scores.num_rows == 0
    assert scores.schema == TABLES["scores"]
    assert summary(scores) == []


def table_of(values, scorer="detection"):
    rows = [
        {
            "explanation_id": str(number),
            "protocol_id": "p",
            "scorer": scorer,
            "metric": "balanced_accuracy",
            "kind": "all",
            "decile": 0,
            "value": value,
            "n_missing": 1,
        }
        for number, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["scores"])


@pytest.mark.parametrize("n", [4, 12, 60])
def test_the_summarys_interval_covers_the_mean_over_latents(n):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        (line,) = summary(table_of(rng.normal(0.5, 0.06, n)))
        covered += line.low <= 0.5 <= line.high
    assert covered >= 0.89 * 200


def test_the_summary_counts_latents_without_a_score():
    (line,) = summary(table_of([0.6, None, 0.7, None]))
    assert (line.latents, line.refused, line.missing) == (2, 2, 4)
    assert "2 without a score" in str(line)


def test_the_summary_of_one_latent_claims_no_interval():
    (line,) = summary(table_of([0.9]))
    assert (line.low, line.above_chance) == (None, None)
    assert "no interval" in str(line)


def test_the_summary_keeps_groups_apart():
    table = table_of([0.6, 0.8])
    lines = summary(table, {"0": "rules", "1": "delimited"})
    assert [(line.group, line.value) for line in lines] == [("delimited", 0.8), ("rules", 0.6)]


def test_a_judge_below_chance_is_called_so():
    (line,) = summary(table_of([0.3, 0.31, 0.29, 0.3]))
    assert "below chance" in str(line)
    assert line.above_chance is False
