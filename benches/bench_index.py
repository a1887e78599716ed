"""Build and sample: the index beside SciPy's CSC matrix, the fastest that a script reaches."""

import shutil

import numpy as np
import pytest
from benches import by_hand
from scipy import sparse

import glossator as gl

T, L, K, S, W = 262_144, 32_768, 32, 128, 32
SHAPE = f"T={T} L={L} k={K}"
PLAN = gl.SamplingPlan()


def synthetic(T, L, K, S=128, skew=1.5, seed=0):
    """Tokens, latents, activations and documents with a log-normal skew of the latents.

    Returns:
        tokens uint32[T/S, S], latents uint32[T/S, S, K], activations float32[T/S, S, K] and
        documents uint64[T/S, S], eight contexts to a document.
    """
    rng = np.random.default_rng(seed)
    weight = np.exp(rng.normal(0, skew, L))
    cumulative = np.cumsum(weight / weight.sum())
    drawn = np.searchsorted(cumulative, rng.random((T, K))).astype(np.uint32)
    drawn.sort(axis=1)
    repeated = np.zeros_like(drawn, dtype=bool)
    repeated[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
    drawn[repeated] = 0xFFFFFFFF
    activations = np.exp(rng.normal(0, 0.4, (T, K))).astype(np.float32)
    activations[repeated] = 0
    shape = (T // S, S)
    tokens = rng.zipf(1.3, shape).clip(max=49_151).astype(np.uint32)
    documents = np.repeat(np.arange(T // S, dtype=np.uint64) // 8, S).reshape(shape)
    return tokens, drawn.reshape(*shape, K), activations.reshape(*shape, K), documents


@pytest.fixture(scope="module")
def data():
    return synthetic(T, L, K, S)


@pytest.fixture(scope="module")
def index(data, tmp_path_factory):
    return gl.Index.open(_build(data, tmp_path_factory.mktemp("index") / "index"))


def _build(data, path):
    tokens, latents, activations, documents = data
    shutil.rmtree(path, ignore_errors=True)
    with gl.IndexWriter(path, n_latents=L, context_length=S, window=W) as writer:
        for first in range(0, len(tokens), 256):
            rows = slice(first, first + 256)
            writer.add(tokens[rows], latents[rows], activations[rows], documents[rows])
    return path


def _csc(data):
    _, latents, activations, _ = data
    kept = activations.ravel() > 0
    rows = np.repeat(np.arange(T, dtype=np.int32), K)[kept]
    columns = latents.ravel()[kept].astype(np.int32)
    return sparse.coo_array((activations.ravel()[kept], (rows, columns)), (T, L)).tocsc()


def _csc_on_disk(data, path):
    path.mkdir(exist_ok=True)
    matrix = _csc(data)
    for name in ("data", "indices", "indptr"):
        np.save(path / f"{name}.npy", getattr(matrix, name))
    np.save(path / "tokens.npy", data[0])
    return path


def test_the_index_holds_what_the_matrix_holds(data, index):
    matrix = _csc(data)
    assert index.nnz == matrix.nnz
    for latent in np.random.default_rng(0).integers(0, L, 200):
        positions, activations = index.postings(int(latent))
        column = slice(*matrix.indptr[latent : latent + 2])
        assert np.array_equal(positions, matrix.indices[column])
        assert np.allclose(activations, matrix.data[column], rtol=1 / 32)


def test_build_glossator(measure, data, tmp_path):
    amount = int((data[2] > 0).sum())
    measure(
        lambda: _build(data, tmp_path / "index"),
        op="build",
        implementation="glossator (synced to disk)",
        shape=SHAPE,
        amount=amount,
        unit="non-zeros",
    )


def test_build_peer(measure, data, tmp_path):
    amount = int((data[2] > 0).sum())
    measure(
        lambda: _csc_on_disk(data, tmp_path / "csc"),
        op="build",
        implementation="peer: SciPy COO to CSC, .npy files",
        shape=SHAPE,
        amount=amount,
        unit="non-zeros",
    )


LATENTS = np.random.default_rng(1).choice(L, 256, replace=False)


def test_sample_glossator(measure, index):
    index.sample(LATENTS[:1], PLAN)
    measure(
        lambda: index.sample(LATENTS, PLAN, seed=0),
        op="sample 40 + 50 + 50 windows",
        implementation="glossator",
        shape=SHAPE,
        amount=len(LATENTS),
        unit="latents",
    )


def test_sample_peer(measure, data, index):
    matrix, tokens, sides = _csc(data), data[0], index.sides()

    def run():
        rng = np.random.default_rng(0)
        drawn = 0
        for latent in LATENTS:
            column = slice(*matrix.indptr[latent : latent + 2])
            postings = matrix.indices[column], matrix.data[column]
            drawn += len(by_hand.sample(*postings, tokens, sides, rng, window=W)[0])
        return drawn

    drawn = run()
    assert drawn > 0
    measure(
        run,
        op="sample 40 + 50 + 50 windows",
        implementation="peer: NumPy over a CSC column in memory",
        shape=SHAPE,
        amount=len(LATENTS),
        unit="latents",
    )
