"""What every export shows of a latent: its facts, explanations, scores, neighbours and examples.

    chosen = Chosen.of(run, include=("dense",))
    for page in pages(run, chosen):
        page.latent, page.best.text, page.examples[0].tokens

Latents come in batches, so that what is held does not grow with their number: the tables without
verdicts, and the examples of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator.errors import InputError
from glossator.index import Index
from glossator.neighbours import NO_NEIGHBOUR, RELATIONS, Neighbours
from glossator.progress import SILENT, Progress
from glossator.sampling import ExplainPlan, SamplingPlan
from glossator.score.asking import NO_EXPLANATION
from glossator.score.nulls import NULL
from glossator.score.summary import main_metric
from glossator.shown import show
from glossator.text import TokenText

__all__ = ["INCLUDE", "Chosen", "Example", "Exported", "Include", "Said", "pages"]

Include: TypeAlias = Literal["dense", "rare", "unexplained"]
INCLUDE: tuple[Include, ...] = ("dense", "rare", "unexplained")
"""What is left out of an export unless it is asked for."""

BATCH = 256
"""Latents whose examples are held at once."""

_SCORERS = ("detection", "fuzzing", "corpus")
_INVISIBLE = "\u200b"


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
    def store(self) -> Any:  # noqa: ANN401 - a `Store`, or what has its `table`
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
            if row["value"] is not None and row["metric"] == main_metric(row["scorer"])
        }
        names = [scorer] if scorer else [*_SCORERS, *sorted(found)]
        for name in names:
            if name in found:
                return name, found[name]["metric"], float(found[name]["value"])
        return None


@dataclass(frozen=True, slots=True)
class Example:
    """One stretch of text on which the latent is active."""

    start: int
    """Position of its first token."""
    tokens: tuple[str, ...]
    """Text of each token; none is empty, and none holds a NUL."""
    values: tuple[float, ...]
    """The activation on each."""
    decile: int
    """Of the window, 10 the strongest."""
    top: bool
    """Whether it is one of the strongest of the explain side."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is exported of one latent."""

    latent: int
    """Its id."""
    facts: dict[str, Any]
    """Its row of the table `latents`."""
    said: tuple[Said, ...]
    """Its explanations, the one with the highest main figure first."""
    near: tuple[tuple[int, float, str | None], ...]
    """Neighbours with cosine and relation, the nearest first."""
    deciles: tuple[float, ...]
    """Eleven limits of its window maxima."""
    maximum: float
    """Its largest activation."""
    examples: tuple[Example, ...] = ()
    """Its strongest windows, then those of the deciles from the strongest down; none twice."""

    @property
    def best(self) -> Said | None:
        """The explanation with the highest main figure."""
        return self.said[0] if self.said else None

    def logits(self, name: Literal["top_logits", "bottom_logits"]) -> list[tuple[str, float]]:
        """Tokens that it promotes or suppresses most, with the logit."""
        import json

        listed = json.loads(self.facts.get(name) or "[]")
        return [(str(token), float(value)) for token, value in listed]


@dataclass(frozen=True)
class Chosen:
    """Which latents are exported, with what is known of each."""

    latents: npt.NDArray[np.uint32]
    """[n] ids, ascending."""
    facts: dict[int, dict[str, Any]]
    """Rows of the table `latents`."""
    said: dict[int, tuple[Said, ...]] = field(default_factory=dict)
    """Explanations of each."""
    left_out: dict[str, int] = field(default_factory=dict)
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
        facts = {row["latent"]: row for row in run.store.table("latents").to_pylist()}
        if not facts:
            raise InputError("the run has no table of latents; run `glossator explain` on it first")
        said = _said(run, explainer)
        wanted = None if latents is None else set(latents)
        if wanted and (unknown := sorted(wanted - set(facts))):
            raise InputError(f"latent {unknown[0]}: the run has {len(facts)} latents")
        chosen, left_out = [], {"dead": 0} | dict.fromkeys(INCLUDE, 0)
        for latent in sorted(facts if wanted is None else wanted):
            status = facts[latent]["status"]
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
        return cls(
            np.array(chosen, np.uint32), facts, said, {k: n for k, n in left_out.items() if n}
        )


def _said(run: Exported, explainer: str | None) -> dict[int, tuple[Said, ...]]:
    """Explanations with words of their own, by latent, the best first."""
    figures: dict[str, list[dict[str, Any]]] = {}
    scores: pa.Table = run.store.table("scores", "kind = 'all' AND decile = 0")
    for row in scores.to_pylist():
        figures.setdefault(row["explanation_id"], []).append(row)
    found: dict[int, list[Said]] = {}
    names = set()
    for row in run.store.table("explanations").to_pylist():
        name = row["explainer"]
        if name.startswith(NULL) or name == NO_EXPLANATION or not row["text"].strip():
            continue
        names.add(name)
        if explainer is None or name == explainer:
            rows = tuple(figures.get(row["explanation_id"], ()))
            one = Said(row["explanation_id"], name, row["text"], rows)
            found.setdefault(row["latent"], []).append(one)
    if explainer is not None and explainer not in names:
        raise InputError(
            f"explainer `{explainer}`: has none here; known are {', '.join(sorted(names))}"
        )
    return {
        latent: tuple(sorted(all_, key=lambda one: -(one.figure() or ("", "", -1.0))[2]))
        for latent, all_ in found.items()
    }


def pages(
    run: Exported,
    chosen: Chosen,
    *,
    n_top: int = 20,
    per_decile: int = 2,
    length: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Iterator[Page]:
    """The pages of some latents, in their order.

    Args:
        run: the run.
        chosen: which.
        n_top: of the strongest windows of the explain side.
        per_decile: windows of each decile; one that is a top one is not shown twice, and nothing is
            filled up.
        length: tokens of each; the index's window if None.
        seed: of the draw.
        progress: counts latents.
    """
    index = run.index
    deciles, summary = index.deciles(), index.summary()
    near = run.neighbours
    with progress.stage("export", len(chosen.latents), "latents") as bar:
        for at in range(0, len(chosen.latents), BATCH):
            batch = chosen.latents[at : at + BATCH]
            drawn = _examples(run, batch, n_top, per_decile, length, seed)
            for latent in batch.tolist():
                yield Page(
                    latent=latent,
                    facts=chosen.facts[latent],
                    said=chosen.said.get(latent, ()),
                    near=_near(near, latent),
                    deciles=tuple(deciles[latent].tolist()),
                    maximum=float(summary["max_activation"][latent]),
                    examples=tuple(drawn.get(latent, ())),
                )
                bar.advance(1)


def _near(near: Neighbours | None, latent: int) -> tuple[tuple[int, float, str | None], ...]:
    if near is None:
        return ()
    ids = near.ids[latent].tolist()
    relation = near.relation
    codes = [None] * len(ids) if relation is None else relation[latent].tolist()
    return tuple(
        (other, float(cosine), None if code is None else RELATIONS[code])
        for other, cosine, code in zip(ids, near.cosines[latent].tolist(), codes, strict=True)
        if other != NO_NEIGHBOUR
    )


def _examples(
    run: Exported,
    latents: npt.NDArray[np.uint32],
    n_top: int,
    per_decile: int,
    length: int | None,
    seed: int,
) -> dict[int, list[Example]]:
    found: dict[int, list[Example]] = {}
    seen: set[tuple[int, int]] = set()
    for top, explain in (
        (True, ExplainPlan(kind="top", n=n_top)),
        (False, ExplainPlan(kind="deciles", n=10 * per_decile)),
    ):
        plan = SamplingPlan(explain=explain, per_decile=0, negatives=(), length=length)
        drawn = run.index.sample(latents, plan, seed)
        shown = show(drawn, run.index, run.text)
        order = np.lexsort((-drawn.activations.max(axis=1, initial=0), drawn.latent))
        for row in order.tolist():
            key = int(drawn.latent[row]), int(drawn.start[row])
            if key in seen:
                continue
            seen.add(key)
            pieces, values = _trimmed(shown[row].pieces, drawn.activations[row].tolist())
            one = Example(key[1], pieces, values, int(drawn.decile[row]), top)
            found.setdefault(key[0], []).append(one)
    return found


def _trimmed(
    pieces: Sequence[str], values: Sequence[float]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Without padding at the end; no text is empty or holds what a database refuses."""
    end = len(pieces)
    while end > 1 and not pieces[end - 1] and not values[end - 1]:
        end -= 1
    clean = (
        (piece or _INVISIBLE).replace("\0", "\ufffd").encode("utf-8", "replace").decode()
        for piece in pieces[:end]
    )
    return tuple(clean), tuple(values[:end])
