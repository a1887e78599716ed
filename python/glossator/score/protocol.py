"""How explanations are scored: by what, what is drawn, what is shown, what makes a protocol.

    options = ScoringOptions(fuzzing=FuzzingOptions(threshold=0.5))
    scorer_of("fuzzing", options)
    protocol = scoring_protocol(index, "NAME", options=options, seed=0)
    protocol.protocol_id

One protocol holds for all scorers of a call, and for those of another call with the same options: a
scorer that is added later does not change what the others' verdicts are filed under.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from glossator.errors import InputError
from glossator.index import Index
from glossator.records import Protocol, Record, content_id
from glossator.sampling import (
    ExplainPlan,
    NearestWindows,
    NegativePlan,
    NeighbourTable,
    SamplingPlan,
)
from glossator.score.detection import DetectionOptions, DetectionScorer
from glossator.score.embedding import EmbeddingOptions, EmbeddingScorer
from glossator.score.fuzzing import FuzzingOptions, FuzzingScorer
from glossator.score.generation import GenerationOptions, GenerationScorer
from glossator.score.intruder import IntruderOptions, IntruderScorer
from glossator.score.output import OutputOptions, OutputScorer
from glossator.score.scorers import Scorer
from glossator.score.simulation import SimulationOptions, SimulationScorer
from glossator.score.surprisal import SurprisalOptions, SurprisalScorer

__all__ = ["SCORERS", "SCORING_PLAN", "ScoringOptions", "scorer_of", "scoring_protocol"]

_CLASSES: Mapping[str, Callable[..., Scorer]] = {
    one.name: one
    for one in (
        DetectionScorer,
        FuzzingScorer,
        SimulationScorer,
        GenerationScorer,
        OutputScorer,
        IntruderScorer,
        EmbeddingScorer,
        SurprisalScorer,
    )
}

SCORERS = tuple(_CLASSES)
"""The scorers that there are."""

SCORING_PLAN = SamplingPlan(
    explain=ExplainPlan(n=0), per_decile=7, negatives=(NegativePlan(kind="random", n=20),)
)
"""Seven activating windows of each decile and twenty random silent ones."""

_OF_NEIGHBOURS = {"decoder", "decoder_unfiltered"}
_PROVENANCE = ("coder_hash", "tokenizer_hash", "corpus_hash")


class ScoringOptions(Record):
    """What each scorer shows of what was drawn, and how."""

    detection: DetectionOptions = DetectionOptions()
    """Of detection."""
    fuzzing: FuzzingOptions = FuzzingOptions()
    """Of fuzzing."""
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


def scorer_of(
    name: str,
    options: ScoringOptions = ScoringOptions(),  # noqa: B008 - frozen
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


def scoring_protocol(
    index: Index,
    judge: str,
    *,
    plan: SamplingPlan = SCORING_PLAN,
    options: ScoringOptions = ScoringOptions(),  # noqa: B008 - frozen
    scorers: Sequence[str | Scorer] = (),
    seed: int = 0,
    provenance: Mapping[str, str] | None = None,
    neighbours: NeighbourTable | None = None,
    nearest: NearestWindows | None = None,
) -> Protocol:
    """The protocol of a scoring: one for all its scorers.

    Args:
        index: what is drawn from.
        judge: the judge's name; empty for none.
        plan: what is drawn; its explainer's part does not matter.
        options: what of it is shown.
        scorers: those of them that were made by hand count with their own parameters.
        seed: of the draw, the order and the wrong marks.
        provenance: `coder_hash`, `tokenizer_hash`, `corpus_hash`, where known.
        neighbours: whose windows are drawn as negatives, if the plan has such.
        nearest: which are, if the plan has such.

    Raises:
        InputError: `provenance` holds another name.
    """
    given = dict(provenance or {})
    if unknown := set(given) - set(_PROVENANCE):
        raise InputError(f"provenance `{min(unknown)}`: unknown; known are {_PROVENANCE}")
    drawn, default = _drawn(plan), _drawn(SCORING_PLAN)
    kinds = {negative.kind for negative in plan.negatives}
    sources: dict[str, object] = {}
    if neighbours is not None and kinds & _OF_NEIGHBOURS:
        k = int(neighbours.ids.shape[1])
        sources["neighbours"] = {"coder_hash": neighbours.coder_hash, "k": k}
    if nearest is not None and "embedding" in kinds:
        sources["nearest"] = {"model": nearest.model, "m": int(nearest.windows.shape[1])}
    shown = options.model_dump(mode="json")
    words = {name: cast(Any, one).template_hash for name, one in _CLASSES.items()}
    for scorer in scorers:
        if not isinstance(scorer, str):
            shown[scorer.name] = dict(scorer.parameters())
            words[scorer.name] = scorer.template_hash
    is_default = drawn == default and shown == ScoringOptions().model_dump(mode="json")
    return Protocol.of(
        preset="default" if is_default else "custom",
        parameters={"window": index.window, **drawn, **sources, **shown},
        prompt_hash=content_id(words),
        judge=judge,
        seed=seed,
        index_hash=index.hash,
        **{name: given.get(name, "") for name in _PROVENANCE},
        versions={
            name: importlib.metadata.version(name) for name in ("glossator", "numpy", "pyarrow")
        },
    )


def _drawn(plan: SamplingPlan) -> dict[str, Any]:
    """What of a plan the scorers depend on: of a list of negatives only what its kind looks at."""
    drawn = plan.model_dump(mode="json", exclude={"explain"})
    for negative in drawn["negatives"]:
        if negative["kind"] not in _OF_NEIGHBOURS:
            del negative["ranks"], negative["pool"]
        if negative["kind"] != "peak_token":
            del negative["even"]
    return drawn
