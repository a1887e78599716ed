"""The examples of an atlas: drawn from the index, each window stored once, activations in 8 bits.

    drawn = draw(index, text, np.array([3, 17]), top=maxima, rules={17: rule}, bar=bar)
    arrays = drawn.arrays()      # for glossator.atlas.pack.pack
    drawn.strings                # the texts of tokens that the arrays point into

An example is a window of 32 tokens or so, shared by the latents that are active on it; it keeps the
offsets at which its latent is active and the activation there as 255ths of the latent's maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glossator.atlas.firing import AtlasIndex, AtlasText, Contexts, fired_on
from glossator.atlas.pack import planes
from glossator.progress import Bar
from glossator.records import Rule
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan

__all__ = ["PLAN", "STRONGEST", "Drawn", "draw"]

Array = npt.NDArray[Any]

PLAN = SamplingPlan(
    explain=ExplainPlan(kind="deciles", n=20),
    per_decile=1,
    negatives=(NegativePlan(kind="random", n=4),),
)
"""Two of each decile from the explainer's side, one from the scorer's, and four silent windows."""

STRONGEST = SamplingPlan(explain=ExplainPlan(kind="top", n=2), per_decile=0, negatives=())
"""The two strongest of the explainer's side, which a draw may leave out."""

DOCUMENT_START, MASKED, PADDING = 1, 2, 4
"""Bits of a token's mark: it opens a document; it is masked; it is padding and not shown."""

SCORE_SIDE, SILENT_EXAMPLE, RULE_KNOWN, RULE_FIRES = 1, 2, 4, 8
"""Bits of an example: it is of the scorer's side; its latent is silent on it; its latent has a
rule; the rule fires on it."""

_NO_DOCUMENT = np.uint64(2**64 - 1)
_BATCH, _DECODED = 256, 4096
_NEIGHBOURS = 4


@dataclass(frozen=True)
class Drawn:
    """Examples of some latents, by latent, then decile descending, then peak descending.

    Silent examples stand last. `n` examples, `m` unique windows of `W` tokens.
    """

    width: int
    """Tokens of a window, W."""
    context_length: int
    """Tokens of a context."""
    strings: list[str]
    """Distinct texts of tokens, most frequent first."""
    window_start: Array
    """uint64[m], ascending: position of the window's first token."""
    window_document: Array
    """uint64[m]: document of its first unmasked token."""
    window_tokens: Array
    """uint32[m, W]: numbers of strings."""
    window_marks: Array
    """uint8[m, W]: bits of `DOCUMENT_START`, `MASKED`, `PADDING`."""
    latent: Array
    """uint32[n]."""
    window: Array
    """uint32[n]: which window."""
    decile: Array
    """uint8[n]: 0 where the latent is silent."""
    flags: Array
    """uint8[n]: bits of `SCORE_SIDE`, `SILENT_EXAMPLE`, `RULE_KNOWN`, `RULE_FIRES`."""
    active: tuple[Array, Array, Array]
    """Where the latent is active: uint16[n] how many tokens, then their offsets and uint8 codes."""
    fired: tuple[Array, Array]
    """Where the rule fires: uint16[n] how many tokens, then their offsets."""

    def arrays(self) -> dict[str, Array]:
        """The arrays by the names that the page's script reads."""
        documents, document = np.unique(self.window_document, return_inverse=True)
        starts = self.window_start
        narrow: type[np.unsignedinteger[Any]] = np.uint8 if self.width <= 256 else np.uint16
        return {
            "context": (starts // np.uint64(self.context_length)).astype(np.uint32),
            "offset": (starts % np.uint64(self.context_length)).astype(np.uint32),
            "documents": documents.astype(np.uint64),
            "document": document.reshape(-1).astype(np.uint32),
            "tokens": planes(self.window_tokens, len(self.strings)),
            "marks": self.window_marks,
            "example_window": self.window,
            "example_decile": self.decile,
            "example_flags": self.flags,
            "active_n": self.active[0],
            "active_offset": self.active[1].astype(narrow),
            "active_code": self.active[2],
            "fired_n": self.fired[0],
            "fired_offset": self.fired[1].astype(narrow),
        }


def _padding(index: AtlasIndex, starts: Array, width: int) -> Array:
    """Which tokens of some windows belong to no document: bool[n, W]."""
    if not len(starts):
        return np.zeros((0, width), bool)
    contexts = Contexts(index, starts)
    documents = contexts.rows(starts)[1]
    padding: Array = (
        np.take_along_axis(documents, contexts.columns(starts, width), axis=1) == _NO_DOCUMENT
    )
    return padding


@dataclass(frozen=True)
class _Rows:
    """Examples of a batch, by latent, decile and peak, the strongest first and the silent last."""

    latent: Array
    start: Array
    decile: Array
    split: Array
    document: Array
    tokens: Array
    activations: Array
    document_start: Array
    mask: Array

    @classmethod
    def draw(cls, index: AtlasIndex, latents: Array, seed: int) -> _Rows:
        """The examples of `PLAN`, and the strongest ones where these are others."""
        drawn = [index.sample(latents, plan, seed) for plan in (PLAN, STRONGEST)]
        columns = {
            name: np.concatenate([getattr(examples, name) for examples in drawn])
            for name in cls.__dataclass_fields__
        }
        peak = columns["activations"].max(axis=1, initial=0)
        strength = -columns["decile"].astype(np.int16)
        order = np.lexsort((columns["start"], -peak, strength, columns["latent"]))
        latent, start = columns["latent"][order], columns["start"][order]
        # The same window of the same latent has the same keys: one stands behind the other.
        again = np.zeros(len(order), bool)
        again[1:] = (latent[1:] == latent[:-1]) & (start[1:] == start[:-1])
        return cls(**{name: column[order[~again]] for name, column in columns.items()})


@dataclass(frozen=True)
class _Part:
    """What is kept of one batch: sparse examples, and its windows once."""

    windows: tuple[Array, Array, Array]
    """Start, document, marks[m, W]."""
    columns: tuple[Array, Array, Array, Array]
    """Latent, start, decile and flags of each example."""
    active: tuple[Array, Array, Array]
    fired: tuple[Array, Array]


def _part(index: AtlasIndex, rows: _Rows, top: Array, rules: Mapping[int, Rule]) -> _Part:
    known, fires_at = fired_on(index, rows.latent, rows.start, rows.tokens, rows.mask, rules)
    active, offsets = np.nonzero(rows.activations)
    shares = rows.activations[active, offsets] / top[rows.latent[active]]
    # Rounded up, so that no activation becomes 0.
    codes = np.clip(np.ceil(shares * 255), 1, 255).astype(np.uint8)
    fired, fired_offsets = np.nonzero(fires_at)
    flags = (
        (rows.split == 1) * SCORE_SIDE
        + (rows.decile == 0) * SILENT_EXAMPLE
        + known * RULE_KNOWN
        + fires_at.any(axis=1) * RULE_FIRES
    )

    starts, once = np.unique(rows.start, return_index=True)
    mask = rows.mask[once]
    marks = rows.document_start[once].astype(np.uint8) * DOCUMENT_START
    marks |= (~mask).astype(np.uint8) * MASKED
    torn = ~mask.all(axis=1)
    marks[torn] |= _padding(index, starts[torn], mask.shape[1]).astype(np.uint8) * PADDING
    n = len(rows.latent)
    return _Part(
        windows=(starts, rows.document[once], marks),
        columns=(rows.latent, rows.start, rows.decile, flags),
        active=(np.bincount(active, minlength=n), offsets, codes),
        fired=(np.bincount(fired, minlength=n), fired_offsets),
    )


def _numbered(
    index: AtlasIndex, text: AtlasText, starts: Array, width: int
) -> tuple[list[str], Array]:
    """Texts of the tokens of windows, most frequent first, and each token's number among them.

    A token's text depends on its neighbours: a character may be split over up to four tokens. So a
    window is decoded with its neighbours in the context.
    """
    seen: dict[str, int] = {}
    numbers = np.empty((len(starts), width), np.uint32)
    for at in range(0, len(starts), _DECODED):
        some = starts[at : at + _DECODED]
        contexts = Contexts(index, some).rows(some)[0].tolist()
        offsets = (some % np.uint64(index.context_length)).tolist()
        for i, (tokens, offset) in enumerate(zip(contexts, offsets, strict=True), at):
            first = max(0, offset - _NEIGHBOURS)
            pieces = text.pieces(tokens[first : offset + width + _NEIGHBOURS])[offset - first :]
            numbers[i] = [seen.setdefault(piece, len(seen)) for piece in pieces[:width]]
    strings = list(seen)
    counts = np.bincount(numbers.reshape(-1), minlength=len(strings))
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(strings), np.uint32)
    rank[order] = np.arange(len(strings), dtype=np.uint32)
    return [strings[i] for i in order.tolist()], rank[numbers]


def _batches(latents: Array) -> Iterator[Array]:
    for at in range(0, len(latents), _BATCH):
        yield latents[at : at + _BATCH]


def draw(
    index: AtlasIndex,
    text: AtlasText,
    latents: Array,
    *,
    top: Array,
    rules: Mapping[int, Rule],
    bar: Bar,
    seed: int = 0,
) -> Drawn:
    """Draw the examples of some latents by `PLAN` and `STRONGEST`.

    Args:
        index: the index of the hookpoint.
        text: the texts of its tokens.
        latents: ids, ascending; those without windows have no examples.
        top: float32[L]: the largest activation of each latent.
        rules: the rule of each latent that has one: where it fires is kept.
        bar: counts latents.
        seed: of the examples.

    Returns:
        The examples. The same index, latents and seed give the same.
    """
    top = np.where(top > 0, top, 1).astype(np.float32)
    parts = []
    for batch in _batches(latents.astype(np.uint32)):
        parts.append(_part(index, _Rows.draw(index, batch, seed), top, rules))
        bar.advance(len(batch))
    W = parts[0].windows[2].shape[1] if parts else index.window

    def joined(arrays: list[Array], dtype: npt.DTypeLike) -> Array:
        return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)

    starts, once = np.unique(joined([p.windows[0] for p in parts], np.uint64), return_index=True)
    marks = np.concatenate([np.zeros((0, W), np.uint8), *(p.windows[2] for p in parts)])[once]
    strings, numbers = _numbered(index, text, starts, W)
    example_start = joined([p.columns[1] for p in parts], np.uint64)
    return Drawn(
        width=W,
        context_length=index.context_length,
        strings=strings,
        window_start=starts,
        window_document=joined([p.windows[1] for p in parts], np.uint64)[once],
        window_tokens=numbers,
        window_marks=marks,
        latent=joined([p.columns[0] for p in parts], np.uint32),
        window=np.searchsorted(starts, example_start).astype(np.uint32),
        decile=joined([p.columns[2] for p in parts], np.uint8),
        flags=joined([p.columns[3] for p in parts], np.uint8),
        active=(
            joined([p.active[0] for p in parts], np.uint16),
            joined([p.active[1] for p in parts], np.uint16),
            joined([p.active[2] for p in parts], np.uint8),
        ),
        fired=(
            joined([p.fired[0] for p in parts], np.uint16),
            joined([p.fired[1] for p in parts], np.uint16),
        ),
    )
