"""A run as delphi keeps one: its cache of activations, explanations, scores and neighbours.

    export_delphi(run, "results/mine", model_name="gpt2")
    # latents/<hookpoint>/0_8191.safetensors …, config.json
    # explanations/<hookpoint>_latent17.txt, scores/detection/<hookpoint>_latent17.txt
    # neighbours/<hookpoint>-decoder_similarity.json

Activations are float16 there. Shards are written as a stream: what is held are the postings of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from glossator.errors import InputError
from glossator.export.chosen import Chosen, Exported
from glossator.export.places import absent, new_tree
from glossator.export.verdicts import verdict_rows
from glossator.progress import SILENT, Bar, Progress

__all__ = ["SCORERS", "export_delphi"]

SCORERS = {"detection": "detection", "fuzzing": "fuzz"}
"""Scorers by the names of their folders there."""

_MOST = 1 << 24
"""Postings of a shard; 18 bytes each are held while one is written."""
_OWNER = np.uint64(16)
"""Bits of a latent's number within its shard."""
_ROWS = 1 << 20
_CONTEXTS = 4_096


def export_delphi(
    run: Exported,
    out: str | Path,
    *,
    model_name: str,
    chosen: Chosen | None = None,
    cache: bool = True,
    progress: Progress = SILENT,
) -> Path:
    """Write the folder of a delphi run.

    Args:
        run: the run.
        out: a new folder.
        model_name: the subject model, whose tokenizer delphi loads by this name.
        chosen: whose explanations and scores; those of `Chosen.of(run)` if None. The cache holds
            every latent.
        cache: whether to write the activations.
        progress: counts postings and latents.

    Raises:
        InputError: `out` is there already, or an activation is beyond float16.
    """
    out = absent(out)
    chosen = Chosen.of(run) if chosen is None else chosen
    with new_tree(out) as scratch:
        if cache:
            _cache(run, scratch / "latents" / run.hookpoint, model_name, progress)
        _neighbours(run, scratch / "neighbours", chosen)
        _said(run, scratch, chosen, progress)
    return out


def _cache(run: Exported, folder: Path, model_name: str, progress: Progress) -> None:
    index = run.index
    folder.mkdir(parents=True)
    with progress.stage("cache", int(index.nnz), "postings") as bar:
        shards = list(_shards(index.counts()))
        for first, end in shards:
            _shard(run, folder / f"{first}_{end - 1}.safetensors", first, end, bar)
    config = {
        "dataset_repo": "",
        "dataset_split": "",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 1,
        "cache_ctx_len": index.context_length,
        "n_tokens": index.n_contexts * index.context_length,
        "n_splits": len(shards),
        "model_name": model_name,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=4), encoding="utf-8")


def _shards(counts: npt.NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Ranges of latents with at most `_MOST` postings, unless one latent has more."""
    ends = np.cumsum(counts.astype(np.int64))
    first = 0
    while first < len(counts):
        before = int(ends[first - 1]) if first else 0
        end = int(np.searchsorted(ends, before + _MOST, side="right"))
        end = min(max(end, first + 1), first + 2**16)
        yield first, end
        first = end


def _shard(run: Exported, path: Path, first: int, end: int, bar: Bar) -> None:
    index = run.index
    S, begin = index.context_length, index.first_context * index.context_length
    n = int(index.counts()[first:end].sum())
    # Position and latent in one number, which is what they are to be sorted by.
    key, value = np.empty(n, np.uint64), np.empty(n, np.float16)
    at = 0
    for latent in range(first, end):
        where, activations = index.postings(latent)
        if len(activations) and activations.max() > np.finfo(np.float16).max:
            raise InputError(
                f"latent {latent}: an activation of {activations.max():.4g} is beyond float16, in "
                "which delphi keeps them; export without the cache"
            )
        mine = slice(at, at + len(where))
        key[mine] = (where - np.uint64(begin)) << _OWNER | np.uint64(latent - first)
        value[mine] = activations
        at = mine.stop
        bar.advance(len(where))
    order = np.argsort(key)
    narrow = index.n_contexts <= 2**16 and S <= 2**16
    kind = np.dtype("<u2" if narrow else "<u4")
    tensors: dict[str, tuple[str, list[int], int]] = {
        "activations": ("F16", [n], 2 * n),
        "locations": ("U16" if narrow else "U32", [n, 3], 3 * kind.itemsize * n),
        "tokens": ("I64", [index.n_contexts, S], 8 * index.n_contexts * S),
    }
    with path.open("wb") as file:
        _header(file, tensors)
        parts = [order[at : at + _ROWS] for at in range(0, n, _ROWS)]
        for part in parts:
            file.write(value[part].astype("<f2", copy=False).data)
        for part in parts:
            rows = key[part]
            places = np.empty((len(rows), 3), kind)
            row, places[:, 1] = np.divmod(rows >> _OWNER, np.uint64(S))
            places[:, 0], places[:, 2] = row, rows & np.uint64(2**16 - 1)
            file.write(places.data)
        last = index.first_context + index.n_contexts
        for context in range(index.first_context, last, _CONTEXTS):
            some = np.arange(context, min(last, context + _CONTEXTS), dtype=np.uint64)
            file.write(index.contexts(some)[0].astype("<i8").data)


def _header(file: BinaryIO, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """The head of a safetensors file: its length, then JSON with each tensor's place."""
    at, head = 0, {}
    for name, (dtype, shape, size) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)


def _neighbours(run: Exported, folder: Path, chosen: Chosen) -> None:
    near = run.neighbours
    if near is None:
        return
    folder.mkdir()
    with (folder / f"{run.hookpoint}-decoder_similarity.json").open("w", encoding="utf-8") as file:
        file.write("{")
        for place, latent in enumerate(range(near.n_latents)):
            pairs = zip(near.cosines[latent].tolist(), near.ids[latent].tolist(), strict=True)
            # The similarity first, as delphi has it.
            listed = [[cosine, other] for cosine, other in pairs if other < near.n_latents]
            file.write(("," if place else "") + json.dumps(str(latent)) + ":" + json.dumps(listed))
        file.write("}")


def _said(run: Exported, folder: Path, chosen: Chosen, progress: Progress) -> None:
    name = run.hookpoint.replace("/", "--")
    (folder / "explanations").mkdir()
    with progress.stage("export", len(chosen.latents), "latents") as bar:
        for batch in chosen.known(run):
            best = {one.best.explanation_id: one.latent for one in batch if one.best}
            for one in batch:
                if one.best:
                    _json(folder / "explanations" / f"{name}_latent{one.latent}.txt", one.best.text)
            scored: dict[tuple[str, int], list[dict[str, Any]]] = {}
            for row in verdict_rows(run, list(best)):
                if row["scorer"] in SCORERS:
                    key = SCORERS[row["scorer"]], best[row["explanation_id"]]
                    scored.setdefault(key, []).append(_output(row))
            for (scorer, latent), rows in scored.items():
                (folder / "scores" / scorer).mkdir(parents=True, exist_ok=True)
                _json(folder / "scores" / scorer / f"{name}_latent{latent}.txt", rows)
            bar.advance(len(batch))


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _output(row: dict[str, Any]) -> dict[str, Any]:
    """A verdict as delphi writes one; its quantile 0 is our decile 10."""
    answer = row["answer"]
    return {
        "str_tokens": row["str_tokens"],
        "activations": row["activations"],
        "distance": 10 - row["decile"] if row["decile"] else -1.0,
        "activating": row["truth"],
        "prediction": answer,
        "probability": row["p_yes"],
        "correct": None if answer is None else answer == row["truth"],
    }
