"""Figures from yes and no: what a judge's answers say of an explanation, with intervals.

    rows = scores_of(judged, explanation_id=..., protocol_id=..., scorer="detection")
    rows = scores_of(judged, ..., wild=Wild(firing_rate=0.001))     # precision and F1, too

Balanced accuracy is (mean of the deciles' recalls + specificity) / 2. Each part has Wilson's
interval on n ÷ design effect with Student's t on clusters − 1, the clusters being prompts, or
documents where each example stood in a prompt of its own, and the two are joined by MOVER (Newcombe
1998; Zou and Donner 2008). Verdicts that are missing count as missing: never as right, never as
wrong.

Where the negatives are of several kinds, the figures that depend on them are given for each kind,
too, beside those of `kind` all. Precision, F1 and AUPRC at a firing rate stand on negatives that
are fair draws: the harder kinds are not met as often in the wild as they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from glossator.records import Score
from glossator.score.intervals import wilson
from glossator.score.judged import Judged
from glossator.score.natural import Wild, natural, natural_auprc
from glossator.score.permutation import classification_p_value, ranking_p_value
from glossator.score.ranking import auroc_figure
from glossator.score.shares import Figure, joined, ratio_figure, share_figure

__all__ = ["recall_of", "scores_of", "specificity_of"]


def recall_of(judged: Judged) -> Figure:
    """Mean of the recalls of deciles or quintiles: each counts the same."""
    rows = judged.truth
    return share_figure(judged.answer[rows], judged.clusters[rows], judged.strata[rows])


def specificity_of(judged: Judged) -> Figure:
    """Share of the examples to be denied that were."""
    rows = ~judged.truth
    return share_figure(~judged.answer[rows], judged.clusters[rows])


def _sampled_precision(judged: Judged) -> Figure:
    return ratio_figure(judged.truth & judged.answer, judged.answer, judged.clusters, "yes")


def _sampled_recall(judged: Judged) -> Figure:
    return ratio_figure(judged.truth & judged.answer, judged.truth, judged.clusters, "examples")


def _sampled_f1(judged: Judged) -> Figure:
    both = 2 * (judged.truth & judged.answer)
    either = judged.truth.astype(np.int64) + judged.answer
    return ratio_figure(both, either, judged.clusters, "yes")


def _auroc(judged: Judged) -> Figure:
    unknown = _unknown(judged)
    if unknown is not None or judged.p_yes is None:
        return Figure(reason=unknown)
    return auroc_figure(judged.p_yes, judged.truth, judged.clusters)


def _unknown(judged: Judged) -> str | None:
    """Why nothing can be said that needs P(yes); None where it can."""
    if judged.p_yes is None or np.isnan(judged.p_yes).all():
        return "P(yes) is not known: the judge gave no log probabilities"
    lost = int(np.isnan(judged.p_yes).sum())
    return f"P(yes) of {lost} answers is not known" if lost else None


_METRICS: Mapping[str, Callable[[Judged], Figure]] = {
    "balanced_accuracy": lambda judged: joined(recall_of(judged), specificity_of(judged)),
    "recall": recall_of,
    "specificity": specificity_of,
    "accuracy": lambda judged: share_figure(judged.correct, judged.clusters),
    "sampled_precision": _sampled_precision,
    "sampled_recall": _sampled_recall,
    "sampled_f1": _sampled_f1,
    "auroc": _auroc,
}

_OF_NEGATIVES = (
    "balanced_accuracy",
    "specificity",
    "accuracy",
    "sampled_precision",
    "sampled_f1",
    "auroc",
)
"""The figures that depend on the negatives."""


def scores_of(
    judged: Judged,
    *,
    explanation_id: str,
    protocol_id: str,
    scorer: str,
    wild: Wild | None = None,
) -> list[Score]:
    """All figures of one explanation by one scorer.

    Those that depend on negatives are given for each kind of them, too, if there are several. Then
    precision, F1 and AUPRC at the firing rate are those against fair draws. Without P(yes) there
    are no rows of `auroc` and `auprc`.

    Args:
        judged: its verdicts.
        explanation_id: for the rows.
        protocol_id: for the rows.
        scorer: for the rows.
        wild: how windows are met. With it come precision, F1 and AUPRC at that rate; None leaves
            them out.
    """

    def row(
        metric: str,
        figure: Figure,
        part: Judged,
        *,
        kind: str = "all",
        p_value: float | None = None,
    ) -> Score:
        return Score(
            explanation_id=explanation_id,
            protocol_id=protocol_id,
            scorer=scorer,
            metric=metric,
            kind=kind,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            n=len(part.truth),
            n_positive=int(part.truth.sum()),
            n_negative=int((~part.truth).sum()),
            n_missing=part.n_missing,
            p_value=p_value,
            reason=figure.reason,
        )

    refusal = judged.refusal()
    seed = int(explanation_id[:15], 16) if _is_hex(explanation_id) else 0

    def figure_of(compute: Callable[[], Figure]) -> Figure:
        return Figure(reason=refusal) if refusal else compute()

    metrics = {
        metric: compute
        for metric, compute in _METRICS.items()
        if metric != "auroc" or _unknown(judged) is None
    }
    rows = []
    for metric, compute in metrics.items():
        figure = figure_of(partial(compute, judged))
        p_value = None if refusal else _p_value(metric, judged, seed)
        rows.append(row(metric, figure, judged, p_value=p_value))
    if wild is not None:
        fair = _fair(judged, wild)
        rows += [
            row(metric, figure, fair) for metric, figure in _natural(fair, refusal, wild, seed)
        ]
    for kind in judged.kinds if len(judged.kinds) > 1 else ():
        part = judged.against(kind)
        reason = part.refusal()
        for metric in _OF_NEGATIVES:
            if metric in metrics:
                figure = Figure(reason=reason) if reason else _METRICS[metric](part)
                p_value = None if reason else _p_value(metric, part, seed)
                rows.append(row(metric, figure, part, kind=kind, p_value=p_value))
    for metric, decile, figure, n, n_positive in _by_decile(judged):
        rows.append(
            Score(
                explanation_id=explanation_id,
                protocol_id=protocol_id,
                scorer=scorer,
                metric=metric,
                decile=decile,
                value=None if refusal else figure.value,
                low=None if refusal else figure.low,
                high=None if refusal else figure.high,
                n=n,
                n_positive=n_positive,
                n_negative=n - n_positive,
                reason=refusal,
            )
        )
    return rows


def _by_decile(judged: Judged) -> list[tuple[str, int, Figure, int, int]]:
    """Accuracy and recall of each decile with verdicts, and how many they stand on.

    A few verdicts of as many prompts: their design effect cannot be estimated.
    """
    found = []
    positive = np.bincount(judged.strata[judged.truth], minlength=11)
    for metric, chosen, right in (
        ("accuracy", judged.strata > 0, judged.correct),
        ("recall", judged.truth, judged.answer),
    ):
        n = np.bincount(judged.strata[chosen], minlength=11)
        k = np.bincount(judged.strata[chosen & right], minlength=11)
        low, high = wilson(k, n)
        for decile in np.flatnonzero(n).tolist():
            figure = Figure(float(k[decile] / n[decile]), float(low[decile]), float(high[decile]))
            found.append((metric, decile, figure, int(n[decile]), int(positive[decile])))
    return sorted(found, key=lambda row: (row[1], row[0]))


def _p_value(metric: str, judged: Judged, seed: int) -> float | None:
    if metric == "auroc" and judged.p_yes is not None:
        return ranking_p_value(judged.p_yes, judged.truth, seed=seed)
    if metric != "balanced_accuracy":
        return None
    alone = len(np.unique(judged.prompt)) == len(judged.prompt)
    return classification_p_value(
        judged.truth, judged.answer, judged.strata, exact=alone, seed=seed
    )


def _fair(judged: Judged, wild: Wild) -> Judged:
    """The activating examples, and the negatives that are fair draws."""
    if judged.stratum is None or len(wild.sizes) == 1:
        return judged.against("random", "")
    kinds = ("random", "peak_token")
    fair = judged.against(*kinds)
    assert fair.stratum is not None
    part = fair.where(fair.truth | (fair.stratum >= 0))
    lost = sum(n for kind, n in judged.missing_of.items() if kind not in kinds)
    return replace(part, n_missing=judged.n_missing - lost)


def _natural(fair: Judged, refusal: str | None, wild: Wild, seed: int) -> list[tuple[str, Figure]]:
    """Precision and F1 at the firing rate, and AUPRC where P(yes) is known."""
    stratum = None if len(wild.sizes) == 1 else fair.stratum
    precision = f1 = auprc = Figure(reason=refusal)
    unknown = _unknown(fair)
    if refusal is None:
        precision, f1 = natural(
            fair.truth, fair.answer, wild, seed=seed, stratum=stratum, clusters=fair.clusters
        )
        if unknown is None and fair.p_yes is not None:
            auprc = natural_auprc(fair.p_yes, fair.truth, wild, seed=seed, stratum=stratum)
    rows = [("precision", precision), ("f1", f1)]
    return rows if unknown is not None else [*rows, ("auprc", auprc)]


def _is_hex(text: str) -> bool:
    return len(text) >= 15 and all(character in "0123456789abcdef" for character in text)
