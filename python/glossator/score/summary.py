"""The latents' scores in one line: their mean, its interval, its lift, and what is missing.

lines = summary(scores, {explanation_id: explainer}, latents=latents)
print(lines[0])     # "rules, detection: mean balanced accuracy 0.71 (95 % 0.66 to 0.75) ..."
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from glossator.score.nulls import NULL
from glossator.score.over_latents import difference_figure, mean_figure
from glossator.score.shares import Figure

__all__ = ["CHANCE", "GOOD", "MAIN", "Summary", "main_metric", "summary"]

CHANCE = 0.5
"""Balanced accuracy of a judge that guesses."""
GOOD = 0.05
"""A latent's score is called good where its q-value is no larger: of those called so, about this
share would be so by chance."""

MAIN = {
    "simulation": "correlation",
    "generation": "accuracy",
    "output": "accuracy",
    "intruder": "accuracy",
    "embedding": "auroc",
    "surprisal": "auroc",
}
"""What is reported of a scorer first, where it is not the balanced accuracy."""

_CHANCES = {"simulation": 0.0, "output": 0.2, "intruder": 0.2, "generation": None}
_STATUSES = ("live", "rare", "dense", "dead")


def main_metric(scorer: str) -> str:
    """What is reported of a scorer first."""
    return MAIN.get(scorer, "balanced_accuracy")


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean of a scorer's main figure over the latents that it judged."""

    group: str
    """Whose explanations: the explainer, where it was given."""
    scorer: str
    """`detection`, `fuzzing`, …"""
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
    metric: str = "balanced_accuracy"
    """Which figure."""
    chance: float | None = CHANCE
    """What a guess gets; None where that is not known."""
    null_value: float | None = None
    """Mean of the same with another latent's explanation; None without such."""
    null_latents: int = 0
    """Latents that it is of."""
    lift: Figure = field(default_factory=Figure)
    """The mean less that of the null, with a bootstrap over latents."""
    good: int | None = None
    """Scores called good; None where the figure has no p-value."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """How many latents there are of each status; empty where it was not given."""

    @property
    def above_chance(self) -> bool | None:
        """Whether the interval lies above chance, and the lift's, if there is one, above 0.

        None where there is no interval, or nothing to compare it with.
        """
        known = []
        if self.low is not None and self.chance is not None:
            known.append(self.low > self.chance)
        if self.lift.low is not None:
            known.append(self.lift.low > 0)
        return all(known) if known else None

    def __str__(self) -> str:
        name = ", ".join(part for part in (self.group, self.scorer) if part)
        parts = [self._mean(name), *self._null()]
        if self.good is not None and self.value is not None:
            called = f"{self.good:,} scores" if self.good else "no score"
            parts.append(f"{called} called good (q ≤ {GOOD})")
        if self.statuses:
            counts = [f"{self.statuses.get(name, 0):,} {name}" for name in _STATUSES]
            parts.append(f"of {sum(self.statuses.values()):,} latents {', '.join(counts)}")
        parts.append(f"{self.refused:,} without a score, {self.missing:,} verdicts missing")
        return "; ".join(parts)

    def _mean(self, name: str) -> str:
        if self.value is None:
            return f"{name}: no latent has a score"
        text = f"{name}: mean {self.metric.replace('_', ' ')} {self.value:.3f}"
        if self.low is None or self.high is None:
            several = "s" if self.latents > 1 else ""
            return f"{text} of {self.latents:,} latent{several}, no interval"
        text += f" (95 % {self.low:.3f} to {self.high:.3f}) over {self.latents:,} latents"
        if self.chance is None:
            return text
        if self.low > self.chance:
            verdict = "above chance"
        elif self.high < self.chance:
            verdict = "below chance"
        else:
            verdict = f"not distinguishable from chance ({self.chance:g})"
        return f"{text}, {verdict}"

    def _null(self) -> list[str]:
        if self.null_value is None or self.lift.value is None:
            return []
        text = (
            f"another latent's explanation {self.null_value:.3f} over {self.null_latents:,}, "
            f"lift {self.lift.value:+.3f}"
        )
        if self.lift.low is None or self.lift.high is None:
            return [text]
        text += f" (95 % {self.lift.low:+.3f} to {self.lift.high:+.3f})"
        return [text if self.lift.low > 0 else f"{text}, not above 0"]


def summary(
    scores: pa.Table,
    groups: Mapping[str, str] | None = None,
    *,
    latents: pa.Table | None = None,
) -> list[Summary]:
    """Mean of each scorer's main figure by group and scorer, with a bootstrap over latents.

    A group `null:<name>` has no line of its own: it is what group `<name>` is compared with. No
    score is called good where the mean is not above chance, or not above the null: then those that
    stand out do so by luck.

    Args:
        scores: rows of the run's table `scores`; those of other metrics are passed over.
        groups: name of the group of each explanation, its explainer say; one group if None.
        latents: column `status` of the run's table, for the denominators.
    """
    keyed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in scores.to_pylist():
        main = row["metric"] == main_metric(row["scorer"])
        if main and row["kind"] == "all" and row["decile"] == 0:
            group = (groups or {}).get(row["explanation_id"], "")
            keyed.setdefault((group, row["scorer"]), []).append(row)
    statuses = Counter(latents["status"].to_pylist()) if latents is not None else Counter[str]()
    return [
        _summary(group, scorer, members, keyed.get((NULL + group, scorer), []), statuses)
        for (group, scorer), members in sorted(keyed.items())
        if not (group.startswith(NULL) and (group.removeprefix(NULL), scorer) in keyed)
    ]


def _summary(
    group: str,
    scorer: str,
    members: Sequence[Mapping[str, Any]],
    nulls: Sequence[Mapping[str, Any]],
    statuses: Mapping[str, int],
) -> Summary:
    values, others = _values(members), _values(nulls)
    signed = main_metric(scorer) == "correlation"
    figure = mean_figure(values, (-1.0 if signed else 0.0, 1.0))
    line = Summary(
        group=group,
        scorer=scorer,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        latents=len(values),
        refused=len(members) - len(values),
        missing=sum(int(row["n_missing"]) for row in members),
        metric=main_metric(scorer),
        chance=_CHANCES.get(scorer, CHANCE),
        null_value=float(others.mean()) if len(others) else None,
        null_latents=len(others),
        lift=difference_figure(values, others) if len(others) else Figure(),
        statuses=statuses,
    )
    if all(row["p_value"] is None for row in members):
        return line
    passed = sum(row["q_value"] is not None and row["q_value"] <= GOOD for row in members)
    return replace(line, good=passed if line.above_chance is not False else 0)


def _values(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([row["value"] for row in rows if row["value"] is not None], np.float64)
