"""From hidden states into the index, batch by batch: one is written while the next is encoded.

with Feeder(writer, coder) as feeder:
    for batch in contexts.batches():
        feeder.add(subject.hidden(batch.tokens, batch.attended), batch, at)

On a GPU the thread that launches waits for nothing: a second one waits for a batch's latents, has
them sorted where they are, and hands the runs to the index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from glossator.corpus import Contexts
from glossator.index import IndexWriter

if TYPE_CHECKING:
    # `import glossator` loads no torch.
    import torch

    from glossator.coders import SparseCoder
    from glossator.encode import Active
    from glossator.statistics import ActivationStatistics

__all__ = ["Feeder", "active_latents"]

Begun: TypeAlias = "tuple[Callable[[], Active], torch.Tensor]"
"""What gives the active latents of a batch, and the flat positions of its tokens that count."""


class Feeder:
    """Encodes hidden states into an index, with one batch under way behind the one in hand.

    Of several hookpoints, coders, states and statistics are mappings with the writer's names.
    """

    def __init__(
        self,
        writer: IndexWriter,
        coder: SparseCoder | Mapping[str, SparseCoder],
        *,
        dtype: str = "float32",
        statistics: ActivationStatistics | Mapping[str, ActivationStatistics] | None = None,
    ) -> None:
        """Nothing happens yet.

        Args:
            writer: the index.
            coder: encodes the states.
            dtype: what the encoder's operands are rounded to.
            statistics: counts the activations of every batch, where they are.
        """
        self._writer, self._dtype = writer, dtype
        self._several = isinstance(coder, Mapping)
        self._coders = _by_name(coder)
        self._statistics = {} if statistics is None else _by_name(statistics)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="glossator-index")
        self._pending: Future[None] | None = None

    def add(
        self, states: torch.Tensor | Mapping[str, torch.Tensor], batch: Contexts, at: int
    ) -> None:
        """Encode a batch, and begin to write it once the one before is written.

        Args:
            states: float[B, S, d].
            batch: its contexts.
            at: the number of the first of them.

        Raises:
            InputError: of this batch or, from writing it, the one before: see `SparseCoder.encode`
                and `IndexWriter.add`.
        """
        given = _by_name(states)
        begun = {
            name: _begin(coder, given[name], batch, self._dtype)
            for name, coder in self._coders.items()
        }
        self._settle()
        self._pending = self._pool.submit(self._write, begun, batch, at)

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._settle()
        finally:
            self._pool.shutdown(wait=True)

    def _write(self, begun: Mapping[str, Begun], batch: Contexts, at: int) -> None:
        from glossator.encode import uses_triton

        active = {name: result() for name, (result, _) in begun.items()}
        for name, counted in self._statistics.items():
            counted.add(active[name].latents, active[name].activations)
        places = {name: positions for name, (_, positions) in begun.items()}
        if all(uses_triton(positions.device) for positions in places.values()):
            add: Callable[..., None] = self._writer.add_sorted
            columns = [
                _sorted(active[name], places[name], coder.n_latents)
                for name, coder in self._coders.items()
            ]
        else:
            add = self._writer.add_coo
            columns = [
                _unsorted(active[name], places[name], batch.tokens.shape[1])
                for name in self._coders
            ]
        given: Any = columns[0]
        if self._several:
            given = [
                dict(zip(self._coders, one, strict=True)) for one in zip(*columns, strict=True)
            ]
        add(batch.tokens, *given, batch.document_ids, batch.mask, context=at)


def _by_name(given: Any) -> Mapping[str, Any]:  # noqa: ANN401 - of one hookpoint, or a mapping
    return given if isinstance(given, Mapping) else {"": given}


def _sorted(active: Active, positions: torch.Tensor, n_latents: int) -> tuple[Any, ...]:
    """What `IndexWriter.add_sorted` takes, sorted where the latents are."""
    from glossator._kernels.sort_by_latent import sort_by_latent

    runs = sort_by_latent(active.latents.int(), active.activations, n_latents, starts=active.starts)
    starts, rows, activations = runs.to_host().wait()
    return starts, positions.cpu()[rows.long()], activations


def _unsorted(active: Active, positions: torch.Tensor, length: int) -> tuple[Any, ...]:
    """What `IndexWriter.add_coo` takes."""
    flat = positions[active.tokens()].cpu().numpy()
    return *np.divmod(flat, length), active.latents, active.activations


def active_latents(
    coder: SparseCoder, states: torch.Tensor, batch: Contexts
) -> tuple[Active, torch.Tensor]:
    """The active latents of a batch's tokens that count.

    Args:
        coder: encodes the states.
        states: float[B, S, d].
        batch: its contexts.

    Returns:
        Sparse rows, one for each token that counts, and their flat positions in the batch, int64.
    """
    result, positions = _begin(coder, states, batch, "float32")
    return result(), positions


def _begin(coder: SparseCoder, states: torch.Tensor, batch: Contexts, dtype: str) -> Begun:
    import torch

    positions = torch.from_numpy(np.flatnonzero(batch.mask)).to(states.device)
    return coder.begin(states.flatten(0, 1)[positions], dtype=dtype), positions
