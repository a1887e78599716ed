"""Which latents are exported, and what the tables of a run say of each.

    chosen = Chosen.of(run, include=("dense",))
    for batch in chosen.known(run):
        for one in batch:
            one.latent, one.facts["status"], one.best.text, one.best.figure()

Of all latents only numbers and ids are held; rows are read for one batch at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from glossator.errors import InputError
from glossator.index import Index
from glossator.neighbours import Neighbours
from glossator.score.asking import NO_EXPLANATION
from glossator.score.nulls import NULL
from glossator.score.summary import main_metric
from glossator.text import TokenText

__all__ = ["BATCH", "INCLUDE", "Chosen", "Exported", "Include", "Known", "Said", "rows_of"]

Include: TypeAlias = Literal["dense", "rare", "unexplained"]
INCLUDE: tuple[Include, ...] = ("dense", "rare", "unexplained")
"""What is left out of an export unless it is asked for."""

BATCH = 128
"""Latents whose rows and examples are held at once."""

_SCORERS = ("detection", "fuzzing", "corpus")
_OWN = "hookpoint = ?"
_AT_ONCE = 500  # SQLite takes so many values in one condition


def _metric(scorer: str) -> str:
    # A rule that is checked on the corpus has no balanced accuracy.
    return "f1" if scorer == "corpus" else main_metric(scorer)


def rows_of(
    run: Exported,
    name: str,
    column: str,
    values: Sequence[Any],
    condition: str = "TRUE",
    parameters: tuple[object, ...] = (),
) -> Iterator[dict[str, Any]]:
    """Rows of a table in which a column has one of some values.

    Args:
        run: the run.
        name: the table.
        column: the first of its key, or the next after those that the condition settles.
        values: of which.
        condition: an SQL condition that holds as well, with `?` for each of `parameters`.
        parameters: values of the condition.
    """
    for at in range(0, len(values), _AT_ONCE):
        some = tuple(values[at : at + _AT_ONCE])
        where = f"{condition} AND {column} IN ({', '.join('?' * len(some))})"
        for batch in run.store.batches(name, where, (*parameters, *some)):
            yield from batch.to_pylist()


class Exported(Protocol):
    """What an export asks of a run: `glossator.runs.Run` has it."""

    @property
    def index(self) -> Index:
        """The activations."""

    @property
    def text(self) -> TokenText:
        """The texts of its tokens."""

    @property
    def hookpoint(self) -> str:
        """The module path of its latents."""

    @property
    def neighbours(self) -> Neighbours | None:
        """The nearest latents of each."""

    @property
    def store(self) -> Any:  # noqa: ANN401 - a `Store`, or what has its `batches`
        """Its tables, a condition on their rows allowed."""


@dataclass(frozen=True, slots=True)
class Said:
    """One explanation with its scores."""

    explanation_id: str
    """Its id."""
    explainer: str
    """Who wrote it."""
    text: str
    """The explanation."""
    rule: str | None
    """JSON of the rule, where it is one."""
    scores: tuple[dict[str, Any], ...]
    """Rows of the table `scores`: one a scorer and metric, over all kinds and deciles."""

    def figure(self, scorer: str | None = None) -> tuple[str, str, float] | None:
        """Scorer, metric and value of its main figure; None where it has none.

        Args:
            scorer: by whom; else the first of detection, fuzzing, corpus and the others by name.
        """
        found = {
            row["scorer"]: row
            for row in self.scores
            if row["value"] is not None and row["metric"] == _metric(row["scorer"])
        }
        names = [scorer] if scorer else [*_SCORERS, *sorted(found)]
        for name in names:
            if name in found:
                return name, found[name]["metric"], float(found[name]["value"])
        return None

    def place(self) -> tuple[int, float]:
        """What explanations of one latent are ordered by, the best first.

        Figures of different scorers are not compared: whoever has one of a scorer that is asked
        earlier stands before.
        """
        figure = self.figure()
        if figure is None:
            return len(_SCORERS) + 1, 0.0
        scorer, _, value = figure
        return (*_SCORERS, scorer).index(scorer), -value


@dataclass(frozen=True, slots=True)
class Known:
    """What the tables say of one latent."""

    latent: int
    """Its id."""
    facts: Mapping[str, Any]
    """Its row of the table `latents`."""
    said: tuple[Said, ...]
    """Its explanations, the best first: see `Said.place`."""

    @property
    def best(self) -> Said | None:
        """The first of its explanations."""
        return self.said[0] if self.said else None


@dataclass(frozen=True)
class Chosen:
    """Which latents are exported."""

    latents: npt.NDArray[np.uint32]
    """[n] ids, ascending."""
    explanations: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Ids of the explanations of each."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many latents were left out, by reason."""

    @classmethod
    def of(
        cls,
        run: Exported,
        latents: Sequence[int] | None = None,
        *,
        include: Sequence[str] = (),
        explainer: str | None = None,
    ) -> Chosen:
        """Live latents with an explanation, and what else is asked for.

        Args:
            run: a run with explanations.
            latents: only these, whatever else they are; all if None.
            include: of `INCLUDE`: dense ones, rare ones, those without an explanation.
            explainer: only explanations of this one.

        Raises:
            InputError: an unknown word in `include`, no latent of that id, or nothing is left.
        """
        for word in include:
            if word not in INCLUDE:
                raise InputError(f"include: `{word}` is unknown; known are {', '.join(INCLUDE)}")
        statuses: dict[int, str] = {}
        for batch in run.store.batches(
            "latents", _OWN, (run.hookpoint,), columns=("latent", "status")
        ):
            statuses.update(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        if not statuses:
            raise InputError("the run has no table of latents; run `glossator explain` on it first")
        said = _explanations(run, explainer)
        wanted = None if latents is None else set(latents)
        if wanted and (unknown := sorted(wanted - set(statuses))):
            raise InputError(f"latent {unknown[0]}: the run has {len(statuses)} latents")
        chosen, left_out = [], {"dead": 0} | dict.fromkeys(INCLUDE, 0)
        for latent in sorted(statuses if wanted is None else wanted):
            status = statuses[latent]
            if status in left_out and status not in include:
                left_out[status] += 1
            elif latent not in said and "unexplained" not in include:
                left_out["unexplained"] += 1
            else:
                chosen.append(latent)
        if not chosen:
            reasons = ", ".join(f"{n} {name}" for name, n in left_out.items() if n)
            raise InputError(
                f"nothing to export: left out are {reasons or 'all'}; explain latents first, or "
                "ask for them with --include"
            )
        return cls(np.array(chosen, np.uint32), said, {k: n for k, n in left_out.items() if n})

    def known(self, run: Exported) -> Iterator[list[Known]]:
        """What the run's tables say of the latents, in their order, `BATCH` at a time."""
        for at in range(0, len(self.latents), BATCH):
            some = self.latents[at : at + BATCH].tolist()
            rows = rows_of(run, "latents", "latent", some, _OWN, (run.hookpoint,))
            facts = {row["latent"]: row for row in rows}
            said = self._said(run, some)
            yield [Known(latent, facts[latent], said.get(latent, ())) for latent in some]

    def _said(self, run: Exported, latents: Sequence[int]) -> dict[int, tuple[Said, ...]]:
        ids = [one for latent in latents for one in self.explanations.get(latent, ())]
        figures: dict[str, list[dict[str, Any]]] = {}
        # Most rows of the table are not asked for: those by decile, and by kind of negatives.
        for row in rows_of(run, "scores", "explanation_id", ids, "kind = 'all' AND decile = 0"):
            figures.setdefault(row["explanation_id"], []).append(row)
        found: dict[int, list[Said]] = {}
        for row in rows_of(run, "explanations", "explanation_id", ids):
            name = row["explanation_id"]
            scores = tuple(figures.get(name, ()))
            one = Said(name, row["explainer"], row["text"], row["rule"], scores)
            found.setdefault(row["latent"], []).append(one)
        return {latent: tuple(sorted(all_, key=Said.place)) for latent, all_ in found.items()}


def _explanations(run: Exported, explainer: str | None) -> dict[int, tuple[str, ...]]:
    """Ids of the explanations with words of their own, by latent."""
    found: dict[int, tuple[str, ...]] = {}
    names = set()
    columns = ("explanation_id", "latent", "explainer", "text")
    for batch in run.store.batches("explanations", _OWN, (run.hookpoint,), columns=columns):
        for one, latent, name, text in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            if name.startswith(NULL) or name == NO_EXPLANATION or not text.strip():
                continue
            names.add(name)
            if explainer is None or name == explainer:
                found[latent] = (*found.get(latent, ()), one)
    if explainer is not None and explainer not in names:
        raise InputError(
            f"explainer `{explainer}`: has none here; known are {', '.join(sorted(names))}"
        )
    return found
