"""Small files for other tools: notes for sparse feature circuits, and SAEBench's score.

    export_notes(run, "notes.jsonl", prefix="resid_5")
    export_saebench(run, "mine_eval_results.json", model_name="pythia-70m-deduped", release="mine")

The notes are what `feature-circuits` reads: a line a latent, `{"Name": "resid_5/17",
"Annotation": …}`.
"""

from __future__ import annotations

import json
import statistics
import uuid
from pathlib import Path
from typing import Any

from glossator._core import __version__
from glossator.errors import InputError
from glossator.export.chosen import Chosen, Exported, Said
from glossator.folders import new_file
from glossator.progress import SILENT, Progress
from glossator.records import content_id

__all__ = ["export_notes", "export_saebench"]


def export_notes(
    run: Exported,
    out: str | Path,
    *,
    prefix: str,
    chosen: Chosen | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write one line a latent: its name in a circuit, its best explanation, and that one's score.

    Args:
        run: the run.
        out: the file; one that is there is replaced when the new one is complete.
        prefix: of the names: `resid_5`, `mlp_0`, `attn_3`, `embed`.
        chosen: which latents; those of `Chosen.of(run)` if None.
        progress: counts latents.

    Raises:
        InputError: the file cannot be written.
    """
    out = Path(out)
    chosen = Chosen.of(run) if chosen is None else chosen
    with new_file(out) as file, progress.stage("export", len(chosen.latents), "latents") as bar:
        for known in (one for batch in chosen.known(run) for one in batch):
            latent = known.latent
            for one in known.said[:1]:
                scorer, metric, value = one.figure() or (None, None, None)
                line = {
                    "Name": f"{prefix}/{latent}",
                    "Annotation": one.text,
                    "latent": latent,
                    "explainer": one.explainer,
                    "scorer": scorer,
                    "metric": metric,
                    "score": value,
                }
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
            bar.advance(1)
    return out


def export_saebench(
    run: Exported,
    out: str | Path,
    *,
    model_name: str,
    release: str = "",
    sae_id: str | None = None,
    dataset: str = "",
    epoch_millis: int = 0,
    chosen: Chosen | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write SAEBench's result of `autointerp`: mean accuracy of detection over latents.

    Its own figure stands on 14 passages a latent, of which 10 are random; this one on those that
    the run drew. So what stands beside it in a table must have been drawn alike; the file says how
    it was, under `eval_result_unstructured`.

    Args:
        run: a run with scores by detection.
        out: the file; one that is there is replaced.
        model_name: the subject model's name there.
        release: of the sparse coder.
        sae_id: of the sparse coder; the run's hookpoint if None.
        dataset: name of the corpus.
        epoch_millis: when it was measured; 0 if not told.
        chosen: which latents; those of `Chosen.of(run)` if None.
        progress: counts latents.

    Raises:
        InputError: fewer than two latents have an accuracy by detection.
    """
    out = Path(out)
    chosen = Chosen.of(run) if chosen is None else chosen
    found: dict[int, dict[str, Any]] = {}
    with progress.stage("export", len(chosen.latents), "latents") as bar:
        for batch in chosen.known(run):
            for known in batch:
                row = next(filter(None, map(_accuracy, known.said)), None)
                if row is not None:
                    found[known.latent] = {"latent": known.latent, **row}
            bar.advance(len(batch))
    if len(found) < 2:
        raise InputError(
            f"{len(found)} latents have an accuracy by detection, and a deviation needs two; "
            "score with `--scorer detection` first"
        )
    values = [row["score"] for row in found.values()]
    result = {
        "eval_type_id": "autointerp",
        "eval_config": _config(run, model_name, dataset, list(found)),
        "eval_id": "",
        "datetime_epoch_millis": epoch_millis,
        "eval_result_metrics": {
            "autointerp": {
                "autointerp_score": statistics.fmean(values),
                "autointerp_std_dev": statistics.stdev(values),
            }
        },
        "eval_result_details": [],
        "sae_bench_commit_hash": f"glossator {__version__}",
        "sae_lens_id": sae_id or run.hookpoint,
        "sae_lens_release_id": release,
        "sae_lens_version": "",
        # Its own reader of results asks for the architecture, which an index does not know.
        "sae_cfg_dict": {
            "architecture": "unknown",
            "hook_name": run.hookpoint,
            "d_sae": run.index.n_latents,
        },
        "eval_result_unstructured": {str(latent): row for latent, row in found.items()},
    }
    result["eval_id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, content_id(result)))
    with new_file(out) as file:
        file.write(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False).encode())
    return out


def _accuracy(one: Said) -> dict[str, Any] | None:
    for row in one.scores:
        if (row["scorer"], row["metric"]) == ("detection", "accuracy") and row["value"] is not None:
            counts = {name: row[name] for name in ("n_positive", "n_negative", "n_missing")}
            said = {"explanation": one.text, "score": row["value"], "explainer": one.explainer}
            return {**said, **counts}
    return None


def _config(run: Exported, model_name: str, dataset: str, latents: list[int]) -> dict[str, Any]:
    """Fields of SAEBench's `AutoInterpEvalConfig` that have a meaning here."""
    return {
        "model_name": model_name,
        "n_latents": None,
        "override_latents": latents,
        "dataset_name": dataset,
        "llm_context_size": run.index.context_length,
        "llm_batch_size": 0,
        "llm_dtype": "",
        "total_tokens": run.index.n_tokens,
        "scoring": True,
    }
