"""What delphi left: activations, explanations, and raw scores whose aggregates are made anew.

    import_delphi("results/mine", "out", hookpoint="layers.5")
    # out/index, out/explanations.jsonl, out/{verdicts,examples,scores}.parquet

delphi's own aggregates leave out what failed and pool all latents; here a failure is a missing
verdict, and every latent has its figures with intervals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glossator.errors import InputError
from glossator.export.places import absent, new_tree
from glossator.imports.shards import index_of_cache
from glossator.progress import SILENT, Progress
from glossator.records import Explanation, Verdict, content_id, table_of
from glossator.score.figures import scores_from
from glossator.shown import single_line

__all__ = ["import_delphi", "read_delphi_explanations", "read_delphi_scores"]

EXPLAINER = "file:delphi"
"""Who wrote what is imported."""
UNPARSED = "Explanation could not be parsed."
"""What delphi stores where a model's answer held no explanation."""
_SCORERS = {"detection": "detection", "fuzz": "fuzzing"}
_PROMPT = 5


def read_delphi_explanations(folder: str | Path, hookpoint: str) -> list[Explanation]:
    """The explanations of one hookpoint, by latent; those that delphi could not parse are left out.

    Raises:
        InputError: a file holds no JSON string.
    """
    found = []
    for latent, path in _files(Path(folder) / "explanations", hookpoint):
        text = _json(path)
        if not isinstance(text, str):
            raise InputError(f"{path}: no JSON string")
        if single_line(text) and single_line(text) != UNPARSED:
            found.append(Explanation.of(hookpoint, latent, EXPLAINER, single_line(text)))
    return found


def read_delphi_scores(
    folder: str | Path,
    hookpoint: str,
    explanations: list[Explanation],
    *,
    progress: Progress = SILENT,
) -> tuple[pa.Table, pa.Table]:
    """The raw scores of one hookpoint as the run's tables `verdicts` and `examples`.

    A prompt is told by its place: delphi asks about so many examples in a row at once. An answer
    that is null is a missing verdict. Quantile 0 there is decile 10 here.

    Args:
        folder: of the delphi run.
        hookpoint: whose.
        explanations: as `read_delphi_explanations` gives them.
        progress: counts files.

    Raises:
        InputError: a file is no list of verdicts.
    """
    folder = Path(folder)
    said = {one.latent: one for one in explanations}
    in_prompt, protocol = _in_prompt(folder), content_id("delphi", str(_in_prompt(folder)))
    verdicts: list[pa.Table] = []
    examples: dict[str, dict[str, Any]] = {}
    with progress.stage("scores", unit="files") as bar:
        for name, scorer in _SCORERS.items():
            for latent, path in _files(folder / "scores" / name, hookpoint):
                one = said.get(latent)
                rows = _json(path)
                if not isinstance(rows, list):
                    raise InputError(f"{path}: no list of verdicts")
                held = []
                for place, row in enumerate(rows) if one is not None else ():
                    example = _example(path, place, row, hookpoint, latent)
                    examples[example["example_id"]] = example
                    assert one is not None
                    held.append(_verdict(one, protocol, scorer, example, row, place, in_prompt))
                verdicts.append(table_of("verdicts", held))
                bar.advance(1)
    table = pa.concat_tables([table_of("verdicts", []), *verdicts])
    return table, table_of("examples", list(examples.values()))


def import_delphi(
    folder: str | Path,
    out: str | Path,
    *,
    hookpoint: str,
    n_latents: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Everything that a delphi run has of one hookpoint, in a new folder.

    Args:
        folder: `results/<name>`.
        out: a new folder.
        hookpoint: the name of its folder under `latents`.
        n_latents: of the coder; one more than the last shard's if None.
        progress: shows the stages.

    Raises:
        InputError: nothing of that hookpoint is there, or a file is damaged.
    """
    folder, out = Path(folder), absent(out)
    cache = folder / "latents" / hookpoint
    explanations = read_delphi_explanations(folder, hookpoint)
    if not cache.is_dir() and not explanations:
        raise InputError(f"{folder}: holds nothing of hookpoint `{hookpoint}`")
    with new_tree(out) as scratch:
        if cache.is_dir():
            index_of_cache(
                cache,
                scratch / "index",
                hookpoint=hookpoint,
                n_latents=n_latents,
                progress=progress,
            )
        with (scratch / "explanations.jsonl").open("w", encoding="utf-8") as file:
            for one in explanations:
                row = {"latent": one.latent, "text": one.text, "hookpoint": hookpoint}
                row["explainer"] = "delphi"
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        verdicts, examples = read_delphi_scores(folder, hookpoint, explanations, progress=progress)
        tables = {"verdicts": verdicts, "examples": examples}
        if len(verdicts):
            tables["scores"] = scores_from(verdicts, examples)
        for name, table in tables.items():
            pq.write_table(table, scratch / f"{name}.parquet", compression="zstd")
    return out


def _files(folder: Path, hookpoint: str) -> Iterator[tuple[int, Path]]:
    """Files of exactly this hookpoint, by latent: `layers.1` is no prefix of `layers.10`."""
    name = re.compile(re.escape(hookpoint.replace("/", "--")) + r"_latent([0-9]{1,10})\.txt")
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            match = name.fullmatch(path.name)
            if match:
                found.append((int(match[1]), path))
    yield from sorted(found)


def _json(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({' '.join(str(error).split())})"
        ) from error


def _in_prompt(folder: Path) -> int:
    path = folder / "run_config.json"
    said = _json(path) if path.is_file() else {}
    number = said.get("num_examples_per_scorer_prompt", _PROMPT) if isinstance(said, dict) else None
    if not isinstance(number, int) or number < 1:
        raise InputError(f"{path}: `num_examples_per_scorer_prompt` is {number!r}")
    return number


def _example(
    path: Path,
    place: int,
    row: Any,  # noqa: ANN401
    hookpoint: str,
    latent: int,
) -> dict[str, Any]:
    try:
        text, activations = "".join(row["str_tokens"]), [float(v) for v in row["activations"]]
        truth, distance, prediction = row["activating"], row["distance"], row["prediction"]
        if not isinstance(truth, bool) or not isinstance(prediction, bool | None):
            raise ValueError("`activating` or `prediction` is no yes or no")
        decile = 10 - int(distance) if truth else 0
        if truth and not 1 <= decile <= 10:
            raise ValueError(f"distance {distance} is no quantile from 0 to 9")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: entry {place}: no verdict ({error})") from error
    return {
        "example_id": content_id("delphi", hookpoint, latent, text, activations, decile),
        "hookpoint": hookpoint,
        "latent": latent,
        "text": text,
        "activations": activations,
        "decile": decile,
        "activating": truth,
        "split": "score",
        "kind": None if truth else "random" if float(distance) == -1.0 else "decoder",
    }


def _verdict(
    one: Explanation,
    protocol: str,
    scorer: str,
    example: dict[str, Any],
    row: dict[str, Any],
    place: int,
    in_prompt: int,
) -> Verdict:
    missing = row["prediction"] is None
    return Verdict(
        explanation_id=one.explanation_id,
        protocol_id=protocol,
        scorer=scorer,
        example_id=example["example_id"],
        prompt_id=content_id("delphi", one.explanation_id, scorer, place // in_prompt),
        slot=place % in_prompt,
        truth=example["activating"],
        answer=row["prediction"],
        p_yes=None if missing else row.get("probability"),
        failure="malformed: no prediction in delphi's file" if missing else None,
    )
