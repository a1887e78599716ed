"""What neighbours are to a latent, and the Parquet file that keeps it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.coders import SparseCoder
from glossator.cooccurrence import Coactivation
from glossator.encode import TopK
from glossator.errors import InputError
from glossator.neighbour_table import PAIRS, pair_table, write_pairs
from glossator.neighbours import NO_NEIGHBOUR, RELATIONS, Neighbours, neighbours, relations
from index_reference import scratch_folders


def rows_of(n=60, width=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def coder_of(rows):
    weights = torch.from_numpy(rows)
    n, width = weights.shape
    return SparseCoder(
        weights.clone(), torch.zeros(n), weights, torch.zeros(width), rule=TopK(4), hookpoint="h.0"
    )


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


def reference(cosine, both, npmi, given, back, tokens):
    """What one neighbour is, as the page on neighbours says it."""
    if np.isnan(cosine):
        return "independent"
    if max(given, back) > 0.5:
        return "parent" if given >= back else "child"
    if cosine >= 0.3 and max(given, back) <= 0.05 and tokens >= 0.5:
        return "absorption"
    return "co-active" if npmi >= 0.1 and both >= 3 else "independent"


SHARES = [0.0, 0.05, 0.051, 0.5, 0.501, 1.0]
PAIR = st.tuples(
    st.sampled_from([-1.0, 0.29, 0.3, 1.0, np.nan]),
    st.integers(0, 4),
    st.sampled_from([-1.0, 0.09, 0.1, 1.0, np.nan]),
    st.sampled_from(SHARES),
    st.sampled_from(SHARES),
    st.sampled_from([0.0, 0.49, 0.5, 1.0, np.nan]),
)


@settings(max_examples=300, deadline=None)
@given(pairs=st.lists(PAIR, min_size=1, max_size=20))
def test_each_pair_is_what_the_page_says(pairs):
    cosines, both, npmi, given_, back, tokens = zip(*pairs, strict=True)
    found = related(
        list(cosines), both=both, npmi=npmi, given=given_, given_back=back, shared_tokens=tokens
    )
    assert found == [reference(*pair) for pair in pairs]


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
        b"glossator.decoder": b"",
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


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 30), data=st.data())
def test_any_neighbours_are_read_as_they_were_written(seed, n, data):
    k = data.draw(st.integers(1, n - 1))
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, n, (n, k)).astype(np.uint32)
    cosines = rng.uniform(-1, 1, (n, k)).astype(np.float32)
    none = rng.random((n, k)) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    ids[none], cosines[none] = NO_NEIGHBOUR, np.nan
    near = Neighbours(ids, cosines, data.draw(st.sampled_from(["", "b" * 32])))
    # Without one pair there is nothing that was counted.
    if not none.all() and data.draw(st.booleans()):
        near = near.with_index(FakeIndex(n, near.coder_hash, seed))
    with scratch_folders() as folder:
        assert_equal(Neighbours.read(near.write(folder())), near)


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
