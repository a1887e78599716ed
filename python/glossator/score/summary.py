"""The latents' scores in one line: their mean, its interval, and whether it is above chance.

for line in summary(scores, {explanation_id: explainer}):
print(line)     # "rules, detection: mean balanced accuracy 0.71 (95 % 0.66 to 0.75) ..."
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from glossator.score.intervals import student_t

__all__ = ["CHANCE", "Summary", "summary"]

CHANCE = 0.5
"""Balanced accuracy of a judge that guesses."""
_DRAWS = 10_000
_FEWEST_FOR_BOOTSTRAP = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean balanced accuracy over the latents that one scorer judged."""

    group: str
    """Whose explanations: the explainer, where it was given."""
    scorer: str
    """`detection` or `fuzzing`."""
    value: float | None
    """The mean; None where no latent has a score."""
    low: float | None
    """Lower end of its 95 % interval over latents; None for fewer than two of them."""
    high: float | None
    """Upper end."""
    latents: int
    """Explanations with a score."""
    refused: int
    """Explanations without one: too few examples, or too many verdicts missing."""
    missing: int
    """Verdicts asked for and not obtained, in all."""

    @property
    def above_chance(self) -> bool | None:
        """Whether the interval lies above 0.5; None where there is no interval."""
        return None if self.low is None else self.low > CHANCE

    def __str__(self) -> str:
        name = ", ".join(part for part in (self.group, self.scorer) if part)
        rest = f"{self.refused:,} without a score, {self.missing:,} verdicts missing"
        if self.value is None:
            return f"{name}: no latent has a score; {rest}"
        text = f"{name}: mean balanced accuracy {self.value:.3f}"
        if self.low is None or self.high is None:
            return f"{text} of {self.latents:,} latent, no interval; {rest}"
        text += f" (95 % {self.low:.3f} to {self.high:.3f}) over {self.latents:,} latents"
        if self.low > CHANCE:
            verdict = "above chance"
        elif self.high < CHANCE:
            verdict = "below chance"
        else:
            verdict = f"not distinguishable from chance ({CHANCE})"
        return f"{text}, {verdict}; {rest}"


def summary(scores: pa.Table, groups: Mapping[str, str] | None = None) -> list[Summary]:
    """Mean balanced accuracy by group and scorer, with a bootstrap over latents.

    With fewer than ten latents a bootstrap is too narrow: Student's t takes its place.

    Args:
        scores: rows of the run's table `scores`; those of other metrics are passed over.
        groups: name of the group of each explanation, its explainer say; one group if None.
    """
    rows = [
        row
        for row in scores.to_pylist()
        if row["metric"] == "balanced_accuracy" and row["kind"] == "all" and row["decile"] == 0
    ]
    keyed: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        group = (groups or {}).get(row["explanation_id"], "")
        keyed.setdefault((group, row["scorer"]), []).append(row)
    lines = []
    for (group, scorer), members in sorted(keyed.items()):
        values = np.array([row["value"] for row in members if row["value"] is not None], float)
        low, high = _interval(values)
        lines.append(
            Summary(
                group=group,
                scorer=scorer,
                value=float(values.mean()) if len(values) else None,
                low=low,
                high=high,
                latents=len(values),
                refused=len(members) - len(values),
                missing=sum(int(str(row["n_missing"])) for row in members),
            )
        )
    return lines


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    n = len(values)
    # Of equal values there is no spread to make an interval of: it would claim certainty.
    if n < 2 or not np.ptp(values):
        return None, None
    if n < _FEWEST_FOR_BOOTSTRAP:
        half = float(student_t(n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
        mean = float(values.mean())
        return max(0.0, mean - half), min(1.0, mean + half)
    generator = np.random.default_rng(0)
    # In blocks: a million latents times ten thousand draws do not fit in memory.
    block = max(1, 2_000_000 // n)
    means = []
    for first in range(0, _DRAWS, block):
        picks = generator.integers(0, n, size=(min(block, _DRAWS - first), n))
        means.append(values[picks].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
