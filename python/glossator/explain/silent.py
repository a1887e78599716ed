"""Windows of the explain side on which a latent is silent, the hard ones first.

    silent = SilentWindows(index, length=32, seed=0)
    starts = silent.draw(17, peaks=[262, 655], hard=10, easy=10)

A plan's negatives are the scorer's, of documents that no explainer may read; so these are drawn
here. Hard is what holds a token of the latent's peaks, or what a neighbour is active on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from glossator.explain.explainers import keyed
from glossator.index import Index
from glossator.neighbours import NO_NEIGHBOUR
from glossator.sampling import (
    ExplainPlan,
    NeighbourTable,
    SamplingPlan,
    core_neighbours,
)

__all__ = ["SilentWindows"]

_POOL = 2**21
"""Tokens of the explain side, in contexts drawn by seed, among which peak tokens are looked for."""
_CONTEXTS_AT_ONCE = 512
_HELD = 256
"""Windows looked at for each peak token, at most."""
_CANDIDATES = 8
"""Windows looked at for each one wanted, at most: a dense latent is silent almost nowhere."""
_NEIGHBOURS = 10
_PER_NEIGHBOUR = 4
_EXPLAIN = 0


class SilentWindows:
    """The silent windows of one index's explain side.

    Args:
        index: whose windows.
        length: tokens of each; the index's window if None.
        seed: of the draw.
        neighbours: the latents nearest to each, where they are known.

    Raises:
        InputError: the neighbours are another coder's.
    """

    def __init__(
        self,
        index: Index,
        length: int | None,
        seed: int,
        neighbours: NeighbourTable | None = None,
    ) -> None:
        core_neighbours(neighbours, index.attributes.get("coder_hash", ""))
        self._index, self._seed, self._neighbours = index, seed, neighbours
        self._length = length or index.window

    def draw(
        self, latent: int, peaks: Sequence[int], *, hard: int, easy: int
    ) -> npt.NDArray[np.uint64]:
        """First tokens of `hard` + `easy` different windows, fewer where there are no more.

        Args:
            latent: who is silent on all of them.
            peaks: the tokens of its peaks, the commonest first.
            hard: so many that are like its own; random ones take the place of missing ones.
            easy: so many drawn at random.
        """
        random = self._random(latent)
        there: set[int] = set()
        found = self._silent(latent, self._hard(latent, peaks), hard, there)
        found += self._silent(latent, random, hard + easy - len(found), there)
        return np.array(found, np.uint64)

    def _silent(self, latent: int, candidates: Iterator[int], n: int, there: set[int]) -> list[int]:
        """The first n of the candidates that are new, of the side, and silent throughout."""
        found: list[int] = []
        for _ in range(_CANDIDATES):
            if len(found) >= n:
                break
            batch = []
            for start in candidates:
                if start not in there:
                    there.add(start)
                    batch.append(start)
                if len(batch) >= 2 * n:
                    break
            if not batch:
                break
            starts = np.array(batch, np.uint64)
            active = self._active(latent, starts)
            found += starts[~active & self._fair(starts)].tolist()
        return found[:n]

    def _active(self, latent: int, starts: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether the latent is active anywhere in each stretch."""
        if self._length == self._index.window:
            return self._index.active(latent, starts)
        activations = self._index.activations(latent, starts, self._length)
        return np.asarray(activations.any(axis=1))

    def _fair(self, starts: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether every window that a stretch touches may be drawn for the explain side."""
        places = starts - np.uint64(self._index.first_context * self._index.context_length)
        window = self._index.window
        first = (places // np.uint64(window)).astype(np.int64)
        last = ((places + np.uint64(self._length - 1)) // np.uint64(window)).astype(np.int64)
        # None that is not fair lies between first and last.
        fair: npt.NDArray[np.bool_] = self._unfair[last + 1] == self._unfair[first]
        return fair

    @functools.cached_property
    def _unfair(self) -> npt.NDArray[np.int64]:
        """How many of the windows before each are not of the side."""
        return np.concatenate([[0], np.cumsum(~self._side)])

    @functools.cached_property
    def _side(self) -> npt.NDArray[np.bool_]:
        side: npt.NDArray[np.bool_] = self._index.eligible() & (self._index.sides() == _EXPLAIN)
        return side

    @functools.cached_property
    def _windows(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self._side)

    def _random(self, latent: int) -> Iterator[int]:
        """Windows of the side, each equally likely, none twice in a row of as many as there are."""
        if not len(self._windows):
            return
        generator = keyed("silent", self._seed, latent)
        for _ in range(_CANDIDATES * 4):
            chosen = generator.choice(self._windows, size=min(256, len(self._windows)))
            yield from self._stretches(chosen)

    def _stretches(self, windows: npt.NDArray[np.integer]) -> list[int]:
        """Where the stretch around the middle of each window begins, moved into its context."""
        context_length, window = self._index.context_length, self._index.window
        middles = windows.astype(np.int64) * window + window // 2
        contexts = middles // context_length * context_length
        begins = np.clip(middles - contexts - self._length // 2, 0, context_length - self._length)
        base = self._index.first_context * context_length
        stretches: list[int] = (base + contexts + begins).tolist()
        return stretches

    def _hard(self, latent: int, peaks: Sequence[int]) -> Iterator[int]:
        """Windows that hold a peak's token and windows of neighbours, in turns."""
        return _turns([*map(self._holding, peaks), *self._of_neighbours(latent)])

    def _holding(self, token: int) -> Iterator[int]:
        tokens, positions = self._by_token
        one = tokens.dtype.type(token)
        held = positions[tokens.searchsorted(one) : tokens.searchsorted(one, side="right")]
        chosen = keyed("peak token", self._seed, token).choice(
            len(held), size=min(_HELD, len(held)), replace=False
        )
        places = held[chosen]
        starts = self._stretches(places // self._index.window)
        base = self._index.first_context * self._index.context_length
        for start, place in zip(starts, (places + base).tolist(), strict=True):
            if start <= place < start + self._length:
                yield start

    @functools.cached_property
    def _by_token(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """The side's unmasked tokens, sorted, and where each stands, 0 the index's first."""
        index = self._index
        per_context = index.context_length // index.window
        contexts = np.flatnonzero(self._side.reshape(-1, per_context).any(axis=1))
        most = max(_POOL // index.context_length, 1)
        contexts = np.sort(keyed("pool", self._seed).permutation(contexts)[:most])
        tokens, positions = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        offsets = np.arange(index.context_length)
        for begin in range(0, len(contexts), _CONTEXTS_AT_ONCE):
            some = contexts[begin : begin + _CONTEXTS_AT_ONCE]
            held, _, mask = index.contexts((some + index.first_context).astype(np.uint64))
            mask &= np.repeat(self._side.reshape(-1, per_context)[some], index.window, axis=1)
            tokens.append(held[mask])
            positions.append((some[:, None] * index.context_length + offsets)[mask])
        all_tokens, all_positions = np.concatenate(tokens), np.concatenate(positions)
        order = np.argsort(all_tokens, kind="stable")
        return all_tokens[order], all_positions[order]

    def _of_neighbours(self, latent: int) -> list[Iterator[int]]:
        """For each of the nearest latents windows in which it is active."""
        if self._neighbours is None:
            return []
        ids = np.asarray(self._neighbours.ids)[latent, :_NEIGHBOURS]
        near = ids[ids != NO_NEIGHBOUR]
        if not len(near):
            return []
        plan = SamplingPlan(
            explain=ExplainPlan(n=_PER_NEIGHBOUR),
            per_decile=0,
            negatives=(),
            length=self._length,
        )
        drawn = self._index.sample(near, plan, self._seed)
        return [iter(drawn.start[drawn.latent == other].tolist()) for other in near.tolist()]


def _turns(sources: Iterable[Iterator[int]]) -> Iterator[int]:
    """One of each, then the next of each, until all are empty."""
    waiting = list(sources)
    while waiting:
        left = []
        for source in waiting:
            for item in source:
                yield item
                left.append(source)
                break
        waiting = left
