"""What an explainer is shown of one latent: passages of the explain side, and what is known beside.

    view.passages[0].marks(0.3)          # offsets above 0.3 of the passage's maximum
    levels(view.passages[0], view.peak)  # 0 where silent, 10 at the latent's maximum
    logits_of(run.table("latents"))      # {latent: Logits}

Nothing here comes from the score side.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator.sampling import SamplingPlan
from glossator.shown import Shown

__all__ = ["Logits", "Part", "Passage", "Sign", "View", "Wants", "levels", "logits_of", "signs"]


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """One window of the explain side."""

    shown: Shown
    """Its text."""
    activations: npt.NDArray[np.float32]
    """[W] of the latent; 0 where it is silent."""
    start: int = 0
    """Position of its first token."""

    def marks(self, threshold: float) -> list[int]:
        """Offsets above a share of the passage's maximum; none where the latent is silent."""
        peak = self.activations.max(initial=0.0)
        above = (self.activations > threshold * peak) & (self.activations > 0)
        return [int(offset) for offset in np.flatnonzero(above)]

    @property
    def peak(self) -> int:
        """Offset of the first of its largest activations."""
        return int(self.activations.argmax())

    def cut(self, begin: int, end: int) -> Passage:
        """The tokens from one offset to before another, as far as there are any."""
        begin, end = max(begin, 0), min(end, len(self.activations))
        shown = self.shown
        pieces = list(shown.pieces[begin:end])
        if pieces and shown.heads[begin] < begin:
            # Of a sign that began before, the whole stands at its first token here.
            pieces[0] = shown.pieces[shown.heads[begin]] + pieces[0]
        return Passage(
            Shown(
                tuple(pieces),
                tuple(max(head - begin, 0) for head in shown.heads[begin:end]),
                shown.document_starts[begin:end],
                shown.live[begin:end],
            ),
            self.activations[begin:end],
            self.start + begin,
        )


@dataclass(frozen=True, slots=True)
class Logits:
    """The tokens that a latent promotes and suppresses most: the ends of W_U W_D[f]."""

    top: tuple[tuple[int, float], ...]
    """Token ids and values, the largest first."""
    bottom: tuple[tuple[int, float], ...] = ()
    """The smallest first."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self | None:
        """Those of a row of the run's table `latents`; None where it has none."""
        if row.get("top_logits") is None:
            return None
        ends = [json.loads(row.get(f"{end}_logits") or "[]") for end in ("top", "bottom")]
        return cls(*(tuple((int(token), float(value)) for token, value in end) for end in ends))


def logits_of(latents: pa.Table) -> dict[int, Logits]:
    """Those of a run's table `latents`, by latent."""
    found = {row["latent"]: Logits.from_row(row) for row in latents.to_pylist()}
    return {latent: logits for latent, logits in found.items() if logits is not None}


@dataclass(frozen=True, slots=True)
class Part:
    """Passages for one purpose; those of two parts share no document."""

    active: int
    """Passages in which the latent is active."""
    hard: int = 0
    """Silent ones that are like the active ones."""
    easy: int = 0
    """Silent ones drawn at random."""


@dataclass(frozen=True, slots=True)
class Wants:
    """What an explainer is to be shown."""

    plan: SamplingPlan
    """What is drawn of the activating windows; nothing of the score side."""
    silent: int = 0
    """Silent windows that are like the active ones."""
    parts: tuple[Part, ...] = ()
    """Further passages, of other documents than those shown and than each other's."""
    logits: bool = False
    """Whether the tokens that it promotes must be known."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All that is shown of one latent."""

    hookpoint: str
    """Its module path."""
    latent: int
    """Its id."""
    seed: int
    """Of whatever is shuffled."""
    passages: tuple[Passage, ...]
    """In which it is active."""
    name: Callable[[int], str]
    """Prints one token."""
    peak: float = 0.0
    """Its largest activation on the explain side."""
    silent: tuple[Passage, ...] = ()
    """In which it is silent, though they are alike."""
    parts: tuple[tuple[Passage, ...], ...] = ()
    """For each part asked for its passages, active and silent ones."""
    logits: Logits | None = None
    """The tokens that it promotes and suppresses."""

    @property
    def group(self) -> str:
        """What its prompts have in common; see `Prompt.group`."""
        return f"{self.hookpoint}/{self.latent}"

    def label(self, what: str) -> str:
        """For messages."""
        return f"latent {self.latent}, {what}"


@dataclass(frozen=True, slots=True)
class Sign:
    """The characters of one or several tokens that cannot be told apart."""

    text: str
    """As they are."""
    offset: int
    """Of the first token."""
    level: int
    """How active the latent is on them, 0 to 10."""


def levels(passage: Passage, peak: float) -> npt.NDArray[np.int64]:
    """Activations as whole numbers, [W]: 0 where silent, 10 at the latent's maximum, rounded up.

    Args:
        passage: whose activations.
        peak: the latent's largest activation; the passage's own where it is larger.
    """
    most = max(peak, float(passage.activations.max(initial=0.0)))
    if most == 0:
        return np.zeros(passage.activations.shape, np.int64)
    # A value that is 3.0000001 by its rounding is 3.
    tenths = np.ceil(passage.activations.astype(np.float64) / most * 10 - 1e-6)
    return np.clip(np.where(passage.activations > 0, np.maximum(tenths, 1), 0), 0, 10).astype(int)


def signs(passage: Passage, peak: float) -> list[Sign]:
    """The passage sign by sign, with the largest level of each; padding and the like left out."""
    level = levels(passage, peak).tolist()
    shown = passage.shown
    largest: dict[int, int] = {}
    for head, one in zip(shown.heads, level, strict=True):
        largest[head] = max(largest.get(head, 0), one)
    texts: dict[int, str] = {}
    for head, piece in zip(shown.heads, shown.pieces, strict=True):
        texts[head] = texts.get(head, "") + piece
    return [Sign(text, head, largest[head]) for head, text in texts.items() if text]
