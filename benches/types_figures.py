"""The types of all latents, beside NumPy and SciPy, in one run.

    python -m benches.types_figures                              # 10 M tokens, 32,768 latents
    python -m benches.types_figures --tokens 1000000 --rounds 3

Ours reads the index from disk; the peer has every activation in memory as one SciPy CSC matrix,
already sorted, and goes through its columns. Ours is timed with all types, the peer with the
figures that both give: mutual information with the position, distinct tokens at and before the
peaks of the strongest 80 %. They are compared before anything is written.

Decoder neighbours (one latent in a hundred has one that is near) and the largest logit weights are
given, as a run has them from its other stages; co-activation, and mean and deviation of the logit
weights, are part of what is timed.
"""

import argparse
from pathlib import Path

import numpy as np
from benches import synthetic
from benches.measure import ROOT, Figures, child, log, memory, reset_peak, serve, timed
from scipy import sparse

from glossator.index import Index, IndexWriter
from glossator.latent_types import latent_types
from glossator.logit_weights import LogitWeights
from glossator.neighbours import Neighbours

WIDTH, VOCABULARY, NEAREST = 768, 50_257, 8


def _index(data):
    """The data as an index beside them, built once."""
    path = data.folder / "types-index"
    if not (path / "manifest.json").is_file():
        with IndexWriter(
            path, n_latents=data.shape.latents, context_length=synthetic.S, window=synthetic.W
        ) as writer:
            step = synthetic.RUN // synthetic.S
            for first in range(0, data.shape.contexts, step):
                rows = slice(first, first + step)
                writer.add(
                    data.tokens[rows],
                    data.latents[rows],
                    data.activations[rows],
                    data.documents[rows],
                )
    return path


def ours(folder):
    """Seconds of all types, memory beyond the open index, and the figures that are compared."""
    index = Index.open(_index(synthetic.open_data(folder)))
    near, directions = _near(index.n_latents), _directions(index.n_latents)

    def types():
        decoder, unembedding, top = directions
        weights = LogitWeights.of(decoder, unembedding, top=top)
        return latent_types(index, neighbours=near, logits=weights)

    before = memory()
    reset_peak()
    seconds, kinds = timed(types)
    again, _ = timed(types)
    kept = ("position_information", "peak_tokens", "previous_tokens")
    return {
        "seconds": seconds,
        "again": again,
        "memory": memory("VmHWM") - before,
        "kept": [kinds[name][:: _step(index.n_latents)].tolist() for name in kept],
    }


def _near(latents):
    """Eight neighbours of each latent, of which some write nearly the same."""
    rng = np.random.default_rng(1)
    ids = (np.arange(latents)[:, None] + rng.integers(1, latents, (latents, NEAREST))) % latents
    cosines = rng.uniform(0, 0.4, ids.shape).astype(np.float32)
    cosines[rng.random(latents) < 0.01, 0] = 0.95
    return Neighbours(ids.astype(np.uint32), cosines)


def _directions(latents):
    """Decoder rows, an unembedding, and what would be the largest logit weights."""
    rng = np.random.default_rng(2)
    decoder, unembedding = (
        rng.standard_normal((n, WIDTH), np.float32) for n in (latents, VOCABULARY)
    )
    top = -np.sort(-rng.uniform(2, 5, (latents, 21)), axis=1) * WIDTH**0.5
    return decoder, unembedding, top


def numpy_scipy(folder):
    """The same figures of every latent from a matrix in memory."""
    data = synthetic.open_data(folder)
    tokens = data.tokens.reshape(-1)
    n, L = len(tokens), data.shape.latents
    latents = data.latents.reshape(-1)
    values = _codes(data.activations.reshape(-1))
    starts = np.arange(n + 1, dtype=np.int64) * data.shape.k
    matrix = sparse.csr_matrix((values, latents, starts), shape=(n, L)).tocsc()

    def all_of():
        found = np.empty((3, L))
        per_offset = np.full(synthetic.S, n / synthetic.S)
        for latent in range(L):
            span = slice(matrix.indptr[latent], matrix.indptr[latent + 1])
            at, value = matrix.indices[span], matrix.data[span]
            found[:, latent] = _one(at, value, tokens, per_offset, n)
        return found

    seconds, found = timed(all_of)
    return {"seconds": seconds, "kept": found[:, :: _step(L)].tolist()}


def _codes(values):
    """What an index keeps: bf16 cut to 16 steps an octave; a copy of the bits in their order."""
    bits = values.view(np.uint32).astype(np.uint64)
    bf16 = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
    return (bf16 >> np.uint64(3)).astype(np.uint16)


def _one(at, value, tokens, per_offset, n):
    count = len(at)
    if not count:
        return 0, 0, 0
    active = np.bincount(at % synthetic.S, minlength=synthetic.S)
    silent = per_offset - active
    joint = np.concatenate([active, silent])
    product = np.concatenate([per_offset * (count / n), per_offset * (1 - count / n)])
    some = joint > 0
    information = (joint[some] * np.log(joint[some] / product[some])).sum() / n
    # A window's first strongest hit: the last of a stable order by window and falling code.
    window = at // synthetic.W
    order = np.lexsort((at, -value.astype(np.int64), window))
    first = order[np.r_[True, np.diff(window[order]) > 0]]
    ranked = first[np.lexsort((at[first], -value[first].astype(np.int64)))]
    peaks = at[ranked[: (len(ranked) * 80 + 99) // 100]]
    inside = peaks[peaks % synthetic.S > 0]
    return information, len(np.unique(tokens[peaks])), len(np.unique(tokens[inside - 1]))


def _step(latents):
    """Every so many latents are compared."""
    return max(latents // 500, 1)


def main():
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", default="/tmp/glossator-figures")
    parser.add_argument("--out", default=str(ROOT / "benches" / "results" / "types.csv"))
    options = parser.parse_args()
    shape = synthetic.Shape(tokens=options.tokens, latents=options.latents)
    data = synthetic.make(Path(options.data), shape)
    log(f"index: {_index(data)}")
    runs = [
        child("benches.types_figures", "ours", folder=data.folder) for _ in range(options.rounds)
    ]
    peer = child("benches.types_figures", "numpy_scipy", folder=data.folder)
    for mine, theirs in zip(runs[0]["kept"], peer["kept"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
    log("both give the same figures")
    figures = Figures(options.out)
    op = "types of all latents, figures included"
    figures.add(op, "glossator", shape, "time", "s", [run["seconds"] for run in runs])
    figures.add(op, "glossator, asked again", shape, "time", "s", [run["again"] for run in runs])
    figures.add(op, "peer: SciPy CSC in memory, NumPy", shape, "time", "s", peer["seconds"])
    figures.add(op, "glossator", shape, "memory", "MiB", [run["memory"] / 2**20 for run in runs])
    figures.write()


if __name__ == "__main__":
    import sys

    tasks = {"ours": ours, "numpy_scipy": numpy_scipy}
    if len(sys.argv) > 1 and sys.argv[1] in tasks:
        serve(tasks)
    else:
        main()
