"""The strata of silent windows: disjoint, of the size that is said, and fairly drawn from."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.errors import InputError
from glossator.index import silent_strata
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from index_reference import corpora, corpus, scratch_folders

FEW = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def scratch():
    with scratch_folders() as folder:
        yield folder


def plan_of(n, kind="peak_token", **options):
    lists = (NegativePlan(kind=kind, n=n, even=kind == "peak_token", **options),)
    return SamplingPlan(explain=ExplainPlan(n=0), per_decile=0, negatives=lists)


def commonest(plain, latent):
    """The 20 commonest tokens at the peaks of the explain side's windows."""
    column, counts = plain.kept()[:, latent], Counter()
    tokens, mask = plain.tokens.reshape(-1), plain.mask.reshape(-1)
    for number in np.flatnonzero(plain.sides() == 0):
        first = int(number) * plain.window
        own = column[first : first + plain.window]
        peak = first + int(np.argmax(own))
        if own.max() > 0 and mask[peak]:
            counts[int(tokens[peak])] += 1
    return [token for token, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][:20]


@FEW
@given(corpora(), st.integers(0, 2**32))
def test_strata_equal_brute_force(scratch, plain, seed):
    index = plain.index(scratch())
    latents = np.arange(plain.n_latents)
    strata = silent_strata(index, latents, seed)
    drawable = np.where(plain.eligible(), plain.sides(), 2)
    tokens, mask = (a.reshape(-1, plain.window) for a in (plain.tokens, plain.mask))
    for latent in latents:
        wanted = commonest(plain, latent)
        assert strata.tokens[latent].tolist() == wanted
        active = set(plain.windows(latent)[3].tolist())
        silent = [w for w in np.flatnonzero(drawable == 1) if w not in active]
        holding = [bool((np.isin(tokens[w], wanted) & mask[w]).any()) for w in silent]
        assert strata.sizes[latent].tolist() == [holding.count(False), holding.count(True)]
        starts = np.array(silent, np.uint64) * plain.window + plain.base
        assert strata.of(latent, starts).tolist() == [int(h) for h in holding]
        drawn = index.sample([latent], plan_of(1000), seed).start
        assert set(drawn.tolist()) == set(starts[np.array(holding, bool)].tolist())
        for n in (1, 3):
            few = index.sample([latent], plan_of(n), seed).start
            assert few.tolist() == drawn[: len(few)].tolist()


def test_every_window_of_a_stratum_is_as_likely_to_be_drawn(scratch):
    rng = np.random.default_rng(0)
    plain = corpus(80, windows=4)
    # Some windows hold one of the tokens, some many, and some tokens are rare.
    plain.tokens[:] = np.minimum(rng.geometric(0.12, plain.tokens.shape), 60)
    index = plain.index(scratch())
    draws = 4000
    starts = [index.sample([2], plan_of(1), seed).start for seed in range(draws)]
    seeds = [silent_strata(index, [2], seed) for seed in range(20)]
    # With fewer than 256 peaks the tokens are the same for every seed.
    assert len({tuple(one.tokens[0].tolist()) for one in seeds}) == 1
    size = int(seeds[0].sizes[0, 1])
    counts = np.zeros(size)
    found = np.unique(np.concatenate(starts), return_counts=True)[1]
    counts[: len(found)] = found
    statistic = np.sum((counts - draws / size) ** 2) / (draws / size)
    assert abs(statistic - (size - 1)) < 4 * np.sqrt(2 * (size - 1))
    # Taking turns by token is not fair: the same statistic finds it out.
    turns = SamplingPlan(
        explain=ExplainPlan(n=0), per_decile=0, negatives=(NegativePlan(kind="peak_token", n=1),)
    )
    found = np.unique(
        np.concatenate([index.sample([2], turns, seed).start for seed in range(draws)]),
        return_counts=True,
    )[1]
    counts = np.zeros(size)
    counts[: len(found)] = found
    statistic = np.sum((counts - draws / size) ** 2) / (draws / size)
    assert statistic > (size - 1) + 6 * np.sqrt(2 * (size - 1))


def test_what_even_is_not_for_is_refused(scratch):
    index = corpus(20).index(scratch())
    with pytest.raises(InputError, match=r"`negatives\[0\].even` is for kind `peak_token`"):
        index.sample([0], SamplingPlan(negatives=(NegativePlan(even=True),)))
    with pytest.raises(InputError, match="of whole windows; leave out `length`"):
        index.sample([0], plan_of(3).model_copy(update={"centred": True}))
    with pytest.raises(InputError, match="`latent` 3 is not in the strata"):
        silent_strata(index, [1, 2]).of(3, [0])
