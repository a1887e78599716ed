"""What makes a protocol: everything that a score depends on beside the explanation.

    protocol = scoring_protocol(index, "NAME", preset="post", seed=0)
    protocol.protocol_id

One protocol holds for all scorers of a call, and for those of another call with the same options: a
scorer that is added later does not change what the others' verdicts are filed under, unless more is
drawn for it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from glossator.errors import InputError
from glossator.index import Index
from glossator.records import Protocol, content_id
from glossator.sampling import NearestWindows, NeighbourTable, SamplingPlan
from glossator.score.options import ScoringOptions, template_hashes
from glossator.score.presets import Preset, settle
from glossator.score.scorers import Scorer

__all__ = ["scoring_protocol"]

_OF_NEIGHBOURS = {"decoder", "decoder_unfiltered"}
_PROVENANCE = ("coder_hash", "tokenizer_hash", "corpus_hash")


def scoring_protocol(
    index: Index,
    judge: str,
    *,
    preset: str | Preset = "glossator",
    plan: SamplingPlan | None = None,
    options: ScoringOptions | None = None,
    scorers: Sequence[str | Scorer] | None = None,
    seed: int = 0,
    provenance: Mapping[str, str] | None = None,
    neighbours: NeighbourTable | None = None,
    nearest: NearestWindows | None = None,
) -> Protocol:
    """The protocol of a scoring: one for all its scorers.

    Args:
        index: what is drawn from.
        judge: the judge's name; empty for none.
        preset: one of `PRESETS`, or another.
        plan: what is drawn, in place of the preset's; its explainer's part does not matter.
        options: what of it is shown, in place of the preset's.
        scorers: who scores; those that were made by hand count with their own parameters.
        seed: of the draw, the order and the wrong marks.
        provenance: `coder_hash`, `tokenizer_hash`, `corpus_hash`, where known.
        neighbours: whose windows are drawn as negatives, if the plan has such.
        nearest: which are, if the plan has such.

    Raises:
        InputError: there is no such preset, or `provenance` holds another name.
    """
    given = dict(provenance or {})
    if unknown := set(given) - set(_PROVENANCE):
        raise InputError(f"provenance `{min(unknown)}`: unknown; known are {_PROVENANCE}")
    name, plan, options, scorers = settle(preset, plan, options, scorers)
    kinds = {negative.kind for negative in plan.negatives}
    sources: dict[str, object] = {}
    if neighbours is not None and kinds & _OF_NEIGHBOURS:
        k = int(neighbours.ids.shape[1])
        sources["neighbours"] = {"coder_hash": neighbours.coder_hash, "k": k}
    if nearest is not None and "embedding" in kinds:
        sources["nearest"] = {"model": nearest.model, "m": int(nearest.windows.shape[1])}
    shown: dict[str, Any] = options.model_dump(mode="json")
    words = template_hashes()
    for scorer in scorers:
        if not isinstance(scorer, str):
            own = dict(scorer.parameters())
            name = name if shown.get(scorer.name) == own else "custom"
            shown[scorer.name], words[scorer.name] = own, scorer.template_hash
    return Protocol.of(
        preset=name,
        parameters={
            "window": index.window,
            **_drawn(plan),
            **sources,
            **options.counted,
            "scorers": shown,
        },
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
