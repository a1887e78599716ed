"""Co-occurrence against SciPy's sparse product."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.cooccurrence import NO_NEIGHBOUR
from glossator.errors import InputError
from glossator.index import Index, IndexWriter
from index_reference import corpora, scratch_folders

FEW = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def scratch():
    with scratch_folders() as folders:
        yield folders


def peer(active, latents, top):
    """Neighbours of some columns of bool[rows, L]: one row of ids and of (J, both, ...) each."""
    matrix = sp.csr_array(active.astype(np.int64))
    sizes = active.sum(axis=0)
    shared = (matrix.T @ matrix).toarray()
    for latent in latents:
        both = shared[latent].copy()
        both[latent] = 0
        jaccard = both / np.maximum(sizes + sizes[latent] - both, 1)
        order = np.lexsort((np.arange(len(sizes)), -jaccard))
        order = order[both[order] > 0][:top]
        rest = top - len(order)
        yield (
            np.append(order, [NO_NEIGHBOUR] * rest),
            np.append(jaccard[order], [0] * rest),
            np.append(both[order], [0] * rest),
            np.append(both[order] / max(sizes[latent], 1), [0] * rest),
            np.append(both[order] / sizes[order], [0] * rest),
        )


def check(index, active, latents, top, **options):
    found = index.cooccurrence(latents, top, **options)
    assert found.neighbours.shape == (len(latents), top)
    assert [found.neighbours.dtype, found.both.dtype] == [np.uint32, np.uint64]
    np.testing.assert_array_equal(found.latents, latents)
    for row, expected in enumerate(peer(active, latents, top)):
        columns = (found.neighbours, found.jaccard, found.both, found.given, found.given_back)
        for column, plain in zip(columns, expected, strict=True):
            np.testing.assert_array_equal(column[row], plain)


@FEW
@given(corpora(), st.integers(0, 6))
def test_neighbours_equal_those_of_a_sparse_product(scratch, plain, top):
    index = plain.index(scratch())
    active = plain.kept() > 0
    grid = active.reshape(-1, plain.window, plain.n_latents).any(axis=1)
    latents = [*range(plain.n_latents)][::-1]
    check(index, active, latents, top)
    check(index, grid, latents[:2], top, unit="window")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An index of 500 latents of very unequal frequency on 8,192 tokens, and its dense form."""
    rng = np.random.default_rng(0)
    contexts, length, n_latents = 64, 128, 500
    chances = np.minimum(0.01 * np.exp(1.5 * rng.standard_normal(n_latents)), 0.9)
    active = rng.random((contexts * length, n_latents)) < chances
    rows, latents = np.nonzero(active)
    path = tmp_path_factory.mktemp("cooccurrence") / "index"
    with IndexWriter(
        path, n_latents=n_latents, context_length=length, segment_contexts=24
    ) as writer:
        writer.add_coo(
            np.zeros((contexts, length), np.uint32),
            rows // length,
            rows % length,
            latents,
            np.ones(len(rows), np.float32),
            np.arange(contexts),
        )
    return Index.open(path), active


@pytest.mark.parametrize("latents", [range(500), [7], [3, 400, 8, 3]])
@pytest.mark.parametrize("unit", ["token", "window"])
def test_neighbours_of_many_latents_equal_those_of_a_sparse_product(many, latents, unit):
    index, active = many
    if unit == "window":
        active = active.reshape(-1, index.window, index.n_latents).any(axis=1)
    check(index, active, list(latents), 10, unit=unit)


def test_what_cannot_be_counted_is_refused(many):
    index, _ = many
    with pytest.raises(InputError, match="latent 500 is not in the index"):
        index.cooccurrence([500])
    with pytest.raises(InputError, match="`memory` is 1000"):
        index.cooccurrence([0], memory=1000)
    with pytest.raises(InputError, match="'token' or 'window'"):
        index.cooccurrence([0], unit="context")
