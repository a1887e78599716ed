"""Neighbours: detection against the hard negatives, by their kind and rank.

    scorer = NeighboursScorer(NeighboursOptions(per_stratum=5))
    scorer.requests(material, explanation, protocol_id)   # activating ones and the ladder's

The activating examples are those of detection; the silent ones are the other kinds of the ladder:
windows with the token beside a peak, windows near by meaning, windows of the latents that lie
nearest. With one example in a prompt the activating ones are asked about in the very words of
detection, so that a store of answers has them already. The method is that of the appendix of "Open
Source Automated Interpretability for Sparse Autoencoder Features" (Juang et al., 2024).
"""

from __future__ import annotations

from typing import ClassVar

from glossator.errors import InputError
from glossator.judges.base import Capabilities
from glossator.sampling import SamplingPlan
from glossator.score.detection import DetectionOptions, DetectionScorer

__all__ = ["LADDER", "NeighboursOptions", "NeighboursScorer"]

LADDER = frozenset({"near_token", "embedding", "decoder", "decoder_unfiltered"})
"""The kinds of negatives that are shown."""


class NeighboursOptions(DetectionOptions):
    """What it shows; as detection."""


class NeighboursScorer(DetectionScorer):
    """Asks whether an explained latent is active on a passage that is like those in which it is."""

    name = "neighbours"
    kinds: ClassVar[frozenset[str | None]] = frozenset(LADDER)

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan without hard negatives, too."""
        super().refuse(plan, capabilities)
        if not any(negative.kind in LADDER and negative.n for negative in plan.negatives):
            raise InputError(
                f"plan: no `negatives` are of kind {', '.join(sorted(LADDER))}; {self.name} shows "
                "such"
            )
