"""The columns of an atlas: one row per latent, the headline scores of each explainer.

    rows = latent_columns(latents, n_latents)
    known = explainers(explanations, scores, n_latents)
    known[0].metrics["f1"]

An explainer's F1, precision and recall come from the check on the whole corpus where it has one,
else from detection, else from fuzzing, never mixed within a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["METRICS", "PASSES", "Explainer", "LatentColumns", "explainers", "latent_columns"]

Array = npt.NDArray[Any]

PASSES = 0.8
"""An explanation passes where the lower bound of its F1 lies above this."""

METRICS = ("f1", "low", "high", "precision", "recall", "detection", "fuzzing")
"""Names of an explainer's columns; `low` and `high` are the F1's interval."""

_STATUS_ORDER = ("live", "rare", "dense", "dead")
_RATE_SCORERS = ("corpus", "detection", "fuzzing")
_JUDGE_SCORERS = ("detection", "fuzzing")


@dataclass(frozen=True)
class LatentColumns:
    """One entry per latent of the coder; a latent without a row has the status `unknown`."""

    statuses: list[str]
    """Names of statuses, the usual four first."""
    status: Array
    """uint8[L]: number of the status."""
    density: Array
    """float32[L]: share of tokens; NaN where unknown."""
    counts: dict[str, Array]
    """uint32[L] of `count`, `windows`, `windows_scoring` and `documents`."""
    reason: list[str | None]
    """Why a latent has its status."""
    type: list[str | None]
    """What triage says a latent is."""
    logits: dict[str, list[str | None]]
    """JSON of `top_logits` and `bottom_logits`."""

    def of(self, status: str) -> Array:
        """bool[L]: which latents have a status."""
        if status not in self.statuses:
            return np.zeros(len(self.status), bool)
        chosen: Array = self.status == self.statuses.index(status)
        return chosen


@dataclass(frozen=True)
class Explainer:
    """What one explainer says about each latent, and how that was scored."""

    name: str
    source: str | None
    """The scorer that its F1, precision and recall come from."""
    text: list[str | None]
    """One entry per latent."""
    explanation: list[str | None]
    """Id of that explanation: the one of highest F1 where there are several."""
    metrics: dict[str, Array] = field(default_factory=dict)
    """float32[L] for each of `METRICS`; NaN where there is no value."""


def _scatter(n: int, at: Array, values: Sequence[str | None]) -> list[str | None]:
    out: list[str | None] = [None] * n
    for i, value in zip(at.tolist(), values, strict=True):
        out[i] = value
    return out


def _numbers(column: pa.ChunkedArray, dtype: npt.DTypeLike, empty: float) -> Array:
    filled = pc.fill_null(column, pa.scalar(empty, column.type))
    return np.asarray(filled.to_numpy(zero_copy_only=False)).astype(dtype)


def latent_columns(latents: pa.Table, n_latents: int) -> LatentColumns:
    """Lay the table `latents` of one hookpoint out by id.

    Args:
        latents: the table, in any order.
        n_latents: size L of the dictionary.
    """
    at = _numbers(latents["latent"], np.int64, 0)
    named = latents["status"].to_pylist()
    others = sorted({name for name in named if name} - set(_STATUS_ORDER))
    statuses = [*_STATUS_ORDER, *others, "unknown"]
    number = {name: i for i, name in enumerate(statuses)}
    status = np.full(n_latents, number["unknown"], np.uint8)
    status[at] = [number[name or "unknown"] for name in named]
    density = np.full(n_latents, np.nan, np.float32)
    density[at] = _numbers(latents["density"], np.float32, np.nan)
    counts = {}
    for name in ("count", "windows", "windows_scoring", "documents"):
        column = np.zeros(n_latents, np.int64)
        column[at] = _numbers(latents[name], np.int64, 0)
        counts[name] = column.clip(0, 2**32 - 1).astype(np.uint32)
    return LatentColumns(
        statuses=statuses,
        status=status,
        density=density,
        counts=counts,
        reason=_scatter(n_latents, at, latents["reason"].to_pylist()),
        type=_scatter(n_latents, at, latents["type"].to_pylist()),
        logits={
            name: _scatter(n_latents, at, latents[name].to_pylist())
            for name in ("top_logits", "bottom_logits")
        },
    )


def _first(explanations: pa.Array, scores: pa.Table, scorer: str, metric: str) -> pa.Table:
    """The first score of each explanation over all deciles, beside the explanation's row.

    That of all kinds of negatives together goes before those of one kind.
    """
    chosen = scores.filter(
        pc.and_(
            pc.and_(pc.equal(scores["scorer"], scorer), pc.equal(scores["metric"], metric)),
            pc.equal(scores["decile"], 0),
        )
    )
    chosen = chosen.take(
        pa.array(np.argsort(pc.not_equal(chosen["kind"], "all").fill_null(True), kind="stable"))
    )
    row = pc.index_in(chosen["explanation_id"], value_set=explanations)
    chosen = chosen.append_column("row", row).filter(pc.is_valid(row))
    _, once = np.unique(_numbers(chosen["row"], np.int64, 0), return_index=True)
    return chosen.take(pa.array(once))


def _column(first: pa.Table, name: str, n: int) -> Array:
    out = np.full(n, np.nan, np.float32)
    out[_numbers(first["row"], np.int64, 0)] = _numbers(first[name], np.float32, np.nan)
    return out


def _metrics(ids: pa.Array, scores: pa.Table) -> tuple[str | None, dict[str, Array]]:
    """The scorer of the rates and the columns of `METRICS`, one entry per explanation."""
    n = len(ids)
    columns = {name: np.full(n, np.nan, np.float32) for name in METRICS}
    source = None
    for scorer in _RATE_SCORERS:
        rates = {name: _first(ids, scores, scorer, name) for name in ("f1", "precision", "recall")}
        if any(len(rate) for rate in rates.values()):
            source = scorer
            columns |= {name: _column(rate, "value", n) for name, rate in rates.items()}
            columns["low"] = _column(rates["f1"], "low", n)
            columns["high"] = _column(rates["f1"], "high", n)
            break
    for scorer in _JUDGE_SCORERS:
        columns[scorer] = _column(_first(ids, scores, scorer, "balanced_accuracy"), "value", n)
    return source, columns


def explainers(explanations: pa.Table, scores: pa.Table, n_latents: int) -> list[Explainer]:
    """Each explainer's text and headline scores by latent.

    Args:
        explanations: the table of one hookpoint.
        scores: the table of scores; those of other explanations are ignored.
        n_latents: size L of the dictionary.

    Returns:
        The explainers, the one with most explanations first, then by name.
    """
    counts: dict[str, int] = {}
    for name in explanations["explainer"].to_pylist():
        counts[name] = counts.get(name, 0) + 1
    out = []
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        mine = explanations.filter(pc.equal(explanations["explainer"], name))
        ids = mine["explanation_id"].combine_chunks()
        source, metrics = _metrics(ids, scores)
        latent = _numbers(mine["latent"], np.int64, 0)
        # Of several explanations of a latent the best F1 stands in the table, at a tie the first.
        best = np.lexsort((np.arange(len(latent)), -np.nan_to_num(metrics["f1"], nan=-1), latent))
        chosen = best[np.unique(latent[best], return_index=True)[1]]
        at, rows = latent[chosen], pa.array(chosen)
        spread = {key: np.full(n_latents, np.nan, np.float32) for key in METRICS}
        for key in METRICS:
            spread[key][at] = metrics[key][chosen]
        out.append(
            Explainer(
                name=name,
                source=source,
                text=_scatter(n_latents, at, mine["text"].take(rows).to_pylist()),
                explanation=_scatter(n_latents, at, ids.take(rows).to_pylist()),
                metrics=spread,
            )
        )
    return out
