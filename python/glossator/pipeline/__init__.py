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

from glossator.config import RunConfig, only
from glossator.pipeline.data import harvest_set, harvest_stage
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
from glossator.run_set import RunSet
from glossator.runs import Run

__all__ = [
    "Judging",
    "RuleSummary",
    "atlas_stage",
    "explain_stage",
    "harvest_set",
    "harvest_stage",
    "join_stage",
    "judged_summary",
    "missing_share",
    "rule_summary",
    "run",
    "run_each",
    "score_stage",
]


def run(config: RunConfig, path: str | Path, *, progress: Progress = SILENT) -> Run:
    """All stages of a run, each from where it was.

    Args:
        config: what to do, with one hookpoint; `run_each` does several.
        path: the run directory.
        progress: shows the stages.

    Returns:
        The run, open for writing; close it, or use it in a `with` block.

    Raises:
        GlossatorError: what the user can mend; what was done is kept.
    """
    only(config.subject.hookpoint), only(config.coder.path)
    return run_each(config, path, progress=progress).runs[0]


def run_each(config: RunConfig, path: str | Path, *, progress: Progress = SILENT) -> RunSet:
    """All stages of the runs of all hookpoints, each from where it was.

    Args:
        config: what to do.
        path: the run directory, or of several hookpoints that of their run directories.
        progress: shows the stages.

    Returns:
        The runs, open for writing; close them, or use them in a `with` block.

    Raises:
        GlossatorError: what the user can mend; what was done is kept.
    """
    opened = RunSet.create(config, path)
    try:
        with Judging(opened.config, opened.path, progress) as judging:
            words = ("explain", "score")
            waiting = any(not is_complete(one, stage) for one in opened for stage in words)
            if config.judge.asks and waiting:
                judging.check()
            harvest_set(opened, progress=progress)
            for one in opened:
                explain_stage(one, judging=judging, progress=progress)
                score_stage(one, judging=judging, progress=progress)
        for one in opened:
            atlas_stage(one, progress=progress)
    except BaseException:
        opened.close()
        raise
    return opened
