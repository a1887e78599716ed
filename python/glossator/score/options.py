"""The scorers by name, and what each of them shows.

    options = ScoringOptions(fuzzing=FuzzingOptions(threshold=0.5))
    scorer_of("fuzzing", options)
    scorer_of("generation", options, activations=subject_activations(subject, coder))

`SCORERS` holds all names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

from pydantic import model_validator

from glossator.errors import InputError
from glossator.records import Record
from glossator.score.detection import DetectionOptions, DetectionScorer
from glossator.score.embedding import EmbeddingOptions, EmbeddingScorer
from glossator.score.fuzzing import FuzzingOptions, FuzzingScorer
from glossator.score.generation import GenerationOptions, GenerationScorer
from glossator.score.intruder import IntruderOptions, IntruderScorer
from glossator.score.neighbours import NeighboursOptions, NeighboursScorer
from glossator.score.output import OutputOptions, OutputScorer
from glossator.score.scorers import Scorer
from glossator.score.simulation import SimulationOptions, SimulationScorer
from glossator.score.surprisal import SurprisalOptions, SurprisalScorer
from glossator.score.variants import (
    ContextOptions,
    ContextScorer,
    SynonymsOptions,
    SynonymsScorer,
    VariantOptions,
)

__all__ = ["SCORERS", "ScoringOptions", "scorer_of", "template_hashes"]

_CLASSES: Mapping[str, Callable[..., Scorer]] = {
    one.name: one
    for one in (
        DetectionScorer,
        FuzzingScorer,
        NeighboursScorer,
        SimulationScorer,
        GenerationScorer,
        OutputScorer,
        IntruderScorer,
        EmbeddingScorer,
        SurprisalScorer,
        SynonymsScorer,
        ContextScorer,
    )
}

SCORERS = tuple(_CLASSES)
"""The scorers that there are."""


class ScoringOptions(Record):
    """What each scorer shows of what was drawn, and how."""

    detection: DetectionOptions = DetectionOptions()
    """Of detection."""
    fuzzing: FuzzingOptions = FuzzingOptions()
    """Of fuzzing."""
    neighbours: NeighboursOptions = NeighboursOptions()
    """Of neighbours."""
    simulation: SimulationOptions = SimulationOptions()
    """Of simulation."""
    generation: GenerationOptions = GenerationOptions()
    """Of generation."""
    output: OutputOptions = OutputOptions()
    """Of output."""
    intruder: IntruderOptions = IntruderOptions()
    """Of intruder."""
    embedding: EmbeddingOptions = EmbeddingOptions()
    """Of embedding."""
    surprisal: SurprisalOptions = SurprisalOptions()
    """Of surprisal."""
    fuzzing_synonyms: SynonymsOptions = SynonymsOptions()
    """Of fuzzing_synonyms."""
    fuzzing_context: ContextOptions = ContextOptions()
    """Of fuzzing_context."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        forms = {(one.strata, one.per_prompt == 1) for one in self._classifying}
        if len(forms) > 1:
            raise ValueError(
                "detection, neighbours and all kinds of fuzzing have one and the same `strata`, "
                "and either all of them one example in a prompt or none: a protocol's scores are "
                "counted one way"
            )
        return self

    @property
    def _classifying(self) -> tuple[DetectionOptions | FuzzingOptions | VariantOptions, ...]:
        variants = self.fuzzing_synonyms, self.fuzzing_context
        return self.detection, self.fuzzing, self.neighbours, *variants

    @property
    def counted(self) -> dict[str, str]:
        """How verdicts are counted.

        `strata`: of what the recalls are averaged; `clusters`: what verdicts have in common that
        makes them depend on each other, their prompt, or where that holds one example their
        document.
        """
        one = self.detection.per_prompt == 1
        return {"strata": self.detection.strata, "clusters": "document" if one else "prompt"}


def scorer_of(
    name: str,
    options: ScoringOptions = ScoringOptions(),  # noqa: B008 - frozen
    /,
    **needs: Any,  # noqa: ANN401 - what the scorers' own arguments are
) -> Scorer:
    """Make a scorer.

    Args:
        name: one of `SCORERS`.
        options: its own are taken.
        needs: what scorers need beside their options, by the names of their arguments
            (`activations`, `promoted`, …); those of other scorers are passed over.

    Raises:
        InputError: there is no such scorer, or what it needs is not given.
    """
    if name not in _CLASSES:
        raise InputError(f"scorer `{name}`: unknown; known are {', '.join(SCORERS)}")
    make = _CLASSES[name]
    _, *others = inspect.signature(make).parameters.values()
    lacking = [
        one.name for one in others if one.default is one.empty and needs.get(one.name) is None
    ]
    if lacking:
        raise InputError(
            f"scorer `{name}`: needs {', '.join(f'`{one}`' for one in lacking)}; give "
            "`needs={...}`, or a scorer made by hand in place of the name"
        )
    given = {one.name: needs[one.name] for one in others if one.name in needs}
    return make(getattr(options, name), **given)


def template_hashes() -> dict[str, str]:
    """For each scorer the hash of the words of its prompts."""
    return {name: cast(Any, one).template_hash for name, one in _CLASSES.items()}
