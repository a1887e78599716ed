"""A corpus as tokens: what the packer reads, whether it comes as text or as numbers.

source = TokenisedText(open_corpus("stdlib"), tokenizer)
for part in source.parts():
    part.document, part.tokens, part.last
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from glossator.corpus.documents import Corpus

__all__ = ["Part", "TokenSource", "TokenisedText", "plain_tokenizer", "special_tokens"]

_TOKENISED_AT_ONCE = 1 << 19
"""Characters given to the tokenizer in one call; what it returns takes about 50 bytes for each."""


@dataclass(frozen=True)
class Part:
    """Some tokens of a document.

    Attributes:
        document: its id.
        tokens: uint32[N].
        last: whether they are its last.
        counted: bool[N], False where a token is read and does not count; None if all count.
    """

    document: int
    tokens: npt.NDArray[np.uint32]
    last: bool
    counted: npt.NDArray[np.bool_] | None = None

    def counts(self) -> npt.NDArray[np.bool_]:
        """Which tokens count, in an array at any rate."""
        return np.ones(len(self.tokens), np.bool_) if self.counted is None else self.counted


class TokenSource(Protocol):
    """Documents as tokens, in the same order at every reading."""

    @property
    def spec(self) -> str:
        """What was asked for, for errors."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know about what was read last."""

    @property
    def bounded(self) -> bool:
        """Whether it says where a document ends; if not, all of it is one."""

    @property
    def special(self) -> tuple[int, ...]:
        """Tokens that are read and never count."""

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """What stands at the beginning and at the end of each context."""

    def parts(self) -> Iterator[Part]:
        """The tokens, in order."""


class TokenisedText:
    """A corpus of text, tokenised many texts at a time."""

    bounded = True
    special = ()

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        self._corpus = corpus
        self._tokenizer = plain_tokenizer(tokenizer)
        self.around = special_tokens(self._tokenizer)

    @property
    def spec(self) -> str:
        """What was asked for."""
        return self._corpus.spec

    @property
    def notes(self) -> tuple[str, ...]:
        """The corpus's."""
        return self._corpus.notes

    def parts(self) -> Iterator[Part]:
        """The corpus's tokens, in order."""
        waiting: list[tuple[int, str, bool]] = []
        characters = 0
        for document in self._corpus:
            pieces = document.pieces()
            piece = next(pieces, None)
            while piece is not None:
                following = next(pieces, None)
                waiting.append((document.id, piece, following is None))
                characters += len(piece)
                if characters >= _TOKENISED_AT_ONCE:
                    yield from self._tokenised(waiting)
                    waiting, characters = [], 0
                piece = following
        yield from self._tokenised(waiting)

    def _tokenised(self, waiting: list[tuple[int, str, bool]]) -> Iterator[Part]:
        texts = [text for _, text, _ in waiting]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for (document, _, last), encoding in zip(waiting, encodings, strict=True):
            yield Part(document, np.array(encoding.ids, np.uint32), last)


def plain_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither cuts nor pads, and reads special tokens' names as text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer adds before and after a text."""
    encoding = tokenizer.encode("a")
    own = encoding.special_tokens_mask
    begin = next((at for at, special in enumerate(own) if not special), len(own))
    end = next((at for at, special in enumerate(reversed(own)) if not special), 0)
    return encoding.ids[:begin], encoding.ids[len(own) - end :]
