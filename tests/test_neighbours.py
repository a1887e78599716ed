"""Neighbours by decoder direction: exact, of whatever form the rows have, and what they are."""

from __future__ import annotations

import itertools
import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import glossator as gl
from glossator.coders import SparseCoder
from glossator.cooccurrence import Coactivation
from glossator.errors import InputError
from glossator.neighbour_table import PAIRS, pair_table, write_pairs
from glossator.neighbours import NO_NEIGHBOUR, RELATIONS, Neighbours, neighbours, relations
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
        weights.clone(), torch.zeros(n), weights, torch.zeros(width), k=4, hookpoint="h.0"
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
    with pytest.raises(InputError, match=f"`k` is {k}; it must be at least 1 and below the 60"):
        neighbours(rows_of(60), k=k)


def test_k_is_bounded_by_the_other_coder():
    with pytest.raises(InputError, match="below the 5 rows"):
        neighbours(rows_of(60), rows_of(5), k=5)
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
        (np.zeros((0, 4), np.float32), "below the 0 rows"),
    ],
)
def test_what_is_no_matrix_of_floats_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        neighbours(given)


# --- co-activation and relations ---------------------------------------------------------------


def together(**columns):
    """Co-activation of one latent with its neighbours, from lists."""
    k = len(next(iter(columns.values())))
    values = {name: np.zeros((1, k)) for name in Coactivation.__dataclass_fields__}
    values["both"] = np.zeros((1, k), np.uint64)
    for name, row in columns.items():
        values[name] = np.array([row], values[name].dtype)
    return Coactivation(**values)


def related(cosines, **columns):
    return [RELATIONS[code] for code in relations(np.array([cosines]), together(**columns))[0]]


def test_relations_follow_from_conditionals():
    assert related(
        [0.9] * 6,
        given=[0.51, 0.5, 0.2, 0.9, 0.6, 0.7],
        given_back=[0.1, 0.5, 0.51, 0.6, 0.9, 0.7],
        both=[9] * 6,
    ) == ["parent", "independent", "child", "parent", "child", "parent"]


def test_absorption_is_the_same_direction_and_tokens_at_other_times():
    assert related(
        [0.3, 0.29, 0.3, 0.3, 0.3],
        given=[0.05, 0.0, 0.06, 0.0, 0.0],
        given_back=[0.0, 0.0, 0.0, 0.06, 0.0],
        shared_tokens=[0.5, 0.9, 0.9, 0.9, 0.49],
    ) == ["absorption", "independent", "independent", "independent", "independent"]


def test_co_active_is_more_than_chance_in_enough_windows():
    assert related([0.0] * 4, npmi=[0.1, 0.09, 0.5, np.nan], both=[3, 900, 2, 3]) == [
        *("co-active", "independent", "independent", "independent")
    ]


def test_a_latent_that_is_never_active_is_independent():
    void = [np.nan]
    assert related([0.9], npmi=void, given=void, given_back=void, jaccard=void) == ["independent"]
    assert related(void, given=[0.9]) == ["independent"]


class FakeIndex:
    """An index as far as `with_index` looks at it."""

    def __init__(self, n_latents, coder_hash="", seed=0):
        self.n_latents, self.hash = n_latents, "0123456789abcdef"
        self.attributes = {"coder_hash": coder_hash} if coder_hash else {}
        self._rng = np.random.default_rng(seed)

    def coactivation(self, latents, ids):
        np.testing.assert_array_equal(latents, np.arange(self.n_latents))
        none = ids == NO_NEIGHBOUR
        values = {
            name: np.where(none, np.nan, self._rng.random(ids.shape))
            for name in Coactivation.__dataclass_fields__
        }
        values["both"] = np.where(none, 0, self._rng.integers(0, 99, ids.shape)).astype(np.uint64)
        return Coactivation(**values)


def test_an_index_adds_coactivation_and_relations():
    coder = coder_of(rows_of())
    near = Neighbours.of(coder, k=5)
    assert (near.n_latents, near.k, near.coder_hash) == (60, 5, coder.hash)
    assert near.coactivation is None
    assert near.relation is None
    counted = near.with_index(FakeIndex(60, coder.hash))
    np.testing.assert_array_equal(counted.relation, relations(near.cosines, counted.coactivation))
    assert counted.index_hash == "0123456789abcdef"
    assert counted.ids is near.ids
    # Where either does not know its coder, it is taken on trust.
    assert Neighbours.of(rows_of()).with_index(FakeIndex(60, "a" * 32)).coder_hash == "a" * 32
    assert near.with_index(FakeIndex(60)).coder_hash == coder.hash


def test_an_index_of_another_coder_is_refused():
    near = Neighbours.of(coder_of(rows_of()), k=5)
    with pytest.raises(InputError, match="the index was built from the coder aaaaaaaaaaaa…"):
        near.with_index(FakeIndex(60, "a" * 32))
    with pytest.raises(InputError, match="the index has 61 latents, the decoder 60"):
        near.with_index(FakeIndex(61))


# --- Parquet -----------------------------------------------------------------------------------

GOLDEN = [
    ("latent", "uint32"),
    ("rank", "uint32"),
    ("neighbour", "uint32"),
    ("cosine", "float"),
    ("both", "uint64"),
    ("jaccard", "double"),
    ("npmi", "double"),
    ("given", "double"),
    ("given_back", "double"),
    ("shared_tokens", "double"),
    ("relation", "dictionary<values=string, indices=int8, ordered=0>"),
]


def some(counted=True, n=60, k=5):
    rows = rows_of(n)
    rows[7] = 0
    with pytest.warns(UserWarning, match="1 of"):
        near = Neighbours.of(rows, k=k)
    return near.with_index(FakeIndex(n, "a" * 32)) if counted else near


def assert_equal(one, other):
    for name in ("ids", "cosines"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert (one.coder_hash, one.index_hash) == (other.coder_hash, other.index_hash)
    assert (one.relation is None) == (other.relation is None)
    if one.relation is not None:
        np.testing.assert_array_equal(one.relation, other.relation)
        for name in Coactivation.__dataclass_fields__:
            left, right = (getattr(each.coactivation, name) for each in (one, other))
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype


def test_the_columns_are_as_written_here(tmp_path):
    table = some().to_arrow()
    assert [(field.name, str(field.type)) for field in table.schema] == GOLDEN
    assert table.schema.metadata == {
        b"glossator.neighbours": b"1",
        b"glossator.n_latents": b"60",
        b"glossator.k": b"5",
        b"glossator.coder_hash": b"a" * 32,
        b"glossator.index_hash": b"0123456789abcdef",
    }
    stored = pq.read_table(some().write(tmp_path / "neighbours.parquet"))
    assert stored.schema.equals(table.schema, check_metadata=False)
    assert (
        pq.ParquetFile(tmp_path / "neighbours.parquet").metadata.row_group(0).column(3).compression
        == "ZSTD"
    )


def test_a_row_is_a_pair_by_latent_and_rank():
    near = some()
    rows = near.to_arrow().to_pylist()
    assert [(row["latent"], row["rank"]) for row in rows] == [
        (latent, rank) for latent in range(60) if latent != 7 for rank in range(1, 6)
    ]
    for row in rows:
        at = row["latent"], row["rank"] - 1
        assert row["neighbour"] == near.ids[at]
        assert row["cosine"] == near.cosines[at]
        assert row["relation"] == RELATIONS[near.relation[at]]
        for name in Coactivation.__dataclass_fields__:
            assert row[name] == getattr(near.coactivation, name)[at]


@pytest.mark.parametrize("counted", [True, False])
def test_what_is_written_is_read(tmp_path, counted):
    near = some(counted)
    path = tmp_path / "neighbours.parquet"
    assert near.write(path) == path
    assert_equal(Neighbours.read(path), near)
    before = path.read_bytes()
    near.write(path)  # In place of the old one, with the same bytes.
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["neighbours.parquet"]


def test_a_figure_that_is_not_known_is_null_and_none_is_nan(tmp_path):
    near = some()
    near.coactivation.npmi[0, 0] = np.nan
    table = near.to_arrow()
    assert table["npmi"].null_count == 1
    assert not any(np.isnan(value) for value in table["npmi"].drop_null().to_pylist())
    assert_equal(Neighbours.read(near.write(tmp_path / "near.parquet")), near)


@pytest.mark.parametrize("size", [0, 3, 100, -1, -9])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, size):
    path = some().write(tmp_path / "near.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:size])
    with pytest.raises(InputError, match=r"near\.parquet: no whole Parquet file") as error:
        Neighbours.read(path)
    assert "\n" not in str(error.value)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    near = some()
    path = near.write(tmp_path / "near.parquet")
    data = path.read_bytes()
    refused = 0
    rng = np.random.default_rng(0)
    places = [int(place) for place in rng.integers(0, len(data) // 2, 60)]
    for place in places:
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        try:
            found = Neighbours.read(path)
        except InputError:
            refused += 1
            continue
        assert_equal(found, near)
    assert refused > len(places) // 2


def rewritten(path, change, **facts):
    """The file's table, changed, under the same name."""
    table = pq.read_table(path)
    names = {f"glossator.{name}".encode(): str(fact).encode() for name, fact in facts.items()}
    changed = change(table).replace_schema_metadata({**table.schema.metadata, **names})
    write_pairs(changed, path)


def put(column, row, value):
    def change(table):
        at = table.schema.get_field_index(column)
        values = table[column].to_pylist()
        values[row] = value
        return table.set_column(at, table.schema.field(at), pa.array(values, PAIRS.field(at).type))

    return change


@pytest.mark.parametrize(
    ("change", "facts", "said"),
    [
        (put("latent", 3, 60), {}, "column `latent` holds 60; it must be 0 to 59"),
        (put("neighbour", 3, 2**32 - 1), {}, "column `neighbour` holds 4294967295"),
        (put("rank", 0, 0), {}, "column `rank` holds 0; it must be 1 to 5"),
        (put("rank", 0, 2), {}, "two neighbours of one rank"),
        (put("cosine", 0, None), {}, "column `cosine` holds nulls"),
        (put("relation", 0, "sibling"), {}, "column `relation` or `both`"),
        (put("both", 0, None), {}, "column `relation` or `both`"),
        (lambda table: table, {"k": "many"}, "no sound `n_latents` and `k`"),
        (lambda table: table, {"k": 60}, "no sound `n_latents` and `k`"),
        (lambda table: table, {"n_latents": -1}, "no sound `n_latents` and `k`"),
        (lambda table: table, {"neighbours": 2}, "version `2` is not known"),
        (lambda table: table, {"other_hash": ""}, "but between two"),
        (lambda table: table.drop_columns(["npmi"]), {}, "no table of neighbours; name a file"),
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused(tmp_path, change, facts, said):
    path = some().write(tmp_path / "near.parquet")
    rewritten(path, change, **facts)
    with pytest.raises(InputError, match=said) as error:
        Neighbours.read(path)
    assert str(path) in str(error.value)


def test_foreign_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "other.parquet"
    for write in (
        lambda: path.write_text(json.dumps({"ids": []})),
        lambda: pq.write_table(pa.table({"latent": [1]}), path),
        lambda: path.unlink(),
        lambda: path.mkdir(),
    ):
        write()
        with pytest.raises(InputError, match=r"other\.parquet") as error:
            Neighbours.read(path)
        assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    near = some(counted=False)
    with pytest.raises(InputError, match="is a folder"):
        near.write(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        near.write(tmp_path / "nowhere" / "near.parquet")


def test_a_table_between_two_coders_has_the_same_columns():
    ids, cosines = neighbours(rows_of(30), rows_of(40, seed=1), k=2)
    table = pair_table(ids, cosines, facts={"other_hash": "b"})
    assert table.schema.equals(PAIRS)
    assert len(table) == 60
    assert table["relation"].null_count == 60


def test_the_public_names_are_these():
    assert gl.neighbours is neighbours
    assert gl.Neighbours is Neighbours
    assert SILENT is not None
