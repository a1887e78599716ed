"""A plain index in NumPy, slow and obvious, and random corpora to compare the real one on."""

import hashlib
import itertools
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from hypothesis import strategies as st

from glossator.index import NO_DOCUMENT, NO_LATENT, Index, IndexWriter

RUN = 16


@dataclass
class Plain:
    """C contexts of S tokens, and every activation of L latents."""

    tokens: np.ndarray  # [C, S]
    documents: np.ndarray  # [C, S]
    mask: np.ndarray  # [C, S]
    dense: np.ndarray  # float32[C, S, L], as given
    window: int
    first_context: int
    split_seed: int
    segment_contexts: int

    @property
    def n_latents(self):
        return self.dense.shape[2]

    @property
    def parameters(self):
        return {
            "n_latents": self.n_latents,
            "context_length": self.tokens.shape[1],
            "window": self.window,
            "first_context": self.first_context,
            "segment_contexts": self.segment_contexts,
            "split_seed": self.split_seed,
            "attributes": {"hookpoint": "h.0"},
        }

    @property
    def base(self):
        return self.first_context * self.tokens.shape[1]

    def kept(self):
        """float32[C * S, L]: what must be in the index, as it gives it: decoded from codes."""
        return decoded(self.bf16())

    def bf16(self):
        """uint16[C * S, L]: the activations in bf16; 0: none."""
        given = np.where(self.mask[:, :, None], self.dense, 0).reshape(-1, self.n_latents)
        return bf16_of(given)

    def postings(self, latent):
        column = self.kept()[:, latent]
        places = np.flatnonzero(column > 0)
        return places + self.base, column[places]

    def windows(self, latent):
        """Starts, maxima, deciles, and the window numbers."""
        maxima = self.kept()[:, latent].reshape(-1, self.window).max(axis=1, initial=0)
        numbers = np.flatnonzero(maxima > 0)
        starts, values = numbers * self.window + self.base, maxima[numbers]
        order = np.lexsort((-starts.astype(np.int64), values))  # weakest first
        deciles = np.empty(len(order), np.uint8)
        deciles[order] = 1 + 10 * np.arange(len(order)) // max(len(order), 1)
        return starts, values, deciles, numbers

    def exact(self, latent):
        """The bf16 of the same windows' maxima, as float32."""
        maxima = self.bf16()[:, latent].reshape(-1, self.window).max(axis=1, initial=0)
        return value_of(maxima[maxima > 0])

    def boundaries(self, latent):
        """As the deciles say: where each begins, or the maximum where none follows."""
        _, maxima, deciles, _ = self.windows(latent)
        if not len(maxima):
            return np.full(11, np.nan, np.float32)
        begins = [maxima[deciles >= d].min(initial=maxima.max()) for d in range(1, 11)]
        return np.array([*begins, maxima.max()], np.float32)

    def position_sides(self):
        """[C * S]; 2: masked."""
        sides = [side_of(d, self.split_seed) for d in self.documents.reshape(-1)]
        return np.where(self.mask.reshape(-1), sides, 2)

    def sides(self):
        windows = self.position_sides().reshape(-1, self.window)
        some = [(windows == side).any(axis=1) for side in (0, 1)]
        return np.where(some[0] == some[1], 2, np.where(some[1], 1, 0)).astype(np.uint8)

    def runs(self, side):
        """(place, the 16 tokens) of every run within a context on one side."""
        length = self.tokens.shape[1]
        sides, tokens = self.position_sides(), self.tokens.reshape(-1)
        for place in range(len(tokens)):
            if place % length + RUN <= length and (sides[place : place + RUN] == side).all():
                yield place, tuple(tokens[place : place + RUN])

    def eligible(self):
        sides = self.sides()
        eligible = sides != 2
        explain = {run for _, run in self.runs(0)}
        shared = [place for place, run in self.runs(1) if run in explain]
        for number in np.flatnonzero(sides == 1):
            start, end = number * self.window, (number + 1) * self.window
            overlap = [min(end, place + RUN) - max(start, place) for place in shared]
            if any(tokens >= min(RUN, self.window) for tokens in overlap):
                eligible[number] = False
        return eligible

    def topk(self):
        """The activations as [C, S, K] latents and activations, in no order, with empty slots."""
        order = np.random.default_rng(0).permuted(
            np.broadcast_to(np.arange(self.n_latents), self.dense.shape), axis=2
        )
        values = np.take_along_axis(self.dense, order, axis=2)
        empty = (values == 0) & (order % 2 == 0)
        return np.where(empty, NO_LATENT, order), values

    def build(self, path, batches=(), **changes):
        """Build it, in batches of these sizes over and over; in one by default."""
        latents, activations = self.topk()
        n, at, turn = len(self.tokens), 0, 0
        with IndexWriter(path, **{**self.parameters, **changes}) as writer:
            while at < n:
                size = batches[turn % len(batches)] if batches else n
                rows = slice(at, at + size)
                writer.add(
                    self.tokens[rows],
                    latents[rows],
                    activations[rows],
                    self.documents[rows],
                    self.mask[rows],
                )
                at, turn = at + size, turn + 1
        return path

    def index(self, path, **changes):
        return Index.open(self.build(path, **changes))


def bf16_of(values):
    """The nearest bf16 of values above 0, from the smallest to the largest; of 0, 0."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.int64)
    rounded = np.clip((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 1, 0x7F7F)
    return np.where(values > 0, rounded, 0).astype(np.uint16)


def value_of(bf16):
    return (bf16.astype(np.uint32) << 16).view(np.float32)


def decoded(bf16):
    """What stands for them: three low bits are lost, the middle of what they may have been stays.

    Of subnormal numbers, those with one bit alone.
    """
    assert np.isin(bf16[bf16 < 0x80], [0, 1]).all()
    middle = (bf16.astype(np.uint32) & 0xFFF8) << 16 | 0x3_8000
    return np.where(bf16 < 0x80, value_of(bf16), middle.view(np.float32))


@contextmanager
def scratch_folders():
    """Folders without end, in memory where the machine has such a place: nothing waits for a disk.

    Hypothesis may not use pytest's folder, which is one for all its examples.
    """
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        numbers = itertools.count()
        yield lambda: Path(folder) / str(next(numbers))


def side_of(document, seed):
    return xxhash.xxh3_64_intdigest(int(document).to_bytes(8, "little"), seed) >> 63


def corpora():
    """Random corpora, all sizes equally likely: small ones alone would hold one side only."""
    return st.integers(0, 2**32).map(random_corpus)


def random_corpus(seed):
    rng = np.random.default_rng(seed)

    def draw(values):
        return values[rng.integers(len(values))]

    window = draw([20, 16, 4, 1])
    length = window * draw([1, 2, 3])
    contexts = draw([8, 7, 5, 2, 1, 0])
    n_latents = draw([1, 2, 3, 4, 5])
    document_tokens = draw([length, 50, 17, 3, 1])
    masked = draw([0.0, 0.0, 0.1, 0.9])
    density = draw([0.02, 0.3, 1.0])
    vocabulary = draw([3, 20, 1])
    shape = (contexts, length)
    mask = rng.random(shape) >= masked
    documents = (np.arange(contexts * length, dtype=np.uint64) // document_tokens).reshape(shape)
    documents = rng.permutation(contexts * length + 1).astype(np.uint64)[documents]
    padding = ~mask & (rng.random(shape) < 0.5)
    documents[padding] = NO_DOCUMENT
    # Few values, so that ranks tie; the smallest subnormal, and both zeros.
    values = np.array([0.0, -0.0, 1.4e-45, 0.5, 1.0, 1.03, 1.5, 65504.0], np.float32)
    dense = rng.choice(values, size=(*shape, n_latents))
    dense[rng.random(dense.shape) >= density] = 0
    if n_latents > 1:
        dense[..., -1] = 0  # empty
    if n_latents > 2:
        dense[..., 0] = 2.0  # on every token
    # One text over and over with few changes, so that both sides share runs of it.
    text = np.broadcast_to(np.arange(length) % vocabulary, shape)
    changed = rng.random(shape) < draw([0.05, 0.0])
    return Plain(
        tokens=np.where(changed, rng.integers(0, vocabulary, shape), text),
        documents=documents,
        mask=mask,
        dense=dense.astype(np.float32),
        window=window,
        first_context=draw([0, 1, 10**6]),
        split_seed=draw([0, 1, 2, 3]),
        segment_contexts=draw([1, 2, 3, 8]),
    )


def corpus(contexts=12, *, seed=0, window=4, windows=2, n_latents=5, segment_contexts=3, **changes):
    """A fixed corpus of contexts that are each of one document, with a text of their own."""
    rng = np.random.default_rng(seed)
    shape = (contexts, window * windows)
    dense = rng.random((*shape, n_latents), dtype=np.float32)
    dense[rng.random(dense.shape) < 0.7] = 0
    made = {
        "tokens": rng.integers(0, 50_000, shape),
        "documents": np.repeat(np.arange(contexts, dtype=np.uint64)[:, None], shape[1], axis=1),
        "mask": np.ones(shape, np.bool_),
        "dense": dense,
        "window": window,
        "first_context": 0,
        "split_seed": 0,
        "segment_contexts": segment_contexts,
    }
    return Plain(**{**made, **changes})


def folder_bytes(path):
    """Every file below a folder, by name, as a digest."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
