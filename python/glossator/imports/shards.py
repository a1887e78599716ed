"""The activations that delphi cached, as an index.

    index_of_cache("results/mine/latents/layers.5", "index", hookpoint="layers.5")

Shards are mapped, not read: contexts are taken from all of them in turn, a block at a time.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glossator.errors import InputError
from glossator.index import IndexWriter
from glossator.progress import SILENT, Progress

__all__ = ["index_of_cache"]

_TYPES = {
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
}
_HEADER = 1 << 20
_POSTINGS = 1 << 20
_CONTEXTS = 1_024


@dataclass(frozen=True)
class _Shard:
    path: Path
    first: int
    end: int
    locations: npt.NDArray[Any]
    activations: npt.NDArray[Any]
    tokens: npt.NDArray[Any]


def index_of_cache(
    folder: str | Path,
    out: str | Path,
    *,
    hookpoint: str,
    n_latents: int | None = None,
    attributes: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the index of one hookpoint's cache.

    The cache does not say where documents begin: each row is a document of its own. A row's length
    must be a multiple of the index's window of 32 tokens.

    Args:
        folder: with `<first>_<last>.safetensors`.
        out: folder of the index; a broken-off import goes on there.
        hookpoint: the module path.
        n_latents: how many latents the coder has; one more than the last shard's if None.
        attributes: more text for the index.
        progress: counts contexts.

    Raises:
        InputError: no shards, shards of different rows or with gaps, or values that are no
            activations; names the file.
    """
    folder = Path(folder)
    shards = sorted(
        (_open(path) for path in folder.glob("*_*.safetensors")), key=lambda one: one.first
    )
    if not shards:
        raise InputError(f"{folder}: no `<first>_<last>.safetensors`; name a hookpoint's folder")
    rows, S = shards[0].tokens.shape
    expected = 0
    for one in shards:
        if one.first != expected:
            raise InputError(f"{one.path}: begins at latent {one.first}, not at {expected}")
        if one.tokens.shape != (rows, S) or not np.array_equal(
            one.tokens[:: max(1, rows // 64)], shards[0].tokens[:: max(1, rows // 64)]
        ):
            raise InputError(f"{one.path}: holds other tokens than {shards[0].path.name}")
        expected = one.end
    latents = max(expected, n_latents or 0)
    with (
        IndexWriter(
            out,
            n_latents=latents,
            context_length=S,
            attributes={"hookpoint": hookpoint, "source": "delphi", **(attributes or {})},
        ) as writer,
        progress.stage("import", rows, "contexts") as bar,
    ):
        begins = [0] * len(shards)
        at = writer.next_context
        if at:
            begins = [_begin(one, at) for one in shards]
        while at < rows:
            end, stops = _block(shards, begins, at, rows)
            parts = [
                _part(one, begin, stop, at)
                for one, begin, stop in zip(shards, begins, stops, strict=True)
            ]
            row, column, latent, value = (
                np.concatenate(columns) for columns in zip(*parts, strict=True)
            )
            tokens = shards[0].tokens[at:end]
            if tokens.size and (tokens.min() < 0 or tokens.max() >= 2**32):
                raise InputError(f"{shards[0].path}: `tokens` holds what is no token id")
            documents = np.repeat(np.arange(at, end, dtype=np.uint64)[:, None], S, axis=1)
            writer.add_coo(
                tokens.astype(np.uint32), row, column, latent, value, documents, context=at
            )
            begins = stops
            bar.advance(end - at)
            at = end
    return Path(out)


def _begin(one: _Shard, row: int) -> int:
    # NumPy's own search would copy the whole column, which is a third of a mapped file.
    return bisect.bisect_left(range(len(one.locations)), row, key=lambda at: one.locations[at, 0])


def _block(shards: list[_Shard], begins: list[int], at: int, rows: int) -> tuple[int, list[int]]:
    """Contexts up to which to take postings, so that they are not too many at once."""
    step = _CONTEXTS
    while True:
        end = min(rows, at + step)
        stops = [_begin(one, end) for one in shards]
        if step == 1 or sum(stops) - sum(begins) <= _POSTINGS:
            return end, stops
        step //= 2


def _part(
    one: _Shard, begin: int, stop: int, at: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    places = one.locations[begin:stop].astype(np.int64)
    values = one.activations[begin:stop].astype(np.float32)
    row, column, latent = places[:, 0] - at, places[:, 1], places[:, 2] + one.first
    if len(row) and (np.diff(row) < 0).any():
        raise InputError(f"{one.path}: `locations` are not in the order of rows")
    if len(row) and (row[0] < 0 or column.max() >= one.tokens.shape[1] or latent.max() >= one.end):
        raise InputError(f"{one.path}: `locations` point outside the rows or the shard's latents")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"{one.path}: `activations` hold a negative or a value that is no number")
    live = values > 0
    return row[live], column[live], latent[live], values[live]


def _open(path: Path) -> _Shard:
    try:
        first, last = (int(part) for part in path.stem.split("_"))
    except ValueError as error:
        raise InputError(f"{path}: is not named `<first>_<last>.safetensors`") from error
    tensors = _tensors(path)
    for name, dimensions in (("locations", 2), ("activations", 1), ("tokens", 2)):
        if name not in tensors:
            raise InputError(
                f"{path}: has no `{name}`; caches that leave the tokens out cannot be read"
            )
        if tensors[name].ndim != dimensions:
            raise InputError(f"{path}: `{name}` has shape {list(tensors[name].shape)}")
    locations, activations = tensors["locations"], tensors["activations"]
    if locations.shape != (len(activations), 3) or last < first:
        raise InputError(
            f"{path}: {len(activations)} activations at {list(locations.shape)} locations"
        )
    return _Shard(path, first, last + 1, locations, activations, tensors["tokens"])


def _tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a safetensors file, mapped; every place is compared with the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes")
            head = json.loads(file.read(length))
        found = {}
        for name, of in head.items():
            if name == "__metadata__":
                continue
            dtype, shape = np.dtype(_TYPES[of["dtype"]]), tuple(int(n) for n in of["shape"])
            begin, end = of["data_offsets"]
            if end - begin != math.prod(shape) * dtype.itemsize or not (
                0 <= begin <= end <= size - 8 - length
            ):
                raise ValueError(f"`{name}` does not fit the file")
            if 0 in shape:
                found[name] = np.zeros(shape, dtype)
            else:
                found[name] = np.memmap(path, dtype, "r", 8 + length + begin, shape)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: no sound safetensors file ({error})") from error
    return found
