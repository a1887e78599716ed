"""From shards that were harvested apart to one run.

with join_stage(["shards/0", "shards/1"], "run") as run:
run.index
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from glossator.config import load_config
from glossator.errors import InputError
from glossator.folders import new_file, new_folder
from glossator.pipeline.data import harvest_stage
from glossator.progress import SILENT, Progress
from glossator.runs import Run
from glossator.shards import join_shards

__all__ = ["join_stage"]


def join_stage(
    shards: Sequence[str | os.PathLike[str]],
    out: str | Path,
    *,
    progress: Progress = SILENT,
) -> Run:
    """Join the run directories of all shards into one; they stay as they are.

    The model is loaded once more, for the logit weights; nothing is encoded again.

    Args:
        shards: what `harvest_stage(run, shard=…)` filled, in any order.
        out: the run directory.
        progress: shows the steps.

    Returns:
        The run, open for writing; close it, or use it in a `with` block.

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
    run = Run.create(configs[0], out)
    try:
        join_shards(folders, run.path / "index", progress=progress)
        if not (run.path / "contexts").is_dir():
            with new_folder(run.path / "contexts") as scratch:
                shutil.copytree(folders[0] / "contexts", scratch, dirs_exist_ok=True)
        with new_file(run.path / "tokenizer.json") as file:
            file.write((folders[0] / "tokenizer.json").read_bytes())
        harvest_stage(run, progress=progress)
    except BaseException:
        run.close()
        raise
    return run
