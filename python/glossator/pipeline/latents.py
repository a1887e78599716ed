"""What the directions and the activations of a coder's latents say of each, with no language model.

neighbours_stage(run, index, coder)
triage_stage(run, index, subject, coder)

The second one also encodes again: the scramble test, with a stage of its own in it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glossator.index import Index
from glossator.latent_types import latent_types
from glossator.logit_weights import LogitWeights, logit_directions
from glossator.neighbours import Neighbours
from glossator.progress import SILENT, Progress
from glossator.records import TABLES
from glossator.run_set import RunSet
from glossator.runs import Run
from glossator.scramble import SCRAMBLE_THRESHOLDS, scramble_test, token_activations
from glossator.type_shares import read_types, type_shares, write_plot, write_types

if TYPE_CHECKING:
    from glossator.coders import SparseCoder
    from glossator.subjects import Subject

__all__ = ["SCRAMBLED_SHARE", "neighbours_stage", "triage_stage", "types_of_set"]

SCRAMBLED_SHARE = 0.1
"""Of the corpus's tokens, so many more are read for the scramble test at most.

Where that is too few for all peak tokens of all unigram latents, the run says how many it took."""

_NEIGHBOURS = 32
"""Neighbours of each latent that are kept, where there are so many."""
_LOGITS, _SHOWN_LOGITS = 21, 10
"""The largest logit weights that tell what a latent says, and those that are kept."""
_CONTEXTS_DRAWN_FROM = 20_000
"""Contexts whose tokens scrambles are made of."""


def neighbours_stage(
    run: Run, index: Index, coder: SparseCoder, progress: Progress = SILENT
) -> None:
    """The nearest latents of each by decoder direction, with co-activation, in a file."""
    if run.done("neighbours") or index.n_latents < 2:
        return
    with run.stage("neighbours") as facts:
        facts |= _neighbours(run, index, coder, progress)


def triage_stage(
    run: Run, index: Index, subject: Subject, coder: SparseCoder, progress: Progress = SILENT
) -> None:
    """The table of latents, all figures of their types in a file of the run, and their plot."""
    with run.stage("triage") as facts:
        facts |= _triage(run, index, subject, coder, progress)


def types_of_set(runs: RunSet) -> None:
    """The types of all hookpoints in one file, and their shares in one plot, beside the runs."""
    kinds = {
        name: next(iter(read_types(run.path / "types.parquet").values()))
        for name, run in zip(runs.names, runs, strict=True)
    }
    write_types(kinds, runs.path / "types.parquet")
    write_plot(type_shares(kinds), runs.path / "types.svg")


def _neighbours(run: Run, index: Index, coder: SparseCoder, progress: Progress) -> dict[str, Any]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        near = Neighbours.of(coder, min(_NEIGHBOURS, index.n_latents - 1), progress=progress)
    near = near.with_index(index)
    near.write(run.path / "neighbours.parquet")
    notes = [str(warning.message) for warning in said]
    if len(coder.decoders) > 1:
        notes.append(
            f"a cross-layer coder: neighbours and duplicates go by its decoder at `{near.decoder}`,"
            f" the first of {len(coder.decoders)}; logit weights by the sum of all"
        )
    return {
        "k": near.k,
        "decoder": near.decoder,
        "relations": near.relation_counts(),
        "notes": notes,
    }


def _triage(
    run: Run, index: Index, subject: Subject, coder: SparseCoder, progress: Progress
) -> dict[str, Any]:
    """How many latents are of each type."""
    directions, weights = logit_directions(coder), None
    logits, unembedding = subject.logits(directions, _LOGITS), subject.unembedding()
    if logits is not None and unembedding is not None:
        weights = LogitWeights.of(directions, unembedding, top=logits.top_values)
    kinds = latent_types(index, neighbours=run.neighbours, logits=weights)
    kinds |= _scrambled(run, index, kinds, subject, coder, progress)
    L, hookpoint = index.n_latents, str(index.attributes["hookpoint"])
    shares = type_shares({hookpoint: kinds})
    write_types({hookpoint: kinds}, run.path / "types.parquet")
    write_plot(shares, run.path / "types.svg")
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
    return {"types": {row["type"]: row["latents"] for row in shares.to_pylist()}}


def _scrambled(
    run: Run,
    index: Index,
    kinds: Mapping[str, Any],
    subject: Subject,
    coder: SparseCoder,
    progress: Progress,
) -> dict[str, Any]:
    """Columns over all latents, of which the scramble test asks the unigram ones."""
    unigrams = np.flatnonzero(kinds["type"] == "unigram")
    columns: dict[str, Any] = {
        "scrambles": np.zeros(index.n_latents, np.int64),
        "scramble_share": np.full(index.n_latents, np.nan),
        "scramble_share_on_token": np.full(index.n_latents, np.nan),
    }
    if not len(unigrams):
        return columns
    with run.stage("scramble") as facts:
        test = scramble_test(
            kinds,
            unigrams,
            token_activations(subject, coder),
            _vocabulary(index),
            most=int(index.n_tokens * SCRAMBLED_SHARE),
            seed=run.config.seed,
            progress=progress,
        )
        for name, column in columns.items():
            column[unigrams] = test[name if name == "scrambles" else name.removeprefix("scramble_")]
        tested = test["scrambles"] > 0
        every = int(sum(len(kinds["peak_ids"][latent]) for latent in unigrams))
        facts |= {
            "latents": len(unigrams),
            "tested": int(tested.sum()),
            "tokens": every,
            "tokens_tested": int(test["tokens"].sum()),
            "over": {f"{t:.0%}": int((test["share"] > t).sum()) for t in SCRAMBLE_THRESHOLDS},
            "notes": [],
        }
        if facts["tokens_tested"] < every:
            facts["notes"] = [
                f"the scramble test planted {facts['tokens_tested']:,} of the {every:,} peak tokens"
                f" of {facts['tested']:,} of {len(unigrams):,} unigram latents, drawn by seed: it "
                f"reads {SCRAMBLED_SHARE:.0%} of the corpus's tokens at most"
            ]
    return columns


def _vocabulary(index: Index) -> npt.NDArray[np.uint32]:
    """The distinct tokens that count in the corpus; of a long one, in contexts spread over it."""
    last = index.first_context + index.n_contexts - 1
    spread = np.linspace(index.first_context, last, min(index.n_contexts, _CONTEXTS_DRAWN_FROM))
    tokens, _, mask = index.contexts(np.unique(spread.astype(np.uint64)))
    found: npt.NDArray[np.uint32] = np.unique(tokens[mask])
    return found
