"""What the verdicts of simulation, generation, output and intruder amount to.

    group = Group(explanation_id, protocol_id, "output", verdicts, examples)
    scores = OTHERS[group.scorer](group)           # rows of the table `scores`

`verdicts` are rows of the run's table, of one explanation, protocol and scorer; `examples` those
that they are on, by id. Verdicts that are missing count as missing, never as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glossator.records import Score
from glossator.score.agreement import simulation_figures
from glossator.score.lettered import LETTERS
from glossator.score.output import output_p_value
from glossator.score.shares import Figure, share_figure

__all__ = ["FEWEST", "OTHERS", "Group"]

FEWEST = {"simulation": 10, "generation": 5, "output": 3, "intruder": 5}
"""With fewer answered windows, texts or questions there is no score."""

_MAX_MISSING = 0.2


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

    def refusal(self, unit: str, answered: int, asked: int) -> str | None:
        """Why there is no score; None where there is one."""
        lost = asked - answered
        if lost > _MAX_MISSING * asked:
            reasons = {row["failure"] for row in self.verdicts if row["failure"] is not None}
            why = f" ({reasons.pop()})" if len(reasons) == 1 else ""
            return f"{lost} of {asked} {unit} are missing, more than {_MAX_MISSING:.0%}{why}"
        if answered < FEWEST[self.scorer]:
            return f"{answered} {unit} were answered; {FEWEST[self.scorer]} are needed"
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
    documents = [example.get("document") for example in held]
    # A window of unknown document stands for itself.
    names = [number if name is None else f"d{name}" for number, name in enumerate(documents)]
    clusters = np.unique([str(name) for name in names], return_inverse=True)[1]
    return simulation_figures(
        [np.array(row["value"], np.float64) for row in rows],
        [np.array(example["activations"], np.float64) for example in held],
        clusters,
    )


def _generation(group: Group) -> list[Score]:
    """Share of the texts that activate."""
    active = np.array([bool(row["answer"]) for row in group.answered], np.bool_)
    refusal = group.refusal("texts", len(active), len(group.verdicts))
    figure = Figure(reason=refusal) if refusal else share_figure(active)
    lost = len(group.verdicts) - len(active)
    return [group.row("activating", figure, n=len(active), n_missing=lost)]


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


OTHERS: Mapping[str, Callable[[Group], list[Score]]] = {
    "simulation": _simulation,
    "generation": _generation,
    "output": _output,
    "intruder": _intruder,
}
"""The scores of each such scorer."""
