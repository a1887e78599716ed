"""Windows of text as a language model is shown them: runs of tokens marked, signs escaped.

    shown = show(examples, index, text)
    shown[0].render(marks=(3, 4))      # "¶he was <<over the>> moon⏎"
    example_rows(examples, index, text, hookpoint)   # the run's table `examples`

Newlines are visible, the beginning of a document is marked, and a sign of ours that occurs in the
text is escaped by a backslash, so that a mark is always a mark.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator.arrays import flat_ids
from glossator.index import NO_DOCUMENT, Index
from glossator.records import TABLES, content_id
from glossator.sampling import Examples
from glossator.text import TokenText

__all__ = [
    "SIGNS",
    "Shown",
    "example_ids",
    "example_rows",
    "show",
    "show_windows",
    "single_line",
]

SIGNS = (
    "⏎ stands for a line break and ¶ for the beginning of a document; a backslash before a sign "
    "means that the text itself holds that sign."
)
"""What a prompt says about the signs."""

_VISIBLE = {"\n": "⏎", "\r": "␍"}
_VISIBLY = str.maketrans(_VISIBLE)
_OURS = "¶⏎␍"
_TOUCHY = re.compile(r"[<>\\¶⏎␍]")
_OPEN, _CLOSE, _DOCUMENT = "<<", ">>", "¶"


@dataclass(frozen=True, slots=True)
class Shown:
    """One window as text."""

    pieces: tuple[str, ...]
    """Text of each token; a character of several tokens stands at the first of them."""
    heads: tuple[int, ...]
    """For each token the first token of its characters: those with one head are one sign."""
    document_starts: tuple[bool, ...]
    """Whether a token is the first of its document."""
    live: tuple[bool, ...]
    """Whether a token counts; False: padding, BOS, sinks."""

    @property
    def text(self) -> str:
        """The text as it is, without marks or signs."""
        return "".join(self.pieces)

    def whole(self, marks: Iterable[int]) -> tuple[int, ...]:
        """Offsets of all tokens that share a character with one of `marks`, ascending."""
        heads = {self.heads[offset] for offset in marks}
        return tuple(at for at, head in enumerate(self.heads) if head in heads)

    def render(self, marks: Collection[int] = ()) -> str:
        """The window on one line, runs of marked tokens between `<<` and `>>`.

        Spaces before a run stand outside it.
        """
        if not marks and True not in self.document_starts and not _TOUCHY.search(self.text):
            return self.text.translate(_VISIBLY)
        marked = set(self.whole(marks))
        atoms: list[tuple[bool, str]] = []  # (whether it is a sign of ours, text)
        inside = False
        for at, piece in enumerate(self.pieces):
            if inside and piece and (at not in marked or self.document_starts[at]):
                atoms.append((True, _CLOSE))
                inside = False
            if self.document_starts[at]:
                atoms.append((True, _DOCUMENT))
            if at in marked and piece and not inside:
                bare = piece.lstrip(" ") or piece
                atoms.append((False, piece[: len(piece) - len(bare)]))
                atoms.append((True, _OPEN))
                atoms.append((False, bare))
                inside = True
            else:
                atoms.append((False, piece))
        if inside:
            atoms.append((True, _CLOSE))
        return _escaped(atoms)


def single_line(text: str) -> str:
    """Text on one line, white space collapsed."""
    return " ".join(text.split())


def _escaped(atoms: list[tuple[bool, str]]) -> str:
    """Signs and text joined, with every sign that stands in the text told from ours."""
    if not _TOUCHY.search("".join([text for ours, text in atoms if not ours])):
        # None of our signs is one that is made visible.
        return "".join([text for _, text in atoms]).translate(_VISIBLY)
    symbols: list[tuple[bool, str]] = []
    for ours, text in atoms:
        symbols.extend([(True, text)] if ours else [(False, character) for character in text])
    parts: list[str] = []
    following = ""
    for at in range(len(symbols) - 1, -1, -1):
        ours, text = symbols[at]
        if not ours:
            around = [symbols[i][1] for i in (at - 1, at + 1) if 0 <= i < len(symbols)]
            if text in _OURS or (text in "<>" and any(text in other for other in around)):
                text = "\\" + text
            elif text == "\\" and following[:1] in ("\\", "<", ">", *_OURS):
                text = "\\\\"
            else:
                text = _VISIBLE.get(text, text)
        parts.append(text)
        following = text
    return "".join(reversed(parts))


def show(examples: Examples, index: Index, text: TokenText) -> list[Shown]:
    """The rows of `examples` as text.

    Whole contexts are decoded and then cut, so that a character at the edge of a window is whole.
    """
    contexts = _Contexts(examples.start, index, text)
    return contexts.show(examples.document_start, examples.mask)


def show_windows(
    starts: npt.ArrayLike, index: Index, text: TokenText, length: int | None = None
) -> list[Shown]:
    """The windows that begin at these positions as text, as `show` has them.

    Args:
        starts: positions of their first tokens.
        index: what they are of.
        text: the tokenizer's texts.
        length: tokens of each, within its context; the index's window if None.

    Raises:
        InputError: The index does not hold one of the positions.
    """
    contexts = _Contexts(flat_ids("starts", starts, np.uint64), index, text)
    columns = contexts.offsets[:, None] + np.arange(length or index.window)
    rows = contexts.places[:, None]
    # A long document runs on from the context before.
    before = contexts.numbers > index.first_context
    _, earlier, _ = index.contexts(contexts.numbers[before] - np.uint64(1))
    begins = np.ones(contexts.documents.shape, np.bool_)
    begins[before, 0] = contexts.documents[before, 0] != earlier[:, -1]
    begins[:, 1:] = contexts.documents[:, 1:] != contexts.documents[:, :-1]
    begins &= contexts.documents != np.uint64(NO_DOCUMENT)
    return contexts.show(begins[rows, columns], contexts.mask[rows, columns])


class _Contexts:
    """The contexts of some positions, each decoded once."""

    def __init__(self, starts: npt.NDArray[np.uint64], index: Index, text: TokenText) -> None:
        length = np.uint64(index.context_length)
        self.offsets = (starts % length).astype(np.int64)
        self.numbers, self.places = np.unique(starts // length, return_inverse=True)
        tokens, self.documents, self.mask = index.contexts(self.numbers)
        self._decoded = []
        for row in range(len(self.numbers)):
            padding = self.documents[row] == np.uint64(NO_DOCUMENT)
            pieces, groups = text.split(tokens[row])
            if padding.any():
                pieces = ["" if pad else piece for pad, piece in zip(padding, pieces, strict=True)]
            self._decoded.append((pieces, groups))

    def show(
        self, document_start: npt.NDArray[np.bool_], mask: npt.NDArray[np.bool_]
    ) -> list[Shown]:
        """The stretch from each position on, of the width of these, [n, W]."""
        width = mask.shape[1]
        starts, live = document_start.tolist(), mask.tolist()
        shown = []
        apart = tuple(range(width))
        for row, (place, first) in enumerate(
            zip(self.places.tolist(), self.offsets.tolist(), strict=True)
        ):
            pieces, groups = self._decoded[place]
            own = pieces[first : first + width]
            # A character that began in the window before is shown at its first token here.
            own[0] = own[0] or pieces[groups[first]]
            mine, heads = groups[first : first + width], apart
            if mine != list(range(first, first + width)):
                heads = tuple(max(group - first, 0) for group in mine)
            shown.append(Shown(tuple(own), heads, tuple(starts[row]), tuple(live[row])))
        return shown


def example_ids(examples: Examples, index: Index, hookpoint: str) -> list[str]:
    """An id for each row: the same window of the same latent has the same id in any draw.

    A negative's kind, source and rank are part of it: another table of neighbours may find the same
    window at another rank.
    """
    width = examples.tokens.shape[1]
    names = ("latent", "start", "kind", "source", "rank")
    rows = zip(*(getattr(examples, name).tolist() for name in names), strict=True)
    return [
        content_id(
            *("example", index.hash, hookpoint, latent, start, width, kind),
            *((source, rank) if rank else ()),
        )
        for latent, start, kind, source, rank in rows
    ]


def example_rows(
    examples: Examples,
    index: Index,
    text: TokenText,
    hookpoint: str,
    shown: Sequence[Shown] | None = None,
) -> pa.Table:
    """The rows as the run's table `examples`, ids and text among them.

    Args:
        examples: the rows.
        index: what they were drawn from.
        text: the tokenizer's texts.
        hookpoint: the latents' module path.
        shown: what `show` gave for them, where it is known already.
    """
    shown = show(examples, index, text) if shown is None else shown
    table = examples.to_arrow()
    added = {
        "example_id": pa.array(example_ids(examples, index, hookpoint), pa.string()),
        "text": pa.array([row.text for row in shown], pa.string()),
        "hookpoint": pa.array([hookpoint] * len(examples), pa.string()),
    }
    schema = TABLES["examples"]
    columns = [added.get(field.name) for field in schema]
    return pa.Table.from_arrays(
        [
            table[field.name].combine_chunks() if column is None else column
            for field, column in zip(schema, columns, strict=True)
        ],
        schema=schema,
    )
