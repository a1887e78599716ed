"""The active latents of some tokens, and nothing of the others.

active = encoder.encode(x)
active.starts, active.latents, active.activations      # token by token
latents, activations = active.rows()                   # filled up to rows of one length
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from glossator._kernels.reference import NO_LATENT

__all__ = ["Active"]


@dataclass(frozen=True, eq=False)
class Active:
    """Sparse rows: the entries of token t stand at `starts[t]` to `starts[t + 1]`.

    Within a token by activation descending, equal ones by latent ascending.

    Attributes:
        starts: int64[N + 1].
        latents: int64[nnz].
        activations: float32[nnz], positive.
        fallback: tokens that the fast path left to a slower one, with the same result.
    """

    starts: torch.Tensor
    latents: torch.Tensor
    activations: torch.Tensor
    fallback: int = 0

    @staticmethod
    def of_rows(latents: torch.Tensor, activations: torch.Tensor, fallback: int = 0) -> Active:
        """From rows of one length, where an activation of 0 is none."""
        kept = activations > 0
        starts = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
        torch.cumsum(kept.sum(1), 0, out=starts[1:])
        return Active(starts, latents[kept].long(), activations[kept], fallback)

    def ordered(self) -> Active:
        """The same with each token's entries by activation descending, then latent ascending."""
        tokens = self.tokens()
        order = self.latents.argsort(stable=True)
        for values, descending in ((self.activations, True), (tokens, False)):
            order = order[values[order].argsort(stable=True, descending=descending)]
        return Active(self.starts, self.latents[order], self.activations[order], self.fallback)

    def tokens(self) -> torch.Tensor:
        """int64[nnz]: the token of each entry."""
        counts = self.starts.diff()
        return torch.repeat_interleave(
            torch.arange(len(counts), device=counts.device), counts, output_size=len(self.latents)
        )

    def rows(self, k: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of one length: latents int64[N, k] and activations float32[N, k].

        Args:
            k: their length; the longest row's if None. A shorter row is filled with latent
                0xFFFFFFFF and activation 0.
        """
        counts = self.starts.diff()
        width = k or (int(counts.max()) if len(counts) else 0)
        shape = (len(counts), width)
        latents = torch.full(shape, NO_LATENT, dtype=torch.int64, device=counts.device)
        activations = torch.zeros(shape, dtype=torch.float32, device=counts.device)
        live = torch.arange(width, device=counts.device) < counts[:, None]
        latents[live], activations[live] = self.latents, self.activations
        return latents, activations
