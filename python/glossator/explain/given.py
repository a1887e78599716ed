"""Explanations from a file: a human's, or another tool's.

    explainer = File(path="labels.csv")
    read_explanations("labels.csv", "model.layers.5", n_latents=4_096)

CSV, JSONL or Parquet, by the name's ending, with the columns `latent`, `text` and, where wanted,
`hookpoint` and `explainer`. A row that cannot be read is refused by the number of its line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from glossator.errors import InputError
from glossator.explain.explainers import Explainer
from glossator.records import Explanation
from glossator.shown import single_line

__all__ = ["File", "read_explanations"]

_NEEDED = ("latent", "text")
_KNOWN = (*_NEEDED, "hookpoint", "explainer")
_Rows = Iterator[tuple[str, Mapping[str, Any]]]


class File(Explainer):
    """Explanations that somebody wrote."""

    label: ClassVar[str] = "file"

    path: str = Field(min_length=1)
    """A CSV, JSONL or Parquet file."""

    def name(self, judge: str = "", chooser: str = "") -> str:
        """`file:` and the file's name; rows with a column `explainer` have that in its place."""
        return f"{self.label}:{Path(self.path).name}"


def read_explanations(path: str | Path, hookpoint: str, n_latents: int) -> list[Explanation]:
    """All explanations of one hookpoint that a file holds, in its order.

    Args:
        path: the file.
        hookpoint: whose latents are wanted; rows of another one, where the column is there, are
            passed over.
        n_latents: how many latents it has.

    Returns:
        Explanations by `file:<explainer>`; of an explainer that is not named, `file:<name of the
        file>`. The text is brought onto one line.

    Raises:
        InputError: the file cannot be read, a column is missing or unknown, or a row has no text,
            no latent of the hookpoint, or one that the same explainer had before; names the line.
    """
    path = Path(path)
    readers = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: must end in {', '.join(readers)}")
    found: dict[tuple[str, int], Explanation] = {}
    try:
        for place, row in readers[path.suffix.lower()](path):
            try:
                explanation = _explanation(row, hookpoint, n_latents, path.name)
                if explanation is None:
                    continue
                key = (explanation.explainer, explanation.latent)
                if key in found:
                    raise _BadRowError(
                        f"latent {explanation.latent} has an explanation by "
                        f"`{explanation.explainer}` already"
                    )
            except _BadRowError as error:
                raise InputError(f"{path}: {place}: {error}") from None
            found[key] = explanation
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start})") from error
    return list(found.values())


class _BadRowError(Exception):
    """What is wrong with a row."""


def _explanation(
    row: Mapping[str, Any], hookpoint: str, n_latents: int, file: str
) -> Explanation | None:
    """The explanation of a row; None where it is of another hookpoint."""
    for name in _NEEDED:
        if row.get(name) is None:
            raise _BadRowError(f"`{name}` is missing")
    for name in ("text", "hookpoint", "explainer"):
        if row.get(name) is not None and not isinstance(row[name], str):
            raise _BadRowError(f"`{name}` is {row[name]!r}, not a text")
    if row.get("hookpoint") and row["hookpoint"] != hookpoint:
        return None
    latent = _latent(row["latent"])
    if latent is None or not 0 <= latent < n_latents:
        raise _BadRowError(f"`latent` is {row['latent']!r}; it must be from 0 to {n_latents - 1}")
    text = single_line(row["text"])
    if not text:
        raise _BadRowError("`text` is empty")
    explainer = single_line(row.get("explainer") or "") or file
    return Explanation.of(hookpoint, latent, f"{File.label}:{explainer}", text)


def _latent(value: object) -> int | None:
    """A whole number, or one written out."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    return None


def _check_columns(path: Path, names: list[str]) -> None:
    for name in _NEEDED:
        if name not in names:
            raise InputError(f"{path}: no column `{name}`; it has {', '.join(names) or 'none'}")
    for name in names:
        if name not in _KNOWN:
            raise InputError(f"{path}: column `{name}` is not known; known are {', '.join(_KNOWN)}")
        if names.count(name) > 1:
            raise InputError(f"{path}: column `{name}` is there twice")


def _csv(path: Path) -> _Rows:
    # `utf-8-sig`: spreadsheets begin a file with a mark that is no part of the first name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            names = next(rows, [])
            _check_columns(path, names)
            begins = rows.line_num + 1
            for cells in rows:
                place, begins = f"line {begins}", rows.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise InputError(
                        f"{path}: {place}: {len(cells)} cells under {len(names)} columns; "
                        "a text with a comma stands between quotation marks"
                    )
                yield place, {name: cell or None for name, cell in zip(names, cells, strict=True)}
        except csv.Error as error:
            raise InputError(f"{path}: line {rows.line_num}: not CSV ({error})") from error


def _jsonl(path: Path) -> _Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"{path}: line {number}: not JSON") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}: line {number}: not a JSON object")
            for name in row:
                if name not in _KNOWN:
                    raise InputError(
                        f"{path}: line {number}: field `{name}` is not known; "
                        f"known are {', '.join(_KNOWN)}"
                    )
            yield f"line {number}", row


def _parquet(path: Path) -> _Rows:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not Parquet ({str(error).splitlines()[0]})") from error
    _check_columns(path, table.column_names)
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", row
