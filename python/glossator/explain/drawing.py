"""The views of some latents: examples drawn, shown, and dealt out by documents.

    drawing = Drawing(index, text, wants, hookpoint="model.layers.5", seed=0)
    drawing.views([3, 17])               # a View each, or an Unexplained

Everything drawn is of the explain side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from glossator.explain.silent import SilentWindows
from glossator.explain.views import Logits, Part, Passage, View, Wants
from glossator.index import NO_DOCUMENT, Index
from glossator.sampling import Examples, NeighbourTable
from glossator.shown import show, show_windows
from glossator.text import TokenText

__all__ = ["SILENT", "Drawing", "Unexplained"]

SILENT = "no examples on the explain side"
_PEAK_TOKENS = 8
"""So many of the commonest tokens of a latent's peaks make a silent window a hard one."""
_SPARE = 2
"""Windows drawn for each one wanted in a part: some stand with documents of another part."""


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A latent that got no explanation."""

    latent: int
    """The latent."""
    reason: str
    """Why."""
    transient: bool = False
    """Whether asking again may help: the server was at fault, not the model."""


class Drawing:
    """What is drawn for one explainer.

    Args:
        index: where the activations are.
        text: the tokenizer's texts.
        wants: what is drawn.
        hookpoint: the latents' module path.
        seed: of the draw.
        logits: the tokens that each latent promotes.
        neighbours: the latents nearest to each.

    Raises:
        InputError: the neighbours are another coder's.
    """

    def __init__(
        self,
        index: Index,
        text: TokenText,
        wants: Wants,
        *,
        hookpoint: str,
        seed: int = 0,
        logits: Mapping[int, Logits] | None = None,
        neighbours: NeighbourTable | None = None,
    ) -> None:
        self._index, self._text, self._wants = index, text, wants
        self._hookpoint, self._seed, self._logits = hookpoint, seed, logits
        plan = wants.plan
        extra = _SPARE * sum(part.active for part in wants.parts)
        examples = plan.explain.model_copy(update={"n": plan.explain.n + extra})
        self._plan = plan.model_copy(update={"explain": examples})
        self._silent = SilentWindows(index, plan.length, seed, neighbours)

    def views(self, latents: Sequence[int]) -> list[View | Unexplained]:
        """A view of each latent that has examples, in order."""
        index = self._index
        examples = index.sample(latents, self._plan, self._seed)
        examples = examples.take(examples.split == 0)
        shown = show(examples, index, self._text)
        passages = [
            Passage(shown[row], examples.activations[row], int(examples.start[row]))
            for row in range(len(examples))
        ]
        top = index.top(latents, 1, "explain")
        peaks = dict(zip(top.latent.tolist(), top.activation.tolist(), strict=True))
        views: list[View | Unexplained] = []
        for latent in latents:
            rows = np.flatnonzero(examples.latent == latent).tolist()
            if not rows:
                views.append(Unexplained(latent, SILENT))
            elif self._wants.logits and latent not in (self._logits or {}):
                views.append(Unexplained(latent, "the tokens that it promotes are not known"))
            else:
                own = [passages[row] for row in rows]
                tokens = _peak_tokens(examples, rows)
                views.append(self._view(latent, own, peaks.get(latent, 0.0), tokens))
        return views

    def _view(
        self, latent: int, passages: Sequence[Passage], peak: float, tokens: Sequence[int]
    ) -> View:
        wants = self._wants
        hard = wants.silent + _SPARE * sum(part.hard for part in wants.parts)
        easy = _SPARE * sum(part.easy for part in wants.parts)
        silent: list[Passage] = []
        if hard or easy:
            starts = self._silent.draw(latent, tokens, hard=hard, easy=easy)
            silent = self._silent_passages(starts)
        parts: tuple[tuple[Passage, ...], ...] = ()
        n = wants.plan.explain.n
        if wants.parts:
            # What is shown is the first part of all.
            needs = [Part(n, hard=wants.silent), *wants.parts]
            dealt = self._dealt(passages, silent, hard, needs)
            active, quiet = dealt[0]
            passages, silent = active, quiet
            parts = tuple((*active, *quiet) for active, quiet in dealt[1:])
        return View(
            self._hookpoint,
            latent,
            self._seed,
            tuple(passages[:n]),
            self._text.name,
            peak=peak,
            silent=tuple(silent[: wants.silent]),
            parts=parts,
            logits=(self._logits or {}).get(latent),
        )

    def _silent_passages(self, starts: npt.NDArray[np.uint64]) -> list[Passage]:
        length = self._wants.plan.length or self._index.window
        shown = show_windows(starts, self._index, self._text, length)
        zeros = np.zeros(length, np.float32)
        return [
            Passage(one, zeros, start) for one, start in zip(shown, starts.tolist(), strict=True)
        ]

    def _dealt(
        self,
        active: Sequence[Passage],
        silent: Sequence[Passage],
        n_hard: int,
        needs: Sequence[Part],
    ) -> list[tuple[list[Passage], list[Passage]]]:
        """Each part's active and silent passages; no document is in two parts."""
        documents = self._documents([*active, *silent])
        dealer = _Dealer()
        parts: list[tuple[list[Passage], list[Passage]]] = [([], []) for _ in needs]
        groups = (
            (active, [part.active for part in needs], 0),
            (silent[:n_hard], [part.hard for part in needs], 1),
            (silent[n_hard:], [part.easy for part in needs], 1),
        )
        for passages, wanted, kind in groups:
            filled = [0] * len(needs)
            for passage in passages:
                part = dealer.part(documents[passage.start], wanted, filled)
                if part is not None and filled[part] < wanted[part]:
                    filled[part] += 1
                    parts[part][kind].append(passage)
        return parts

    def _documents(self, passages: Sequence[Passage]) -> dict[int, frozenset[int]]:
        """The documents of each passage, by its start."""
        S = self._index.context_length
        length = self._wants.plan.length or self._index.window
        starts = np.array([passage.start for passage in passages], np.uint64)
        numbers, places = np.unique(starts // np.uint64(S), return_inverse=True)
        _, documents, _ = self._index.contexts(numbers)
        found = {}
        for start, place in zip(starts.tolist(), places.tolist(), strict=True):
            offset = start % S
            held = set(documents[place, offset : offset + length].tolist())
            found[start] = frozenset(held - {int(NO_DOCUMENT)})
        return found


@dataclass
class _Dealer:
    """Which part each document belongs to."""

    _of: dict[int, int] = field(default_factory=dict)

    def part(
        self, documents: frozenset[int], wanted: Sequence[int], filled: Sequence[int]
    ) -> int | None:
        """The part of a passage: that of its documents, or the emptiest; None where it has two."""
        known = {self._of[document] for document in documents if document in self._of}
        if len(known) > 1:
            return None
        if known:
            (part,) = known
        else:
            open_parts = [part for part, n in enumerate(wanted) if n]
            if not open_parts:
                return None
            part = min(open_parts, key=lambda part: filled[part] / wanted[part])
        for document in documents:
            self._of[document] = part
        return part


def _peak_tokens(examples: Examples, rows: Sequence[int]) -> list[int]:
    """The commonest tokens on which the rows' activations are largest."""
    at = examples.activations[rows].argmax(axis=1)
    counted = Counter(examples.tokens[rows, at].tolist())
    return [token for token, _ in counted.most_common(_PEAK_TOKENS)]
