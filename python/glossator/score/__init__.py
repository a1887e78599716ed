"""Scores of explanations: what a judge, or the whole corpus, says of them.

    scored = score(index, explanations, judge=judge, text=text, preset="glossator")
    scored.scores                             # Arrow, with intervals
    scores_from(verdicts, examples)           # the arithmetic alone
    specificity_by_rank(verdicts, examples)   # against the distance of neighbours
    for line in summary(scored.scores):
        print(line)

`ascore` is the same for use inside an event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from glossator.index import Index
from glossator.judges.base import Judge, run_sync
from glossator.progress import SILENT, Progress
from glossator.records import Explanation
from glossator.sampling import NearestWindows, NeighbourTable, SamplingPlan
from glossator.score.asking import Sink, ascore
from glossator.score.by_rank import specificity_by_rank
from glossator.score.figures import scores_from
from glossator.score.natural import Strata, strata_of
from glossator.score.nulls import lifts, with_null_values
from glossator.score.options import SCORERS, ScoringOptions, scorer_of
from glossator.score.permutation import with_q_values
from glossator.score.presets import PRESETS, Preset
from glossator.score.protocol import scoring_protocol
from glossator.score.scored import Scored, firing_rates, settled
from glossator.score.scorers import Scorer
from glossator.score.summary import CHANCE, Summary, summary
from glossator.text import TokenText

__all__ = [
    "CHANCE",
    "PRESETS",
    "SCORERS",
    "Preset",
    "Scored",
    "ScoringOptions",
    "Strata",
    "Summary",
    "ascore",
    "firing_rates",
    "lifts",
    "score",
    "scorer_of",
    "scores_from",
    "scoring_protocol",
    "settled",
    "specificity_by_rank",
    "strata_of",
    "summary",
    "with_null_values",
    "with_q_values",
]


def score(
    index: Index,
    explanations: Sequence[Explanation],
    *,
    judge: Judge | None,
    text: TokenText,
    preset: str | Preset = "glossator",
    scorers: Sequence[str | Scorer] | None = None,
    hookpoint: str | None = None,
    plan: SamplingPlan | None = None,
    options: ScoringOptions | None = None,
    needs: Mapping[str, Any] | None = None,
    seed: int = 0,
    sink: Sink | None = None,
    skip: Collection[str] | None = None,
    stored: pa.Table | None = None,
    provenance: Mapping[str, str] | None = None,
    neighbours: NeighbourTable | None = None,
    nearest: NearestWindows | None = None,
    progress: Progress = SILENT,
) -> Scored:
    """Score explanations; see `ascore`."""
    work = ascore(
        index,
        explanations,
        judge=judge,
        text=text,
        preset=preset,
        scorers=scorers,
        hookpoint=hookpoint,
        plan=plan,
        options=options,
        needs=needs,
        seed=seed,
        sink=sink,
        skip=skip,
        stored=stored,
        provenance=provenance,
        neighbours=neighbours,
        nearest=nearest,
        progress=progress,
    )
    return run_sync(work, judge, "ascore")
