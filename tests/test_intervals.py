"""Intervals over documents: bounds, a slow twin, a hand computation, and coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from glossator.score.intervals import MIN_DOCUMENTS, DocumentTotals, ratio_interval, wilson

SOME = settings(max_examples=200, deadline=None, derandomize=True)

outcomes = st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=1, max_size=60)


def totals(documents):
    """The sums over documents, from a list of (tp, fp, fn)."""
    tp, fp, fn = np.array(documents, float).reshape(-1, 3).T
    return DocumentTotals(
        tp=tp.sum(),
        fp=fp.sum(),
        fn=fn.sum(),
        tp_tp=(tp * tp).sum(),
        fp_fp=(fp * fp).sum(),
        fn_fn=(fn * fn).sum(),
        tp_fp=(tp * fp).sum(),
        tp_fn=(tp * fn).sum(),
        fp_fn=(fp * fn).sum(),
        documents_predicted=(tp + fp > 0).sum(),
        documents_actual=(tp + fn > 0).sum(),
        documents_any=(tp + fp + fn > 0).sum(),
    )


def slow(pairs, active):
    """(value, low, high) of Σy/Σx from the documents' own (y, x), term by term."""
    pairs = [(y, x) for y, x in pairs if x > 0]
    size = sum(x for _, x in pairs)
    if not size:
        return np.nan, np.nan, np.nan
    p, n = sum(y for y, _ in pairs) / size, len(pairs)
    if n < 2:
        return p, np.nan, np.nan
    variance = n / (n - 1) * sum((y - p * x) ** 2 for y, x in pairs) / size**2
    if p in (0, 1):
        draws = n
    elif variance < 1e-18:  # a sum of squares that are 0 but for rounding
        draws = size
    else:
        draws = min(p * (1 - p) / variance, size)
    t = stats.t.ppf(0.975, n - 1)
    root = t * np.sqrt(p * (1 - p) / draws + t**2 / (4 * draws**2))
    ends = [(p + t**2 / (2 * draws) + sign * root) / (1 + t**2 / draws) for sign in (-1, 1)]
    return p, ends[0] if active >= MIN_DOCUMENTS else np.nan, ends[1]


@SOME
@given(outcomes)
def test_totals_give_what_the_documents_give_one_by_one(documents):
    made = totals(documents)
    active = sum(tp + fn > 0 for tp, _, fn in documents)
    pairs = {
        "precision": [(tp, tp + fp) for tp, fp, fn in documents],
        "recall": [(tp, tp + fn) for tp, fp, fn in documents],
        "f1": [(2 * tp, 2 * tp + fp + fn) for tp, fp, fn in documents],
    }
    for name, of in pairs.items():
        found = getattr(made, name)()
        expected = slow(of, active)
        np.testing.assert_allclose(
            [found.value, found.low, found.high], expected, atol=1e-6, err_msg=name
        )


@SOME
@given(outcomes)
def test_ends_stand_around_the_figure_and_within_0_and_1(documents):
    made = totals(documents)
    for found in (made.precision(), made.recall(), made.f1()):
        if not np.isnan(found.high):
            assert found.value <= found.high <= 1
        if not np.isnan(found.low):
            assert 0 <= found.low <= found.value


@SOME
@given(outcomes, st.integers(2, 5))
def test_more_documents_of_the_same_kind_narrow_the_interval(documents, times):
    few, many = totals(documents * 20), totals(documents * 20 * times)
    for name in ("precision", "recall", "f1"):
        one, other = getattr(few, name)(), getattr(many, name)()
        if np.isnan(one.value):
            continue
        assert one.value == pytest.approx(other.value)
        if not np.isnan(one.low):
            assert one.low <= other.low + 1e-9
        assert other.high <= one.high + 1e-9


@SOME
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.5, 1e6))
def test_wilson_rises_with_the_share(first, second, n):
    low, high = wilson(np.array(sorted([first, second])) * n, n)
    assert low[0] <= low[1] + 1e-12
    assert high[0] <= high[1] + 1e-12
    assert ((low >= 0) & (low <= high) & (high <= 1)).all()


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (5, 10, 0.236593, 0.763407),
        (81, 263, 0.255267, 0.366205),  # Newcombe, Statistics in Medicine 17 (1998) 857, table I
        (15, 148, 0.062386, 0.160495),
        (0, 20, 0.0, 0.161125),
        (1, 29, 0.006113, 0.171755),
    ],
)
def test_wilson_equals_published_values(k, n, low, high):
    found = wilson(k, n)
    assert found[0] == pytest.approx(low, abs=6e-4)
    assert found[1] == pytest.approx(high, abs=6e-4)


def test_a_hand_computation():
    # 20 documents of 2 windows, both right, and 20 of 2 windows, one right:
    # p = 60/80 = 3/4; each document is 1/2 off, so V = 40/39 · 40/4 / 6400 = 1/624;
    # draws = 3/16 · 624 = 117, more than the 80 windows: 80. t on 39 degrees is 2.022691.
    found = totals([(2, 0, 0)] * 20 + [(1, 1, 0)] * 20).precision()
    assert found.value == 0.75
    assert found.effective == 80
    t2 = 2.0226909**2
    centre, half = 0.75 + t2 / 160, np.sqrt(t2 * (0.1875 / 80 + t2 / 25600))
    assert found.low == pytest.approx((centre - half) / (1 + t2 / 80), abs=1e-7)
    assert found.low == pytest.approx(0.641554, abs=1e-6)
    assert found.high == pytest.approx((centre + half) / (1 + t2 / 80), abs=1e-7)
    # 30 documents all right and 10 all wrong, 4 windows each: p = 3/4 again, and
    # V = 40/39 · (30 · 1 + 10 · 9) / 25600 = 1/208, so 160 windows are worth 39 draws.
    found = totals([(4, 0, 0)] * 30 + [(0, 0, 4)] * 10).recall()
    assert found.value == 0.75
    assert found.effective == pytest.approx(39)


def test_a_perfect_rule_is_worth_its_documents():
    found = totals([(50, 0, 0)] * 25).f1()
    assert found.value == 1
    assert found.high == 1
    assert found.effective == 25
    t2 = stats.t.ppf(0.975, 24) ** 2
    assert found.low == pytest.approx(25 / (25 + t2))
    assert totals([(0, 3, 2)] * 25).f1().low == 0


def test_fewer_than_20_documents_claim_no_lower_bound():
    found = totals([(3, 1, 0)] * 18 + [(2, 2, 2)] + [(0, 1, 0)] * 50)
    for interval in (found.precision(), found.recall(), found.f1()):
        assert np.isnan(interval.low)
        assert interval.value <= interval.high <= 1
    assert not np.isnan(totals([(3, 1, 0)] * 19 + [(2, 2, 2)]).f1().low)


def test_what_is_not_there_has_no_value():
    silent = totals([(0, 2, 0)] * 30)
    assert np.isnan(silent.recall().value)
    assert silent.precision().value == 0
    still = totals([(0, 0, 2)] * 30)
    assert np.isnan(still.precision().value)
    assert np.isnan(still.precision().high)
    assert still.recall().value == 0


def coverage(rng, documents, p, spread, repeats=400):
    """How often the interval holds the truth: documents of unequal length, each with its rate."""
    x = rng.geometric(1 / 8, (repeats, documents)).astype(float)
    rate = np.full(x.shape, p)
    if spread:
        rate = rng.beta(p * (1 / spread - 1), (1 - p) * (1 / spread - 1), x.shape)
    y = rng.binomial(x.astype(int), rate).astype(float)
    sums = [a.sum(axis=1) for a in (y, x, y * y, x * y, x * x)]
    found = ratio_interval(*sums, np.full(repeats, documents), active=documents)
    return ((found.low <= p) & (p <= found.high)).mean()


def test_the_95_percent_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    shares = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    grid = []
    print("\ndocuments spread | coverage at p =", *shares)
    for documents in (20, 50, 100, 200, 500):
        for spread in (0.0, 0.1, 0.3):
            row = [coverage(rng, documents, p, spread) for p in shares]
            grid.append(row)
            print(f"{documents:9} {spread:6} |", *(f"{c:.3f}" for c in row))
    print(f"mean {np.mean(grid):.3f}, least {np.min(grid):.3f}")
    assert 0.93 <= np.mean(grid) <= 0.99
    assert np.min(grid) >= 0.85
