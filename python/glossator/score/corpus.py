"""Rules counted on every held-out document: precision, recall and F1 at the natural firing rate.

    scores = score_rules(index, explanations, protocol_id=protocol.protocol_id)
    mean_f1(scores).value
    share_above(scores, 0.8)           # latents whose lower bound of F1 passes 0.8

Nothing is drawn: a rule is run on every eligible window of the score side. A window is predicted
if the rule fires on any of its tokens, and active if the latent is. The same is counted per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glossator import _core
from glossator.index import Index
from glossator.progress import SILENT, Progress
from glossator.records import TABLES, Explanation
from glossator.score.intervals import MIN_DOCUMENTS, DocumentTotals, Interval, wilson

__all__ = ["SCORER", "Mean", "Share", "mean_f1", "score_rules", "share_above"]

SCORER = "corpus"
"""The scorer's name in the table of scores."""

# Rules between two steps of the progress bar, and between two looks for Ctrl-C.
_CHUNK = 256
_OUTCOMES = ("tp", "fp", "fn", "tn")
_TOTALS = tuple(field for field in DocumentTotals.__dataclass_fields__)

Columns = Mapping[str, npt.NDArray[Any]]


def score_rules(
    index: Index,
    explanations: Sequence[Explanation],
    *,
    protocol_id: str = "",
    seed: int = 0,
    progress: Progress = SILENT,
) -> pa.Table:
    """Check rules on the whole score side.

    For each explanation with a rule there are the metrics `precision`, `recall` and `f1` of
    windows, `recall` for each of the deciles 1 to 10, `token_precision`, `token_recall` and
    `token_f1`, and the counts `tp, fp, fn, tn, token_tp, token_fp, token_fn, token_tn`.

    Intervals (95 %) are those of `glossator.score.intervals`: draws are documents. Of a decile's
    windows there are no totals per document, so its recall takes Wilson's interval on its number
    of windows, reduced in the proportion in which clustering reduces that of recall as a whole.

    `null_value` is the same figure for the rule of another of the given latents, drawn by seed:
    what a rule that has nothing to do with the latent gets.

    Args:
        index: the activations; only its score side is counted.
        explanations: those without a rule are left out.
        protocol_id: goes into the table.
        seed: of the pairing with other latents' rules.
        progress: shows how many are done.

    Returns:
        Rows of the table `scores`. `n_positive` and `n_negative` are the eligible windows (for
        token metrics: tokens) in which the latent is active and silent; a decile has its own
        windows alone. `reason` says why there is no value, or why there is no lower bound.

    Raises:
        InputError: a latent is not in the index.
        CorruptIndexError: the index is damaged.
    """
    with_rules = [(one, one.rule) for one in explanations if one.rule is not None]
    if not with_rules:
        return TABLES["scores"].empty_table()
    latents = np.array([one.latent for one, _ in with_rules], np.uint32)
    rules = [rule.model_dump_json() for _, rule in with_rules]
    others = _derangement(latents, seed)
    with progress.stage(
        "check", total=2 * len(rules) if others else len(rules), unit="rules"
    ) as bar:
        checker = _core.RuleChecker(index._core)

        def check(texts: Sequence[str]) -> Columns:
            parts = []
            for first in range(0, len(texts), _CHUNK):
                span = slice(first, first + _CHUNK)
                parts.append(checker.check(latents[span], list(texts[span])))
                bar.advance(len(latents[span]))
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        counted = check(rules)
        null = check([rules[other] for other in others]) if others else None
    return _table([one.explanation_id for one, _ in with_rules], protocol_id, counted, null)


def _derangement(latents: npt.NDArray[np.uint32], seed: int) -> list[int]:
    """For each rule, the place of another latent's; empty where there is one latent only.

    The latents stand in a circle in the order of a seeded draw, and each takes the next one's rule.
    """
    first = dict(zip(latents[::-1].tolist(), range(len(latents) - 1, -1, -1), strict=True))
    circle = np.random.default_rng(seed).permutation(np.array(sorted(first), np.uint32))
    if len(circle) < 2:
        return []
    after = dict(zip(circle.tolist(), np.roll(circle, -1).tolist(), strict=True))
    return [first[after[latent]] for latent in latents.tolist()]


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric of all rules."""

    name: str
    decile: int
    interval: Interval
    positive: npt.NDArray[np.int64]
    negative: npt.NDArray[np.int64]
    reasons: list[str | None]


def _table(ids: list[str], protocol_id: str, counted: Columns, null: Columns | None) -> pa.Table:
    metrics = _metrics(counted)
    nulls: list[_Metric | None] = [*_metrics(null)] if null else [None] * len(metrics)
    rows = len(ids)
    parts = []
    for metric, other in zip(metrics, nulls, strict=True):
        missing = pa.nulls(rows, pa.float64())
        zero = np.zeros(rows, np.int64)
        parts.append(
            pa.table(
                {
                    "explanation_id": ids,
                    "protocol_id": pa.repeat(protocol_id, rows),
                    "scorer": pa.repeat(SCORER, rows),
                    "metric": pa.repeat(metric.name, rows),
                    "kind": pa.repeat("all", rows),
                    "decile": zero + metric.decile,
                    "value": _nullable(metric.interval.value),
                    "low": _nullable(metric.interval.low),
                    "high": _nullable(metric.interval.high),
                    "n": metric.positive + metric.negative,
                    "n_positive": metric.positive,
                    "n_negative": metric.negative,
                    "n_missing": zero,
                    "null_value": missing if other is None else _nullable(other.interval.value),
                    "p_value": missing,
                    "q_value": missing,
                    "reason": pa.array(metric.reasons, pa.string()),
                },
                schema=TABLES["scores"],
            )
        )
    table = pa.concat_tables(parts)
    # All the rows of one explanation together.
    order = np.arange(rows * len(metrics)).reshape(len(metrics), rows).T.ravel()
    return table.take(pa.array(order)).combine_chunks()


def _nullable(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _metrics(counted: Columns) -> list[_Metric]:
    return [
        *_ratios(counted, "window", ""),
        *_deciles(counted),
        *_ratios(counted, "token", "token_"),
        *_counts(counted, "window", ""),
        *_counts(counted, "token", "token_"),
    ]


def _sizes(counted: Columns, unit: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    tp, fp, fn, tn = (counted[f"{unit}_{name}"].astype(np.int64) for name in _OUTCOMES)
    return tp + fn, fp + tn


def _totals(counted: Columns, unit: str) -> DocumentTotals:
    return DocumentTotals(
        **{name: counted[f"{unit}_{name}"].astype(np.float64) for name in _TOTALS}
    )


def _ratios(counted: Columns, unit: str, prefix: str) -> list[_Metric]:
    totals = _totals(counted, unit)
    positive, negative = _sizes(counted, unit)
    silent, still = positive == 0, totals.tp + totals.fp == 0
    of = {"precision": totals.precision(), "recall": totals.recall(), "f1": totals.f1()}
    metrics = []
    for name, interval in of.items():
        if name == "f1":
            # 0/fp is a number, but no F1: there was nothing to find.
            interval = _without(interval, silent)
        reasons = [
            _reason(name, *row)
            for row in zip(
                np.isnan(interval.value),
                silent,
                still,
                totals.documents_actual.astype(int).tolist(),
                np.isnan(interval.low),
                strict=True,
            )
        ]
        metrics.append(_Metric(prefix + name, 0, interval, positive, negative, reasons))
    return metrics


def _without(interval: Interval, where: npt.NDArray[np.bool_]) -> Interval:
    value, low, high, effective = (
        np.where(where, np.nan, getattr(interval, name))
        for name in ("value", "low", "high", "effective")
    )
    return Interval(value, low, high, effective)


def _reason(
    name: str, undefined: bool, silent: bool, still: bool, documents: int, unbounded: bool
) -> str | None:
    if undefined:
        if silent and name != "precision":
            return "the latent is active in no eligible window of the score side"
        return "the rule fires in no eligible window of the score side" if still else "0/0"
    if not unbounded:
        return None
    if documents < MIN_DOCUMENTS:
        return (
            f"no lower bound: the latent is active in {documents} documents of the score side, "
            f"fewer than {MIN_DOCUMENTS}"
        )
    return "no interval: the rule fires in one document of the score side"


def _deciles(counted: Columns) -> list[_Metric]:
    windows = counted["decile_windows"].astype(np.int64)
    hits = counted["decile_hits"].astype(np.float64)
    totals = _totals(counted, "window")
    recall = totals.recall()
    documents = totals.documents_actual.astype(int).tolist()
    with np.errstate(divide="ignore", invalid="ignore"):
        worth = np.minimum(recall.effective / (totals.tp + totals.fn), 1.0)
        metrics = []
        for decile in range(1, 11):
            n = windows[:, decile - 1]
            value = np.where(n > 0, hits[:, decile - 1] / n, np.nan)
            draws = np.asarray(n * worth, np.float64)
            low, high = wilson(value * draws, draws)
            low = np.where(totals.documents_actual >= MIN_DOCUMENTS, low, np.nan)
            reasons: list[str | None] = [
                "the latent is active in no eligible window of this decile"
                if not size
                else _reason("recall", False, False, False, found, bool(unbounded))
                for size, found, unbounded in zip(n.tolist(), documents, np.isnan(low), strict=True)
            ]
            interval = Interval(value, low, high, draws)
            metrics.append(_Metric("recall", decile, interval, n, np.zeros_like(n), reasons))
    return metrics


def _counts(counted: Columns, unit: str, prefix: str) -> list[_Metric]:
    positive, negative = _sizes(counted, unit)
    none = np.full(len(positive), np.nan)
    reasons: list[str | None] = [None] * len(positive)
    return [
        _Metric(
            prefix + name,
            0,
            Interval(counted[f"{unit}_{name}"].astype(np.float64), none, none, none),
            positive,
            negative,
            reasons,
        )
        for name in _OUTCOMES
    ]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over explanations."""

    value: float | None
    """The mean; None of nothing."""
    null_value: float | None
    """The mean of the same figure for other latents' rules."""
    n: int
    """Explanations that have the figure."""
    total: int
    """Explanations scored."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of explanations."""

    above: int
    """Explanations whose lower bound passes."""
    bounded: int
    """Explanations that have a lower bound."""
    total: int
    """Explanations scored: the share is of these, so that what has no bound does not pass."""

    @property
    def value(self) -> float | None:
        """`above / total`; None of nothing."""
        return self.above / self.total if self.total else None


def _of(scores: pa.Table, metric: str) -> pa.Table:
    chosen = pc.and_(pc.equal(scores["scorer"], SCORER), pc.equal(scores["metric"], metric))
    return scores.filter(pc.and_(chosen, pc.equal(scores["decile"], 0)))


def mean_f1(scores: pa.Table, metric: str = "f1") -> Mean:
    """The mean of a figure over the rules of a table of scores."""
    rows = _of(scores, metric)
    return Mean(
        value=pc.mean(rows["value"]).as_py(),
        null_value=pc.mean(rows["null_value"]).as_py(),
        n=rows.num_rows - rows["value"].null_count,
        total=rows.num_rows,
    )


def share_above(scores: pa.Table, bar: float = 0.8, metric: str = "f1") -> Share:
    """How many rules have a figure whose lower bound passes `bar`."""
    rows = _of(scores, metric)
    low = rows["low"]
    return Share(
        above=pc.sum(pc.greater(low, bar)).as_py() or 0,
        bounded=rows.num_rows - low.null_count,
        total=rows.num_rows,
    )
