"""What the directions and the activations of a coder's latents say of each, with no language model.

neighbours_stage(run, index, coder)
triage_stage(run, index, subject, coder)
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from glossator.index import Index
from glossator.latent_types import latent_types
from glossator.logit_weights import LogitWeights
from glossator.neighbours import Neighbours
from glossator.progress import SILENT, Progress
from glossator.records import TABLES
from glossator.runs import Run
from glossator.type_shares import type_shares, write_types

if TYPE_CHECKING:
    from glossator.coders import SparseCoder
    from glossator.subjects import Subject

__all__ = ["neighbours_stage", "triage_stage"]

_NEIGHBOURS = 32
"""Neighbours of each latent that are kept, where there are so many."""
_LOGITS, _SHOWN_LOGITS = 21, 10
"""The largest logit weights that tell what a latent says, and those that are kept."""


def neighbours_stage(
    run: Run, index: Index, coder: SparseCoder, progress: Progress = SILENT
) -> None:
    """The nearest latents of each by decoder direction, with co-activation, in a file."""
    if run.done("neighbours") or index.n_latents < 2:
        return
    with run.stage("neighbours") as facts:
        facts |= _neighbours(run, index, coder, progress)


def triage_stage(run: Run, index: Index, subject: Subject, coder: SparseCoder) -> None:
    """The table of latents, and all figures of their types in a file of the run."""
    with run.stage("triage") as facts:
        facts |= _triage(run, index, subject, coder)


def _neighbours(run: Run, index: Index, coder: SparseCoder, progress: Progress) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        near = Neighbours.of(coder, min(_NEIGHBOURS, index.n_latents - 1), progress=progress)
    near = near.with_index(index)
    near.write(run.path / "neighbours.parquet")
    return {
        "k": near.k,
        "relations": near.relation_counts(),
        "notes": [str(warning.message) for warning in said],
    }


def _triage(run: Run, index: Index, subject: Subject, coder: SparseCoder) -> dict[str, Any]:
    """How many latents are of each type."""
    logits, weights = subject.logits(coder.decoder, _LOGITS), None
    unembedding = subject.unembedding()
    if logits is not None and unembedding is not None:
        weights = LogitWeights.of(coder.decoder, unembedding, top=logits.top_values)
    kinds = latent_types(index, neighbours=run.neighbours, logits=weights)
    L, hookpoint = index.n_latents, str(index.attributes["hookpoint"])
    write_types({hookpoint: kinds}, run.path / "types.parquet")
    names = TABLES["latents"].names
    columns: dict[str, Any] = {
        name: values.tolist() for name, values in kinds.items() if name in names
    }
    columns["hookpoint"] = [hookpoint] * L
    columns["reason"] = [reason or None for reason in columns["reason"]]
    for name in ("top", "bottom"):
        column: list[str | None] = [None] * L
        if logits is not None:
            tokens, values = (
                getattr(logits, f"{name}_{part}")[:, :_SHOWN_LOGITS]
                for part in ("tokens", "values")
            )
            column = [
                json.dumps([[int(t), round(float(v), 4)] for t, v in zip(*row, strict=True)])
                for row in zip(tokens, values, strict=True)
            ]
        columns[f"{name}_logits"] = column
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    run.store.add("latents", rows, replace=True)
    shares = type_shares({hookpoint: kinds}).to_pylist()
    return {"types": {row["type"]: row["latents"] for row in shares}}
