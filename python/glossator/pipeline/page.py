"""From a run's tables to its page.

atlas_stage(Run.open("run", write=True))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from glossator.atlas import build_atlas
from glossator.pipeline.results import judge_notes
from glossator.progress import SILENT, Progress
from glossator.records import content_id
from glossator.runs import Run
from glossator.score.asking import NO_EXPLANATION
from glossator.score.nulls import NULL

__all__ = ["atlas_stage"]


def atlas_stage(
    run: Run, *, pages: Sequence[int] | None = None, progress: Progress = SILENT
) -> Path:
    """Write `atlas.html`, unless what it shows has not changed.

    Args:
        run: a run that was harvested, open for writing.
        pages: latents whose pages the file holds; all, or a draw by seed, if None.
        progress: shows the latents done.

    Raises:
        InputError: nothing was harvested, or the page cannot be written.
    """
    run.require("harvest")
    out = run.path / "atlas.html"
    tables = {name: run.table(name) for name in ("latents", "explanations", "scores", "protocols")}
    # Another latent's explanation, and none, are there for what they score, not to be read.
    said = [
        not one.startswith(NULL) and one != NO_EXPLANATION
        for one in tables["explanations"]["explainer"].to_pylist()
    ]
    tables["explanations"] = tables["explanations"].filter(pa.array(said, pa.bool_()))
    tables["scores"] = tables["scores"].filter(
        pc.is_in(
            tables["scores"]["explanation_id"],
            tables["explanations"]["explanation_id"].combine_chunks(),
        )
    )
    near = run.neighbours
    known = [] if near is None else [(near.coder_hash, near.index_hash, near.k)]
    shown = content_id(
        pages and list(pages),
        run.config.atlas.model_dump(),
        {name: _hash(table) for name, table in tables.items()},
        *known,
    )
    if out.is_file() and run.store.fact("atlas") == shown:
        return out
    with run.stage("atlas"):
        build_atlas(
            out,
            index=run.index,
            text=run.text,
            hookpoint=run.hookpoint,
            run_info={**run.description(), "notes": run.notes() + judge_notes(run)},
            seed=run.config.seed,
            neighbours=near,
            pages=pages,
            max_pages=run.config.atlas.max_pages,
            progress=progress,
            **tables,
        )
    run.store.set_fact("atlas", shown)
    return out


def _hash(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return xxhash.xxh3_128_hexdigest(memoryview(sink.getvalue()))
