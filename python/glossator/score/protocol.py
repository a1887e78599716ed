"""How explanations are scored: what is drawn, what is shown, what makes a protocol.

    options = ScoringOptions(threshold=0.5)
    protocol = scoring_protocol(index, "NAME", options=options, seed=0)
    protocol.protocol_id

The defaults are the counts of "Open Source Automated Interpretability for Sparse Autoencoder
Features" (Juang et al., 2024) on the index's own windows.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

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
from glossator.score import detection, fuzzing

__all__ = ["SCORERS", "SCORING_PLAN", "ScoringOptions", "check_plan", "scoring_protocol"]

SCORERS = ("detection", "fuzzing")
"""The scorers that there are."""

SCORING_PLAN = SamplingPlan(
    explain=ExplainPlan(n=0), per_decile=7, negatives=(NegativePlan(kind="random", n=20),)
)
"""Seven activating windows of each decile and twenty random silent ones."""

_OF_NEIGHBOURS = {"decoder", "decoder_unfiltered"}
_PROVENANCE = ("coder_hash", "tokenizer_hash", "corpus_hash")


class ScoringOptions(Record):
    """What of the drawn examples is shown, and how."""

    detection: int = Field(default=5, ge=1)
    """Activating examples of each decile that detection shows: the first ones."""
    right: int = Field(default=5, ge=1)
    """Examples of each decile that fuzzing marks rightly: the first ones."""
    wrong: int = Field(default=2, ge=1)
    """Examples of each decile that fuzzing marks wrongly: the next ones."""
    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Tokens above this share of the example's maximum are marked rightly."""
    per_prompt: int = Field(default=5, ge=1)
    """Examples in one prompt."""


def check_plan(plan: SamplingPlan, options: ScoringOptions, scorers: Sequence[str]) -> None:
    """Refuse scorers that do not exist and plans that draw less than they show.

    Raises:
        InputError: names the scorer or the field.
    """
    for scorer in scorers:
        if scorer not in SCORERS:
            raise InputError(f"scorer `{scorer}`: unknown; known are {', '.join(SCORERS)}")
    needed = {"detection": options.detection, "fuzzing": options.right + options.wrong}
    for scorer in scorers:
        if plan.per_decile < needed[scorer]:
            raise InputError(
                f"plan: `per_decile` is {plan.per_decile}; {scorer} shows {needed[scorer]} examples"
                " of each decile"
            )


def scoring_protocol(
    index: Index,
    judge: str,
    *,
    plan: SamplingPlan = SCORING_PLAN,
    options: ScoringOptions = ScoringOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    provenance: Mapping[str, str] | None = None,
    neighbours: NeighbourTable | None = None,
    nearest: NearestWindows | None = None,
) -> Protocol:
    """The protocol of a scoring: one for all its scorers.

    Args:
        index: what is drawn from.
        judge: the judge's name.
        plan: what is drawn; its explainer's part does not matter.
        options: what of it is shown.
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
    is_default = drawn == default and options == ScoringOptions()
    return Protocol.of(
        preset="default" if is_default else "custom",
        parameters={"window": index.window, **drawn, **sources, **options.model_dump(mode="json")},
        prompt_hash=content_id(detection.TEMPLATE.hash, fuzzing.TEMPLATE.hash),
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
