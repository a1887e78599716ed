"""The numbers of an atlas's header, each with what it is a share of.

    for fact in latent_facts(rows) + explainer_facts(rows, explainer):
        print(fact.value, fact.label, fact.detail)

A number without its denominator is not shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glossator.atlas.columns import PASSES, Explainer, LatentColumns

__all__ = ["Fact", "explainer_facts", "latent_facts"]


@dataclass(frozen=True)
class Fact:
    """One number of the header."""

    value: str
    """The number, as read."""
    label: str
    """What it counts."""
    detail: str
    """What it is a share of, or how many it is the mean of."""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def latent_facts(rows: LatentColumns) -> list[Fact]:
    """How many latents there are of each status: live, rare, dense and dead always."""
    L = len(rows.status)
    counted = [(name, int(rows.of(name).sum())) for name in rows.statuses]
    return [
        Fact(f"{n:,}", name, f"{_share(n, L)} of {L:,} latents")
        for i, (name, n) in enumerate(counted)
        if i < 4 or n
    ]


def explainer_facts(rows: LatentColumns, explainer: Explainer) -> list[Fact]:
    """How many latents an explainer explained, and how well."""
    L = len(rows.status)
    has = np.array([text is not None for text in explainer.text])
    live, n = int(rows.of("live").sum()), int(has.sum())
    n_live = int((has & rows.of("live")).sum())
    whole = f"{n_live:,} of {live:,} live latents" if live else f"of {L:,} latents"
    facts = [Fact(f"{n:,}", "explained", whole)]
    if explainer.source is not None:
        f1, low = explainer.metrics["f1"], explainer.metrics["low"]
        known = ~np.isnan(f1)
        mean = f"{f1[known].astype(np.float64).mean():.2f}" if known.any() else "–"
        how = "held-out corpus" if explainer.source == "corpus" else explainer.source
        facts.append(Fact(mean, "mean F1", f"over {int(known.sum()):,}, {how}"))
        passed = int((np.nan_to_num(low, nan=-1) > PASSES).sum())
        detail = f"{passed:,} of {n:,} explained"
        facts.append(Fact(_share(passed, n), f"F1 lower bound above {PASSES}", detail))
    for scorer in ("detection", "fuzzing"):
        values = explainer.metrics[scorer]
        known = ~np.isnan(values)
        if known.any():
            mean = f"{values[known].astype(np.float64).mean():.2f}"
            detail = f"balanced accuracy over {int(known.sum()):,}, chance 0.50"
            facts.append(Fact(mean, scorer, detail))
    return facts
