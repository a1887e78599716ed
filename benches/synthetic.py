"""Synthetic activations whose answer is known: the data of the index's figures.

    data = synthetic.make(Path("/tmp/figures"), Shape(tokens=1_000_000))
    data.latents, data.activations                 # memory maps, [T / S, S, k]
    for run in data.sorted_runs(): ...             # the same, sorted by latent, 65,536 tokens a run

Each token has k distinct latents, drawn one after the other from log-normal weights; activations
are log-normal too. Two latents are planted: `COMMON` is active on 30 % of the tokens, `RARE` on
about 1,000. The data are made once, chunk by chunk in little memory, and kept in files: every
implementation reads the same ones.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

S, W = 256, 32
"""Tokens in a context and in a window."""
RUN = 65_536
"""Tokens in a run that is sorted by latent."""
COMMON, RARE = 17, 4_242
"""The planted latents."""
COMMON_SHARE, RARE_COUNT = 0.3, 1_000
VOCABULARY = 49_152
DOCUMENT = 8
"""Contexts in a document."""
SEED = 20_240_607


@dataclass(frozen=True)
class Shape:
    """How many tokens, latents, latents on a token, and how uneven the latents are."""

    tokens: int = 1_000_000
    latents: int = 32_768
    k: int = 32
    skew: float = 1.5

    def __post_init__(self):
        object.__setattr__(self, "tokens", self.tokens // S * S)

    def __str__(self):
        return f"T={self.tokens} L={self.latents} k={self.k}"

    @property
    def nnz(self):
        return self.tokens * self.k

    @property
    def contexts(self):
        return self.tokens // S


@dataclass(frozen=True)
class Data:
    """The files of one shape."""

    folder: Path
    shape: Shape

    @cached_property
    def tokens(self):
        """uint32[T / S, S]."""
        return np.load(self.folder / "tokens.npy", mmap_mode="r")

    @cached_property
    def latents(self):
        """uint32[T / S, S, k], ascending on each token."""
        return np.load(self.folder / "latents.npy", mmap_mode="r")

    @cached_property
    def activations(self):
        """float32[T / S, S, k]."""
        return np.load(self.folder / "activations.npy", mmap_mode="r")

    @cached_property
    def documents(self):
        """uint64[T / S]."""
        return np.arange(self.shape.contexts, dtype=np.uint64) // DOCUMENT

    @cached_property
    def counts(self):
        """Postings of each latent, int64[L]."""
        return np.load(self.folder / "counts.npy")

    def run(self, number):
        """One run: first context, starts uint32[L + 1], positions uint32[n], activations."""
        first = number * RUN // S
        contexts = slice(first, first + RUN // S)
        latents = self.latents[contexts].reshape(-1)
        starts = np.zeros(self.shape.latents + 1, np.uint32)
        np.cumsum(np.bincount(latents, minlength=self.shape.latents), out=starts[1:])
        # Sixteen bits are sorted by radix.
        order = latents.astype(np.uint16 if self.shape.latents <= 65_536 else np.uint32)
        order = np.argsort(order, kind="stable").astype(np.uint32)
        values = self.activations[contexts].reshape(-1)[order]
        return first, starts, order // np.uint32(self.shape.k), values

    @property
    def n_runs(self):
        return -(-self.shape.tokens // RUN)


def make(root, shape, log=lambda line: print(line, file=sys.stderr)):
    """The data of a shape in a folder below `root`, made if they are not there."""
    name = f"{shape.tokens}-{shape.latents}-{shape.k}-{shape.skew}-{SEED}"
    folder, scratch = Path(root) / name, Path(root) / f"{name}.partial"
    if not folder.is_dir():
        begun = time.perf_counter()
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        _write(scratch, shape)
        scratch.rename(folder)
        log(f"synthetic data, {shape}: made in {time.perf_counter() - begun:.0f} s")
    return Data(folder, shape)


def open_data(folder):
    """The data in a folder that `make` filled."""
    folder = Path(folder)
    return Data(folder, Shape(**json.loads((folder / "shape.json").read_text())))


def _write(folder, shape):
    draw = _Drawer(shape)
    dims = (shape.contexts, S, shape.k)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", "w+", np.uint32, dims[:2])
    latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.uint32, dims)
    values = np.lib.format.open_memmap(folder / "activations.npy", "w+", np.float32, dims)
    counts = np.zeros(shape.latents, np.int64)
    step = RUN // S
    for chunk, first in enumerate(range(0, shape.contexts, step)):
        rows = slice(first, min(first + step, shape.contexts))
        n = (rows.stop - rows.start) * S
        rng = np.random.default_rng([SEED, chunk])
        drawn = draw(rng, n)
        counts += np.bincount(drawn.reshape(-1), minlength=shape.latents)
        latents[rows] = drawn.reshape(-1, S, shape.k)
        normal = rng.standard_normal((n, shape.k), np.float32)
        values[rows] = np.exp(np.float32(0.4) * normal).reshape(-1, S, shape.k)
        tokens[rows] = (rng.zipf(1.3, n) % VOCABULARY).reshape(-1, S)
    np.save(folder / "counts.npy", counts)
    (folder / "shape.json").write_text(json.dumps(asdict(shape)))


class _Drawer:
    """k distinct latents for each of n tokens, by Walker's alias method."""

    def __init__(self, shape):
        self.shape = shape
        rng = np.random.default_rng([SEED, shape.latents])
        weight = np.exp(rng.normal(0, shape.skew, shape.latents))
        weight[[COMMON, RARE]] = 0
        self.keep, self.other = _alias(weight / weight.sum())

    def __call__(self, rng, n):
        """uint32[n, k], ascending."""
        k = self.shape.k
        latents = self._draw(rng, n * k).reshape(n, k)
        latents[rng.random(n) < COMMON_SHARE, 0] = COMMON
        latents[rng.random(n) < RARE_COUNT / self.shape.tokens, 1] = RARE
        latents.sort(axis=1)
        rows = np.arange(n)
        block = latents
        while True:  # A latent that is there already is drawn again.
            again = block[:, 1:] == block[:, :-1]
            odd = again.any(axis=1)
            if not odd.any():
                return latents
            rows, block, again = rows[odd], block[odd], again[odd]
            block[:, 1:][again] = self._draw(rng, np.count_nonzero(again))
            block.sort(axis=1)
            latents[rows] = block

    def _draw(self, rng, n):
        point = rng.integers(0, 2**32, n, np.uint32).astype(np.uint64) * self.shape.latents
        cell = (point >> np.uint64(32)).astype(np.uint32)
        return np.where(point.astype(np.uint32) < self.keep[cell], cell, self.other[cell])


def _alias(probability):
    """Of each cell: how much of it, in 2^-32, is its own, and whose the rest is."""
    n = len(probability)
    share = probability * n
    own, other = np.ones(n), np.arange(n, dtype=np.uint32)
    poor = [i for i in range(n) if share[i] < 1]
    rich = [i for i in range(n) if share[i] >= 1]
    while poor and rich:
        i, j = poor.pop(), rich[-1]
        own[i], other[i] = share[i], j
        share[j] -= 1 - share[i]
        if share[j] < 1:
            poor.append(rich.pop())
    return np.minimum(own * 2**32, 2**32 - 1).astype(np.uint32), other


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the data of one shape.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--k", type=int, default=32)
    asked = parser.parse_args()
    print(make(asked.folder, Shape(asked.tokens, asked.latents, asked.k)).folder)
