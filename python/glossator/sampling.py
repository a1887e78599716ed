"""What to draw of each latent, and what was drawn.

    plan = SamplingPlan(explain=ExplainPlan(kind="top", n=20), per_decile=7)
    examples = index.sample([3, 17], plan, seed=0)
    examples.activations.max(axis=1)          # one peak a row
    examples.take(examples.split == 1)        # the scorer's rows
    examples.to_arrow()

The explainer's and the scorer's examples are windows of disjoint documents. Drawing is
deterministic: the same index, latent, plan and seed give the same rows on any machine and for any
division of the index into segments, and within each latent, split and decile a smaller draw is the
beginning of a larger one.

How a draw goes: a range of ranks (the whole latent, a decile, a bin) is shuffled with a key made of
seed, latent, purpose and range, and its windows are taken in that order if they are of the side
asked for and eligible. So what it costs grows with the sample, not with the latent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from glossator import _core
from glossator.arrays import flat_ids, matrix_ids
from glossator.errors import InputError
from glossator.records import TABLES, Record

__all__ = [
    "KINDS",
    "NO_LATENT",
    "NO_WINDOW",
    "SPLITS",
    "Examples",
    "ExplainPlan",
    "NearestWindows",
    "NegativePlan",
    "NeighbourTable",
    "SamplingPlan",
]

SPLITS = ("explain", "score")
"""Names of the codes in `Examples.split`."""
KINDS = (
    None,
    "random",
    "peak_token",
    "near_token",
    "embedding",
    "decoder",
    "decoder_unfiltered",
)
"""Names of the codes in `Examples.kind`; None: the row is no negative."""
NO_LATENT = 2**32 - 1
"""Stands in `Examples.source` where a window was drawn from no other latent's."""
NO_WINDOW = 2**64 - 1
"""Stands in `NearestWindows.windows` where there is none."""

_Limit = 2**32


class ExplainPlan(Record):
    """Which activating windows of the explain side an explainer reads.

    The kinds are those compared in "Open Source Automated Interpretability for Sparse Autoencoder
    Features" (Juang et al., 2024).
    """

    kind: Literal["uniform", "top", "top_of", "deciles", "mixture"] = "uniform"
    """`uniform`: each window equally likely; `top`: the strongest of the side; `top_of`: some of
    its `pool` strongest; `deciles`: n / 10 of each decile of the whole index, what is left over one
    each from the strongest deciles down; `mixture`: `n_top` of the `pool` strongest, then uniform.
    The first 200 of a side are ranked by their bf16, as `Index.top` says."""
    n: int = Field(default=40, ge=0, lt=_Limit)
    """Number of windows."""
    pool: int = Field(default=200, ge=0, lt=_Limit)
    """How many of the strongest `top_of` and `mixture` draw from."""
    n_top: int = Field(default=20, ge=0, lt=_Limit)
    """How many of the n windows `mixture` draws from the pool."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "mixture" and self.n_top > self.n:
            raise ValueError(f"n_top is {self.n_top}, more than n = {self.n}")
        return self


class NegativePlan(Record):
    """Windows of the score side that an explanation should deny.

    The latent is silent in all of them but those of `decoder_unfiltered`. From the easiest kind to
    the hardest; all but the first ask more of an explanation than to name the right token.
    """

    kind: Literal[
        "random", "peak_token", "near_token", "embedding", "decoder", "decoder_unfiltered"
    ] = "random"
    """`random`: each window equally likely. `peak_token`: one that holds the token of a peak of the
    latent. `near_token`: one that holds the token before or after a peak. Peaks are those of up to
    32 windows of the explain side, and take turns. Both need a list of the windows that hold each
    token: it is made when first asked for and kept with the open index, 4 bytes for each token of
    the eligible score side at most. `embedding`: the nearest of `nearest=`. `decoder`: one in which
    a neighbour of `neighbours=` is active, the ranks taking turns; parents and children of the
    latent are left out. `decoder_unfiltered`: the same, but parents and children are kept and the
    latent may be active. It reproduces scores whose counterexamples nobody checked ("Open Source
    Automated Interpretability for Sparse Autoencoder Features", 2024), and does not measure an
    explanation: where the latent is active, yes is right and counts as wrong."""
    n: int = Field(default=50, ge=0, lt=_Limit)
    """Number of windows."""
    margin: int = Field(default=0, ge=0, lt=_Limit)
    """Tokens before and after what is shown, within its context, on which it must be silent too.

    Above 0 it costs one decoding of the latent's postings. Not for `decoder_unfiltered`."""
    ranks: tuple[int, int] = (1, 10)
    """First and last rank of the neighbours of the decoder kinds, the nearest being 1. What they
    cannot give comes from the next ranks of the table, and is told in the shortfalls."""
    pool: int | None = Field(default=None, ge=1, lt=_Limit)
    """Of the decoder kinds: from how many of a neighbour's strongest eligible score-side windows;
    from all if None."""
    even: bool = False
    """Of `peak_token`: whether every silent window that holds one of the latent's 20 commonest peak
    tokens is equally likely, rather than that the tokens of 32 peaks take turns. That is a stratum
    of known size (`glossator.index.silent_strata`), so that what is found in it can be weighed.
    Not with a plan's `length` or `centred`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        first, last = self.ranks
        if not 1 <= first <= last < _Limit:
            raise ValueError(f"ranks is ({first}, {last}): the first is from 1 to the last")
        return self


class SamplingPlan(Record):
    """What to draw of each latent."""

    explain: ExplainPlan = ExplainPlan()
    """The explainer's windows."""
    per_decile: int = Field(default=5, ge=0, lt=_Limit)
    """The scorer's activating windows of each of the ten deciles."""
    per_bin: int = Field(default=0, ge=0, lt=_Limit)
    """The scorer's activating windows of each of `bins` bins of equal width between 0 and the
    latent's largest activation, by the window's largest; none that a decile has drawn already."""
    bins: int = Field(default=20, ge=1, lt=_Limit)
    """Number of bins for `per_bin`."""
    negatives: tuple[NegativePlan, ...] = (NegativePlan(),)
    """The scorer's negatives; no window is in two of the lists, or activating and in one."""
    length: int | None = Field(default=None, ge=1, lt=_Limit)
    """Tokens shown of each example, at most a context; the window's if None.

    What is drawn are windows all the same, with their ranks and deciles. The stretch shown lies
    around the window's middle, moved into its context. Every window that it touches must be of the
    same side and eligible; a negative must be silent on all of it; an activating one must be active
    on it; and of windows with the same stretch the strongest is shown. A neighbour's window is
    shown as an activating one of the neighbour. Costs one decoding of the latent's postings, and of
    each such neighbour's, as `centred` does."""
    centred: bool = False
    """Whether the stretch lies around the window's peak (the first of its largest activations)."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows drawn: n rows of W tokens, by latent, split, decile, and order of drawing.

    W is the plan's `length`, or the index's window.
    """

    latent: npt.NDArray[np.uint32]
    """[n] latent."""
    start: npt.NDArray[np.uint64]
    """[n] position of the first token shown: context · S + offset."""
    tokens: npt.NDArray[np.uint32]
    """[n, W] token ids."""
    activations: npt.NDArray[np.float32]
    """[n, W] activations of the row's latent, of the given `precision`; 0 where it is silent."""
    decile: npt.NDArray[np.uint8]
    """[n] rank decile of the window over the whole index, 10 the strongest; 0: a negative."""
    split: npt.NDArray[np.uint8]
    """[n] 0: explain, 1: score."""
    kind: npt.NDArray[np.uint8]
    """[n] kind of negative, a place in `KINDS`; 0: none."""
    source: npt.NDArray[np.uint32]
    """[n] the neighbour whose window it is, of the decoder kinds; elsewhere `NO_LATENT`."""
    rank: npt.NDArray[np.uint32]
    """[n] that neighbour's rank, or the window's in order of nearness, from 1 on; elsewhere 0."""
    document: npt.NDArray[np.uint64]
    """[n] document of the first unmasked token."""
    document_start: npt.NDArray[np.bool_]
    """[n, W] whether a token is the first of its document (also where a context begins with it)."""
    mask: npt.NDArray[np.bool_]
    """[n, W] whether a token counts; False: padding, BOS, sinks."""
    shortfall_rows: list[tuple[int, str, int, int]]
    """The rows of `shortfalls`."""
    context_length: int
    """S, tokens of a context."""
    hookpoint: str
    """The index's attribute `hookpoint`, or empty."""
    precision: str
    """Of the activations: `bf16`, or `code, 1/32` (within 1/32 of what was given)."""

    @property
    def shortfalls(self) -> pa.Table:
        """Plans that a latent could not fill: latent, what, wanted and found (windows).

        `what` is `explain`, `score`, `bins` or a kind of negative. `decoder_ranks` and
        `decoder_unfiltered_ranks` tell how many the asked ranks gave where others had to help: all
        of the nearest are active together with the latent, say.
        """
        columns = zip(*self.shortfall_rows, strict=True) if self.shortfall_rows else [()] * 4
        return pa.table(
            [pa.array(column, of.type) for column, of in zip(columns, _SHORTFALLS, strict=True)],
            schema=_SHORTFALLS,
        )

    def __len__(self) -> int:
        return len(self.latent)

    def take(self, rows: npt.ArrayLike) -> Examples:
        """Some of the rows, by number or by a mask of length n; the shortfalls stay whole."""
        chosen = np.asarray(rows)
        if chosen.size == 0 and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.int64)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in (*_PER_ROW, *_PER_TOKEN):
            values[name] = values[name][chosen]
        return Examples(**values)

    def to_arrow(self) -> pa.Table:
        """The rows as a table of the run's `examples` columns, save `example_id` and `text`.

        `start` is the offset in the context here, and `document` that of the first unmasked token.
        """
        length = np.uint64(self.context_length)
        columns = {
            "hookpoint": pa.repeat(self.hookpoint, len(self)),
            "latent": self.latent.astype(np.int64),
            "context": (self.start // length).astype(np.int64),
            "start": (self.start % length).astype(np.int64),
            "tokens": _lists(self.tokens),
            "activations": _lists(self.activations),
            "decile": self.decile.astype(np.int64),
            "activating": self.decile > 0,
            "split": pa.DictionaryArray.from_arrays(self.split, pa.array(SPLITS)).cast(pa.string()),
            "kind": _names(self.kind),
            "source_latent": _known(self.source, NO_LATENT),
            "source_rank": _known(self.rank, 0),
            "document": self.document,
        }
        types = TABLES["examples"]
        return pa.table(
            {name: pa.array(column, types.field(name).type) for name, column in columns.items()}
        )


class NeighbourTable(Protocol):
    """What a draw reads of `glossator.neighbours.Neighbours`."""

    @property
    def ids(self) -> npt.NDArray[np.uint32]:
        """[L, k] neighbours of each latent, the nearest first; 2^32 - 1: none."""

    @property
    def relation(self) -> npt.NDArray[np.uint8] | None:
        """[L, k] how each is related to the latent: 2 parent, 3 child."""

    @property
    def coder_hash(self) -> str:
        """Of the coder whose decoder it is; empty if unknown."""


@dataclass(frozen=True, eq=False)
class NearestWindows:
    """The windows of an index that are nearest to some latents, by meaning say."""

    latents: npt.NDArray[np.uint32]
    """[n] latents, ascending."""
    windows: npt.NDArray[np.uint64]
    """[n, m] window numbers, the nearest first; 0 is the index's first, as in `Index.sides`.
    `NO_WINDOW`: none."""
    index_hash: str
    """Of the index whose windows they are."""
    model: str
    """What they are near by: the name of a sentence encoder."""


def core_neighbours(
    table: NeighbourTable | None, coder_hash: str
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8] | None] | None:
    """The table as the core reads it, of the coder of an index (empty: unknown).

    Raises:
        InputError: it is of another coder, or no table.
    """
    if table is None:
        return None
    if table.coder_hash and coder_hash and table.coder_hash != coder_hash:
        raise InputError(
            f"`neighbours` is of coder {table.coder_hash}, the index of coder {coder_hash}; "
            "give the neighbours of the index's own coder"
        )
    relation = table.relation
    return (
        matrix_ids("neighbours.ids", table.ids, np.uint32),
        None if relation is None else matrix_ids("neighbours.relation", relation, np.uint8),
    )


def core_nearest(
    nearest: NearestWindows | None, index_hash: str
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]] | None:
    """The windows as the core reads them.

    Raises:
        InputError: they are another index's, or no table.
    """
    if nearest is None:
        return None
    if nearest.index_hash != index_hash:
        raise InputError(
            f"`nearest` is of index {nearest.index_hash}, not of this one, {index_hash}; "
            "make it again with `nearest_windows`"
        )
    latents = flat_ids("nearest.latents", nearest.latents, np.uint32)
    return latents, matrix_ids("nearest.windows", nearest.windows, np.uint64)


def core_plan(plan: SamplingPlan) -> _core.Plan:
    """The plan as the core reads it; one plan is read once, however often it is used."""
    known = _READ.get(id(plan))
    if known is None or known[0] is not plan:
        if len(_READ) >= _KEPT:
            _READ.clear()
        known = _READ[id(plan)] = (plan, _core.Plan.read(plan.model_dump_json()))
    return known[1]


# With the plan itself, so that its id is not given to another.
_READ: dict[int, tuple[SamplingPlan, _core.Plan]] = {}
_KEPT = 16
_PER_ROW = ("latent", "start", "decile", "split", "kind", "source", "rank", "document")
_PER_TOKEN = ("tokens", "activations", "document_start", "mask")
_SHORTFALLS = pa.schema(
    [
        ("latent", pa.uint32()),
        ("what", pa.string()),
        ("wanted", pa.uint64()),
        ("found", pa.uint64()),
    ]
)


def _lists(rows: npt.NDArray[Any]) -> pa.Array:
    """A matrix as a column of lists, over the same memory."""
    n, width = rows.shape
    offsets = np.arange(n + 1, dtype=np.int64) * width
    kind = pa.LargeListArray if n * width > np.iinfo(np.int32).max else pa.ListArray
    whole = offsets.astype(np.int64 if kind is pa.LargeListArray else np.int32)
    return kind.from_arrays(pa.array(whole), pa.array(np.ascontiguousarray(rows).reshape(-1)))


def _names(codes: npt.NDArray[np.uint8]) -> pa.Array:
    """The names of kinds of negatives; null for none."""
    chosen = pa.array(codes.astype(np.int32) - 1, mask=codes == 0)
    return pa.DictionaryArray.from_arrays(chosen, pa.array(KINDS[1:])).cast(pa.string())


def _known(values: npt.NDArray[np.uint32], unknown: int) -> pa.Array:
    """Numbers; null where they are unknown."""
    return pa.array(values.astype(np.int64), mask=values == unknown)
