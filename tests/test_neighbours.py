"""Neighbours by decoder direction: exact, of whatever form the rows have, and what they are."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import glossator as gl
from glossator.coders import SparseCoder
from glossator.encode import TopK
from glossator.errors import InputError
from glossator.neighbours import NO_NEIGHBOUR, Neighbours, neighbours
from glossator.progress import SILENT

TIE = 1e-12


def cosines_of(rows, other=None):
    """float64[L, M]; NaN where a row is zeros, and of a row with itself."""

    def unit(matrix):
        matrix = np.asarray(matrix, np.float32).astype(np.float64)
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        return np.divide(matrix, norms, out=np.full_like(matrix, np.nan), where=norms > 0)

    products = unit(rows) @ unit(rows if other is None else other).T
    if other is None:
        np.fill_diagonal(products, np.nan)
    return products


def assert_exact(ids, cosines, rows, other=None):
    """The same as brute force in float64, cosines within 1e-12 counted as equal."""
    true = cosines_of(rows, other)
    other_rows = np.asarray(rows if other is None else other, np.float32)
    n, k = ids.shape
    assert (ids.dtype, cosines.dtype) == (np.uint32, np.float32)
    for row in range(n):
        known = np.flatnonzero(~np.isnan(true[row]))
        found = ids[row][ids[row] != NO_NEIGHBOUR].astype(int)
        assert len(found) == min(k, len(known))
        assert np.isnan(cosines[row, len(found) :]).all()
        assert (ids[row, len(found) :] == NO_NEIGHBOUR).all()
        assert len(set(found.tolist())) == len(found)
        values = true[row, found]
        assert (np.diff(values) <= TIE).all()
        np.testing.assert_allclose(cosines[row, : len(found)], values, atol=3e-7)
        left = np.setdiff1d(known, found)
        if len(left) and len(found):
            assert true[row, left].max() <= values.min() + TIE
        # Of identical rows the smaller id comes first.
        for before, after in itertools.pairwise(found.tolist()):
            if (other_rows[before] == other_rows[after]).all():
                assert before < after
        for missed in left.tolist():
            for taken in found.tolist():
                if (other_rows[missed] == other_rows[taken]).all():
                    assert taken < missed


def quiet(*arguments, **named):
    """`neighbours` where zero rows are expected."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* rows are zeros")
        return neighbours(*arguments, **named)


@st.composite
def matrices(draw):
    """Few rows, some of them equal, scaled, opposite or zeros."""
    seed = draw(st.integers(0, 2**32 - 1))
    n, width = draw(st.integers(2, 40)), draw(st.integers(1, 70))
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, width)).astype(np.float32)
    if draw(st.booleans()):
        rows = np.round(rows)  # Many ties.
    for kind in draw(st.lists(st.sampled_from(["copy", "scale", "turn", "zero"]), max_size=6)):
        at, source = rng.integers(0, n, 2)
        rows[at] = {"copy": 1, "scale": 3, "turn": -1, "zero": 0}[kind] * rows[source]
    if draw(st.booleans()):
        rows[:, : min(2, width)] *= 30
    return rows


@settings(max_examples=200, deadline=None)
@given(rows=matrices(), data=st.data())
def test_neighbours_are_those_of_brute_force(rows, data):
    k = data.draw(st.integers(1, len(rows) - 1))
    assert_exact(*quiet(rows, k=k), rows)


@settings(max_examples=100, deadline=None)
@given(rows=matrices(), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_neighbours_between_two_coders_are_those_of_brute_force(rows, seed, data):
    rng = np.random.default_rng(seed)
    other = rng.normal(size=(data.draw(st.integers(2, 30)), rows.shape[1])).astype(np.float32)
    other[0] = rows[0]
    k = data.draw(st.integers(1, len(other) - 1))
    assert_exact(*quiet(rows, other, k=k), rows, other)


@settings(max_examples=50, deadline=None)
@given(rows=matrices(), scales=st.integers(-20, 20))
def test_the_length_of_a_row_does_not_matter(rows, scales):
    ids, _ = quiet(rows, k=1)
    again, _ = quiet(rows * np.float32(2.0**scales), k=1)
    np.testing.assert_array_equal(ids, again)


def rows_of(n=60, width=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


# --- what is taken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: rows,
        lambda rows: rows.astype(np.float64),
        lambda rows: torch.from_numpy(rows),
        lambda rows: torch.from_numpy(rows).double(),
        lambda rows: torch.nn.Parameter(torch.from_numpy(rows)),
        lambda rows: np.asfortranarray(rows),
        lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
        lambda rows: coder_of(rows),
    ],
)
def test_every_form_of_the_same_rows_gives_the_same(form):
    rows = rows_of()
    for found, wanted in zip(neighbours(form(rows)), neighbours(rows), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(dtype):
    rows = torch.from_numpy(rows_of()).to(dtype)
    for found, wanted in zip(neighbours(rows), neighbours(rows.float().numpy()), strict=True):
        np.testing.assert_array_equal(found, wanted)


def coder_of(rows):
    weights = torch.from_numpy(np.ascontiguousarray(rows))
    n, width = weights.shape
    return SparseCoder(
        weights.clone(), torch.zeros(n), weights, torch.zeros(width), rule=TopK(4), hookpoint="h.0"
    )


def test_nothing_is_written_into_what_was_given():
    rows = rows_of()
    before = rows.copy()
    rows.setflags(write=False)
    neighbours(rows, rows)
    np.testing.assert_array_equal(rows, before)


def test_a_coder_matches_another_with_its_rows_in_another_order():
    rows = rows_of(64)
    order = np.random.default_rng(1).permutation(64)
    ids, cosines = neighbours(coder_of(rows), coder_of(rows[order]), k=1)
    np.testing.assert_array_equal(order[ids[:, 0]], np.arange(64))
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)


def test_zero_rows_are_named_in_one_warning_and_have_no_neighbours():
    rows = rows_of(20)
    rows[[3, 5, 7, 8, 9, 11, 13]] = 0
    with pytest.warns(UserWarning, match="zeros") as said:
        ids, cosines = neighbours(rows, k=19)
    assert [str(each.message) for each in said] == [
        "`decoder`: 7 of 20 rows are zeros and have no neighbours (3, 5, 7, 8, 9, …)"
    ]
    assert said[0].filename == __file__
    assert (ids[3] == NO_NEIGHBOUR).all()
    assert np.isnan(cosines[3]).all()
    assert not np.isin(ids, [3, 5, 7, 8, 9, 11, 13]).any()
    assert_exact(ids, cosines, rows)


class Shown:
    """Progress that counts."""

    def __init__(self):
        self.done, self.stages = 0, []

    def stage(self, name, total=None, unit="it"):
        self.stages.append((name, total, unit))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, amount=1, *, tokens=0, failures=0):
        self.done += amount

    def note(self, text):
        raise AssertionError(text)


def test_progress_counts_every_latent_once():
    shown = Shown()
    neighbours(rows_of(20), rows_of(3_000), k=2, progress=shown)
    assert shown.stages == [("neighbours", 20, "latents")]
    assert shown.done == 20


def test_an_interrupt_ends_the_search():
    shown = Shown()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    shown.advance = interrupted
    with pytest.raises(KeyboardInterrupt):
        neighbours(rows_of(3_000), progress=shown)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_row(bad):
    rows = rows_of()
    rows[17, 3] = bad
    with pytest.raises(InputError, match=r"row 17\b"):
        neighbours(rows)
    with pytest.raises(InputError, match=r"row 17\b"):
        neighbours(rows_of(30), rows)


def test_what_float32_cannot_hold_is_refused_with_its_row():
    rows = rows_of().astype(np.float64)
    rows[4, 0] = 1e300
    with pytest.raises(InputError, match=r"row 4\b"):
        neighbours(rows)


@pytest.mark.parametrize("k", [0, 60, 61, 2**32 - 1])
def test_k_must_leave_a_row_out(k):
    with pytest.raises(InputError, match=f"`k` is {k}; each row has at most 59"):
        neighbours(rows_of(60), k=k)


def test_k_is_bounded_by_the_other_coder():
    ids, _ = neighbours(rows_of(60), rows_of(5), k=5)
    assert (np.sort(ids, axis=1) == np.arange(5)).all()
    with pytest.raises(InputError, match="at most 5 neighbours"):
        neighbours(rows_of(60), rows_of(5), k=6)
    with pytest.raises(InputError, match=r"`k` is 1\.5"):
        neighbours(rows_of(60), k=1.5)


def test_other_widths_are_refused():
    with pytest.raises(InputError, match="`other` has rows of 8 numbers, `decoder` of 16"):
        neighbours(rows_of(width=16), rows_of(width=8))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros(4, np.float32), r"`decoder` has shape \[4\]"),
        (np.zeros((2, 3, 4), np.float32), r"`decoder` has shape \[2, 3, 4\]"),
        (np.zeros((4, 4), np.int64), "`decoder` has dtype int64"),
        (np.zeros((4, 4), np.complex64), "`decoder` has dtype complex64"),
        ([[1.0], [1.0, 2.0]], "`decoder` is no array"),
        ("decoder", r"`decoder` has shape \[\]"),
        (np.zeros((0, 4), np.float32), "at most 0 neighbours"),
    ],
)
def test_what_is_no_matrix_of_floats_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        neighbours(given)


def test_the_public_names_are_these():
    assert gl.neighbours is neighbours
    assert gl.Neighbours is Neighbours
    assert SILENT is not None
