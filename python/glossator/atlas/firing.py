"""Where the rules of latents fire in their examples, told from whole contexts.

    contexts = Contexts(index, starts)         # each context read once
    fires(rule, tokens, mask)                  # bool[n, S]
    known, fired = fired_on(index, latents, starts, tokens, mask, rules)

A rule may look at tokens before the window that is shown, so a window alone cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glossator.records import Near, Rule
from glossator.sampling import SamplingPlan

__all__ = ["AtlasIndex", "AtlasText", "Contexts", "fired_on", "fires"]

Array = npt.NDArray[Any]


class AtlasIndex(Protocol):
    """What an atlas asks of an index: `glossator.index.Index` has it."""

    n_latents: int
    n_tokens: int
    context_length: int
    window: int
    attributes: dict[str, str]
    precision: str

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


class Contexts:
    """The contexts of some windows, each read once."""

    def __init__(self, index: AtlasIndex, starts: Array) -> None:
        self._length = np.uint64(index.context_length)
        self._ids = np.unique(starts // self._length)
        self._rows = index.contexts(self._ids) if len(starts) else None

    def rows(self, starts: Array) -> tuple[Array, Array, Array]:
        """Tokens, documents and mask of the contexts of `starts`, each [n, S]."""
        assert self._rows is not None, "no context was asked for"
        at = np.searchsorted(self._ids, starts // self._length)
        tokens, documents, mask = self._rows
        return tokens[at], documents[at], mask[at]

    def columns(self, starts: Array, width: int) -> Array:
        """Where the windows lie in their contexts: int64[n, W]."""
        columns: Array = (starts % self._length).astype(np.int64)[:, None] + np.arange(width)
        return columns


def fired_on(
    index: AtlasIndex,
    latents: Array,
    starts: Array,
    tokens: Array,
    mask: Array,
    rules: Mapping[int, Rule],
) -> tuple[Array, Array]:
    """Which examples have a rule, bool[n], and where it fires, bool[n, W].

    Args:
        index: read only for rules that ask for a context.
        latents: uint32[n], ascending.
        starts: uint64[n]: position of each first token.
        tokens: uint32[n, W].
        mask: bool[n, W].
        rules: the rule of each latent that has one.
    """
    fired = np.zeros(tokens.shape, bool)
    known = np.zeros(len(latents), bool)
    ids, first, counts = np.unique(latents, return_index=True, return_counts=True)
    ruled = [
        (rules[latent], slice(at, at + n))
        for latent, at, n in zip(ids.tolist(), first.tolist(), counts.tolist(), strict=True)
        if latent in rules
    ]
    looking = [rows for rule, rows in ruled if rule.require or rule.exclude]
    contexts = Contexts(index, np.concatenate([starts[rows] for rows in looking] or [starts[:0]]))
    for rule, rows in ruled:
        known[rows] = True
        if rule.require or rule.exclude:
            whole, _, counted = contexts.rows(starts[rows])
            columns = contexts.columns(starts[rows], tokens.shape[1])
            fired[rows] = np.take_along_axis(fires(rule, whole, counted), columns, axis=1)
        else:
            fired[rows] = fires(rule, tokens[rows], mask[rows])
    return known, fired
