"""What is drawn is what the plan says, by brute force, the same everywhere, of disjoint sides."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from glossator.errors import InputError
from glossator.index import NO_DOCUMENT
from glossator.sampling import SPLITS, Examples, ExplainPlan, NegativePlan, SamplingPlan
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
        per_bin=draw(st.integers(0, 2)),
        bins=draw(st.integers(1, 5)),
        negatives=tuple(
            NegativePlan(n=draw(st.integers(0, 20)), margin=draw(st.sampled_from([0, 1, 5, 100])))
            for _ in range(draw(st.integers(0, 2)))
        ),
        length=draw(st.sampled_from([None, None, 1, 7, 32, 60])),
        centred=draw(st.booleans()),
    )


def fitted(plan, plain):
    """The plan with a length that a context has."""
    length = plan.length and min(plan.length, plain.tokens.shape[1])
    return SamplingPlan(**{**dict(plan), "length": length})


@dataclass
class Shown:
    """A window that may be drawn."""

    start: int  # of what is shown
    maximum: float  # in bf16
    decoded: float
    decile: int


class Drawable:
    """What there is to draw of one latent, by brute force."""

    def __init__(self, plain, plan, latent):
        self.plain, self.plan = plain, plan
        self.column = plain.kept()[:, latent]
        self.exact, self.found = plain.exact(latent), plain.windows(latent)
        self.length = plan.length or plain.window
        self.on_grid = self.length == plain.window and not plan.centred
        self.drawable = np.where(plain.eligible(), plain.sides(), 2)

    def stretch(self, middle):
        size = self.plain.tokens.shape[1]
        context = middle // size * size
        return context + min(max(middle - context - self.length // 2, 0), size - self.length)

    def on_side(self, start, side):
        first, last = start // self.plain.window, (start + self.length - 1) // self.plain.window
        return (self.drawable[first : last + 1] == side).all()

    def windows(self, side):
        """The activating ones, the strongest first."""
        _, maxima, deciles, numbers = self.found
        width, seen, shown = self.plain.window, set(), []
        for at in np.lexsort((numbers, -maxima.astype(np.float64))):
            first = int(numbers[at]) * width
            peak = first + int(np.argmax(self.column[first : first + width]))
            start = self.stretch(peak if self.plan.centred else first + width // 2)
            start = first if self.on_grid else start
            active = (self.column[start : start + self.length] > 0).any()
            if active and start not in seen and self.on_side(start, side):
                seen.add(start)
                place = start + self.plain.base
                shown.append(Shown(place, self.exact[at], maxima[at], deciles[at]))
        return shown

    def negatives(self):
        """Where the silent ones' texts begin."""
        width = self.plain.window
        quiet = np.flatnonzero(~(self.column.reshape(-1, width) > 0).any(axis=1)).tolist()
        starts = [
            w * width if self.on_grid else self.stretch(w * width + width // 2) for w in quiet
        ]
        return {start + self.plain.base for start in starts if self.on_side(start, 1)}

    def silent(self, start, margin):
        """Whether it is silent on what is shown and a margin, within the context."""
        size = self.plain.tokens.shape[1]
        first = start - self.plain.base
        context = first // size * size
        before, after = max(context, first - margin), first + self.length + margin
        return not (self.column[before : min(context + size, after)] > 0).any()


def group(examples, latent, split, decile):
    """Starts of one group, in order."""
    rows = (examples.latent == latent) & (examples.split == split) & (examples.decile == decile)
    return examples.start[rows].tolist()


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1))
def test_every_row_is_read_right(scratch, plain, plan, seed):
    plan = fitted(plan, plain)
    index = plain.index(scratch())
    examples = index.sample(np.arange(plain.n_latents), plan, seed)
    assert examples.precision == index.precision == "code, 1/32"
    tokens, mask = plain.tokens.reshape(-1), plain.mask.reshape(-1)
    documents, kept = plain.documents.reshape(-1), plain.kept()
    keys = list(zip(examples.latent, examples.split, examples.decile, strict=True))
    assert keys == sorted(keys)
    width = plan.length or plain.window
    for row in range(len(examples)):
        first = int(examples.start[row]) - plain.base
        span = slice(first, first + width)
        latent = examples.latent[row]
        np.testing.assert_array_equal(examples.tokens[row], tokens[span])
        np.testing.assert_array_equal(examples.mask[row], mask[span])
        np.testing.assert_array_equal(examples.activations[row], kept[span, latent])
        assert examples.document[row] == [*documents[span][mask[span]], NO_DOCUMENT][0]
        before = np.concatenate([documents[:1] + np.uint64(1), documents[:-1]])
        starts = (documents != before) & (documents != NO_DOCUMENT)
        np.testing.assert_array_equal(examples.document_start[row], starts[span])


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1))
def test_the_plan_is_kept_on_both_sides_and_shortfalls_are_told(scratch, plain, plan, seed):
    plan = fitted(plan, plain)
    index = plain.index(scratch())
    examples = index.sample(np.arange(plain.n_latents), plan, seed)
    told = defaultdict(list)
    for short in examples.shortfalls.to_pylist():
        told[short["latent"], short["what"]].append((short["wanted"], short["found"]))
    for latent in range(plain.n_latents):
        drawable = Drawable(plain, plan, latent)
        ranked = sorted(drawable.windows(0), key=lambda window: -window.maximum)
        rows = (examples.latent == latent) & (examples.split == 0)
        drawn = dict(zip(examples.start[rows].tolist(), examples.decile[rows], strict=True))
        assert len(drawn) == rows.sum()
        deciles = {window.start: window.decile for window in ranked}
        assert drawn.items() <= deciles.items()
        check_explain(plan.explain, ranked, set(drawn))
        expect_shortfall(told[latent, "explain"], [(plan.explain.n, len(drawn))])
        check_score(plan, drawable, examples, latent, told)
        negatives = iter(group(examples, latent, 1, 0))
        left, counts = drawable.negatives(), []
        for listed in plan.negatives:
            there = {s for s in left if drawable.silent(s, listed.margin)}
            taken = [next(negatives) for _ in range(min(listed.n, len(there)))]
            assert set(taken) <= there
            assert len(set(taken)) == len(taken)
            left -= set(taken)
            counts.append((listed.n, len(taken)))
        assert next(negatives, None) is None
        expect_shortfall(told[latent, "random"], counts)


def check_explain(plan, ranked, drawn):
    """`ranked` are the explain side's windows, the strongest first."""
    n, starts = len(ranked), [window.start for window in ranked]
    pool = starts[: plan.pool]
    if plan.kind == "uniform":
        assert len(drawn) == min(plan.n, n)
    elif plan.kind == "top":
        assert drawn == set(starts[: plan.n])
    elif plan.kind == "top_of":
        assert drawn <= set(pool)
        assert len(drawn) == min(plan.n, len(pool))
    elif plan.kind == "mixture":
        top = min(plan.n_top, len(pool))
        assert len(drawn & set(pool)) >= top
        assert len(drawn) == top + min(plan.n - plan.n_top, n - top)
    else:
        for decile in range(1, 11):
            there = {window.start for window in ranked if window.decile == decile}
            wanted = plan.n // 10 + (10 - decile < plan.n % 10)
            assert len(drawn & there) == min(wanted, len(there))


def check_score(plan, drawable, examples, latent, told):
    """Windows of each decile, and others of each bin."""
    shown = drawable.windows(1)
    rows = (examples.latent == latent) & (examples.split == 1) & (examples.decile > 0)
    drawn = dict(zip(examples.start[rows].tolist(), examples.decile[rows], strict=True))
    assert len(drawn) == rows.sum()
    assert drawn.items() <= {window.start: window.decile for window in shown}.items()
    by_decile = 0
    for decile in range(1, 11):
        there = [window.start for window in shown if window.decile == decile]
        assert len(drawn.keys() & there) >= min(plan.per_decile, len(there))
        by_decile += min(plan.per_decile, len(there))
    expect_shortfall(told[latent, "score"], [(10 * plan.per_decile, by_decile)])
    strongest = max(drawable.found[1], default=np.float32(1))
    by_bin = defaultdict(list)
    for window in shown:
        share = float(window.decoded) / float(strongest)
        by_bin[min(int(plan.bins * share), plan.bins - 1)].append(window.start)
    for there in by_bin.values():
        assert len(drawn.keys() & there) >= min(plan.per_bin, len(there))
    most = sum(min(plan.per_bin, len(there)) for there in by_bin.values())
    assert by_decile <= len(drawn) <= by_decile + most
    if plan.per_decile == 0:
        assert len(drawn) == most
    expect_shortfall(told[latent, "bins"], [(plan.bins * plan.per_bin, len(drawn) - by_decile)])


def expect_shortfall(told, lists):
    assert told == [(wanted, found) for wanted, found in lists if found < wanted]


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1))
def test_no_document_is_on_both_sides(scratch, plain, plan, seed):
    plan = fitted(plan, plain)
    examples = plain.index(scratch()).sample(np.arange(plain.n_latents), plan, seed)
    documents = plain.documents.reshape(-1)
    seen = [set(), set()]
    for row in range(len(examples)):
        span = np.arange(examples.tokens.shape[1]) + int(examples.start[row]) - plain.base
        seen[examples.split[row]] |= set(documents[span][examples.mask[row]].tolist())
    assert not seen[0] & seen[1]


@FEW
@given(corpora(), plans(), st.integers(0, 2**64 - 1), st.sampled_from([1, 2, 5, 100]))
def test_a_draw_depends_on_neither_segments_nor_the_other_latents(scratch, plain, plan, seed, cut):
    plan = fitted(plan, plain)
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


@pytest.mark.parametrize(
    "shape",
    [
        {"explain": ExplainPlan(n=10), "negatives": (NegativePlan(n=10),)},
        {"explain": ExplainPlan(n=0), "per_decile": 2},
        {"explain": ExplainPlan(n=0), "per_bin": 2, "bins": 4},
        {"explain": ExplainPlan(kind="top_of", n=5, pool=60)},
        {"explain": ExplainPlan(kind="deciles", n=20)},
        {"explain": ExplainPlan(kind="mixture", n=10, n_top=5, pool=60)},
        {"explain": ExplainPlan(n=10), "negatives": (NegativePlan(n=5, margin=2),), "length": 6},
    ],
)
def test_every_window_is_drawn_equally_often(tmp_path, shape):
    """Chi-square over 400 seeds against 5 sigma, among windows that the plan treats alike."""
    plain, index = big(tmp_path)
    plan = SamplingPlan(**{"per_decile": 0, "negatives": (), **shape})
    drawn = [index.sample([2], plan, seed) for seed in range(400)]
    drawable = Drawable(plain, plan, 2)
    explain = sorted(drawable.windows(0), key=lambda window: -window.maximum)
    pool = {window.start for window in explain[: plan.explain.pool]}
    strongest = max(drawable.found[1])

    def stratum(window):
        if window.start in pool and plan.explain.kind in ("top_of", "mixture"):
            return "pool"
        if plan.per_bin:
            share = float(window.decoded) / float(strongest)
            return min(int(plan.bins * share), plan.bins - 1)
        return window.decile if plan.per_decile or plan.explain.kind == "deciles" else "all"

    groups = defaultdict(set)
    for side, windows in enumerate((explain, drawable.windows(1))):
        for window in windows:
            groups[side, stratum(window)].add(window.start)
    margin = plan.negatives[0].margin if plan.negatives else 0
    groups["negatives"] = {s for s in drawable.negatives() if drawable.silent(s, margin)}
    starts = np.concatenate([examples.start for examples in drawn]).tolist()
    assert set(starts) <= set().union(*groups.values())
    counted = Counter(starts)
    for there in groups.values():
        counts = np.array([counted[start] for start in there])
        if counts.sum() == 0:
            continue
        # Windows drawn without replacement vary less than a multinomial: no lower bound.
        expected = counts.mean()
        chi = ((counts - expected) ** 2).sum() / expected
        assert chi - (len(there) - 1) < 5 * np.sqrt(2 * len(there))
    if plan.per_decile or plan.explain.kind == "uniform":
        assert counted.keys() >= {window.start for window in (*explain,) if plan.explain.n}


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


def test_a_length_beyond_the_context_is_refused(tmp_path):
    _, index = big(tmp_path)
    with pytest.raises(InputError, match=r"`length` is 9; it must be from 1 to the context's 8"):
        index.sample([0], SamplingPlan(length=9))


def test_twenty_bins_give_windows_from_the_weakest_to_the_strongest(tmp_path):
    _, index = big(tmp_path)
    plan = SamplingPlan(explain=ExplainPlan(n=0), per_decile=0, per_bin=3, negatives=())
    examples = index.sample([0], plan)
    maxima = examples.activations.max(axis=1)
    bins = np.minimum(20 * maxima / index.deciles()[0, 10], 19).astype(int)
    counts = np.bincount(bins, minlength=20)
    assert len(set(examples.start.tolist())) == len(examples)
    assert counts.max() == 3
    assert (counts > 0).sum() > 12
    assert examples.shortfalls.to_pylist() == [
        {"latent": 0, "what": "bins", "wanted": 60, "found": len(examples)}
    ]


@FEW
@given(corpora(), st.integers(0, 12), st.sampled_from([None, "explain", "score"]))
def test_the_strongest_are_in_exact_order(scratch, plain, n, side):
    index = plain.index(scratch())
    latents = np.arange(plain.n_latents)
    top = index.top(latents, n, side)
    sides = plain.sides()
    for latent in latents:
        starts, maxima, _, numbers = plain.windows(latent)
        exact = plain.exact(latent)
        of_side = sides[numbers] == (0 if side is None else SPLITS.index(side))
        own = np.flatnonzero(of_side | (side is None))
        known = sides[numbers] != 2  # those of neither side follow by their code
        order = sorted(own, key=lambda w: (-maxima[w], ~known[w], -exact[w] * known[w], starts[w]))
        rows = top.latent == latent
        np.testing.assert_array_equal(top.start[rows], starts[order[:n]])
        np.testing.assert_array_equal(top.exact[rows], known[order[:n]])
        values = np.where(known, exact, maxima)
        np.testing.assert_array_equal(top.activation[rows], values[order[:n]])


def test_the_first_200_of_a_side_are_exact_and_the_others_follow_by_code(tmp_path):
    plain, index = big(tmp_path)
    starts, maxima, _, numbers = plain.windows(0)
    own = np.flatnonzero(plain.sides()[numbers] == 1)
    exact = plain.exact(0)
    order = sorted(own, key=lambda w: (-exact[w], starts[w]))
    rest = sorted(order[200:], key=lambda w: (-maxima[w], starts[w]))
    top = index.top(0, 10_000, "score")
    assert len(own) > 400
    np.testing.assert_array_equal(top.start, starts[order[:200] + rest])
    np.testing.assert_array_equal(top.exact, np.arange(len(own)) < 200)
    np.testing.assert_array_equal(top.activation[:200], exact[order[:200]])
    np.testing.assert_array_equal(top.activation[200:], maxima[rest])


@FEW
@given(corpora())
def test_histograms_and_membership_equal_the_plain_ones(scratch, plain):
    index = plain.index(scratch())
    histogram = index.histogram(np.arange(plain.n_latents))
    places = np.arange(len(plain.tokens.reshape(-1)))
    for latent in range(plain.n_latents):
        _, maxima, _, numbers = plain.windows(latent)
        values, counts = np.unique(maxima, return_counts=True)
        rows = histogram.latent == latent
        np.testing.assert_array_equal(histogram.activation[rows], values[::-1])
        np.testing.assert_array_equal(histogram.windows[rows], counts[::-1])
        active = index.active(latent, places + plain.base)
        np.testing.assert_array_equal(active, np.isin(places // plain.window, numbers))


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
    names = "hookpoint latent context start tokens activations decile activating split kind"
    assert table.column_names == [*names.split(), "source_latent", "source_rank", "document"]
    length = plain.tokens.shape[1]
    for row, record in enumerate(table.to_pylist()):
        assert record["hookpoint"] == "h.0"
        assert record["context"] * length + record["start"] == examples.start[row]
        assert record["tokens"] == examples.tokens[row].tolist()
        assert record["activations"] == examples.activations[row].tolist()
        assert record["activating"] == (record["decile"] > 0) == any(record["activations"])
        assert record["split"] == ["explain", "score"][examples.split[row]]
        assert record["kind"] == [None, "random"][examples.kind[row]]
        assert record["source_latent"] is record["source_rank"] is None
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
        lambda: SamplingPlan(length=0),
        lambda: SamplingPlan(bins=0),
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
