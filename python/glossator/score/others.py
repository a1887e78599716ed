"""What the verdicts of the scorers amount to that do not ask for yes or no.

    rows = scores_of_others(verdicts, examples)    # of all explanations, protocols and scorers
    group = Group(explanation_id, protocol_id, "output", some_verdicts, some_examples)
    rows = OTHERS[group.scorer](group)             # of one

Verdicts that are missing count as missing, never as wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glossator.errors import InputError
from glossator.records import Score
from glossator.score.agreement import simulation_figures
from glossator.score.intervals import student_t
from glossator.score.judged import MAX_MISSING
from glossator.score.lettered import LETTERS
from glossator.score.output import output_p_value
from glossator.score.permutation import ranking_p_value
from glossator.score.ranking import auroc_figure
from glossator.score.shares import Figure, share_figure

__all__ = ["FEWEST", "OTHERS", "Group", "scores_of_others"]

FEWEST = {"simulation": 10, "generation": 5, "output": 3, "intruder": 5}
"""With fewer answered windows, texts or questions there is no score."""

_OF_NO_WINDOW = ("output", "generation")
_COLUMNS = [
    *("explanation_id", "protocol_id", "scorer", "example_id", "prompt_id", "slot"),
    *("truth", "answer", "value", "failure"),
]
_FEWEST_OF = {True: 20, False: 10}
"""Activating and silent windows of an AUROC."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The verdicts of one explanation, protocol and scorer."""

    explanation_id: str
    """What was judged."""
    protocol_id: str
    """How."""
    scorer: str
    """By whom."""
    verdicts: Sequence[Mapping[str, Any]]
    """Rows of the table `verdicts`."""
    examples: Mapping[str, Mapping[str, Any]]
    """Rows of the table `examples`, by id."""

    @property
    def answered(self) -> list[Mapping[str, Any]]:
        """The verdicts that are not missing."""
        return [row for row in self.verdicts if row["failure"] is None]

    def documents(self, rows: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.int64]:
        """A number for each verdict's document; a window of none stands for itself."""
        found = [self.examples[row["example_id"]].get("document") for row in rows]
        names = [f"w{at}" if name is None else f"d{name}" for at, name in enumerate(found)]
        codes: npt.NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
        return codes

    def refusal(self, unit: str, answered: int, asked: int, fewest: int = 0) -> str | None:
        """Why there is no score; None where there is one."""
        fewest = fewest or FEWEST[self.scorer]
        lost = asked - answered
        if lost > MAX_MISSING * asked:
            reasons = {row["failure"] for row in self.verdicts if row["failure"] is not None}
            why = f" ({reasons.pop()})" if len(reasons) == 1 else ""
            return f"{lost} of {asked} {unit} are missing, more than {MAX_MISSING:.0%}{why}"
        if answered < fewest:
            return f"{answered} {unit} were answered; {fewest} are needed"
        return None

    def row(self, metric: str, figure: Figure, **fields: Any) -> Score:  # noqa: ANN401
        """A score."""
        return Score(
            explanation_id=self.explanation_id,
            protocol_id=self.protocol_id,
            scorer=self.scorer,
            metric=metric,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            reason=figure.reason,
            **fields,
        )


def _simulation(group: Group) -> list[Score]:
    """Correlation and explained variance: of all windows, and of activating ones (kind `none`)."""
    rows = group.answered
    kinds = {"all": rows}
    if any(not row["truth"] for row in group.verdicts):
        kinds["none"] = [row for row in rows if row["truth"]]
    asked = {
        "all": len(group.verdicts),
        "none": sum(bool(row["truth"]) for row in group.verdicts),
    }
    scores = []
    for kind, chosen in kinds.items():
        refusal = group.refusal("windows", len(chosen), asked[kind])
        figures = dict.fromkeys(("correlation", "explained_variance"), Figure(reason=refusal))
        if refusal is None:
            figures = _agreement(group, chosen)
        positive = sum(bool(row["truth"]) for row in chosen)
        scores += [
            group.row(
                metric,
                figure,
                kind=kind,
                n=len(chosen),
                n_positive=positive,
                n_negative=len(chosen) - positive,
                n_missing=asked[kind] - len(chosen),
            )
            for metric, figure in figures.items()
        ]
    return scores


def _agreement(group: Group, rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    held = [group.examples[row["example_id"]] for row in rows]
    return simulation_figures(
        [np.array(row["value"], np.float64) for row in rows],
        [np.array(example["activations"], np.float64) for example in held],
        group.documents(rows),
    )


def _generation(group: Group) -> list[Score]:
    """Share of the texts that activate."""
    active = np.array([bool(row["answer"]) for row in group.answered], np.bool_)
    refusal = group.refusal("texts", len(active), len(group.verdicts))
    figure = Figure(reason=refusal) if refusal else share_figure(active)
    lost = len(group.verdicts) - len(active)
    return [group.row("accuracy", figure, n=len(active), n_missing=lost)]


def _output(group: Group) -> list[Score]:
    """Accuracy; a guess is right once in five times."""
    right = np.array([bool(row["answer"]) for row in group.answered], np.bool_)
    refusal = group.refusal("questions", len(right), len(group.verdicts))
    figure = Figure(reason=refusal) if refusal else share_figure(right)
    p_value = None if refusal else output_p_value(int(right.sum()), len(right))
    lost = len(group.verdicts) - len(right)
    return [group.row("accuracy", figure, n=len(right), n_missing=lost, p_value=p_value)]


def _intruder(group: Group) -> list[Score]:
    """Accuracy of the questions, of all and of each decile; a guess is right once in five times."""
    from scipy.special import bdtrc

    found, decile, by_quintile = [], [], False
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in group.verdicts:
        by_prompt.setdefault(row["prompt_id"], []).append(row)
    for five in by_prompt.values():
        if any(row["failure"] is not None for row in five):
            continue
        found.append(all(bool(row["answer"]) == bool(row["truth"]) for row in five))
        alike = {group.examples[row["example_id"]]["decile"] for row in five if not row["truth"]}
        decile.append(max(alike))
        by_quintile |= len(alike) > 1
    right, strata = np.array(found, np.bool_), np.array(decile, np.int64)
    if by_quintile:
        # A quintile goes by its upper decile.
        strata += strata % 2
    asked = len(by_prompt)
    refusal = group.refusal("questions", len(right), asked)
    p_value = None if refusal else float(bdtrc(int(right.sum()) - 1, len(right), 1 / len(LETTERS)))
    figure = Figure(reason=refusal) if refusal else share_figure(right, None, strata)
    lost = asked - len(right)
    scores = [group.row("accuracy", figure, n=len(right), n_missing=lost, p_value=p_value)]
    for number in np.unique(strata).tolist():
        part = right[strata == number]
        figure = Figure(reason=refusal) if refusal else share_figure(part)
        scores.append(group.row("accuracy", figure, n=len(part), decile=number))
    return scores


def _ranking(group: Group) -> list[Score]:
    """AUROC of activating against silent windows: of all, and of each kind if there are several."""
    kinds = {
        row["example_id"]: group.examples[row["example_id"]].get("kind") or ""
        for row in group.verdicts
        if not row["truth"]
    }
    several = sorted(set(kinds.values()) - {""})
    scores = []
    for kind in ("all", *(several if len(several) > 1 else ())):
        rows = [
            row
            for row in group.verdicts
            if row["truth"] or kind in ("all", kinds[row["example_id"]])
        ]
        live = [row for row in rows if row["failure"] is None]
        truth = np.array([bool(row["truth"]) for row in live], np.bool_)
        refusal = None
        for side, fewest in _FEWEST_OF.items():
            asked = sum(bool(row["truth"]) == side for row in rows)
            unit = f"{'activating' if side else 'silent'} windows"
            refusal = refusal or group.refusal(unit, int((truth == side).sum()), asked, fewest)
        figure, p_value = Figure(reason=refusal), None
        if refusal is None:
            values = np.array([row["value"][0] for row in live], np.float64)
            figure = auroc_figure(values, truth, group.documents(live))
            p_value = ranking_p_value(values, truth)
        scores.append(
            group.row(
                "auroc",
                figure,
                kind=kind,
                n=len(live),
                n_positive=int(truth.sum()),
                n_negative=int((~truth).sum()),
                n_missing=len(rows) - len(live),
                p_value=p_value,
            )
        )
    return scores


def _surprisal(group: Group) -> list[Score]:
    """AUROC, and what the explanation takes off the loss of activating windows, nats per token."""
    rows = [row for row in group.verdicts if row["truth"]]
    live = [row for row in rows if row["failure"] is None]
    refusal = group.refusal("activating windows", len(live), len(rows), _FEWEST_OF[True])
    figure = Figure(reason=refusal)
    if refusal is None:
        figure = _mean(np.array([row["value"][0] for row in live]), group.documents(live))
    gain = group.row(
        "loss_reduction",
        figure,
        kind="none",
        n=len(live),
        n_positive=len(live),
        n_missing=len(rows) - len(live),
    )
    return [*_ranking(group), gain]


def _mean(values: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64]) -> Figure:
    """A mean, its variance linearised over clusters, with Student's t."""
    mean, count = float(values.mean()), int(clusters.max()) + 1
    if count < 2:
        return Figure(mean, reason="no interval: all windows are of one document")
    totals = np.bincount(clusters, values - mean) / len(values)
    half = float(student_t(count - 1)) * math.sqrt(count / (count - 1) * float(totals @ totals))
    return Figure(mean, mean - half, mean + half)


OTHERS: Mapping[str, Callable[[Group], list[Score]]] = {
    "simulation": _simulation,
    "generation": _generation,
    "output": _output,
    "intruder": _intruder,
    "embedding": _ranking,
    "surprisal": _surprisal,
}
"""The scores of each such scorer."""


def scores_of_others(verdicts: pa.Table, examples: pa.Table) -> list[Score]:
    """The scores of all verdicts whose scorer is one of `OTHERS`.

    Args:
        verdicts: the run's table; those of other scorers are passed over.
        examples: columns `example_id` and `decile`; for simulation `activations`; and `document`
            and `kind` where they are known: a window of no document counts as one.

    Raises:
        InputError: a column is missing, or a verdict is on an example that is not there.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    wanted = pc.is_in(verdicts["scorer"], pa.array(list(OTHERS), pa.string()))
    order = [("prompt_id", "ascending"), ("slot", "ascending")]
    verdicts = verdicts.filter(wanted)
    if not len(verdicts):
        return []
    for column in _COLUMNS:
        if column not in verdicts.column_names:
            raise InputError(f"table `verdicts`: column `{column}` is missing")
    for row in verdicts.select(_COLUMNS).sort_by(order).to_pylist():
        key = (row["explanation_id"], row["protocol_id"], row["scorer"])
        groups.setdefault(key, []).append(row)
    held = _held(examples, {row["example_id"] for rows in groups.values() for row in rows})
    scores = []
    for key, rows in sorted(groups.items()):
        explanation_id, protocol_id, scorer = key
        if scorer == "simulation" and "activations" not in examples.column_names:
            raise InputError("table `examples`: column `activations` is missing")
        for row in rows:
            # Output asks about no window, and generation's texts need not be there.
            if scorer not in _OF_NO_WINDOW and row["example_id"] not in held:
                raise InputError(f"table `examples`: `{row['example_id']}` is judged but not there")
        scores += OTHERS[scorer](Group(explanation_id, protocol_id, scorer, rows, held))
    return scores


def _held(examples: pa.Table, wanted: set[str]) -> dict[str, Mapping[str, Any]]:
    names = ("example_id", "decile", "kind", "document", "activations")
    there = [name for name in names if name in examples.column_names]
    rows = pc.is_in(examples["example_id"], pa.array(sorted(wanted), pa.string()))
    return {row["example_id"]: row for row in examples.filter(rows).select(there).to_pylist()}
