"""Whether a quote stands in a passage as it is given, and where.

    found = find_quote("over the moon", passages)      # None unless it is there, verbatim
    found.line                                         # cut from the passage, with its true marks

What a debater quotes is what it was shown, so a quote may hold our signs (`<<`, ⏎, escapes) or the
text that they stand for. Either must be there character for character: no blank more, none less,
no other kind of blank, and none that joins two passages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glossator.explain.views import Passage
from glossator.shown import Shown

__all__ = ["Quote", "find_quote", "find_quotes", "plain_text"]

LONGEST = 160
"""Characters of a quote at most."""
_SHORTEST = 3
"""Characters other than blanks at least: shorter ones stand everywhere."""
_ESCAPED = frozenset("\\<>¶⏎␍")
_TEXT_OF = {"⏎": "\n", "␍": "\r", "¶": ""}


@dataclass(frozen=True, slots=True)
class Quote:
    """A stretch of a passage that was quoted."""

    passage: int
    """Which passage."""
    begin: int
    """Its first character there."""
    end: int
    """The character after its last."""
    line: str
    """The stretch as it is shown, cut from the passage itself with the marks that it has there."""


def plain_text(line: str) -> str:
    """The text that a line, or part of one, made by `Shown.render` stands for."""
    text, at = "", 0
    while at < len(line):
        if line[at] == "\\" and line[at + 1 : at + 2] in _ESCAPED:
            text, at = text + line[at + 1], at + 2
        elif line[at : at + 2] in ("<<", ">>"):
            at += 2
        else:
            text, at = text + _TEXT_OF.get(line[at], line[at]), at + 1
    return text


def find_quote(quote: str, passages: Sequence[Passage], threshold: float = 0.3) -> Quote | None:
    """Where a quote stands, if it does and shows the latent active.

    Blanks at its ends are no part of it. A quote of silent text alone is evidence of nothing.

    Args:
        quote: as it was given.
        passages: what was shown.
        threshold: of the marks.
    """
    for text in dict.fromkeys((quote.strip(), plain_text(quote).strip())):
        visible = sum(not character.isspace() for character in text)
        if visible < _SHORTEST or len(text) > LONGEST:
            continue
        for number, passage in enumerate(passages):
            whole, marked = _characters(passage, threshold)
            begin = whole.find(text)
            while begin >= 0:
                end = begin + len(text)
                if any(marked[begin:end]):
                    return Quote(number, begin, end, _line(passage, threshold, begin, end))
                begin = whole.find(text, begin + 1)
    return None


def find_quotes(
    quotes: Iterable[str], passages: Sequence[Passage], threshold: float = 0.3
) -> list[Quote]:
    """Those of the quotes that are there; one that overlaps an earlier one counts once."""
    found: list[Quote] = []
    for quote in quotes:
        one = find_quote(quote, passages, threshold)
        if one is not None and not any(
            one.passage == other.passage and one.begin < other.end and other.begin < one.end
            for other in found
        ):
            found.append(one)
    return found


def _characters(passage: Passage, threshold: float) -> tuple[str, list[bool]]:
    """The text, and which of its characters are marked."""
    marks = set(passage.shown.whole(passage.marks(threshold)))
    marked: list[bool] = []
    for at, piece in enumerate(passage.shown.pieces):
        marked += [at in marks] * len(piece)
    return passage.shown.text, marked


def _line(passage: Passage, threshold: float, begin: int, end: int) -> str:
    """The characters from `begin` to before `end` as they are shown."""
    shown = passage.shown
    marked = set(shown.whole(passage.marks(threshold)))
    pieces: list[str] = []
    starts: list[bool] = []
    marks: list[int] = []
    at = 0
    for token, piece in enumerate(shown.pieces):
        part = piece[max(begin - at, 0) : max(end - at, 0)]
        if part:
            if token in marked:
                marks.append(len(pieces))
            pieces.append(part)
            starts.append(shown.document_starts[token] and begin <= at)
        at += len(piece)
    n = len(pieces)
    return Shown(tuple(pieces), tuple(range(n)), tuple(starts), (True,) * n).render(marks)
