"""The activations of a batch by latent, as the index takes them.

    runs = sort_by_latent(latents, activations, n_latents)    # [N, k], or CSR with starts=
    runs = runs.to_host()                                     # pinned; does not wait
    writer.add_sorted(tokens, *runs.wait(), document_ids)

The order comes from torch's stable radix sort, of 16-bit keys where the dictionary allows it; one
kernel then writes positions and activations. On a GPU nothing waits for the device.
"""
# ruff: noqa: ANN001, ANN201 - a kernel is typed where it is compiled

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from glossator.errors import InputError

__all__ = ["SortedRuns", "place_kernel", "sort_by_latent"]

_BLOCK = 1_024
_SHORT = 2**16 - 1
"""Latents whose keys, the one of what is left out included, are 16 bits."""


@dataclass
class SortedRuns:
    """Entries by latent, then by row: latent l has those from `starts[l]` to `starts[l + 1]`."""

    starts: torch.Tensor
    """int64[L + 1]."""
    positions: torch.Tensor
    """int32[n], rows of the batch, ascending within a latent; n at least `starts[L]`."""
    activations: torch.Tensor
    """[n], of the type asked."""
    _copied: torch.cuda.Event | None = None

    def to_host(self, into: SortedRuns | None = None) -> SortedRuns:
        """A copy in pinned memory, under way when this returns; `wait` waits for it.

        Args:
            into: an earlier copy of no fewer entries and as many latents, whose memory is used.
        """
        if not self.starts.is_cuda:
            return self
        copies = []
        for name in ("starts", "positions", "activations"):
            source = getattr(self, name)
            held = None if into is None else getattr(into, name)
            if held is None or held.dtype != source.dtype or len(held) < len(source):
                held = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            held[: len(source)].copy_(source, non_blocking=True)
            copies.append(held)
        event = torch.cuda.Event()
        event.record()
        return SortedRuns(copies[0], copies[1], copies[2], event)

    def wait(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Starts, positions and activations, each exactly as long as it is."""
        if self._copied is not None:
            self._copied.synchronize()
        n = int(self.starts[-1])
        return self.starts, self.positions[:n], self.activations[:n]


@triton.jit
def place_kernel(
    order_ptr,
    activations_ptr,
    rows_ptr,
    positions_ptr,
    out_ptr,
    n,
    k,
    CSR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where each entry of the sorted order comes from, and what it holds."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    source = tl.load(order_ptr + at, mask=mask, other=0)
    row = tl.load(rows_ptr + source, mask=mask, other=0) if CSR else source // k
    tl.store(positions_ptr + at, row.to(tl.int32), mask=mask)
    tl.store(out_ptr + at, tl.load(activations_ptr + source, mask=mask, other=0.0), mask=mask)


def sort_by_latent(
    latents: torch.Tensor,
    activations: torch.Tensor,
    n_latents: int,
    *,
    starts: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> SortedRuns:
    """Sort the activations of a batch by latent, then by row.

    Entries without a latent in the dictionary (-1), or whose activation is not positive, are left
    out.

    Args:
        latents: int32[N, k], or int32[n] with `starts`.
        activations: float of the same shape.
        n_latents: L.
        starts: int64[N + 1] where the entries of each row begin.
        dtype: of the activations returned: float32 or bfloat16.

    Raises:
        InputError: shapes or devices disagree.
    """
    if latents.shape != activations.shape or latents.ndim != (2 if starts is None else 1):
        raise InputError(
            f"`latents` has shape {list(latents.shape)} and `activations` "
            f"{list(activations.shape)}; both must be [N, k], or [n] with `starts`"
        )
    if latents.device != activations.device:
        raise InputError(
            f"`latents` is on {latents.device} and `activations` on {activations.device}"
        )
    k = 1 if starts is not None else max(latents.shape[1], 1)
    latents, activations = latents.reshape(-1), activations.reshape(-1).contiguous()
    n, device = len(latents), latents.device
    kept = (latents >= 0) & (latents < n_latents) & (activations > 0)
    kind, lowest = (torch.int16, -(2**15)) if n_latents <= _SHORT else (torch.int32, 0)
    keys = (torch.where(kept, latents, n_latents) + lowest).to(kind)
    ordered, order = keys.sort(stable=True)
    edges = (torch.arange(n_latents + 1, device=device, dtype=torch.int32) + lowest).to(kind)
    begins = torch.searchsorted(ordered, edges)
    positions = torch.empty(n, dtype=torch.int32, device=device)
    out = torch.empty(n, dtype=dtype, device=device)
    rows = order
    if starts is not None:
        places = torch.arange(n, device=device)
        rows = torch.searchsorted(starts, places, right=True) - 1
    values = activations.to(dtype)
    if n:
        place_kernel[(triton.cdiv(n, _BLOCK),)](
            order, values, rows, positions, out, n, k, CSR=starts is not None, BLOCK=_BLOCK
        )
    return SortedRuns(begins, positions, out)
