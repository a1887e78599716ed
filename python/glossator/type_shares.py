"""The share of each type of latents, by hookpoint: a table and a plot.

    shares = type_shares({"layers.3": kinds, "layers.4": others})
    shares.column("share")
    write_plot(shares, "types.svg")

The plot is one SVG file of stacked bars, without script or font of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from glossator.errors import InputError
from glossator.folders import new_file
from glossator.latent_types import TYPES

__all__ = ["read_types", "type_plot", "type_shares", "write_plot", "write_types"]

_COLOURS = {
    "dead": "#c9c9c9",
    "positional": "#e69f00",
    "dense": "#7f7f7f",
    "duplicate": "#cc79a7",
    "bigram": "#0072b2",
    "unigram": "#56b4e9",
    "next-token": "#004466",
    "say": "#d55e00",
    "rare": "#e8e2c8",
    "other": "#009e73",
}
"""After Okabe and Ito: told apart without colour vision; greys for what is not explained."""
_BAR, _GAP, _LEFT, _WIDTH = 22, 8, 190, 560
_TEXT = 12


def type_shares(kinds: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> pa.Table:
    """Count the types of each hookpoint's latents.

    Args:
        kinds: by hookpoint, what `latent_types` gave, or any columns with `type`.

    Returns:
        A row for each hookpoint, in the order of layers (numbers in names as numbers: `layers.2`
        before `layers.10`), and type, in the order of `TYPES`: `hookpoint`, `type`, `latents` (how
        many), `share` (of the hookpoint's latents; NaN where it has none).
    """
    rows: dict[str, list[Any]] = {"hookpoint": [], "type": [], "latents": [], "share": []}
    for hookpoint in sorted(kinds, key=_by_layer):
        types = kinds[hookpoint]["type"]
        for kind in TYPES:
            count = int(np.count_nonzero(types == kind))
            for name, value in (
                ("hookpoint", hookpoint),
                ("type", kind),
                ("latents", count),
                ("share", count / len(types) if len(types) else float("nan")),
            ):
                rows[name].append(value)
    return pa.table(rows)


def _by_layer(hookpoint: str) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", hookpoint)
    # Words stand at even places and numbers between them: nothing is compared with its unlike.
    return [(int(part), "") if at % 2 else (0, part) for at, part in enumerate(parts)]


def write_types(kinds: Mapping[str, Mapping[str, npt.NDArray[Any]]], path: Path) -> None:
    """Write every figure of every latent to a Parquet file, by hookpoint; one there is replaced.

    Raises:
        InputError: `path` is a folder, or cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    parts = []
    for hookpoint, columns in kinds.items():
        arrays = {name: _column(name, column) for name, column in columns.items()}
        names = pa.array([hookpoint] * len(columns["latent"]), pa.string())
        parts.append(pa.table({"hookpoint": names, **arrays}))
    # An index has no scramble test, and a run of before may lack a figure.
    table = pa.concat_tables(parts, promote_options="default")
    with new_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_types(path: Path) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """What `write_types` wrote, by hookpoint.

    Raises:
        InputError: it is no such file.
    """
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no whole Parquet file ({line}); triage it again") from error
    if not {"hookpoint", "type"} <= set(table.column_names):
        raise InputError(f"{path}: no table of types; name a file that `glossator types` wrote")
    names = table["hookpoint"].to_pylist()
    found: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for hookpoint in dict.fromkeys(names):
        rows = table.filter(pa.array([name == hookpoint for name in names]))
        found[hookpoint] = {
            name: _array(rows[name]) for name in rows.column_names if name != "hookpoint"
        }
    return found


def _array(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy())
    # NumPy would make one matrix of lists of equal length.
    lists = np.empty(len(column), dtype=object)
    for at, held in enumerate(column.to_pylist()):
        lists[at] = held
    return lists


def _column(name: str, column: Any) -> pa.Array:  # noqa: ANN401 - a column of `latent_types`
    ids = pa.list_(pa.uint32())
    lists = {"peak_ids": ids, "previous_ids": ids, "pair_ids": pa.list_(ids)}
    if column.dtype == object:
        return pa.array(column.tolist(), lists.get(name, pa.string()))
    return pa.array(column)


def type_plot(shares: pa.Table) -> str:
    """The SVG of a table of shares: one bar for each hookpoint."""
    by_hookpoint: dict[str, list[tuple[str, int, float]]] = {}
    for row in shares.to_pylist():
        some = by_hookpoint.setdefault(row["hookpoint"], [])
        some.append((row["type"], row["latents"], row["share"]))
    present = [
        kind
        for kind in TYPES
        if any(count for parts in by_hookpoint.values() for name, count, _ in parts if name == kind)
    ]
    top = _legend_height(present)
    height = top + len(by_hookpoint) * (_BAR + _GAP) + 30
    width = _LEFT + _WIDTH + 30
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "font-family": "sans-serif",
            "font-size": str(_TEXT),
            "role": "img",
        },
    )
    ET.SubElement(root, "title").text = "Share of each type of latents, by hookpoint"
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    _legend(root, present)
    for number, (hookpoint, parts) in enumerate(by_hookpoint.items()):
        _bar(root, top + number * (_BAR + _GAP), hookpoint, parts)
    axis = top + len(by_hookpoint) * (_BAR + _GAP)
    for percent in range(0, 101, 20):
        x = f"{_LEFT + _WIDTH * percent / 100:.1f}"
        _text(root, x, axis + _TEXT, f"{percent} %", "middle")
    return ET.tostring(root, encoding="unicode")


def write_plot(shares: pa.Table, path: str | Path) -> Path:
    """Write the plot; what stood there is replaced in one step.

    Raises:
        InputError: the file does not end in .svg, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".svg":
        raise InputError(f"{path}: the plot is an SVG file; name one that ends in .svg")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    with new_file(path) as file:
        file.write(type_plot(shares).encode())
    return path


def _places(present: Sequence[str]) -> list[tuple[int, int]]:
    return [(_LEFT + number % 5 * 112, 10 + number // 5 * 20) for number in range(len(present))]


def _legend_height(present: Sequence[str]) -> int:
    return 44 + len(present) // 6 * 20


def _legend(root: ET.Element, present: Sequence[str]) -> None:
    for kind, (x, y) in zip(present, _places(present), strict=True):
        box = {"x": str(x), "y": str(y), "width": "12", "height": "12", "fill": _COLOURS[kind]}
        ET.SubElement(root, "rect", box)
        _text(root, str(x + 18), y + 11, kind, "start")


def _bar(root: ET.Element, y: int, hookpoint: str, parts: list[tuple[str, int, float]]) -> None:
    shown = hookpoint if len(hookpoint) <= 28 else f"…{hookpoint[-27:]}"
    _text(root, str(_LEFT - 8), y + _BAR // 2 + 4, shown, "end")
    x = float(_LEFT)
    for kind, count, share in parts:
        if not count:
            continue
        box = {
            "x": f"{x:.2f}",
            "y": str(y),
            "width": f"{_WIDTH * share:.2f}",
            "height": str(_BAR),
            "fill": _COLOURS[kind],
        }
        rect = ET.SubElement(root, "rect", box)
        ET.SubElement(rect, "title").text = f"{hookpoint}: {kind}, {count:,} ({share:.1%})"
        x += _WIDTH * share


def _text(root: ET.Element, x: str, y: float, text: str, anchor: str) -> None:
    element = ET.SubElement(root, "text", {"x": x, "y": f"{y:.1f}", "text-anchor": anchor})
    element.text = text
