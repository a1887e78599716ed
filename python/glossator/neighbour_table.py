"""Pairs of a latent and its neighbours as one Parquet file, and back.

    table = pair_table(ids, cosines)
    write_pairs(table, "neighbours.parquet")
    read_pairs("neighbours.parquet")["ids"]

The file's metadata say of which coder (`glossator.coder_hash`), decoder (`glossator.decoder`: where
it writes) and index (`glossator.index_hash`) it is. Its pages carry checksums, which are compared
when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glossator.cooccurrence import NO_NEIGHBOUR, Coactivation
from glossator.errors import InputError
from glossator.folders import new_file

__all__ = ["COUNTED", "PAIRS", "RELATIONS", "pair_table", "read_pairs", "write_pairs"]

RELATIONS = ("independent", "co-active", "parent", "child", "absorption")
"""Names of the codes in `Neighbours.relation`: what the neighbour is to the latent."""

PAIRS = pa.schema(
    [
        ("latent", pa.uint32()),
        ("rank", pa.uint32()),
        ("neighbour", pa.uint32()),
        ("cosine", pa.float32()),
        ("both", pa.uint64()),
        ("jaccard", pa.float64()),
        ("npmi", pa.float64()),
        ("given", pa.float64()),
        ("given_back", pa.float64()),
        ("shared_tokens", pa.float64()),
        ("relation", pa.dictionary(pa.int8(), pa.string())),
    ]
)
"""The columns; what is not known is null."""

COUNTED = ("both", "jaccard", "npmi", "given", "given_back", "shared_tokens")
"""Those that come from an index."""

_VERSION = "1"
_TEXTS = ("coder_hash", "decoder", "index_hash")


def pair_table(
    ids: npt.NDArray[np.uint32],
    cosines: npt.NDArray[np.float32],
    *,
    coactivation: Coactivation | None = None,
    relation: npt.NDArray[np.uint8] | None = None,
    facts: Mapping[str, str] | None = None,
) -> pa.Table:
    """One row for each pair, by latent and rank (1: the nearest).

    Args:
        ids: uint32[L, k]; `NO_NEIGHBOUR` has no row.
        cosines: float32[L, k].
        coactivation: of the pairs, where it was counted.
        relation: uint8[L, k], places in `RELATIONS`, where it is known.
        facts: more metadata: `coder_hash`, `decoder`, `index_hash`, or `other_hash` between two
            coders.
    """
    L, k = ids.shape
    there = np.flatnonzero(ids.reshape(-1) != NO_NEIGHBOUR)
    columns: dict[str, Any] = {
        "latent": there // k,
        "rank": there % k + 1,
        "neighbour": ids.reshape(-1)[there],
        "cosine": cosines.reshape(-1)[there],
    }
    for name in COUNTED if coactivation is not None else ():
        columns[name] = getattr(coactivation, name).reshape(-1)[there]
    if relation is not None:
        codes = pa.array(relation.reshape(-1)[there].astype(np.int8))
        columns["relation"] = pa.DictionaryArray.from_arrays(codes, pa.array(RELATIONS))
    metadata = {"neighbours": _VERSION, "n_latents": str(L), "k": str(k), **(facts or {})}
    return pa.table(
        [
            pa.nulls(len(there), field.type)
            if field.name not in columns
            else pa.array(columns[field.name], field.type, from_pandas=True)
            for field in PAIRS
        ],
        schema=PAIRS.with_metadata({f"glossator.{name}": fact for name, fact in metadata.items()}),
    )


def write_pairs(table: pa.Table, path: str | Path) -> Path:
    """Write a table of pairs as Parquet (zstd); what stood there is replaced in one step.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    with new_file(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return path


def read_pairs(path: str | Path) -> dict[str, Any]:
    """What a file of one coder's neighbours holds: the fields of `Neighbours`, by name.

    Raises:
        InputError: there is no such file, or it is damaged or something else.
    """
    path = Path(path)
    try:
        table = pq.read_table(path, partitioning=None, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: no whole Parquet file ({_line(error)}); write it again, with "
            "`glossator neighbours --out`"
        ) from error
    facts = {
        name.decode(errors="replace").removeprefix("glossator."): text.decode(errors="replace")
        for name, text in (table.schema.metadata or {}).items()
    }
    foreign = f"{path}: no table of neighbours"
    if "neighbours" not in facts or not table.schema.equals(PAIRS):
        raise InputError(f"{foreign}; name a file that `glossator neighbours --out` wrote")
    if facts["neighbours"] != _VERSION:
        raise InputError(f"{path}: version `{facts['neighbours']}` is not known; upgrade glossator")
    if "other_hash" in facts:
        raise InputError(f"{foreign} within one coder, but between two; give one decoder")
    try:
        L, k = int(facts["n_latents"]), int(facts["k"])
    except (KeyError, ValueError):
        L = k = 0
    if not 1 <= k < L <= 2**32:
        raise InputError(f"{path}: no sound `n_latents` and `k` in the metadata; write it again")
    shape = L, k
    place = _places(table, shape, path)
    return {
        "ids": _matrix(table["neighbour"], place, shape, np.uint32, NO_NEIGHBOUR),
        "cosines": _matrix(table["cosine"], place, shape, np.float32, np.nan),
        **{name: facts.get(name, "") for name in _TEXTS},
        **_counted(table, place, shape, path),
    }


def _places(table: pa.Table, shape: tuple[int, int], path: Path) -> npt.NDArray[np.int64]:
    """Where each row stands in a matrix of [L, k]."""
    L, k = shape
    for name in ("latent", "rank", "neighbour", "cosine"):
        if table[name].null_count:
            raise InputError(f"{path}: column `{name}` holds nulls; write it again")
    latent, rank, neighbour = (
        table[name].to_numpy().astype(np.int64) for name in ("latent", "rank", "neighbour")
    )
    for name, values, low, high in (
        ("latent", latent, 0, L - 1),
        ("rank", rank, 1, k),
        ("neighbour", neighbour, 0, L - 1),
    ):
        if len(values) and not low <= values.min() <= values.max() <= high:
            bad = values.min() if values.min() < low else values.max()
            raise InputError(f"{path}: column `{name}` holds {bad}; it must be {low} to {high}")
    place: npt.NDArray[np.int64] = latent * k + rank - 1
    if len(np.unique(place)) < len(place):
        raise InputError(f"{path}: a latent has two neighbours of one rank; write it again")
    return place


def _counted(
    table: pa.Table, place: npt.NDArray[np.int64], shape: tuple[int, int], path: Path
) -> dict[str, Any]:
    """Co-activation and relation, where the file has them."""
    if not len(table) or table["relation"].null_count == len(table):
        return {}
    codes = pc.index_in(table["relation"].cast(pa.string()), value_set=pa.array(RELATIONS))
    if codes.null_count or table["both"].null_count:
        raise InputError(
            f"{path}: column `relation` or `both` holds what is no value of theirs; write it again"
        )
    counted = {
        name: _matrix(table[name], place, shape, np.float64, np.nan)
        for name in COUNTED
        if name != "both"
    }
    return {
        "coactivation": Coactivation(
            both=_matrix(table["both"], place, shape, np.uint64, 0), **counted
        ),
        "relation": _matrix(codes, place, shape, np.uint8, 0),
    }


def _matrix(
    column: pa.ChunkedArray,
    place: npt.NDArray[np.int64],
    shape: tuple[int, int],
    dtype: type[np.generic],
    empty: float,
) -> npt.NDArray[Any]:
    matrix = np.full(shape, empty, dtype)
    matrix.reshape(-1)[place] = column.to_numpy()
    return matrix


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
