"""The stages of a run in order: each resumes, each says what it cost.

    with run(RunConfig(), "run") as done:
        done.table("scores")

    with Run.create(RunConfig(), "run") as opened:  # or stage by stage
        harvest_stage(opened)
        explain_stage(opened)
        score_stage(opened)
        atlas_stage(opened)

What a stage has done is not done again; a run that was killed goes on where it was when the same
command is given again.
"""

from __future__ import annotations

from pathlib import Path

from glossator.config import RunConfig
from glossator.pipeline.data import harvest_stage
from glossator.pipeline.explaining import explain_stage
from glossator.pipeline.joining import join_stage
from glossator.pipeline.judging import Judging
from glossator.pipeline.page import atlas_stage
from glossator.pipeline.results import (
    RuleSummary,
    is_complete,
    judged_summary,
    missing_share,
    rule_summary,
)
from glossator.pipeline.scoring import score_stage
from glossator.progress import SILENT, Progress
from glossator.runs import Run

__all__ = [
    "Judging",
    "RuleSummary",
    "atlas_stage",
    "explain_stage",
    "harvest_stage",
    "join_stage",
    "judged_summary",
    "missing_share",
    "rule_summary",
    "run",
    "score_stage",
]


def run(config: RunConfig, path: str | Path, *, progress: Progress = SILENT) -> Run:
    """All stages of a run, each from where it was.

    Args:
        config: what to do.
        path: the run directory.
        progress: shows the stages.

    Returns:
        The run, open for writing; close it, or use it in a `with` block.

    Raises:
        GlossatorError: what the user can mend; what was done is kept.
    """
    opened = Run.create(config, path)
    try:
        with Judging(opened, progress) as judging:
            words = ("explain", "score")
            if config.judge.asks and not all(is_complete(opened, stage) for stage in words):
                judging.check()
            harvest_stage(opened, progress=progress)
            explain_stage(opened, judging=judging, progress=progress)
            score_stage(opened, judging=judging, progress=progress)
        atlas_stage(opened, progress=progress)
    except BaseException:
        opened.close()
        raise
    return opened
