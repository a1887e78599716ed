"""From hidden states into the index, batch by batch: one is written while the next is encoded.

with Feeder(writer, coder) as feeder:
    for batch in contexts.batches():
        feeder.add(subject.hidden(batch.tokens, batch.attended), batch, at)

On a GPU the thread that launches waits for nothing: a second one waits for a batch's latents, has
them sorted where they are, and hands the runs to the index.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

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


class Feeder:
    """Encodes hidden states into an index, with one batch under way behind the one in hand."""

    def __init__(
        self,
        writer: IndexWriter,
        coder: SparseCoder,
        *,
        dtype: str = "float32",
        statistics: ActivationStatistics | None = None,
    ) -> None:
        """Nothing happens yet.

        Args:
            writer: the index.
            coder: encodes the states.
            dtype: what the encoder's operands are rounded to.
            statistics: counts the activations of every batch, where they are.
        """
        self._writer, self._coder, self._dtype = writer, coder, dtype
        self._statistics = statistics
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="glossator-index")
        self._pending: Future[None] | None = None

    def add(self, states: torch.Tensor, batch: Contexts, at: int) -> None:
        """Encode a batch, and begin to write it once the one before is written.

        Args:
            states: float[B, S, d].
            batch: its contexts.
            at: the number of the first of them.

        Raises:
            InputError: of this batch or, from writing it, the one before: see `SparseCoder.encode`
                and `IndexWriter.add`.
        """
        result, positions = _begin(self._coder, states, batch, self._dtype)
        self._settle()
        self._pending = self._pool.submit(self._write, result, positions, batch, at)

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

    def _write(
        self, result: Callable[[], Active], positions: torch.Tensor, batch: Contexts, at: int
    ) -> None:
        from glossator.encode import uses_triton

        active = result()
        if self._statistics is not None:
            self._statistics.add(active.latents, active.activations)
        text = batch.document_ids, batch.mask
        if uses_triton(positions.device):
            from glossator._kernels.sort_by_latent import sort_by_latent

            runs = sort_by_latent(
                active.latents.int(),
                active.activations,
                self._coder.n_latents,
                starts=active.starts,
            )
            starts, rows, activations = runs.to_host().wait()
            places = positions.cpu()[rows.long()]
            self._writer.add_sorted(batch.tokens, starts, places, activations, *text, context=at)
            return
        flat = positions[active.tokens()].cpu().numpy()
        contexts, offsets = np.divmod(flat, batch.tokens.shape[1])
        self._writer.add_coo(
            batch.tokens, contexts, offsets, active.latents, active.activations, *text, context=at
        )


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


def _begin(
    coder: SparseCoder, states: torch.Tensor, batch: Contexts, dtype: str
) -> tuple[Callable[[], Active], torch.Tensor]:
    import torch

    positions = torch.from_numpy(np.flatnonzero(batch.mask)).to(states.device)
    return coder.begin(states.flatten(0, 1)[positions], dtype=dtype), positions
