"""The examples of an atlas: drawn from the index, each window stored once, activations in 8 bits.

    drawn = draw(index, text, np.array([3, 17]), top=maxima, rules={17: rule}, bar=bar)
    arrays = drawn.arrays()      # for glossator.atlas.pack.pack
    drawn.strings                # the texts of tokens that the arrays point into

An example is a window of 32 tokens or so, shared by the latents that are active on it; it keeps the
offsets at which its latent is active and the activation there as 255ths of the latent's maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glossator.atlas.pack import planes
from glossator.progress import Bar
from glossator.records import Near, Rule
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan

__all__ = ["PLAN", "AtlasIndex", "AtlasText", "Drawn", "draw", "fires"]

Array = npt.NDArray[Any]

PLAN = SamplingPlan(
    explain=ExplainPlan(kind="deciles", n=20),
    per_decile=1,
    negatives=(NegativePlan(kind="random", n=4),),
)
"""Two of each decile from the explainer's side, one from the scorer's, and four silent windows."""

DOCUMENT_START, MASKED, PADDING = 1, 2, 4
"""Bits of a token's mark: it opens a document; it is masked; it is padding and not shown."""

SCORE_SIDE, SILENT_EXAMPLE, RULE_KNOWN, RULE_FIRES = 1, 2, 4, 8
"""Bits of an example: it is of the scorer's side; its latent is silent on it; its latent has a
rule; the rule fires on it."""

_NO_DOCUMENT = np.uint64(2**64 - 1)
_BATCH, _DECODED = 256, 4096
_NEIGHBOURS = 4


class AtlasIndex(Protocol):
    """What an atlas asks of an index: `glossator.index.Index` has it."""

    n_latents: int
    n_tokens: int
    context_length: int
    window: int

    def deciles(self) -> Array:
        """float32[L, 11]: limits of the deciles of window maxima, NaN without windows."""

    def contexts(self, ids: Array) -> tuple[Array, Array, Array]:
        """Tokens, documents and mask, each [n, S]."""

    def summary(self) -> Mapping[str, Array]:
        """Arrays over latents, `max_activation` among them."""

    def sample(self, latents: Array, plan: SamplingPlan, seed: int = 0) -> Any:  # noqa: ANN401
        """Examples."""


class AtlasText(Protocol):
    """What an atlas asks of a tokenizer: `glossator.text.TokenText` has it."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """One string for each token, which together are the text."""

    def name(self, token: int) -> str:
        """A printable name of one token."""


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


def _near(near: Near, tokens: Array, mask: Array) -> Array:
    """Whether some token of `near` stands near each position, itself apart: bool[n, C]."""
    there = np.isin(tokens, near.tokens) & mask
    n, C = there.shape
    before = np.zeros((n, C + 1), np.int32)
    np.cumsum(there, axis=1, out=before[:, 1:])
    at = np.arange(C)
    low, high = np.maximum(at - near.before, 0), np.minimum(at + near.after + 1, C)
    found: Array = (before[:, high] - before[:, low] - there) > 0
    return found


def fires(rule: Rule, tokens: Array, mask: Array) -> Array:
    """Where a rule fires.

    Args:
        rule: the rule.
        tokens: integers[n, C]: whole contexts, or any rows where the rule asks for no context.
        mask: bool[n, C]: False where a token does not count.

    Returns:
        bool[n, C].
    """
    hit: Array = np.isin(tokens, rule.tokens) & mask
    if rule.require is not None:
        hit &= _near(rule.require, tokens, mask)
    if rule.exclude is not None:
        hit &= ~_near(rule.exclude, tokens, mask)
    return hit


class _Contexts:
    """The contexts of some windows, each read once."""

    def __init__(self, index: AtlasIndex, starts: Array) -> None:
        self._length = np.uint64(index.context_length)
        self._ids = np.unique(starts // self._length)
        self._rows = index.contexts(self._ids)

    def rows(self, starts: Array) -> tuple[Array, Array, Array]:
        """Tokens, documents and mask of the contexts of `starts`, each [n, S]."""
        at = np.searchsorted(self._ids, starts // self._length)
        tokens, documents, mask = self._rows
        return tokens[at], documents[at], mask[at]

    def columns(self, starts: Array, width: int) -> Array:
        """Where the windows lie in their contexts: int64[n, W]."""
        columns: Array = (starts % self._length).astype(np.int64)[:, None] + np.arange(width)
        return columns


def _padding(index: AtlasIndex, starts: Array, width: int) -> Array:
    """Which tokens of some windows belong to no document: bool[n, W]."""
    if not len(starts):
        return np.zeros((0, width), bool)
    contexts = _Contexts(index, starts)
    documents = contexts.rows(starts)[1]
    padding: Array = (
        np.take_along_axis(documents, contexts.columns(starts, width), axis=1) == _NO_DOCUMENT
    )
    return padding


def _fired(index: AtlasIndex, examples: Any, rules: Mapping[int, Rule]) -> tuple[Array, Array]:  # noqa: ANN401
    """Which examples have a rule, bool[n], and where it fires, bool[n, W]."""
    latents, width = examples.latent, examples.tokens.shape[1]
    fired = np.zeros(examples.tokens.shape, bool)
    ids, first, counts = np.unique(latents, return_index=True, return_counts=True)
    known = np.isin(latents, [latent for latent in ids.tolist() if latent in rules])
    wide = [
        slice(at, at + n)
        for latent, at, n in zip(ids.tolist(), first.tolist(), counts.tolist(), strict=True)
        if latent in rules and (rules[latent].require or rules[latent].exclude)
    ]
    contexts = None
    if wide:
        contexts = _Contexts(index, np.concatenate([examples.start[rows] for rows in wide]))
    for latent, at, n in zip(ids.tolist(), first.tolist(), counts.tolist(), strict=True):
        rule, rows = rules.get(latent), slice(at, at + n)
        if rule is None:
            continue
        if contexts is None or not (rule.require or rule.exclude):
            fired[rows] = fires(rule, examples.tokens[rows], examples.mask[rows])
        else:
            starts = examples.start[rows]
            tokens, _, mask = contexts.rows(starts)
            fired[rows] = np.take_along_axis(
                fires(rule, tokens, mask), contexts.columns(starts, width), axis=1
            )
    return known, fired


@dataclass(frozen=True)
class _Part:
    """What is kept of one batch: sparse examples, and its windows once."""

    windows: tuple[Array, Array, Array]
    """Start, document, marks[m, W]."""
    columns: tuple[Array, Array, Array, Array, Array]
    """Latent, start, decile, flags, peak of each example."""
    active: tuple[Array, Array, Array]
    fired: tuple[Array, Array]


def _part(index: AtlasIndex, examples: Any, top: Array, rules: Mapping[int, Rule]) -> _Part:  # noqa: ANN401
    known, fired = _fired(index, examples, rules)
    silent = examples.decile == 0
    peak = examples.activations.max(axis=1, initial=0)
    # Within a latent: the strongest decile first, the strongest window first, the silent ones last.
    order = np.lexsort((examples.start, -peak, -examples.decile.astype(np.int16), examples.latent))
    activations, latent, fired = examples.activations[order], examples.latent[order], fired[order]

    rows, offsets = np.nonzero(activations)
    shares = activations[rows, offsets] / top[latent[rows]]
    # Rounded up, so that no activation becomes 0.
    codes = np.clip(np.ceil(shares * 255), 1, 255).astype(np.uint8)
    fired_rows, fired_offsets = np.nonzero(fired)
    n = len(order)
    flags = ((examples.split == 1) * SCORE_SIDE + silent * SILENT_EXAMPLE + known * RULE_KNOWN)[
        order
    ].astype(np.uint8) | (fired.any(axis=1) * RULE_FIRES).astype(np.uint8)

    starts, once = np.unique(examples.start, return_index=True)
    mask = examples.mask[once]
    marks = examples.document_start[once].astype(np.uint8) * DOCUMENT_START
    marks |= (~mask).astype(np.uint8) * MASKED
    torn = ~mask.all(axis=1)
    marks[torn] |= _padding(index, starts[torn], mask.shape[1]).astype(np.uint8) * PADDING
    return _Part(
        windows=(starts, examples.document[once], marks),
        columns=(latent, examples.start[order], examples.decile[order], flags, peak[order]),
        active=(np.bincount(rows, minlength=n).astype(np.uint16), offsets, codes),
        fired=(np.bincount(fired_rows, minlength=n).astype(np.uint16), fired_offsets),
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
        contexts = _Contexts(index, some).rows(some)[0].tolist()
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
    """Draw the examples of some latents by `PLAN`.

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
        parts.append(_part(index, index.sample(batch, PLAN, seed), top, rules))
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
