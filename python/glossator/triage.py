"""Which latents can be explained at all: live, dead, rare or dense, with the reason in words.

    kinds = triage(index)
    kinds["status"][17], kinds["reason"][17]
    live = np.flatnonzero(kinds["status"] == "live")

Nothing of the subject model is needed: an index counts every activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from glossator.errors import InputError
from glossator.index import Index

__all__ = ["STATUSES", "triage"]

STATUSES = ("live", "rare", "dense", "dead")
"""What a latent can be."""


def triage(
    index: Index,
    *,
    min_windows: int = 50,
    min_documents: int = 20,
    dense: float = 0.10,
    summary: Mapping[str, npt.NDArray[Any]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Set apart what cannot be explained or scored.

    A latent is `dead` if it is active nowhere in this corpus (another corpus, or longer contexts,
    may wake it); `dense` if it is active on more than a share `dense` of all tokens; `rare` if
    either side has fewer activating windows or documents than the plan needs; else `live`.

    Args:
        index: the activations.
        min_windows: activating windows that each side needs; of the score side, eligible ones. The
            default is what the default plan draws.
        min_documents: documents that each side needs the latent to be active in. With fewer than
            the default no lower bound is claimed.
        dense: share of tokens from which on a latent is dense.
        summary: what `index.summary()` gives, where it is there already.

    Returns:
        Columns over latents [L]: `latent`, `count` (activations), `windows`, `windows_scoring`
        (eligible ones of the score side), `documents` (uint64), `density` (share of unmasked
        tokens, float64), `status` and `reason` (str; the reason of a live latent is empty).

    Raises:
        InputError: a bound is negative.
    """
    bounds = {"min_windows": min_windows, "min_documents": min_documents, "dense": dense}
    for name, bound in bounds.items():
        if bound < 0:
            raise InputError(f"`{name}` is {bound}; it must not be negative")
    if summary is None:
        summary = index.summary()
    tokens = max(index.n_tokens, 1)
    density = summary["count"] / tokens
    columns: dict[str, npt.NDArray[Any]] = {"latent": np.arange(index.n_latents)}
    columns |= {
        name: summary[name] for name in ("count", "windows", "windows_scoring", "documents")
    }
    sides = (
        ("explain", "windows", summary["windows_explain"], min_windows),
        ("score", "eligible windows", summary["windows_scoring"], min_windows),
        ("explain", "documents", summary["documents_explain"], min_documents),
        ("score", "documents", summary["documents_scoring"], min_documents),
    )
    status = np.full(len(density), "live", dtype=object)
    reason = np.full(len(density), "", dtype=object)
    # From the weakest claim to the strongest: a later one takes the place of an earlier one.
    for side, what, found, needed in reversed(sides):
        for latent in np.flatnonzero(found < needed):
            status[latent] = "rare"
            reason[latent] = (
                f"active in {found[latent]:,} {what} of the {side} side; the plan needs {needed:,}"
            )
    for latent in np.flatnonzero(density > dense):
        status[latent] = "dense"
        reason[latent] = f"active on {density[latent]:.1%} of tokens, more than {dense:.0%}"
    for latent in np.flatnonzero(summary["count"] == 0):
        status[latent] = "dead"
        reason[latent] = f"not active on any of this corpus's {index.n_tokens:,} tokens"
    return {**columns, "density": density, "status": status, "reason": reason}
