"""From shards that were harvested apart to one run.

runs = join_stage(["shards/0", "shards/1"], "run")
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from glossator.config import load_config
from glossator.errors import InputError
from glossator.folders import new_folder
from glossator.pipeline.data import harvest_set
from glossator.progress import SILENT, Progress
from glossator.run_set import RunSet
from glossator.shards import join_shards

__all__ = ["join_stage"]


def join_stage(
    shards: Sequence[str | os.PathLike[str]],
    out: str | Path,
    *,
    progress: Progress = SILENT,
) -> RunSet:
    """Join the run directories of all shards into one; they stay as they are.

    The model is loaded once more, for the logit weights and the scramble test; no context is
    encoded again.

    Args:
        shards: what `harvest_set(runs, shard=…)` filled, in any order.
        out: the run directory, or of several hookpoints that of their run directories.
        progress: shows the steps.

    Returns:
        The run, or runs, open for writing; close them, or use them in a `with` block.

    Raises:
        InputError: a shard is missing, there twice, unfinished, or of other settings.
    """
    folders = [Path(folder) for folder in shards]
    if not folders:
        raise InputError("there are no shards to join; name their folders")
    configs = [load_config(folder / "config.toml") for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        if config.data() != configs[0].data():
            raise InputError(
                f"shard folders `{folders[0]}` and `{folder}`: of other settings; "
                "harvest them with the same ones"
            )
    runs = RunSet.create(configs[0], out)
    try:
        join_shards(folders, runs.path / "index", progress=progress)
        if not (runs.path / "contexts").is_dir():
            with new_folder(runs.path / "contexts") as scratch:
                shutil.copytree(folders[0] / "contexts", scratch, dirs_exist_ok=True)
        harvest_set(runs, progress=progress)
    except BaseException:
        runs.close()
        raise
    return runs
