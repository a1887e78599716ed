"""What to draw of each latent, and what was drawn.

    plan = SamplingPlan(explain=ExplainPlan(kind="top", n=20), per_decile=7)
    examples = index.sample([3, 17], plan, seed=0)
    examples.activations.max(axis=1)          # one peak a row
    examples.take(examples.split == 1)        # the scorer's rows
    examples.to_arrow()

The explainer's and the scorer's examples are windows of disjoint documents. Drawing is
deterministic: the same index, latent, plan and seed give the same rows on any machine, and within
each latent, split and decile a smaller draw is the beginning of a larger one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from glossator.records import TABLES, Record

__all__ = ["KINDS", "SPLITS", "Examples", "ExplainPlan", "NegativePlan", "SamplingPlan"]

SPLITS = ("explain", "score")
"""Names of the codes in `Examples.split`."""
KINDS = (None, "random")
"""Names of the codes in `Examples.kind`; None: the latent is active, or the row is no negative."""

_Limit = 2**32


class ExplainPlan(Record):
    """Which activating windows an explainer reads; all ranks are among the explain side's windows.

    The kinds are those compared in "Open Source Automated Interpretability for Sparse Autoencoder
    Features" (Juang et al., 2024).
    """

    kind: Literal["uniform", "top", "top_of", "deciles", "mixture"] = "uniform"
    """`uniform`: each window equally likely; `top`: the strongest; `top_of`: some of the `pool`
    strongest; `deciles`: n / 10 of each tenth of the ranks, what is left over one each from the
    strongest tenths down; `mixture`: `n_top` of the `pool` strongest and the rest uniform."""
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
    """Windows of the score side in which the latent is silent."""

    kind: Literal["random"] = "random"
    """`random`: each such window equally likely."""
    n: int = Field(default=50, ge=0, lt=_Limit)
    """Number of windows."""
    margin: int = Field(default=0, ge=0, lt=_Limit)
    """Tokens before and after the window, within its context, on which it must be silent too."""


class SamplingPlan(Record):
    """What to draw of each latent."""

    explain: ExplainPlan = ExplainPlan()
    """The explainer's windows."""
    per_decile: int = Field(default=5, ge=0, lt=_Limit)
    """The scorer's activating windows of each of the ten deciles."""
    negatives: tuple[NegativePlan, ...] = (NegativePlan(),)
    """The scorer's silent windows; no window is in two of the lists."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows drawn: n rows of W tokens, by latent, split, decile, and order of drawing."""

    latent: npt.NDArray[np.uint32]
    """[n] latent."""
    start: npt.NDArray[np.uint64]
    """[n] position of the first token: context · S + offset."""
    tokens: npt.NDArray[np.uint32]
    """[n, W] token ids."""
    activations: npt.NDArray[np.float32]
    """[n, W] activations of the row's latent; 0 where it is silent."""
    decile: npt.NDArray[np.uint8]
    """[n] rank decile of the window over the whole index, 10 the strongest; 0: silent."""
    split: npt.NDArray[np.uint8]
    """[n] 0: explain, 1: score."""
    kind: npt.NDArray[np.uint8]
    """[n] kind of negative. 0: none, 1: random."""
    document: npt.NDArray[np.uint64]
    """[n] document of the first unmasked token."""
    document_start: npt.NDArray[np.bool_]
    """[n, W] whether a token is the first of its document (also where a context begins with it)."""
    mask: npt.NDArray[np.bool_]
    """[n, W] whether a token counts; False: padding, BOS, sinks."""
    shortfalls: pa.Table
    """Plans that a latent could not fill: latent, what (`explain`, `score` or a kind of negative),
    wanted and found (windows)."""
    context_length: int
    """S, tokens of a context."""
    hookpoint: str
    """The index's attribute `hookpoint`, or empty."""

    @classmethod
    def of(
        cls, columns: Mapping[str, Any], *, window: int, context_length: int, hookpoint: str
    ) -> Self:
        """Shape the flat columns that the core hands over."""
        arrays = {name: columns[name] for name in _PER_ROW}
        for name in _PER_TOKEN:
            arrays[name] = columns[name].reshape(-1, window)
        rows = columns["shortfalls"]
        shortfalls = pa.table(
            {
                field.name: pa.array([row[i] for row in rows], field.type)
                for i, field in enumerate(_SHORTFALLS)
            }
        )
        return cls(
            **arrays, shortfalls=shortfalls, context_length=context_length, hookpoint=hookpoint
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
            "hookpoint": np.full(len(self), self.hookpoint, dtype=object),
            "latent": self.latent.astype(np.int64),
            "context": (self.start // length).astype(np.int64),
            "start": (self.start % length).astype(np.int64),
            "tokens": _lists(self.tokens.astype(np.int64)),
            "activations": _lists(self.activations),
            "decile": self.decile.astype(np.int64),
            "activating": self.decile > 0,
            "split": np.array(SPLITS, dtype=object)[self.split],
            "kind": np.array(KINDS, dtype=object)[self.kind],
            "document": self.document,
        }
        types = TABLES["examples"]
        return pa.table(
            {name: pa.array(column, types.field(name).type) for name, column in columns.items()}
            if len(self)
            else {name: pa.array([], types.field(name).type) for name in columns}
        )


_PER_ROW = ("latent", "start", "decile", "split", "kind", "document")
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
    """A matrix as a column of lists."""
    n, width = rows.shape
    offsets = np.arange(n + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))
