"""Precision, F1 and AUPRC as windows are met: right in the long run, open in the short."""

import re

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn import metrics

from glossator.index import silent_strata
from glossator.records import TABLES
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from glossator.score import scores_from
from glossator.score.natural import Strata, Wild, natural, natural_auprc, strata_of
from planted import planted_explanations, planted_index

WILD = Wild(0.02, (9_000, 800))


def drawn(rng, positives, negatives, recall, alarms):
    """Answers to examples of which `negatives` are of each stratum, and their strata."""
    truth = np.concatenate([np.ones(positives, bool), np.zeros(sum(negatives), bool)])
    stratum = np.concatenate([np.full(positives, -1), np.repeat([0, 1], negatives)])
    rate = np.where(truth, recall, np.where(stratum == 1, alarms[1], alarms[0]))
    return truth, rng.random(len(truth)) < rate, stratum


def planted_precision(recall, alarms, wild=WILD):
    false = (1 - wild.firing_rate) * np.average(alarms, weights=wild.sizes)
    found = wild.firing_rate * recall
    return found / (found + false), 2 * found / (found + false + wild.firing_rate)


def test_each_stratum_counts_by_its_size():
    truth, answer, stratum = drawn(
        np.random.default_rng(0), 40_000, (40_000, 40_000), 0.8, (0.01, 0.4)
    )
    precision, f1 = natural(truth, answer, WILD, seed=0, stratum=stratum)
    planted = planted_precision(0.8, (0.01, 0.4))
    assert (precision.value, f1.value) == pytest.approx(planted, abs=0.01)
    pooled, _ = natural(truth, answer, Wild(0.02), seed=0)
    assert pooled.value < precision.value - 0.1  # half of what was drawn is of the small stratum


@pytest.mark.parametrize(("recall", "alarms"), [(0.8, (0.01, 0.2)), (0.6, (0.03, 0.5))])
def test_intervals_hold_the_planted_precision(recall, alarms):
    rng = np.random.default_rng(1)
    wild = Wild(0.2, (9_000, 800))
    planted = planted_precision(recall, alarms, wild)
    held, values = [], []
    for seed in range(300):
        truth, answer, stratum = drawn(rng, 25, (40, 40), recall, alarms)
        figures = natural(truth, answer, wild, seed=seed, stratum=stratum)
        held += [
            figure.low <= aim <= figure.high
            for figure, aim in zip(figures, planted, strict=True)
            if figure.value is not None
        ]
        values.append(figures[0].value)
    assert len(held) > 300
    assert 0.92 <= np.mean(held) <= 0.995


def test_errors_that_come_together_widen_the_interval():
    rng = np.random.default_rng(2)
    truth, answer, stratum = drawn(rng, 50, (40, 40), 0.8, (0.1, 0.3))
    order = np.lexsort((answer, truth))  # those that are wrong stand in one prompt
    prompt = np.empty(len(truth), int)
    prompt[order] = np.arange(len(truth)) // 5
    alone, _ = natural(truth, answer, Wild(0.3, (9_000, 800)), seed=0, stratum=stratum)
    together, _ = natural(
        truth, answer, Wild(0.3, (9_000, 800)), seed=0, stratum=stratum, clusters=prompt
    )
    assert together.value is None or (together.high - together.low > 1.2 * (alone.high - alone.low))


def needed(reason):
    return int(re.search(r"some ([\d,]+) negatives are needed", reason)[1].replace(",", ""))


@pytest.mark.parametrize("rate", [0.05, 0.01, 0.001])
def test_no_alarm_is_no_certainty_and_the_reason_names_enough_negatives(rate):
    lucky = np.array([True] * 25 + [False] * 25)
    figures = [*natural(lucky, lucky, Wild(rate), seed=0)]
    score = np.where(lucky, 0.9, 0.1)
    figures.append(natural_auprc(score, lucky, Wild(rate), seed=0))
    for at, figure in enumerate(figures):
        if figure.value is not None:
            assert figure.value < 0.99
            continue
        more = np.array([True] * 25 + [False] * needed(figure.reason))
        again = [
            *natural(more, more, Wild(rate), seed=1),
            natural_auprc(np.where(more, 0.9, 0.1), more, Wild(rate), seed=1),
        ]
        assert again[at].value is not None
        less = np.array([True] * 25 + [False] * (needed(figure.reason) // 3))
        again = [
            *natural(less, less, Wild(rate), seed=1),
            natural_auprc(np.where(less, 0.9, 0.1), less, Wild(rate), seed=1),
        ]
        assert again[at].value is None
    assert figures[0].value is None


def test_a_stratum_that_was_not_drawn_from_leaves_it_open():
    truth, answer, stratum = drawn(np.random.default_rng(3), 50, (200, 0), 0.9, (0.0, 0.0))
    both, _ = natural(truth, answer, Wild(0.3, (1_000, 1_000)), seed=0, stratum=stratum)
    one, _ = natural(truth, answer, Wild(0.3, (1_000, 0)), seed=0, stratum=stratum)
    assert both.value is None
    assert one.value > 0.95


def ranked(rng, positives, negatives):
    truth = np.concatenate([np.ones(positives, bool), np.zeros(sum(negatives), bool)])
    stratum = np.concatenate([np.full(positives, -1), np.repeat([0, 1], negatives)])
    mean = np.where(truth, 2.0, np.where(stratum == 1, 0.8, 0.0))
    return truth, stats.norm.cdf(rng.standard_normal(len(truth)) + mean - 1), stratum


def weights(truth, stratum, wild):
    sizes = np.array(wild.sizes)
    share = (1 - wild.firing_rate) * sizes / sizes.sum() / np.bincount(stratum[~truth])
    return np.where(truth, wild.firing_rate / truth.sum(), share[np.maximum(stratum, 0)])


def test_auprc_is_a_peers_on_weights_of_size_by_draws():
    rng = np.random.default_rng(4)
    truth, score, stratum = ranked(rng, 200_000, (200_000, 200_000))
    score = np.round(score, 3)
    figure = natural_auprc(score, truth, WILD, seed=0, stratum=stratum)
    peer = metrics.average_precision_score(
        truth, score, sample_weight=weights(truth, stratum, WILD)
    )
    assert figure.value == pytest.approx(peer, abs=0.01)
    assert figure.low < peer < figure.high


def test_intervals_of_auprc_hold_what_was_planted():
    rng, wild = np.random.default_rng(5), Wild(0.2, (9_000, 800))
    truth, score, stratum = ranked(rng, 100_000, (100_000, 100_000))
    planted = metrics.average_precision_score(
        truth, score, sample_weight=weights(truth, stratum, wild)
    )
    held = []
    for seed in range(150):
        truth, score, stratum = ranked(rng, 25, (25, 25))
        figure = natural_auprc(score, truth, wild, seed=seed, stratum=stratum)
        if figure.value is not None:
            held.append(figure.low <= planted <= figure.high)
    assert len(held) > 75
    assert np.mean(held) >= 0.90


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_of_none_or_all_has_no_figure(rate):
    truth = np.array([True, False] * 20)
    for figure in (*natural(truth, truth, Wild(rate), seed=0),):
        assert "undefined at a firing rate" in figure.reason
    assert natural_auprc(truth * 0.5, truth, Wild(rate), seed=0).value is None


def test_strata_are_told_where_negatives_were_drawn_evenly(tmp_path):
    index, _ = planted_index(tmp_path / "index", latents=4, per_decile=12)
    negatives = (NegativePlan(n=10), NegativePlan(kind="peak_token", n=8, even=True))
    plan = SamplingPlan(explain=ExplainPlan(n=0), per_decile=0, negatives=negatives)
    drawn = index.sample([0, 2], plan, seed=5)
    table = drawn.to_arrow().append_column(
        "example_id", pa.array([str(at) for at in range(len(drawn))])
    )
    explanations = planted_explanations([0, 2])
    parameters = plan.model_dump(mode="json")
    strata = strata_of(index, explanations, table, parameters, seed=5)
    counted = silent_strata(index, [0, 2], seed=5)
    for at, explanation in enumerate(explanations):
        mine = strata[explanation.explanation_id]
        assert mine.sizes == tuple(counted.sizes[at].tolist())
        rows = [
            row
            for row in table.to_pylist()
            if row["latent"] == explanation.latent and row["kind"] == "peak_token"
        ]
        assert {mine.of[row["example_id"]] for row in rows} <= {1}
    turns = {"negatives": [{"kind": "peak_token", "n": 8, "even": False}]}
    assert strata_of(index, explanations, table, turns) == {}


def verdicts_of(rng, *, p_yes=True, quintiles=True):
    """Verdicts of one example a prompt: 25 activating, 13 random, 12 with a peak token."""
    deciles = np.repeat(np.arange(2, 11, 2), 5) - rng.integers(0, 2, 25) * quintiles
    kinds = [None] * 25 + ["random"] * 13 + ["peak_token"] * 12
    examples, verdicts = [], []
    for at, (kind, decile) in enumerate(zip(kinds, [*deciles, *[0] * 25], strict=True)):
        p = float(rng.beta(5, 2) if kind is None else rng.beta(1, 6))
        examples.append(
            {"example_id": f"{at:02}", "decile": int(decile), "kind": kind, "document": at // 2}
        )
        verdicts.append(
            {
                "explanation_id": "e",
                "protocol_id": "p",
                "scorer": "detection",
                "example_id": f"{at:02}",
                "prompt_id": f"q{at:02}",
                "slot": 0,
                "truth": kind is None,
                "answer": p > 0.5,
                "p_yes": p if p_yes else None,
            }
        )
    return (
        pa.Table.from_pylist(verdicts, schema=TABLES["verdicts"]),
        pa.Table.from_pylist(examples, schema=TABLES["examples"]),
    )


def test_verdicts_of_one_example_a_prompt_are_scored_by_quintile_document_and_stratum():
    verdicts, examples = verdicts_of(np.random.default_rng(6))
    of = {f"{at:02}": int(at >= 38) for at in range(25, 50)}
    options = {
        "firing_rates": {"e": 0.5},
        "strata": {"e": Strata((5_000, 400), of)},
        "protocols": {"p": {"strata": "quintile"}},
    }
    rows = scores_from(verdicts, examples, **options).to_pylist()
    found = {(row["metric"], row["decile"], row["kind"]): row for row in rows}
    deciles = {decile for metric, decile, _ in found if metric == "recall"}
    assert deciles == {0, 2, 4, 6, 8, 10}
    assert all(found["recall", decile, "all"]["n"] == 5 for decile in (2, 4, 6, 8, 10))
    assert found["precision", 0, "all"]["n_negative"] == 25
    assert found["auprc", 0, "all"]["value"] is not None
    truth = np.array(verdicts["truth"].to_pylist())
    p = np.array(verdicts["p_yes"].to_pylist())
    assert found["auroc", 0, "all"]["value"] == pytest.approx(metrics.roc_auc_score(truth, p))
    assert found["balanced_accuracy", 0, "all"]["p_value"] < 0.01
    assert found["balanced_accuracy", 0, "all"]["q_value"] is not None
    # Documents that hold two examples each make the interval another than prompts do.
    alone = scores_from(verdicts, examples.drop_columns(["document"]), **options).to_pylist()
    (other,) = [row for row in alone if (row["metric"], row["kind"]) == ("specificity", "all")]
    assert other["low"] != found["specificity", 0, "all"]["low"]


def test_without_p_yes_there_is_no_ranking():
    verdicts, examples = verdicts_of(np.random.default_rng(7), p_yes=False)
    rows = scores_from(verdicts, examples, firing_rates={"e": 0.3}).to_pylist()
    assert {row["metric"] for row in rows} & {"auroc", "auprc"} == set()


def test_what_is_missing_is_counted_by_failure():
    verdicts, examples = verdicts_of(np.random.default_rng(8))
    rows = verdicts.to_pylist()
    for at, row in enumerate(rows):
        if at % 3 == 0:
            failure = "timeout: 30 s" if at else "server: 500"
            row |= {"answer": None, "p_yes": None, "failure": failure}
    table = pa.Table.from_pylist(rows, schema=TABLES["verdicts"])
    found = scores_from(table, examples, protocols={"p": {"strata": "quintile"}}).to_pylist()
    assert all(row["value"] is None for row in found)
    assert "17 of 50 verdicts are missing (timeout: 16), more than 20%" in found[0]["reason"]
