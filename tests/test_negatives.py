"""The ladder of negatives: silent where they must be, of true ranks, and refused with a remedy."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from glossator.cooccurrence import NO_NEIGHBOUR
from glossator.errors import InputError
from glossator.index import Index
from glossator.records import TABLES
from glossator.sampling import (
    KINDS,
    NO_LATENT,
    NO_WINDOW,
    ExplainPlan,
    NearestWindows,
    NegativePlan,
    SamplingPlan,
)
from glossator.score import scoring_protocol
from glossator.shown import example_ids
from index_reference import corpora, corpus, scratch_folders

FEW = settings(max_examples=60, deadline=None, derandomize=True)
COLUMNS = ("latent", "start", "activations", "decile", "split", "kind", "source", "rank")


@dataclass(frozen=True)
class Table:
    """What a draw reads of a table of neighbours."""

    ids: np.ndarray
    relation: np.ndarray | None = None
    coder_hash: str = ""


@pytest.fixture(scope="module")
def scratch():
    with scratch_folders() as folders:
        yield folders


def tables(plain, index, seed, k=4, m=12):
    """Neighbours and near windows without sense, some of them missing."""
    rng = np.random.default_rng(seed)
    latents = np.arange(plain.n_latents, dtype=np.uint32)
    ids = rng.integers(0, plain.n_latents, (plain.n_latents, k)).astype(np.uint32)
    ids[rng.random(ids.shape) < 0.1] = NO_NEIGHBOUR
    relation = rng.integers(0, 5, ids.shape).astype(np.uint8)
    n_windows = plain.tokens.size // plain.window
    m = m if n_windows else 0
    windows = rng.integers(0, max(n_windows, 1), (plain.n_latents, m)).astype(np.uint64)
    windows[rng.random(windows.shape) < 0.1] = NO_WINDOW
    nearest = NearestWindows(latents, windows, index.hash, "none")
    return {"neighbours": Table(ids, relation), "nearest": nearest}


def plan_of(*lists, **shape):
    shape = {"explain": ExplainPlan(n=3), "per_decile": 1, **shape}
    return SamplingPlan(negatives=lists, **shape)


@st.composite
def plans(draw):
    first = draw(st.integers(1, 4))
    lists = [
        NegativePlan(
            kind=kind,
            n=draw(st.integers(0, 12)),
            margin=draw(st.sampled_from([0, 1, 30])),
            ranks=(first, draw(st.integers(first, 4))),
            pool=draw(st.sampled_from([None, 1, 3])),
        )
        for kind in draw(st.permutations(KINDS[1:]))
    ]
    return plan_of(*lists, per_decile=draw(st.integers(0, 1)))


@FEW
@given(corpora(), plans(), st.integers(0, 2**32))
def test_every_kind_is_silent_eligible_and_says_whence_it_comes(scratch, plain, plan, seed):
    index = plain.index(scratch())
    sources = tables(plain, index, seed)
    examples = index.sample(np.arange(plain.n_latents), plan, seed, **sources)
    drawable = np.where(plain.eligible(), plain.sides(), 2)
    kept, width = plain.kept(), plain.window
    size = plain.tokens.shape[1]
    margins = {one.kind: one.margin for one in plan.negatives}
    tokens = plain.tokens.reshape(-1)
    seen = set()
    for row in np.flatnonzero(examples.kind > 0):
        latent, kind = int(examples.latent[row]), KINDS[examples.kind[row]]
        first = int(examples.start[row]) - plain.base
        assert (examples.split[row], examples.decile[row]) == (1, 0)
        assert drawable[first // width] == 1
        np.testing.assert_array_equal(
            examples.activations[row], kept[first : first + width, latent]
        )
        context, margin = first // size * size, margins[kind]
        around = slice(max(context, first - margin), min(context + size, first + width + margin))
        if kind != "decoder_unfiltered":
            assert not (kept[around, latent] > 0).any()
        source, rank = int(examples.source[row]), int(examples.rank[row])
        if kind.startswith("decoder"):
            table = sources["neighbours"]
            assert table.ids[latent, rank - 1] == source
            assert (kept[first : first + width, source] > 0).any()
            assert kind != "decoder" or table.relation[latent, rank - 1] not in (2, 3)
        else:
            assert source == NO_LATENT
        if kind == "embedding":
            assert sources["nearest"].windows[latent, rank - 1] == first // width
        if kind in ("peak_token", "near_token"):
            assert set(tokens[first : first + width]) & beside_peaks(plain, latent, kind)
    for latent, start, split in zip(examples.latent, examples.start, examples.split, strict=True):
        assert (latent, start, split) not in seen
        seen.add((latent, start, split))


def beside_peaks(plain, latent, kind):
    """Tokens at the peaks of all explain-side windows, or beside them."""
    column, tokens = plain.kept()[:, latent], plain.tokens.reshape(-1)
    mask, size, found = plain.mask.reshape(-1), plain.tokens.shape[1], set()
    for number in np.flatnonzero(plain.sides() == 0):
        first = int(number) * plain.window
        own = column[first : first + plain.window]
        if own.max() > 0:
            peak = first + int(np.argmax(own))
            near = {peak} if kind == "peak_token" else {peak - 1, peak + 1}
            found |= {int(tokens[p]) for p in near if p // size == peak // size and mask[p]}
    return found


@FEW
@given(corpora(), plans(), st.integers(0, 2**32), st.sampled_from([1, 2, 100]))
def test_a_draw_is_the_same_again_and_in_any_segments(scratch, plain, plan, seed, cut):
    one, two = plain.index(scratch()), plain.index(scratch(), segment_contexts=cut)
    latents = np.arange(plain.n_latents)
    whole = one.sample(latents, plan, seed, **tables(plain, one, seed))
    again = two.sample(latents[::-1], plan, seed, **tables(plain, two, seed))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))
    assert whole.shortfall_rows == again.shortfall_rows


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    plain = corpus(400, windows=2, n_latents=5, segment_contexts=100)
    plain.dense[..., 4] = plain.dense[..., 3] * 0.5  # active with latent 3 and nowhere else
    return plain, plain.index(tmp_path_factory.mktemp("wide") / "index")


def test_a_latent_whose_nearest_are_all_co_active_is_drawn_from_the_next_ranks(wide):
    _, index = wide
    ids = np.tile(np.array([[4, 3, 0]], np.uint32), (5, 1))
    table = Table(ids, np.ones((5, 3), np.uint8))
    plan = plan_of(NegativePlan(kind="decoder", n=20, ranks=(1, 2)))
    examples = index.sample([3], plan, neighbours=table)
    drawn = examples.take(examples.kind > 0)
    assert set(drawn.rank.tolist()) == {3}
    assert set(drawn.source.tolist()) == {0}
    told = [row for row in examples.shortfalls.to_pylist() if row["what"] != "explain"]
    assert told == [{"latent": 3, "what": "decoder_ranks", "wanted": 20, "found": 0}]
    narrow = Table(ids[:, :2], table.relation[:, :2])
    examples = index.sample([3], plan, neighbours=narrow)
    told = {row["what"]: row["found"] for row in examples.shortfalls.to_pylist()}
    assert told["decoder"] == 0


def test_the_posts_neighbours_are_their_strongest_windows_and_may_be_active(wide):
    _, index = wide
    plan = plan_of(NegativePlan(kind="decoder_unfiltered", n=20, ranks=(1, 2), pool=10))
    table = Table(np.tile(np.array([[4, 0]], np.uint32), (5, 1)))
    examples = index.sample([3], plan_of(*plan.negatives, per_decile=0), neighbours=table)
    drawn = examples.take(examples.kind > 0)
    assert len(drawn) == 20
    assert (drawn.activations[drawn.source == 4].max(axis=1) > 0).all()
    drawable = np.where(index.eligible(), index.sides(), 2) == 1
    for source in (4, 0):
        top = index.top(source, 10_000, "score")
        eligible = top.start[drawable[(top.start // index.window).astype(int)]]
        assert set(drawn.start[drawn.source == source].tolist()) == set(eligible[:10].tolist())
    columns = drawn.to_arrow().to_pylist()
    assert {row["source_latent"] for row in columns} == {0, 4}
    assert {row["source_rank"] for row in columns} == {1, 2}
    assert not any(row["activating"] for row in columns)


def test_the_same_window_at_another_rank_is_another_example(wide):
    _, index = wide
    plan = plan_of(NegativePlan(kind="decoder", n=5, ranks=(1, 1)), per_decile=0)
    relation = np.zeros((5, 1), np.uint8)
    ids = [
        example_ids(
            index.sample([1], plan, neighbours=Table(np.full((5, 1), g, np.uint32), relation)),
            index,
            "h.0",
        )
        for g in (0, 2)
    ]
    assert len({*ids[0], *ids[1]}) == len(ids[0]) + len(ids[1]) - 3  # three explain-side windows


def test_the_examples_table_names_source_and_rank():
    names = TABLES["examples"].names
    assert names[names.index("kind") + 1 :][:2] == ["source_latent", "source_rank"]


@pytest.mark.parametrize("ranks", [(0, 3), (4, 3), (-1, 1)])
def test_ranks_without_sense_are_refused(ranks):
    with pytest.raises(ValidationError, match="ranks"):
        NegativePlan(kind="decoder", ranks=ranks)


def test_what_a_kind_needs_and_does_not_get_is_named_with_the_remedy(wide):
    plain, index = wide
    good = tables(plain, index, 0)
    table, nearest = good["neighbours"], good["nearest"]

    def refused(kind, match, **sources):
        plan = plan_of(NegativePlan(kind=kind, n=3, ranks=(1, 4)))
        with pytest.raises(InputError, match=match) as info:
            index.sample([2], plan, **sources)
        assert "\n" not in str(info.value)

    for kind in ("decoder", "decoder_unfiltered"):
        refused(kind, r"`negatives\[0\]` is of kind `decoder.*give `neighbours=Neighbours")
        few = Table(table.ids[:, :3], table.relation[:, :3])
        refused(kind, r"`negatives\[0\].ranks` is \(1, 4\).*the 3 neighbours", neighbours=few)
        short = Table(table.ids[:4], table.relation[:4])
        refused(kind, "`neighbours` has 16 ids", neighbours=short)
        flat = Table(table.ids.reshape(-1))
        refused(kind, "`neighbours.ids` has shape", neighbours=flat)
    bare = Table(table.ids)
    refused("decoder", r"give `neighbours=neighbours.with_index\(index\)`", neighbours=bare)
    refused("embedding", "give `nearest=nearest_windows")
    missing = NearestWindows(nearest.latents[:2], nearest.windows[:2], index.hash, "none")
    refused("embedding", "`nearest` has no windows for latent 2", nearest=missing)
    other = NearestWindows(nearest.latents, nearest.windows, "0" * 16, "none")
    refused("embedding", "`nearest` is of index 0000000000000000, not of this one", nearest=other)


def test_neighbours_of_another_coder_are_refused_and_of_an_unknown_one_are_not(wide, tmp_path):
    plain, _ = wide
    attributes = {"hookpoint": "h.0", "coder_hash": "aa"}
    plain.index(tmp_path / "index", attributes=attributes)
    index = Index.open(tmp_path / "index")
    ids = np.zeros((5, 1), np.uint32)
    plan = plan_of(NegativePlan(kind="decoder_unfiltered", n=3, ranks=(1, 1)))
    with pytest.raises(InputError, match="`neighbours` is of coder bb, the index of coder aa"):
        index.sample([2], plan, neighbours=Table(ids, coder_hash="bb"))
    for known in ("aa", ""):
        examples = index.sample([2], plan, neighbours=Table(ids, coder_hash=known))
        assert (examples.kind > 0).sum() == 3


def test_a_protocol_tells_tables_and_kinds_apart_and_leaves_random_ones_alone(wide):
    plain, index = wide
    good = tables(plain, index, 0)
    random, decoder = NegativePlan(n=20), NegativePlan(kind="decoder", n=20, ranks=(1, 4))

    def protocol(*lists, **sources):
        return scoring_protocol(index, "judge", plan=plan_of(*lists), **sources)

    plain_one = protocol(random)
    assert plain_one.parameters["negatives"] == [{"kind": "random", "n": 20, "margin": 0}]
    assert protocol(random, **good) == plain_one
    one = protocol(decoder, **good)
    assert one.parameters["neighbours"] == {"coder_hash": "", "k": 4}
    assert "nearest" not in one.parameters
    named = Table(good["neighbours"].ids, good["neighbours"].relation, "aa")
    assert protocol(decoder, neighbours=named).protocol_id != one.protocol_id
    near = protocol(NegativePlan(kind="embedding"), **good)
    assert near.parameters["nearest"] == {"model": "none", "m": 12}
