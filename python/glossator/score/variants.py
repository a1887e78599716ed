"""Fuzzing with altered text: another word in the active one's place, or another context around it.

    scorer = SynonymsScorer(SynonymsOptions(), activations, text)
    scorer.requests(material, explanation, protocol_id)
    scorer.made                               # the altered passages, as rows of `examples`

Both are ideas of "Open Source Automated Interpretability for Sparse Autoencoder Features" (Juang et
al., 2024), which left them for later. One word is marked in each passage, the one that holds the
peak. `fuzzing_synonyms` puts a word in its place that a masked language model finds as likely
there, and marks that: an explanation that is no more precise than that model's idea of a like word
takes the marks for right. `fuzzing_context` keeps the word and its marks and lets the masked model
replace words around it: the marks are right if the latent is still active on the word.

What is true of an altered passage is not taken for granted: the subject and the coder read it. A
window is left out, and counted, where its peak is in no word, where the latent is silent on that
word once the window is read alone, or where no substitute silences it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glossator.judges.base import Answer, Capabilities, Reading
from glossator.records import TABLES, Explanation, Record, Verdict, content_id
from glossator.sampling import SamplingPlan
from glossator.score.fuzzing import TEMPLATE
from glossator.score.generation import ActivationSource
from glossator.score.masked import Filler, MaskedModel
from glossator.score.parts import Strata, need_judge, need_strata, of_strata
from glossator.score.questions import Item, Window, keyed_generator
from glossator.score.scorers import Material, Request, Shortfall
from glossator.score.yes_or_no import requests_of, verdicts_of
from glossator.shown import Shown
from glossator.text import TokenText

__all__ = [
    "ContextOptions",
    "ContextScorer",
    "SynonymsOptions",
    "SynonymsScorer",
    "VariantOptions",
    "word_of",
]

_SPACED = re.compile(r" [^\W\d_]\w*")
_WORD = re.compile(r"\s*[^\W\d_][\w'’-]*")


class VariantOptions(Record):
    """What is altered, by which model."""

    strata: Strata = "decile"
    """By what the examples are counted."""
    right: int = Field(default=3, ge=0)
    """Examples of each stratum that are marked rightly and not altered: the first ones."""
    altered: int = Field(default=2, ge=1)
    """Examples of each stratum that are altered: the next ones."""
    model: str = "google-bert/bert-base-uncased"
    """Name or folder of the masked language model."""
    per_prompt: int = Field(default=5, ge=1)
    """Examples in one prompt; with 1 the answer is one word, and its probability is known."""


class SynonymsOptions(VariantOptions):
    """What is replaced, by which model."""

    substitutes: int = Field(default=10, ge=1)
    """Likeliest words of which the first that silences the latent is taken."""


class ContextOptions(VariantOptions):
    """What is replaced, by which model."""

    share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Of the other words of a window so many are replaced."""


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A window as it might be altered."""

    window: Window
    """The window."""
    shown: Shown
    """Its text, altered or not."""
    marks: tuple[int, ...]
    """The tokens of the marked word."""

    @property
    def span(self) -> tuple[int, int]:
        """First character of the marked word, and the one after its last."""
        pieces = self.shown.pieces
        begin = len("".join(pieces[: self.marks[0]]))
        word = "".join(pieces[at] for at in self.marks)
        bare = word.lstrip()
        return begin + len(word) - len(bare), begin + len(word)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What the subject and the coder make of a text."""

    tokens: npt.NDArray[np.uint32]
    """[n] its tokens."""
    activations: npt.NDArray[np.float32]
    """[n] of the latent."""
    peak: float
    """The largest on the marked word."""


class _Variant:
    """What both scorers have in common; they differ in `_alter`."""

    name: ClassVar[str]
    needs_explanation = True
    slow = False
    template_hash = TEMPLATE.hash

    def __init__(
        self,
        options: VariantOptions,
        activations: ActivationSource,
        text: TokenText,
        filler: Filler | None = None,
    ) -> None:
        self._options, self._activations, self._text = options, activations, text
        self._fill: Filler = MaskedModel(options.model) if filler is None else filler
        self._items: dict[tuple[str, int], list[Item]] = {}
        self._made: dict[str, dict[str, Any]] = {}

    @property
    def made(self) -> pa.Table:
        """The altered passages so far, as rows of the table `examples`; their kind is `altered`."""
        return pa.Table.from_pylist(list(self._made.values()), schema=TABLES["examples"])

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON."""
        return self._options.model_dump(mode="json")

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan that draws too little, or the lack of a judge or of packages."""
        options = self._options
        need_judge(self.name, capabilities)
        need_strata(self.name, plan, options.strata, options.right + options.altered)
        if isinstance(self._fill, MaskedModel):
            self._fill.refuse_missing()

    def prepare(self, materials: Sequence[Material]) -> list[Shortfall]:
        """Alter the examples of some latents, and read them."""
        self._items, shortfalls = {}, []
        for material in materials:
            strata = of_strata(material, self._options.strata).values()
            first, last = self._options.right, self._options.right + self._options.altered
            plain = [_plain(window) for those in strata for window in those[:first]]
            altered = [_plain(window) for those in strata for window in those[first:last]]
            items = [
                Item(one.window.example_id, one.shown.render(one.marks), True, one.marks)
                for one in plain
                if one is not None
            ]
            items += self._alter(material, [one for one in altered if one is not None])
            self._items[material.hookpoint, material.latent] = items
            wanted = len(plain) + len(altered)
            if len(items) < wanted:
                shortfalls.append(Shortfall(material.latent, self.name, wanted, len(items)))
        return shortfalls

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """Passages with one marked word, as they are and altered."""
        key = material.hookpoint, material.latent
        if key not in self._items:
            self.prepare([material])
        per_prompt = self._options.per_prompt
        return requests_of(
            self.name, TEMPLATE, self._items[key], material, explanation, protocol_id, per_prompt
        )

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """Whether each passage was said to be marked rightly."""
        return verdicts_of(request, protocol_id, answers)

    def _alter(self, material: Material, candidates: Sequence[_Candidate]) -> list[Item]:
        raise NotImplementedError

    def _read(self, latent: int, candidates: Sequence[_Candidate]) -> list[_Read | None]:
        """Read texts alone; None where the tokens are not the text's."""
        texts = [one.shown.text for one in candidates]
        found: list[_Read | None] = []
        for one, (tokens, values) in zip(candidates, self._activations(texts, latent), strict=True):
            pieces = self._text.pieces(tokens)
            # A tokenizer may take spaces off the ends, and its vocabulary know no capitals.
            text = one.shown.text
            at = "".join(pieces).lower().find(text.strip().lower())
            begins = at - (len(text) - len(text.lstrip()))
            ends = np.cumsum([len(piece) for piece in pieces]) - begins
            first, last = one.span
            covers = (ends > first) & (np.concatenate([[-begins], ends[:-1]]) < last)
            # A text that was cut short is not found.
            whole = at >= 0 and covers.any()
            peak = float(values[covers].max()) if whole else 0.0
            found.append(_Read(tokens, values, peak) if whole else None)
        return found

    def _item(self, material: Material, one: _Candidate, read: _Read, truth: bool) -> Item:
        line = one.shown.render(one.marks)
        key = content_id(self.name, one.window.example_id, line)
        self._made[key] = {
            "example_id": key,
            "hookpoint": material.hookpoint,
            "latent": material.latent,
            "tokens": read.tokens.tolist(),
            "text": one.shown.text,
            "activations": read.activations.tolist(),
            "decile": one.window.decile,
            "activating": truth,
            "split": "score",
            "kind": "altered",
        }
        return Item(key, line, truth, one.marks)


class SynonymsScorer(_Variant):
    """Marks a word on which the latent is silent in the place of one on which it is active.

    Args:
        options: what is replaced, by which model.
        activations: reads texts by the subject and the coder.
        text: the tokenizer's texts.
        filler: proposes words, in place of the model that `options` names.
    """

    name = "fuzzing_synonyms"
    _options: SynonymsOptions

    def _alter(self, material: Material, candidates: Sequence[_Candidate]) -> list[Item]:
        n = self._options.substitutes
        proposed = self._fill([_holed(one) for one in candidates], n + 1) if candidates else []
        tried: list[list[_Candidate]] = []
        for one, (words,) in zip(candidates, proposed, strict=True):
            own = "".join(one.shown.pieces[at] for at in one.marks).strip().casefold()
            others = [word for word in words if word.casefold() != own][:n]
            tried.append([one, *(_with_word(one, word) for word in others)])
        flat = [each for those in tried for each in those]
        reads = iter(self._read(material.latent, flat))
        items = []
        for those in tried:
            alone, *found = [next(reads) for _ in those]
            # What is silent by itself proves nothing by its silence.
            if alone is None or not alone.peak:
                continue
            for changed, read in zip(those[1:], found, strict=True):
                if read is not None and not read.peak:
                    items.append(self._item(material, changed, read, truth=False))
                    break
        return items


class ContextScorer(_Variant):
    """Replaces words around the marked one, and asks whether the marks are still right.

    Args:
        options: what is replaced, by which model.
        activations: reads texts by the subject and the coder.
        text: the tokenizer's texts.
        filler: proposes words, in place of the model that `options` names.
    """

    name = "fuzzing_context"
    _options: ContextOptions

    def _alter(self, material: Material, candidates: Sequence[_Candidate]) -> list[Item]:
        places = [self._chosen(material, one) for one in candidates]
        there = [(one, holes) for one, holes in zip(candidates, places, strict=True) if holes]
        holed = [
            [None if at in holes else piece for at, piece in enumerate(one.shown.pieces)]
            for one, holes in there
        ]
        # A hole stands for the word, not for the space before it.
        spaced = [
            [
                part
                for piece, own in zip(pieces, one.shown.pieces, strict=True)
                for part in _parts(piece, own)
            ]
            for pieces, (one, _) in zip(holed, there, strict=True)
        ]
        proposed = self._fill(spaced, 2) if spaced else []
        altered = [
            _refilled(one, holes, words)
            for (one, holes), words in zip(there, proposed, strict=True)
        ]
        flat = [
            each for (one, _), other in zip(there, altered, strict=True) for each in (one, other)
        ]
        reads = self._read(material.latent, flat)
        items = []
        for other, alone, read in zip(altered, reads[::2], reads[1::2], strict=True):
            if alone is not None and alone.peak and read is not None:
                items.append(self._item(material, other, read, truth=read.peak > 0))
        return items

    def _chosen(self, material: Material, one: _Candidate) -> set[int]:
        """Which tokens are replaced: of those that are whole words, and not marked, a share."""
        pieces = one.shown.pieces
        words = [
            at
            for at in range(len(pieces))
            if at not in one.marks and _is_word(pieces, at) and one.shown.live[at]
        ]
        n = round(self._options.share * len(words))
        generator = keyed_generator(self.name, material.seed, one.window.example_id)
        return set(generator.permutation(words)[:n].tolist())


def word_of(shown: Shown, at: int) -> tuple[int, ...] | None:
    """The tokens of the word that holds a token; None where it is in no word of letters."""
    pieces = shown.pieces
    at = shown.heads[at]
    if not pieces[at].strip():
        return None
    first = last = at
    while first > 0 and not pieces[first][:1].isspace() and _goes_on(pieces[first - 1]):
        first -= 1
    while last + 1 < len(pieces) and (not pieces[last + 1] or pieces[last + 1][0].isalnum()):
        last += 1
    word = "".join(pieces[first : last + 1])
    broken = any(shown.document_starts[first + 1 : last + 1])
    if broken or not _WORD.fullmatch(word):
        return None
    return tuple(range(first, last + 1))


def _goes_on(piece: str) -> bool:
    """Whether a word may go on after this token."""
    return not piece or piece[-1].isalnum()


def _is_word(pieces: Sequence[str], at: int) -> bool:
    """Whether a token is a whole word, with a space before it."""
    piece = pieces[at]
    after = next((other for other in pieces[at + 1 :] if other), "")
    return bool(_SPACED.fullmatch(piece)) and not after[:1].isalnum()


def _plain(window: Window) -> _Candidate | None:
    """A window with the word marked that holds its peak; None where that is no word."""
    if window.activations.max(initial=np.float32(0.0)) <= 0:
        return None
    marks = word_of(window.shown, int(window.activations.argmax()))
    return None if marks is None else _Candidate(window, window.shown, marks)


def _holed(one: _Candidate) -> list[str | None]:
    """The text with a hole in the marked word's place."""
    first, last = one.span
    text = one.shown.text
    return [text[:first], None, text[last:]]


def _with_word(one: _Candidate, word: str) -> _Candidate:
    """The same with another word marked, which stands at its first token."""
    shown, marks = one.shown, one.marks
    old = "".join(shown.pieces[at] for at in marks)
    space = old[: len(old) - len(old.lstrip())]
    cased = word.capitalize() if old.strip()[:1].isupper() else word
    pieces = list(shown.pieces)
    pieces[marks[0]] = space + cased
    for at in marks[1:]:
        pieces[at] = ""
    heads = [marks[0] if at in marks else head for at, head in enumerate(shown.heads)]
    changed = Shown(tuple(pieces), tuple(heads), shown.document_starts, shown.live)
    return _Candidate(one.window, changed, marks)


def _parts(piece: str | None, own: str) -> list[str | None]:
    return [piece] if piece is not None else [own[: len(own) - len(own.lstrip())], None]


def _refilled(one: _Candidate, holes: set[int], words: Sequence[Sequence[str]]) -> _Candidate:
    """The same with other words in the holes: the likeliest that was not there."""
    pieces = list(one.shown.pieces)
    for at, proposed in zip(sorted(holes), words, strict=True):
        own = pieces[at].strip().casefold()
        other = next((word for word in proposed if word.casefold() != own), None)
        if other is not None:
            pieces[at] = " " + other
    shown = one.shown
    changed = Shown(tuple(pieces), shown.heads, shown.document_starts, shown.live)
    return _Candidate(one.window, changed, one.marks)
