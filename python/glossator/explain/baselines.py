"""Explanations that nobody thought about: what a score is worth shows beside theirs.

PeakToken().steps(view)              # the commonest peak token as label
null_explanations(explanations, latents=1_000, seed=0)     # another latent's text
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import ClassVar

from pydantic import Field

from glossator.explain.explainers import Explainer, Steps, Told
from glossator.explain.views import View, Wants
from glossator.records import Explanation, content_id
from glossator.sampling import ExplainPlan, SamplingPlan

__all__ = ["Nothing", "Null", "PeakToken", "null_explanations"]

_SIGN_OF = str.maketrans({" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥"})


class PeakToken(Explainer):
    """The commonest token of its peaks as the label: what naming a token alone is worth."""

    label: ClassVar[str] = "peak_token"

    n: int = Field(default=200, ge=1, lt=2**32)
    """Windows of the explain side whose peaks are counted, each equally likely."""

    def wants(self, plan: SamplingPlan | None) -> Wants:
        """Uniform windows, whatever the plan: their peaks are counted, nothing is shown."""
        return Wants(SamplingPlan(explain=ExplainPlan(n=self.n), per_decile=0, negatives=()))

    def steps(self, view: View) -> Steps:
        """Count, without asking."""
        yield from ()
        counted: Counter[str] = Counter()
        for passage in view.passages:
            head = passage.shown.heads[passage.peak]
            counted[passage.shown.pieces[head]] += 1
        most = max(counted.values())
        text = min(text for text, n in counted.items() if n == most)
        return Told(f"the token “{text.translate(_SIGN_OF)}”")


class Nothing(Explainer):
    """An empty text: for scorers that need no explanation."""

    label: ClassVar[str] = "none"


class Null(Explainer):
    """Another latent's explanation: what a score is worth that stands on no knowledge."""

    label: ClassVar[str] = "null"

    latents: int = Field(default=1_000, ge=1)
    """How many latents get one, drawn by seed."""


def null_explanations(
    explanations: Iterable[Explanation], *, latents: int = 1_000, seed: int = 0
) -> list[Explanation]:
    """For some latents the text of another one's explanation, as explainer `null:<explainer>`.

    Within each hookpoint and explainer the latents stand in a ring, in an order that depends on
    seed and latent alone; the first `latents` of it get the text of the next one along that says
    something else. So further explanations change few of those that were given.

    Args:
        explanations: of live latents; those that are nulls themselves, or empty, are left out.
        latents: how many of each hookpoint and explainer get one.
        seed: of the order.

    Returns:
        By hookpoint, explainer and latent; none where all explanations are the same.
    """
    groups: dict[tuple[str, str], dict[int, Explanation]] = defaultdict(dict)
    for explanation in explanations:
        if explanation.text and not explanation.explainer.startswith(f"{Null.label}:"):
            key = (explanation.hookpoint, explanation.explainer)
            groups[key].setdefault(explanation.latent, explanation)
    found = []
    for (hookpoint, explainer), by_latent in sorted(groups.items()):
        ring = sorted(by_latent, key=lambda one: content_id("ring", seed, hookpoint, one))
        texts = [by_latent[latent].text for latent in ring]
        if len(set(texts)) < 2:
            continue
        given = []
        for place, latent in enumerate(ring[:latents]):
            others = (texts[(place + step) % len(ring)] for step in range(1, len(ring)))
            text = next(other for other in others if other != texts[place])
            given.append(Explanation.of(hookpoint, latent, f"{Null.label}:{explainer}", text))
        found += sorted(given, key=lambda one: one.latent)
    return found
