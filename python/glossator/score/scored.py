"""What a scoring gives, and what of an earlier one still holds.

skip = settled(stored_verdicts)       # prompts that need not be asked again
rates = firing_rates(index, explanations)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from glossator.index import Index
from glossator.judges.base import TRANSIENT
from glossator.records import Explanation, LedgerEntry, Protocol

__all__ = ["Scored", "firing_rates", "settled"]


@dataclass(frozen=True, slots=True)
class Scored:
    """Verdicts and what they amount to."""

    verdicts: pa.Table
    """The run's table `verdicts`: those of this call and those that were `stored`."""
    scores: pa.Table
    """The run's table `scores`."""
    examples: pa.Table
    """The run's table `examples`: what was drawn for the scorers."""
    protocol: Protocol
    """How it was asked."""
    usage: tuple[LedgerEntry, ...]
    """Requests, tokens and seconds of this call, one line a scorer."""
    shortfalls: pa.Table
    """Latents with fewer examples than planned: latent, what (`score`: activating windows, a kind
    of negatives, or `wrong marks`: windows with enough silent tokens), wanted, found."""

    @property
    def missing(self) -> int:
        """Verdicts asked for and not obtained."""
        return int(self.verdicts["answer"].null_count)


def settled(verdicts: pa.Table) -> set[str]:
    """Ids of the prompts that need not be asked again.

    A prompt is settled if it was answered, or failed by the model's fault, which at temperature 0
    would be the same again; one that failed by the server's fault is not.
    """
    failed = {
        prompt
        for prompt, failure in zip(
            verdicts["prompt_id"].to_pylist(), verdicts["failure"].to_pylist(), strict=True
        )
        if failure is not None and failure.split(":")[0] in TRANSIENT
    }
    return set(verdicts["prompt_id"].to_pylist()) - failed


def firing_rates(index: Index, explanations: Sequence[Explanation]) -> dict[str, float]:
    """For each explanation the share of the scorer's windows in which its latent is active."""
    scoring = int(np.count_nonzero(index.eligible() & (index.sides() == 1)))
    active = index.summary()["windows_scoring"]
    return {
        explanation.explanation_id: int(active[explanation.latent]) / max(scoring, 1)
        for explanation in explanations
    }
