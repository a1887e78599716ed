"""AUROC and average precision: equal to a peer and to brute force, and right in coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from glossator.score.intervals import wilson
from glossator.score.ranking import (
    _average_precision,
    auroc_figure,
    average_precision,
    average_precision_figure,
)

SOME = settings(max_examples=100, deadline=None, derandomize=True)

rankings = st.lists(
    st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 12), st.integers(1, 500)),
    min_size=8,
    max_size=80,
).filter(lambda rows: len({row[1] for row in rows}) == 2)


def arrays(rows):
    score, truth, cluster, weight = zip(*rows, strict=True)
    return np.array(score) / 9, np.array(truth), np.array(cluster), np.array(weight, float)


@SOME
@given(rankings)
def test_values_equal_a_peers(rows):
    score, truth, _, weight = arrays(rows)
    assert auroc_figure(score, truth).value == pytest.approx(metrics.roc_auc_score(truth, score))
    assert average_precision(score, truth, weight) == pytest.approx(
        metrics.average_precision_score(truth, score, sample_weight=weight)
    )
    assert average_precision(score, truth) == pytest.approx(
        metrics.average_precision_score(truth, score)
    )


def slow_auroc(score, truth, cluster):
    """Value and interval pair by pair, the clusters' sums one by one."""
    above, beneath = score[truth], score[~truth]
    pairs = (above[:, None] > beneath) + 0.5 * (above[:, None] == beneath)
    value = pairs.mean()
    sums = {}
    for rows, means in ((truth, pairs.mean(axis=1)), (~truth, pairs.mean(axis=0))):
        ids = cluster[rows]
        if len(set(ids.tolist())) < 2:
            return value, None, None
        scale = np.sqrt(len(set(ids.tolist())) / (len(set(ids.tolist())) - 1))
        for name, mean in zip(ids.tolist(), means, strict=True):
            sums[name] = sums.get(name, 0) + scale * (mean - value) / len(means)
    variance = sum(total**2 for total in sums.values())
    m, n = len(above), len(beneath)
    half = (m + n) / 2 - 1
    model = (1 + half * (1 - value) / (2 - value) + half * value / (1 + value)) / (m * n)
    spread = value * (1 - value)
    draws = min(1 / model, spread / variance) if spread > 0 and variance > 1e-15 else 1 / model
    low, high = wilson(value * draws, draws, t=stats.t.ppf(0.975, len(sums) - 1))
    return value, float(low), float(high)


@SOME
@given(rankings)
def test_the_aurocs_interval_equals_brute_force(rows):
    score, truth, cluster, _ = arrays(rows)
    found = auroc_figure(score, truth, cluster)
    value, low, high = slow_auroc(score, truth, cluster)
    assert found.value == pytest.approx(value)
    if low is None:
        assert found.low is None
        assert "no interval" in found.reason
    else:
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@SOME
@given(rankings)
def test_influences_of_average_precision_equal_differences(rows):
    score, truth, _, weight = arrays(rows)
    value, influence = _average_precision(score, truth, weight)
    for row in range(len(score)):
        more, less = weight.copy(), weight.copy()
        step = 1e-4 * weight[row]
        more[row] += step
        less[row] -= step
        slope = (average_precision(score, truth, more) - average_precision(score, truth, less)) / (
            2 * step
        )
        assert influence[row] == pytest.approx(weight[row] * slope, abs=1e-6)
    assert value == average_precision(score, truth, weight)


def planted(rng, shift, prompts=20, size=5, spread=0.0):
    """Normal scores, activating ones higher by `shift`; of a prompt is `spread` of the variance."""
    n = prompts * size
    truth = rng.permutation(n) < n // 2
    prompt = np.repeat(np.arange(prompts), size)
    noise = np.sqrt(spread) * rng.standard_normal(prompts)[prompt] * np.where(truth, 1, -1)
    return np.sqrt(1 - spread) * rng.standard_normal(n) + noise + shift * truth, truth, prompt


@pytest.mark.parametrize("spread", [0.0, 0.2])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.2])
def test_intervals_of_the_auroc_cover_what_was_planted(shift, spread):
    rng = np.random.default_rng(3)
    right, naive = [], []
    # Two independent normals apart by `shift`, of one variance.
    area = stats.norm.cdf(shift / np.sqrt(2))
    for _ in range(400):
        score, truth, prompt = planted(rng, shift, spread=spread)
        figure = auroc_figure(score, truth, prompt)
        right.append(figure.low <= area <= figure.high)
        alone = auroc_figure(score, truth)
        naive.append(alone.low <= area <= alone.high)
    assert 0.925 <= np.mean(right) <= 0.99
    if spread and shift < 2:
        assert np.mean(naive) < 0.925  # what clusters are ignored by is caught here


def test_intervals_of_average_precision_cover_what_was_planted():
    rng = np.random.default_rng(4)
    large = planted(rng, 1.5, prompts=40_000)
    limit = average_precision(large[0], large[1])
    covered = []
    for _ in range(400):
        figure = average_precision_figure(*planted(rng, 1.5, spread=0.1))
        covered.append(figure.low <= limit <= figure.high)
    assert 0.92 <= np.mean(covered) <= 0.995


def test_a_perfect_order_is_no_certainty():
    truth = np.arange(50) < 25
    figure = auroc_figure(truth.astype(float), truth, np.arange(50) // 5)
    assert figure.value == figure.high == 1
    assert 0.85 < figure.low < 0.95
    figure = average_precision_figure(truth.astype(float), truth, np.arange(50))
    assert figure.value == 1
    assert figure.low < 0.9


def test_one_class_has_no_figure():
    truth = np.ones(5, bool)
    assert "no silent example" in auroc_figure(np.arange(5.0), truth).reason
    assert "no activating example" in average_precision_figure(np.arange(5.0), ~truth).reason
