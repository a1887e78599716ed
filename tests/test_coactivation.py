"""How often pairs of latents are active together, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.cooccurrence import NO_NEIGHBOUR, Coactivation
from glossator.errors import InputError
from index_reference import corpora, corpus, scratch_folders


@pytest.fixture(scope="module")
def scratch():
    with scratch_folders() as folders:
        yield folders


def peaks(plain, latent):
    """Shares of the tokens on which a latent peaks, over all its windows."""
    column = plain.kept()[:, latent].reshape(-1, plain.window)
    tokens = plain.tokens.reshape(-1, plain.window)
    rows = np.flatnonzero(column.max(axis=1, initial=0) > 0)
    found, counts = np.unique(tokens[rows, column[rows].argmax(axis=1)], return_counts=True)
    return dict(zip(found.tolist(), (counts / max(len(rows), 1)).tolist(), strict=True)), len(rows)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(corpora(), st.integers(0, 2**32), st.integers(0, 4))
def test_counts_and_figures_equal_those_of_the_grid(scratch, plain, seed, k):
    index = plain.index(scratch())
    grid = (plain.kept() > 0).reshape(-1, plain.window, plain.n_latents).any(axis=1)
    rng = np.random.default_rng(seed)
    latents = rng.integers(0, plain.n_latents, 6)
    neighbours = rng.integers(0, plain.n_latents, (6, k))
    neighbours[rng.random(neighbours.shape) < 0.2] = NO_NEIGHBOUR
    found = index.coactivation(latents, neighbours)
    assert isinstance(found, Coactivation)
    assert found.both.shape == neighbours.shape
    assert (found.both.dtype, found.npmi.dtype) == (np.uint64, np.float64)
    for row, place in np.ndindex(neighbours.shape):
        f, g = latents[row], neighbours[row, place]
        at = (row, place)
        figures = [found.jaccard, found.npmi, found.given, found.given_back, found.shared_tokens]
        if g == NO_NEIGHBOUR:
            assert found.both[at] == 0
            assert all(np.isnan(figure[at]) for figure in figures)
            continue
        both, either = (grid[:, f] & grid[:, g]).sum(), (grid[:, f] | grid[:, g]).sum()
        sizes, n = (grid[:, f].sum(), grid[:, g].sum()), len(grid)
        assert found.both[at] == both
        with np.errstate(divide="ignore", invalid="ignore"):
            np.testing.assert_allclose(found.jaccard[at], both / either)
            np.testing.assert_allclose(found.given[at], both / sizes[0])
            np.testing.assert_allclose(found.given_back[at], both / sizes[1])
            npmi = np.log(both * n / (sizes[0] * sizes[1])) / -np.log(both / n)
        if 0 in sizes:
            npmi = np.nan
        elif both in (0, n):
            npmi = 1.0 if both else -1.0
        np.testing.assert_allclose(found.npmi[at], npmi, atol=1e-12)
        (one, n_one), (two, n_two) = peaks(plain, f), peaks(plain, g)
        if 0 < n_one <= 64 and 0 < n_two <= 64:
            shared = sum(min(share, two.get(token, 0)) for token, share in one.items())
            np.testing.assert_allclose(found.shared_tokens[at], shared, atol=1e-12)


def test_what_does_not_fit_is_refused(tmp_path):
    index = corpus(4).index(tmp_path / "index")
    with pytest.raises(InputError, match=r"`neighbours` has shape \(2,\)"):
        index.coactivation([0, 1], [1, 0])
    with pytest.raises(InputError, match="2 latents with 1 each have 2"):
        index.coactivation([0, 1], [[1]])
    with pytest.raises(InputError, match="latent 5 is not in the index"):
        index.coactivation([0], [[5]])
