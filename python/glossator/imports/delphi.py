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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glossator.errors import InputError
from glossator.export.groups import grouped
from glossator.export.places import absent, new_tree
from glossator.imports.shards import index_of_cache
from glossator.progress import SILENT, Progress
from glossator.records import TABLES, Explanation, Verdict, content_id, table_of
from glossator.score.figures import scores_from
from glossator.score.permutation import with_q_values
from glossator.shown import single_line

__all__ = ["import_delphi", "read_delphi_explanations", "read_delphi_scores"]

EXPLAINER = "file:delphi"
"""Who wrote what is imported."""
UNPARSED = "Explanation could not be parsed."
"""What delphi stores where a model's answer held no explanation."""
_SCORERS = {"detection": "detection", "fuzz": "fuzzing"}
_PROMPT = 5
_AT_ONCE = 64
"""Latents whose verdicts are held at once."""


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
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The raw scores of one hookpoint as the run's tables `verdicts` and `examples`.

    A prompt is told by its place: delphi asks about so many examples in a row at once. An answer
    that is null is a missing verdict. Quantile 0 there is decile 10 here.

    Args:
        folder: of the delphi run.
        hookpoint: whose.
        explanations: as `read_delphi_explanations` gives them.
        progress: counts files.

    Yields:
        Both tables of some latents at a time; no example is in two of them.

    Raises:
        InputError: a file is no list of verdicts.
    """
    folder = Path(folder)
    said = {one.latent: one for one in explanations}
    in_prompt, protocol = _in_prompt(folder), content_id("delphi", str(_in_prompt(folder)))
    files: dict[int, list[tuple[str, Path]]] = {}
    for name, scorer in _SCORERS.items():
        for latent, path in _files(folder / "scores" / name, hookpoint):
            files.setdefault(latent, []).append((scorer, path))
    latents = sorted(files)
    with progress.stage("scores", sum(map(len, files.values())), "files") as bar:
        for at in range(0, len(latents), _AT_ONCE):
            verdicts: list[Verdict] = []
            examples: dict[str, dict[str, Any]] = {}
            for latent in latents[at : at + _AT_ONCE]:
                one = said.get(latent)
                for scorer, path in files[latent]:
                    rows = _json(path)
                    if not isinstance(rows, list):
                        raise InputError(f"{path}: no list of verdicts")
                    for place, row in enumerate(rows) if one is not None else ():
                        example = _example(path, place, row, hookpoint, latent)
                        examples[example["example_id"]] = example
                        assert one is not None
                        verdicts.append(
                            _verdict(one, protocol, scorer, example, row, place, in_prompt)
                        )
                    bar.advance(1)
            yield table_of("verdicts", verdicts), table_of("examples", list(examples.values()))


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
        _scores(folder, scratch, hookpoint, explanations, progress)
    return out


def _scores(
    folder: Path,
    out: Path,
    hookpoint: str,
    explanations: list[Explanation],
    progress: Progress,
) -> None:
    scores: list[pa.Table] = []
    with (
        grouped(out / "verdicts.parquet", TABLES["verdicts"]) as verdicts,
        grouped(out / "examples.parquet", TABLES["examples"]) as examples,
    ):
        for answers, shown in read_delphi_scores(
            folder, hookpoint, explanations, progress=progress
        ):
            verdicts.write(answers)
            examples.write(shown)
            if len(answers):
                scores.append(scores_from(answers, shown))
    if scores:
        table = _corrected(pa.concat_tables(scores))
        with grouped(out / "scores.parquet", table.schema) as groups:
            groups.write(table)


def _corrected(scores: pa.Table) -> pa.Table:
    """With q-values over all latents; most rows have no p-value and are left alone."""
    places = pc.indices_nonzero(pc.is_valid(scores["p_value"]))
    values = np.full(len(scores), np.nan)
    values[places] = with_q_values(scores.take(places))["q_value"]
    at = scores.schema.get_field_index("q_value")
    return scores.set_column(at, scores.schema.field(at), pa.array(values, from_pandas=True))


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
