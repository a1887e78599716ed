"""Explanations out of a Neuronpedia export, as the explainer `file` reads them.

    import_neuronpedia("gpt2-small/6-res-jb", "labels.jsonl", hookpoint="transformer.h.6")

The folder of a source (its `explanations/batch-*.jsonl.gz`), one such file, or a JSON list.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glossator.errors import InputError
from glossator.folders import new_file
from glossator.progress import SILENT, Progress
from glossator.shown import single_line

__all__ = ["import_neuronpedia"]


def import_neuronpedia(
    path: str | Path,
    out: str | Path,
    *,
    hookpoint: str | None = None,
    progress: Progress = SILENT,
) -> int:
    """Write the explanations as JSONL with `latent`, `text`, `explainer` and `hookpoint`.

    The explainer is the type and the model that Neuronpedia names. Of several explanations of one
    latent by one explainer the first is kept.

    Args:
        path: the folder of a source, or a file: `.jsonl`, `.json`, each also with `.gz`.
        out: the file; one that is there is replaced.
        hookpoint: written into each row; left out if None.
        progress: counts explanations.

    Returns:
        How many were written.

    Raises:
        InputError: nothing there, or a line is no explanation; names file and line.
    """
    path, out = Path(path), Path(out)
    seen: set[tuple[int, str]] = set()
    if out.suffix != ".jsonl":
        raise InputError(f"{out}: must end in .jsonl, which the explainer `file` reads")
    with new_file(out) as file, progress.stage("import", unit="explanations") as bar:
        for source in _files(path):
            for place, row in _rows(source):
                latent, text = _latent(row), row.get("description")
                if latent is None or not isinstance(text, str):
                    raise InputError(
                        f"{source}: {place}: no explanation (`index` and `description`)"
                    )
                parts = (row.get("typeName"), row.get("explanationModelName"))
                explainer = ":".join(str(part) for part in parts if part) or "neuronpedia"
                if not single_line(text) or (latent, explainer) in seen:
                    continue
                seen.add((latent, explainer))
                line = {"latent": latent, "text": single_line(text), "explainer": explainer}
                line |= {"hookpoint": hookpoint} if hookpoint else {}
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
                bar.advance(1)
        if not seen:
            raise InputError(f"{path}: holds no explanation")
    return len(seen)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted((path / "explanations").glob("batch-*.jsonl*"))
    if not found:
        raise InputError(f"{path}: no `explanations/batch-*.jsonl.gz`; name a source's folder")
    return found


def _latent(row: dict[str, Any]) -> int | None:
    index = row.get("index")
    if isinstance(index, bool) or not isinstance(index, int | str):
        return None
    text = str(index)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                listed: Iterator[tuple[int, Any]] = enumerate(json.load(file), 1)
            else:
                listed = (
                    (number, json.loads(line))
                    for number, line in enumerate(file, 1)
                    if line.strip()
                )
            for number, row in listed:
                if not isinstance(row, dict):
                    raise InputError(f"{path}: line {number}: not a JSON object")
                yield f"line {number}", row
    except (OSError, EOFError, zlib.error, ValueError, RecursionError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: cannot be read ({' '.join(str(error).split())[:120]})"
        ) from error
