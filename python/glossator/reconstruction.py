"""What does a coder make of some hidden states, and are these varied enough to say so?

    seen = measured(coder, x, target)
    seen.unexplained, seen.l0
    distinct_states(x, most=24)         # 3 where two words are repeated
    activation_factor(coder, x, target) # 0.5 where the decoder is twice too large

Memory is bounded, whatever the coder's size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from glossator.records import Record

if TYPE_CHECKING:
    import torch

    from glossator.coders import SparseCoder

__all__ = ["Figures", "activation_factor", "distinct_states", "measured", "ordinary", "spread"]

_OUTLYING = 4.0
"""Times the median norm: rows beyond it are attention sinks, whose variance drowns the others'."""
_CHUNK_ELEMENTS = 1 << 23
"""Pre-activations held at once (32 MiB of float32)."""
_DECODED = 1 << 32
"""Multiply-adds of one decoding: where half the latents are active, a few rows say it all."""
_FITTED_ROWS = 64
"""Rows from which one factor is taken: 64 · d numbers."""


class Figures(Record):
    """What a coder does to some hidden states."""

    rows: int
    """Hidden states looked at."""
    unexplained: float | None
    """Σ‖y − ŷ‖² / Σ‖y − mean(y)‖²; None where it says nothing: for states that are all the same,
    and for a coder that shares the description of a layer with other layers' coders."""
    written: float | None
    """Σ‖ŷ − mean(ŷ)‖² / Σ‖y − mean(y)‖²; None for states that are all the same."""
    l0: float
    """Mean number of active latents."""
    density: float
    """L0 as a share of all latents."""
    dead: float
    """Share of latents active on none of the rows: high where rows are few."""


def measured(coder: SparseCoder, x: torch.Tensor, target: torch.Tensor) -> Figures:
    """Encode and decode some rows.

    Args:
        coder: reads `x`.
        x: float[N, d].
        target: float[N, d_out]: what it describes.
    """
    import torch

    error = variance = 0.0
    active = torch.zeros(coder.n_latents, dtype=torch.int64, device=x.device)
    mean = target.float().mean(0)
    total, squares, decoded = torch.zeros_like(mean, dtype=torch.float64), 0.0, 0
    room = max(_DECODED // coder.width_out, coder.n_latents)
    step = max(_CHUNK_ELEMENTS // coder.n_latents, 1)
    for some in (slice(begin, begin + step) for begin in range(0, len(x), step)):
        found = coder.active(x[some])
        active += torch.bincount(found.latents, minlength=coder.n_latents)
        fit = int((found.starts[1:] <= room).sum())
        room -= int(found.starts[fit])
        if not fit:
            continue
        longest = max(int(found.starts.diff().max()), 1)
        latents, activations = (part[:fit] for part in found.rows(longest))
        wanted = target[some][:fit].float()
        guess = coder.decode(latents, activations, x[some][:fit])
        error += float((wanted - guess).square().sum(dtype=torch.float64))
        variance += float((wanted - mean).square().sum(dtype=torch.float64))
        total += guess.sum(0, dtype=torch.float64)
        squares += float(guess.square().sum(dtype=torch.float64))
        decoded += fit
    own = squares - float(total.square().sum()) / max(decoded, 1)
    return Figures(
        rows=len(x),
        unexplained=None if _shares(coder) or not variance else error / variance,
        written=own / variance if variance else None,
        l0=float(active.sum()) / len(x),
        density=float(active.sum()) / len(x) / coder.n_latents,
        dead=float((active == 0).float().mean()),
    )


def _shares(coder: SparseCoder) -> bool:
    """Whether other layers' coders describe the same output with it."""
    return len(coder.decoders) > 1


def activation_factor(coder: SparseCoder, x: torch.Tensor, target: torch.Tensor) -> float | None:
    """The factor on all activations that leaves least unexplained, by least squares.

    Args:
        coder: reads `x`.
        x: float[N, d]; 64 of the rows are used.
        target: float[N, d_out].

    Returns:
        None where there is none above zero, or the coder is not the only one to describe `target`.
    """
    import torch

    if _shares(coder):
        return None
    at = spread(torch.arange(len(x)), _FITTED_ROWS)
    given, wanted = x[at], target[at].float()
    step = max(_CHUNK_ELEMENTS // coder.n_latents, 1)
    along = length = 0.0
    for some in (slice(begin, begin + step) for begin in range(0, len(at), step)):
        latents, activations = coder.active(given[some]).rows()
        guess = coder.decode(latents, activations, given[some])
        rest = coder.decode(latents[:, :1], torch.zeros_like(activations[:, :1]), given[some])
        along += float(((guess - rest) * (wanted[some] - rest)).sum(dtype=torch.float64))
        length += float((guess - rest).square().sum(dtype=torch.float64))
    factor = along / length if length else 0.0
    return factor if factor > 0 and math.isfinite(factor) else None


def distinct_states(rows: torch.Tensor, share: float = 0.05, most: int = 24) -> int:
    """How few of the rows can stand for all the others: the least number, found greedily.

    Of text some hundred in 512, of two words repeated three: what differs within them is little,
    and a coder's figures on it are those of those few states.

    Args:
        rows: float[N, d].
        share: of the variance about the mean that may be left.
        most: where the search ends.

    Returns:
        1 to `most`.
    """
    import torch

    states = rows.float()
    states = states - states.mean(0)
    left = share * float(states.square().sum())
    apart = torch.cdist(states, states).square()
    nearest = apart[apart.sum(1).argmin()]
    count = 1
    while count < most and float(nearest.sum()) > left:
        nearer = torch.minimum(nearest, apart)
        nearest = nearer[nearer.sum(1).argmin()]
        count += 1
    return count


def ordinary(rows: torch.Tensor) -> torch.Tensor:
    """bool[N] on the CPU: of an ordinary norm."""
    norms = rows.float().norm(dim=1)
    usual: torch.Tensor = norms <= _OUTLYING * norms.median()
    return usual.cpu()


def spread(at: torch.Tensor, most: int) -> torch.Tensor:
    """As many of `at` as asked for, evenly spread; all where there are fewer."""
    import torch

    return at if len(at) <= most else at[len(at) * torch.arange(most) // most]
