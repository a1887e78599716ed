"""Which latents point where another one points? Exact nearest neighbours by decoder direction.

    ids, cosines = neighbours(coder, k=10)          # uint32[L, k], float32[L, k]
    ids, cosines = neighbours(coder, other, k=1)    # the latents of `other` nearest to each

    near = Neighbours.of(coder, k=32).with_index(index)
    RELATIONS[near.relation[17, 0]]                 # what the nearest latent is to latent 17
    near.write("neighbours.parquet")

Rows are normalised here and need no norm of their own. The search is exact: it gives the set that
float64 products of all pairs give, without ever holding L × L of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator import _core
from glossator.arrays import Array, to_numpy, whole
from glossator.cooccurrence import NO_NEIGHBOUR, Coactivation
from glossator.errors import InputError
from glossator.neighbour_table import RELATIONS, pair_table, read_pairs, write_pairs
from glossator.progress import SILENT, Progress

__all__ = ["NO_NEIGHBOUR", "RELATIONS", "Neighbours", "neighbours", "relations"]

GIVEN = 0.5
"""Above this share of one latent's windows the other one is active too: it is the parent.

The bound that the literature on feature hierarchies begins with: most of the one's windows are
also the other's."""
CO_ACTIVE_NPMI = 0.1
"""From this on two latents are active together more often than chance has it.

NPMI is 0 for independent latents and 1 for those that are only active together. Where ten common
windows are expected by chance, 0.1 lies three standard deviations above them."""
CO_ACTIVE_BOTH = 3
"""Of fewer common windows nothing is said: for two rare latents, one by chance is NPMI 0.3."""
ABSORPTION_COSINE = 0.3
"""From this cosine on two latents write the same thing.

Between random rows of width 768 a cosine has the standard deviation 0.036."""
ABSORPTION_TOGETHER = 0.05
"""Up to this share of the rarer latent's windows two latents are almost never active together."""
ABSORPTION_TOKENS = 0.5
"""From this overlap of their peak tokens on two latents are active on the same tokens.

An absorbing latent takes the place of a general one on some of its tokens ("A is for Absorption",
Chanin et al., 2024): same direction, same tokens, not at the same time."""

_NAMED = 5


class Counted(Protocol):
    """What is asked of an index."""

    n_latents: int
    """Number of latents."""
    hash: str
    """Hash of its content."""
    attributes: dict[str, str]
    """Among them `coder_hash`, where it is known."""

    def coactivation(self, latents: Array, neighbours: Array, /) -> Coactivation:
        """As `Index.coactivation`."""


def neighbours(
    decoder: Any,  # noqa: ANN401 - NumPy, torch, or a coder
    other: Any = None,  # noqa: ANN401
    *,
    k: int = 10,
    progress: Progress = SILENT,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """The k nearest rows of each row, by cosine; exact.

    Cosines that differ by less than 1e-12 in float64 count as equal; of identical rows the smaller
    id comes first. A row of zeros points nowhere: it has no neighbours and is nobody's, and one
    warning (a `UserWarning`) says how many there are and names the first.

    Args:
        decoder: float[L, d], NumPy or torch, of any float dtype (rounded to float32); or a
            `SparseCoder`.
        other: float[M, d] or a coder, whose rows are the neighbours; None: those of `decoder`,
            save the row itself.
        k: how many, up to the number of rows that may be a row's neighbours.
        progress: shows the rows done.

    Returns:
        ids uint32[L, k] and cosines float32[L, k], the nearest first; `NO_NEIGHBOUR` and NaN where
        there is none.

    Raises:
        InputError: NaN or infinity (the text names the row), k too large or 0, other widths, or
            what is no matrix of floats.
    """
    rows = _rows("decoder", decoder)
    others = None if other is None else _rows("other", other)
    most = max(len(rows) - 1, 0) if others is None else len(others)
    if others is not None and others.shape[1] != rows.shape[1]:
        raise InputError(
            f"`other` has rows of {others.shape[1]} numbers, `decoder` of {rows.shape[1]}; "
            "neighbours lie in one space: give decoders of the same hookpoint"
        )
    k = whole("k", k, 2**32)
    if not 1 <= k <= most:
        raise InputError(f"`k` is {k}; each row has at most {most} neighbours, and needs 1")
    ids, cosines = search(rows, others, k, "neighbours", progress)
    for name, matrix in (("decoder", rows), ("other", others)):
        if matrix is not None and (said := _zeros(name, matrix)):
            warnings.warn(said, stacklevel=2)
    return ids, cosines


def search(
    rows: npt.NDArray[np.float32],
    other: npt.NDArray[np.float32] | None,
    k: int,
    stage: str,
    progress: Progress,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """The core's search under a progress bar that counts rows; one on a GPU would stand here."""
    with progress.stage(stage, len(rows), "latents") as bar:
        before = 0

        def say(done: int, whole: int) -> None:
            # The core counts tiles of the product; a row is done when all of its tiles are.
            nonlocal before
            now = len(rows) * done // max(whole, 1)
            bar.advance(now - before)
            before = now

        found = _core.neighbours(rows, other, k, say)
        say(1, 1)
    return found


def relations(
    cosines: npt.NDArray[np.floating[Any]], together: Coactivation
) -> npt.NDArray[np.uint8]:
    """What each neighbour is to its latent, uint8[L, k]: places in `RELATIONS`.

    The first that holds: `parent`, P(neighbour | latent) > `GIVEN`; `child`, P(latent | neighbour)
    > `GIVEN` (where both hold, the larger decides, of equal ones `parent`); `absorption`, a cosine
    from `ABSORPTION_COSINE` on, active together in at most `ABSORPTION_TOGETHER` of the rarer
    one's windows, and on the same tokens (`ABSORPTION_TOKENS`); `co-active`, NPMI from
    `CO_ACTIVE_NPMI` on in at least `CO_ACTIVE_BOTH` common windows; else `independent`.
    """
    given, back = together.given, together.given_back
    code = {name: number for number, name in enumerate(RELATIONS)}
    found = np.full(cosines.shape, code["independent"], np.uint8)
    # NaN, of a latent that is never active, is neither above nor below.
    found[(together.npmi >= CO_ACTIVE_NPMI) & (together.both >= CO_ACTIVE_BOTH)] = code["co-active"]
    found[
        (cosines >= ABSORPTION_COSINE)
        & (np.maximum(given, back) <= ABSORPTION_TOGETHER)
        & (together.shared_tokens >= ABSORPTION_TOKENS)
    ] = code["absorption"]
    found[(back > GIVEN) & (back > given)] = code["child"]
    found[(given > GIVEN) & (given >= back)] = code["parent"]
    found[np.isnan(cosines)] = code["independent"]
    return found


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest latents of every latent of one coder, and what they are to it."""

    ids: npt.NDArray[np.uint32]
    """Latent ids, [L, k]: column r holds the neighbours of rank r + 1; `NO_NEIGHBOUR`: none."""
    cosines: npt.NDArray[np.float32]
    """Between the decoder's rows, [L, k]; NaN where there is none."""
    coder_hash: str = ""
    """Of the coder; empty where it is not known."""
    decoder: str = ""
    """Where the decoder writes whose rows these are; empty where it is not known."""
    index_hash: str = ""
    """Of the index that co-activation was counted in; empty before that."""
    coactivation: Coactivation | None = None
    """How often each pair is active together; None before an index was counted."""
    relation: npt.NDArray[np.uint8] | None = None
    """What the neighbour is to the latent, [L, k]: places in `RELATIONS`; None before that."""

    @classmethod
    def of(
        cls,
        decoder: Any,  # noqa: ANN401 - NumPy, torch, or a coder
        k: int = 10,
        *,
        writes_to: str | None = None,
        progress: Progress = SILENT,
    ) -> Self:
        """The neighbours within one coder; see `neighbours` for the other arguments and errors.

        Args:
            decoder: float[L, d], or a coder.
            k: how many.
            writes_to: of a cross-layer coder, the hookpoint whose decoder is asked; the first
                one's if None.
            progress: shows the rows done.
        """
        rows, name = decoder_rows(decoder, writes_to)
        ids, cosines = neighbours(rows, k=k, progress=progress)
        return cls(ids, cosines, coder_hash_of(decoder), name)

    @property
    def n_latents(self) -> int:
        """L."""
        return len(self.ids)

    @property
    def k(self) -> int:
        """How many neighbours each latent has, at most."""
        return int(self.ids.shape[1])

    def with_index(self, index: Counted) -> Self:
        """The same with co-activation in an index, and the relations that follow from it.

        Raises:
            InputError: the index is another coder's, by its hash or its number of latents.
            CorruptIndexError: a file of the index is damaged.
        """
        refuse_other_coder(index, self.coder_hash, self.n_latents)
        together = index.coactivation(np.arange(self.n_latents, dtype=np.uint32), self.ids)
        return replace(
            self,
            coder_hash=self.coder_hash or index.attributes.get("coder_hash", ""),
            index_hash=index.hash,
            coactivation=together,
            relation=relations(self.cosines, together),
        )

    def relation_counts(self) -> dict[str, int]:
        """How many pairs are what, by name; empty before an index was counted."""
        if self.relation is None:
            return {}
        counts = np.bincount(self.relation[self.ids != NO_NEIGHBOUR], minlength=len(RELATIONS))
        return dict(zip(RELATIONS, counts.tolist(), strict=True))

    def to_arrow(self) -> pa.Table:
        """One row for each pair of a latent and its neighbour, by latent and rank.

        The columns are `glossator.neighbour_table.PAIRS`; co-activation is null before an index
        was counted. The metadata hold k, the number of latents, where the decoder writes, and the
        hashes of coder and index.
        """
        return pair_table(
            self.ids,
            self.cosines,
            coactivation=self.coactivation,
            relation=self.relation,
            facts={
                "coder_hash": self.coder_hash,
                "decoder": self.decoder,
                "index_hash": self.index_hash,
            },
        )

    def write(self, path: str | Path) -> Path:
        """Write that table as Parquet (zstd); what stood there is replaced in one step.

        Raises:
            InputError: the file cannot be written.
        """
        return write_pairs(self.to_arrow(), path)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what `write` wrote.

        Raises:
            InputError: there is no such file, or it is damaged or something else.
        """
        return cls(**read_pairs(path))


def refuse_other_coder(index: Counted, coder_hash: str, n_latents: int) -> None:
    """Refuse an index that was not built from a coder.

    Raises:
        InputError: both hashes are known and differ, or the numbers of latents do.
    """
    built_from = index.attributes.get("coder_hash", "")
    if coder_hash and built_from and built_from != coder_hash:
        raise InputError(
            f"the index was built from the coder {built_from[:12]}…, the neighbours from "
            f"{coder_hash[:12]}…; give the decoder that the index was built from"
        )
    if index.n_latents != n_latents:
        raise InputError(
            f"the index has {index.n_latents} latents, the decoder {n_latents}; "
            "give the decoder that the index was built from"
        )


def decoder_rows(decoder: Any, writes_to: str | None = None) -> tuple[Any, str]:  # noqa: ANN401
    """The rows of one decoder, and the hookpoint that it writes to; empty where it is not known.

    Args:
        decoder: bare rows, or a coder.
        writes_to: one of its hookpoints; the first, which is the only one of most coders, if None.

    Raises:
        InputError: it has no such decoder.
    """
    if not hasattr(decoder, "decoder"):
        if writes_to is not None:
            raise InputError(
                f"rows alone do not say that they write to `{writes_to}`; give a coder"
            )
        return decoder, ""
    known = dict(decoder.decoders) or {decoder.hookpoint_out or "": decoder.decoder}
    if writes_to is None:
        return decoder.decoder, next(iter(known))
    if writes_to not in known:
        raise InputError(
            f"coder {decoder.source} has no decoder for `{writes_to}`; it writes to "
            f"`{'`, `'.join(known)}`"
        )
    return known[writes_to], writes_to


def coder_hash_of(decoder: Any) -> str:  # noqa: ANN401 - NumPy, torch, or a coder
    """The hash of a coder; empty for bare rows."""
    return str(getattr(decoder, "hash", "")) if hasattr(decoder, "decoder") else ""


def _rows(name: str, given: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401
    """What was given as rows of float32."""
    array = to_numpy(name, getattr(given, "decoder", given))
    if array.ndim != 2:
        raise InputError(f"`{name}` has shape {list(array.shape)}; it must be [latents, width]")
    if array.dtype.kind != "f" and str(array.dtype) != "bfloat16":
        raise InputError(f"`{name}` has dtype {array.dtype}; it must be of floats")
    # What is too large for float32 becomes infinite, and is refused with its row.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def _zeros(name: str, rows: npt.NDArray[np.float32]) -> str:
    """Says which rows are zeros; empty where none is."""
    zero = np.flatnonzero(~rows.any(axis=1))
    if not len(zero):
        return ""
    first = ", ".join(map(str, zero[:_NAMED].tolist()))
    more = ", …" if len(zero) > _NAMED else ""
    return (
        f"`{name}`: {len(zero):,} of {len(rows):,} rows are zeros and have no neighbours "
        f"({first}{more})"
    )
