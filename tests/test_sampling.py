"""What is drawn is what the plan says, by brute force, the same everywhere, of disjoint sides."""

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from glossator.index import NO_DOCUMENT
from glossator.sampling import Examples, ExplainPlan, NegativePlan, SamplingPlan
from index_reference import corpora, corpus, scratch_folders

FEW = settings(max_examples=60, deadline=None, derandomize=True)
COLUMNS = ["latent", "start", "tokens", "activations", "decile", "split", "kind"]
COLUMNS += ["document", "document_start", "mask"]


@pytest.fixture(scope="module")
def scratch():
    with scratch_folders() as folders:
        yield folders


@st.composite
def plans(draw):
    n_top = draw(st.integers(0, 6))
    return SamplingPlan(
        explain=ExplainPlan(
            kind=draw(st.sampled_from(["uniform", "top", "top_of", "deciles", "mixture"])),
            n=n_top + draw(st.integers(0, 15)),
            n_top=n_top,
            pool=draw(st.integers(0, 8)),
        ),
        per_decile=draw(st.integers(0, 2)),
        negatives=tuple(
            NegativePlan(n=draw(st.integers(0, 20)), margin=draw(st.sampled_from([0, 1, 5, 100])))
            for _ in range(draw(st.integers(0, 2)))
        ),
    )


def group(examples, latent, split, decile):
    """Starts of one group, in order."""
    rows = (examples.latent == latent) & (examples.split == split) & (examples.decile == decile)
    return examples.start[rows].tolist()


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1))
def test_every_row_is_read_right(scratch, plain, plan, seed):
    index = plain.index(scratch())
    examples = index.sample(np.arange(plain.n_latents), plan, seed)
    tokens, mask = plain.tokens.reshape(-1), plain.mask.reshape(-1)
    documents, kept = plain.documents.reshape(-1), plain.kept()
    keys = list(zip(examples.latent, examples.split, examples.decile, strict=True))
    assert keys == sorted(keys)
    decile_of = [dict(zip(*plain.windows(i)[::2], strict=False)) for i in range(plain.n_latents)]
    for row in range(len(examples)):
        first = int(examples.start[row]) - plain.base
        span = slice(first, first + plain.window)
        latent = examples.latent[row]
        np.testing.assert_array_equal(examples.tokens[row], tokens[span])
        np.testing.assert_array_equal(examples.mask[row], mask[span])
        np.testing.assert_array_equal(examples.activations[row], kept[span, latent])
        assert examples.decile[row] == decile_of[latent].get(examples.start[row], 0)
        assert examples.document[row] == documents[span][mask[span]][0]
        before = np.concatenate([documents[:1] + np.uint64(1), documents[:-1]])
        starts = (documents != before) & (documents != NO_DOCUMENT)
        np.testing.assert_array_equal(examples.document_start[row], starts[span])


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1))
def test_the_plan_is_kept_on_both_sides_and_shortfalls_are_told(scratch, plain, plan, seed):
    index = plain.index(scratch())
    examples = index.sample(np.arange(plain.n_latents), plan, seed)
    sides, eligible, kept = plain.sides(), plain.eligible(), plain.kept()
    usable = np.flatnonzero((sides == 1) & eligible)
    told = defaultdict(list)
    for short in examples.shortfalls.to_pylist():
        told[short["latent"], short["what"]].append((short["wanted"], short["found"]))
    for latent in range(plain.n_latents):
        starts, maxima, deciles, numbers = plain.windows(latent)
        own = sides[numbers] == 0
        ranked = starts[own][np.lexsort((starts[own], -maxima[own].astype(np.float64)))]
        rows = (examples.latent == latent) & (examples.split == 0)
        drawn = set(examples.start[rows].tolist())
        assert len(drawn) == rows.sum()
        check_explain(plan.explain, ranked.tolist(), drawn)
        expect_shortfall(told[latent, "explain"], [(plan.explain.n, len(drawn))])
        found = 0
        for decile in range(1, 11):
            there = set(starts[(deciles == decile) & np.isin(numbers, usable)].tolist())
            scored = group(examples, latent, 1, decile)
            assert set(scored) <= there
            assert len(set(scored)) == len(scored) == min(plan.per_decile, len(there))
            found += len(scored)
        expect_shortfall(told[latent, "score"], [(10 * plan.per_decile, found)])
        negatives = iter(group(examples, latent, 1, 0))
        left, counts = set((usable * plain.window + plain.base).tolist()), []
        for listed in plan.negatives:
            there = {s for s in left if silent(plain, kept[:, latent], s, listed.margin)}
            taken = [next(negatives) for _ in range(min(listed.n, len(there)))]
            assert set(taken) <= there
            assert len(set(taken)) == len(taken)
            left -= set(taken)
            counts.append((listed.n, len(taken)))
        assert next(negatives, None) is None
        expect_shortfall(told[latent, "random"], counts)


def check_explain(plan, ranked, drawn):
    """`ranked` are the explain side's windows, the strongest first."""
    n, pool = len(ranked), ranked[: plan.pool]
    assert drawn <= set(ranked)
    if plan.kind == "uniform":
        assert len(drawn) == min(plan.n, n)
    elif plan.kind == "top":
        assert drawn == set(ranked[: plan.n])
    elif plan.kind == "top_of":
        assert drawn <= set(pool)
        assert len(drawn) == min(plan.n, len(pool))
    elif plan.kind == "mixture":
        top = min(plan.n_top, len(pool))
        assert len(drawn & set(pool)) >= top
        assert len(drawn) == top + min(plan.n - plan.n_top, n - top)
    else:
        for tenth in range(10):
            there = [w for r, w in enumerate(reversed(ranked)) if 10 * r // n == tenth]
            wanted = plan.n // 10 + (9 - tenth < plan.n % 10)
            assert len(drawn & set(there)) == min(wanted, len(there))


def expect_shortfall(told, lists):
    assert told == [(wanted, found) for wanted, found in lists if found < wanted]


def silent(plain, column, start, margin):
    length = plain.tokens.shape[1]
    first = start - plain.base
    context = first // length * length
    span = slice(max(context, first - margin), min(context + length, first + plain.window + margin))
    return not (column[span] > 0).any()


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1))
def test_no_document_is_on_both_sides(scratch, plain, plan, seed):
    examples = plain.index(scratch()).sample(np.arange(plain.n_latents), plan, seed)
    documents = plain.documents.reshape(-1)
    seen = [set(), set()]
    for row in range(len(examples)):
        span = np.arange(plain.window) + int(examples.start[row]) - plain.base
        seen[examples.split[row]] |= set(documents[span][examples.mask[row]].tolist())
    assert not seen[0] & seen[1]


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1), st.sampled_from([1, 2, 5, 100]))
def test_a_draw_depends_on_neither_segments_nor_the_other_latents(scratch, plain, plan, seed, cut):
    one = plain.index(scratch())
    two = plain.index(scratch(), segment_contexts=cut)
    latents = np.arange(plain.n_latents)
    whole = one.sample(latents, plan, seed)
    same(whole, two.sample(latents[::-1].tolist() * 2, plan, seed))
    for latent in latents:
        same(whole.take(whole.latent == latent), two.sample([latent], plan, seed))


def same(one, two):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def big(tmp_path):
    """Many windows of one-document contexts, with a latent on every window and a rare one."""
    plain = corpus(600, seed=1, windows=2, n_latents=4, segment_contexts=100)
    rng = np.random.default_rng(2)
    plain.dense[..., 0] = rng.random(plain.dense.shape[:2], dtype=np.float32) + 0.1
    plain.dense[..., 1] = 0
    plain.dense[::40, 0, 1] = 1 + np.arange(15, dtype=np.float32)
    return plain, plain.index(tmp_path / "index")


@pytest.mark.parametrize("kind", ["uniform", "top", "top_of", "deciles", "mixture"])
def test_a_smaller_draw_begins_a_larger_one_in_each_group(tmp_path, kind):
    _, index = big(tmp_path)

    def draw(n, per_decile, negatives):
        explain = ExplainPlan(kind=kind, n=n, n_top=5, pool=150)
        listed = (NegativePlan(n=negatives),)
        plan = SamplingPlan(explain=explain, per_decile=per_decile, negatives=listed)
        return index.sample([0, 1, 2, 3], plan, seed=5)

    few, many = draw(20, 5, 10), draw(100, 7, 60)
    for latent in range(4):
        for split, decile in [(0, d) for d in range(1, 11)] + [(1, d) for d in range(11)]:
            smaller, larger = group(few, latent, split, decile), group(many, latent, split, decile)
            assert larger[: len(smaller)] == smaller


def test_seeds_draw_differently_and_the_same_seed_the_same(tmp_path):
    _, index = big(tmp_path)
    plan = SamplingPlan(explain=ExplainPlan(n=20))
    first, again, other = (index.sample([2], plan, seed) for seed in (1, 1, 2))
    same(first, again)
    for split in (0, 1):
        one = set(first.start[first.split == split].tolist())
        two = set(other.start[other.split == split].tolist())
        assert len(one & two) < len(one) / 2


def test_every_window_is_drawn_equally_often(tmp_path):
    """Chi-square over 400 seeds, for explainer's windows and for negatives, against 5 sigma."""
    plain, index = big(tmp_path)
    plan = SamplingPlan(explain=ExplainPlan(n=10), per_decile=0, negatives=(NegativePlan(n=10),))
    drawn = [index.sample([2], plan, seed) for seed in range(400)]
    sides, eligible = plain.sides(), plain.eligible()
    numbers = plain.windows(2)[3]
    silent_windows = (sides == 1) & eligible
    silent_windows[numbers] = False
    for split, there in [(0, (sides[numbers] == 0).sum()), (1, silent_windows.sum())]:
        starts = np.concatenate([e.start[e.split == split] for e in drawn])
        counts = np.unique(starts, return_counts=True)[1]
        expected = len(starts) / there
        squares = (counts - expected) ** 2
        chi = (squares.sum() + (there - len(counts)) * expected**2) / expected
        assert abs(chi - (there - 1)) < 5 * np.sqrt(2 * there)


def test_negatives_of_a_latent_that_is_nearly_everywhere_are_found(tmp_path):
    plain = corpus(3000, windows=2, n_latents=1, segment_contexts=1000)
    plain.dense[...] = 1
    sides = plain.sides()
    quiet = np.flatnonzero(sides == 1)[[3, 1500]]
    plain.dense.reshape(-1, 4)[quiet] = 0
    index = plain.index(tmp_path / "index")
    plan = SamplingPlan(negatives=(NegativePlan(n=5),))
    examples = index.sample([0], plan)
    assert sorted(group(examples, 0, 1, 0)) == (quiet * 4).tolist()
    assert examples.shortfalls.to_pylist() == [
        {"latent": 0, "what": "random", "wanted": 5, "found": 2}
    ]


def test_an_empty_latent_has_negatives_only_and_two_shortfalls(tmp_path):
    plain = corpus(100, windows=2, segment_contexts=50)
    plain.dense[..., 3] = 0
    examples = plain.index(tmp_path / "index").sample([3])
    assert len(examples) == 50
    assert set(examples.kind.tolist()) == {1}
    assert [s["what"] for s in examples.shortfalls.to_pylist()] == ["explain", "score"]


def test_the_default_plan_is_40_to_explain_5_per_decile_and_50_negatives(tmp_path):
    _, index = big(tmp_path)
    examples = index.sample([2])
    assert (examples.split == 0).sum() == 40
    counts = np.bincount(examples.decile[examples.split == 1], minlength=11)
    assert counts.tolist() == [50, *[5] * 10]
    assert examples.shortfalls.num_rows == 0


def test_the_arrow_table_has_the_columns_of_the_runs_examples(tmp_path):
    plain, index = big(tmp_path)
    examples = index.sample([1, 2])
    table = examples.to_arrow()
    names = (
        "hookpoint latent context start tokens activations decile activating split kind document"
    )
    assert table.column_names == names.split()
    length = plain.tokens.shape[1]
    for row, record in enumerate(table.to_pylist()):
        assert record["hookpoint"] == "h.0"
        assert record["context"] * length + record["start"] == examples.start[row]
        assert record["tokens"] == examples.tokens[row].tolist()
        assert record["activations"] == examples.activations[row].tolist()
        assert record["activating"] == (record["decile"] > 0) == any(record["activations"])
        assert record["split"] == ["explain", "score"][examples.split[row]]
        assert record["kind"] == [None, "random"][examples.kind[row]]
    empty = examples.take([]).to_arrow()
    assert empty.schema == table.schema
    assert isinstance(examples.shortfalls, pa.Table)


def test_rows_are_taken_by_number_and_by_mask(tmp_path):
    _, index = big(tmp_path)
    examples = index.sample([1, 2])
    same(examples.take(examples.split == 1), examples.take(np.flatnonzero(examples.split == 1)))
    assert isinstance(examples.take([3, 1]), Examples)
    np.testing.assert_array_equal(examples.take([3, 1]).start, examples.start[[3, 1]])


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExplainPlan(kind="best"),
        lambda: ExplainPlan(n=-1),
        lambda: ExplainPlan(kind="mixture", n=10, n_top=11),
        lambda: NegativePlan(kind="near"),
        lambda: NegativePlan(margin=-1),
        lambda: SamplingPlan(per_decile=-1),
        lambda: SamplingPlan(per_decil=5),
    ],
)
def test_a_plan_that_means_nothing_is_refused(make):
    with pytest.raises(ValidationError):
        make()


def test_plans_are_frozen_and_survive_json():
    plan = SamplingPlan(explain=ExplainPlan(kind="mixture"), negatives=(NegativePlan(margin=4),))
    assert SamplingPlan.model_validate_json(plan.model_dump_json()) == plan
    with pytest.raises(ValidationError):
        plan.per_decile = 3
