"""What scores are compared with: another latent's explanation, and a judge that always says yes.

    scores = with_null_values(scores, explanations)      # fills `null_value`
    for lift in lifts(scores, explanations):
        lift.difference.value, lift.difference.low
    always_yes("f1", firing_rate=0.01)

The null of an explainer are the explanations of explainer `null:<explainer>`: of other live latents
of the same hookpoint, judged on this latent's examples. Their figures are pooled. The other two
baselines are explanations and a run of their own: the commonest peak token as label (explainer
`peak_token`), and a coder with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from glossator.errors import InputError
from glossator.score.over_latents import difference_figure
from glossator.score.shares import Figure

__all__ = ["NULL", "Lift", "always_yes", "lifts", "with_null_values"]

NULL = "null:"
"""How the name of a null's explainer begins; what follows is the explainer's."""

_FIGURE = ("protocol_id", "scorer", "metric", "kind", "decile")


@dataclass(frozen=True, slots=True)
class Lift:
    """How much better the explanations of one explainer do than those of other latents."""

    hookpoint: str
    """Of the latents."""
    explainer: str
    """Whose explanations."""
    protocol_id: str
    """How they were scored."""
    scorer: str
    """By whom."""
    metric: str
    """Which figure."""
    value: float
    """Its mean over latents."""
    null_value: float
    """Its mean over latents with another's explanation."""
    difference: Figure
    """The first less the second, with a bootstrap over latents."""
    latents: int
    """Latents with the figure."""
    null_latents: int
    """Latents with that of another's explanation."""


def with_null_values(scores: pa.Table, explanations: pa.Table) -> pa.Table:
    """The scores with `null_value`: the mean of the same figure over the explainer's null.

    Rows of the null itself, of rules on the whole corpus, and those without a null keep theirs.

    Args:
        scores: rows of the run's table `scores`.
        explanations: columns `explanation_id`, `hookpoint` and `explainer` of the run's table.

    Raises:
        InputError: a score is of an explanation that is not there.
    """
    rows = scores.select([*_FIGURE, "explanation_id", "value", "null_value"]).to_pylist()
    who = _who(explanations)
    pooled: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        hookpoint, explainer = _of(who, row)
        if explainer.startswith(NULL) and row["value"] is not None:
            key = (hookpoint, explainer.removeprefix(NULL), *(row[name] for name in _FIGURE))
            pooled.setdefault(key, []).append(row["value"])
    means = {key: float(np.mean(values)) for key, values in pooled.items()}
    found = []
    for row in rows:
        key = (*_of(who, row), *(row[name] for name in _FIGURE))
        found.append(means.get(key, row["null_value"]))
    place = scores.column_names.index("null_value")
    field = scores.schema.field(place)
    return scores.set_column(place, field, pa.array(found, field.type))


def lifts(scores: pa.Table, explanations: pa.Table) -> list[Lift]:
    """The lift of each explainer with a null, by protocol, scorer and metric, over all latents.

    Args:
        scores: rows of the run's table `scores`.
        explanations: columns `explanation_id`, `hookpoint` and `explainer` of the run's table.

    Raises:
        InputError: a score is of an explanation that is not there.
    """
    who = _who(explanations)
    values: dict[tuple[str, str, str, str, str], list[float]] = {}
    for row in scores.select([*_FIGURE, "explanation_id", "value"]).to_pylist():
        if row["value"] is not None and row["kind"] == "all" and row["decile"] == 0:
            hookpoint, explainer = _of(who, row)
            key = (hookpoint, explainer, row["protocol_id"], row["scorer"], row["metric"])
            values.setdefault(key, []).append(row["value"])
    found = []
    for (hookpoint, explainer, protocol_id, scorer, metric), own in sorted(values.items()):
        others = values.get((hookpoint, NULL + explainer, protocol_id, scorer, metric))
        if others is None:
            continue
        one, other = np.array(own, np.float64), np.array(others, np.float64)
        found.append(
            Lift(
                hookpoint,
                explainer,
                protocol_id,
                scorer,
                metric,
                value=float(one.mean()),
                null_value=float(other.mean()),
                difference=difference_figure(one, other),
                latents=len(one),
                null_latents=len(other),
            )
        )
    return found


def always_yes(metric: str, *, firing_rate: float | None = None) -> float | None:
    """What a judge gets that says yes to everything; None where that depends on more.

    Args:
        metric: of yes or no.
        firing_rate: share of the windows in which the latent is active.
    """
    fixed = {"balanced_accuracy": 0.5, "auroc": 0.5, "recall": 1.0, "specificity": 0.0}
    if metric in fixed or firing_rate is None:
        return fixed.get(metric)
    rated = {
        "precision": firing_rate,
        "auprc": firing_rate,
        "f1": 2 * firing_rate / (1 + firing_rate),
    }
    return rated.get(metric)


def _who(explanations: pa.Table) -> dict[str, tuple[str, str]]:
    """Hookpoint and explainer of each explanation."""
    names = ("explanation_id", "hookpoint", "explainer")
    columns = [explanations[name].to_pylist() for name in names]
    return {key: (hookpoint, who) for key, hookpoint, who in zip(*columns, strict=True)}


def _of(who: Mapping[str, tuple[str, str]], row: Mapping[str, Any]) -> tuple[str, str]:
    try:
        return who[row["explanation_id"]]
    except KeyError as error:
        raise InputError(
            f"table `explanations`: `{error.args[0]}` is scored but not there"
        ) from error
