"""Documents into contexts, one side to a context.

    contexts = pack(open_corpus("stdlib"), tokenizer, context_length=128, tokens=300_000)
    for batch in contexts.batches():
        batch.tokens                                     # uint32[B, 128]

The documents of one side stand in one row of contexts, end to end, as they come; a long one runs on
into the next context. So a context is on one side, and the explainer never sees a context of which
the scorer sees another part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash
from tokenizers import Tokenizer

from glossator.corpus.contexts import (
    BATCH_ROWS,
    Census,
    Contexts,
    Count,
    StoredContexts,
    store_contexts,
)
from glossator.corpus.documents import NO_DOCUMENT, Corpus
from glossator.corpus.parts import (
    Part,
    TokenisedText,
    TokenSource,
    plain_tokenizer,
    special_tokens,
)
from glossator.corpus.tokens import TokenCorpus
from glossator.errors import InputError
from glossator.progress import SILENT, Progress

__all__ = ["FEWEST_DOCUMENTS", "Packing", "lone_contexts", "pack"]

FEWEST_DOCUMENTS = 40
"""With fewer documents than this, each context becomes a document of its own."""


class FastTokenizer(Protocol):
    """What a fast tokenizer of `transformers` offers here."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer of the `tokenizers` library inside it."""


class Packing:
    """Contexts made from a corpus as they are read; every reading starts anew.

    Attributes:
        context_length: tokens in a context.
        prefix: what stands before the text of each context: the tokenizer's own tokens, or `bos`.
        suffix: the tokenizer's own tokens after it.
    """

    def __init__(
        self,
        source: TokenSource,
        context_length: int,
        tokens: int | None,
        split_seed: int,
        bos: int | None = None,
    ) -> None:
        self.context_length = context_length
        self._source = source
        prefix, self.suffix = source.around
        self.prefix = prefix if bos is None or prefix[:1] == [bos] else [bos, *prefix]
        self._uncounted = np.array(source.special, np.uint32)
        self._limit = tokens
        self._split_seed = split_seed
        self._census: Census | None = None
        self._capacity = context_length - len(self.prefix) - len(self.suffix)
        if self._capacity < 1:
            raise InputError(
                f"context_length = {context_length}: no room beside the "
                f"{len(self.prefix) + len(self.suffix)} special tokens; take a longer one"
            )

    def __iter__(self) -> Iterator[Contexts]:
        return self.batches()

    def batches(self, start: int = 0, size: int = BATCH_ROWS) -> Iterator[Contexts]:
        """The contexts from number `start` on, `size` at a time."""
        rows = itertools.islice(self._counted(), start, None)
        while batch := list(itertools.islice(rows, size)):
            yield Contexts(
                np.stack([row.tokens[0] for row in batch]),
                np.stack([row.document_ids[0] for row in batch]),
                np.stack([row.mask[0] for row in batch]),
            )

    def census(self) -> Census:
        """What all contexts hold together; reads the corpus once, unless it has been read."""
        if self._census is None:
            for _ in self._counted():
                pass
        if self._census is None:
            raise InputError(f"corpus `{self._source.spec}`: its texts give no token")
        return self._census

    def store(self, path: str | Path, progress: Progress = SILENT) -> StoredContexts:
        """Write the contexts into a new folder and open it.

        Raises:
            InputError: the folder exists, or the corpus gives no token.
        """
        return store_contexts(self, path, total=self._limit, progress=progress)

    def _counted(self) -> Iterator[Contexts]:
        count = Count(self.context_length)
        bounded = self._source.bounded
        few = bounded and self._few()
        rows = self._cut_rows() if few or not bounded else self._whole_rows()
        for row in rows:
            count.add(row)
            yield row
        notes = self._source.notes
        if not bounded:
            notes = (
                *notes,
                "the corpus does not say where a document ends: each context counts as a document, "
                "so the explainer's and the scorer's texts may come from the same one",
            )
        elif few:
            notes = (
                *notes,
                f"fewer than {FEWEST_DOCUMENTS} documents: each context counts as a document, so "
                "the explainer's and the scorer's texts may come from the same one",
            )
        census = count.census(notes)
        if not census.contexts:
            raise InputError(f"corpus `{self._source.spec}`: its texts give no token")
        self._census = census

    def _few(self) -> bool:
        ends = (part for part in self._within_limit() if part.last)
        return sum(1 for _ in itertools.islice(ends, FEWEST_DOCUMENTS)) < FEWEST_DOCUMENTS

    def _whole_rows(self) -> Iterator[Contexts]:
        """Whole documents, end to end, one row of contexts for each side."""
        yield from self._fill(self._within_limit())

    def _cut_rows(self) -> Iterator[Contexts]:
        """Documents cut to contexts, each with an id of its own; the last ends share contexts."""
        ends: list[Part] = []
        left = self._limit
        for _, parts in itertools.groupby(self._source.parts(), key=lambda part: part.document):
            if left == 0:
                break
            for number, part in _numbered(parts, self._capacity):
                taken, counts = part.tokens[:left], part.counts()[:left]
                left = None if left is None else left - len(taken)
                identity = _pseudo_document(part.document, number)
                if len(taken) == self._capacity:
                    owners = np.full(len(taken), identity, np.uint64)
                    yield self._row(taken, owners, counts, len(taken))
                elif len(taken):
                    ends.append(Part(identity, taken, last=True, counted=counts))
                if left == 0:
                    break
        yield from self._fill(iter(ends))

    def _fill(self, parts: Iterator[Part]) -> Iterator[Contexts]:
        from glossator._core import document_sides

        tokens = np.zeros((2, self._capacity), np.uint32)
        documents = np.zeros((2, self._capacity), np.uint64)
        counts = np.zeros((2, self._capacity), np.bool_)
        filled = [0, 0]
        while some := list(itertools.islice(parts, 1_024)):
            identities = np.array([part.document for part in some], np.uint64)
            sides = document_sides(identities, self._split_seed).tolist()
            for part, side in zip(some, sides, strict=True):
                begin, length = 0, len(part.tokens)
                while begin < length:
                    at = filled[side]
                    step = min(self._capacity - at, length - begin)
                    taken = slice(begin, begin + step)
                    tokens[side, at : at + step] = part.tokens[taken]
                    documents[side, at : at + step] = part.document
                    counts[side, at : at + step] = (
                        True if part.counted is None else part.counted[taken]
                    )
                    begin += step
                    filled[side] = at + step
                    if filled[side] == self._capacity:
                        yield self._row(tokens[side], documents[side], counts[side], self._capacity)
                        filled[side] = 0
        for side in (0, 1):
            if filled[side]:
                yield self._row(tokens[side], documents[side], counts[side], filled[side])

    def _row(
        self,
        tokens: npt.NDArray[np.uint32],
        documents: npt.NDArray[np.uint64],
        counts: npt.NDArray[np.bool_],
        length: int,
    ) -> Contexts:
        """A context of one row from its first `length` tokens; what is left over is padding."""
        begin = len(self.prefix)
        end = begin + length
        after = end + len(self.suffix)
        row = Contexts(
            np.zeros((1, self.context_length), np.uint32),
            np.full((1, self.context_length), NO_DOCUMENT, np.uint64),
            np.zeros((1, self.context_length), np.bool_),
        )
        row.tokens[0, :begin] = self.prefix
        row.tokens[0, begin:end] = tokens[:length]
        row.tokens[0, end:after] = self.suffix
        row.document_ids[0, :begin] = documents[0]
        row.document_ids[0, begin:end] = documents[:length]
        row.document_ids[0, end:after] = documents[length - 1]
        row.mask[0, begin:end] = counts[:length]
        row.mask[0, 0] = False  # with no prefix before it, an attention sink
        if len(self._uncounted):
            row.mask[0] &= ~np.isin(row.tokens[0], self._uncounted)
        return row

    def _within_limit(self) -> Iterator[Part]:
        """The parts of the leading documents that fit whole into the limit."""
        if self._limit is None:
            yield from self._source.parts()
            return
        left = self._limit
        held: list[Part] = []
        for part in self._source.parts():
            held.append(part)
            left -= len(part.tokens)
            if left < 0:
                return
            if part.last:
                yield from held
                held.clear()


def pack(
    corpus: Corpus | TokenCorpus,
    tokenizer: Tokenizer | FastTokenizer | None = None,
    *,
    context_length: int = 128,
    tokens: int | None = None,
    split_seed: int = 0,
    bos: int | None = None,
) -> Packing:
    """Pack a corpus's documents into contexts.

    Args:
        corpus: the documents. Fewer than 40 of them (within `tokens`) cannot be split into two
            sides of use: then each context becomes a document of its own, which the census notes,
            as it does where tokens come without the ends of documents.
        tokenizer: a `tokenizers.Tokenizer`, or a fast tokenizer of `transformers`; none for a
            corpus of tokens. What it adds around a text stands at the ends of each context, masked.
            Text that looks like one of its special tokens is tokenised as the text that it is.
        context_length: tokens in a context.
        tokens: take the leading documents that fit whole into so many tokens; None takes all.
        split_seed: the seed of the documents' sides; the index must be given the same.
        bos: a token that stands first in each context, masked, where the tokenizer puts none:
            `subject.bos`, for a coder that was trained with it.

    The last context of each side is padded. Memory is bounded by the longest document's share of
    `tokens`, else by a few megabytes.

    Raises:
        InputError: no room for text in `context_length`; a slow tokenizer, or none for text.
    """
    if isinstance(corpus, TokenCorpus):
        return Packing(corpus, context_length, tokens, split_seed, bos)
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"tokenizer `{type(tokenizer).__name__}`: not a fast one; "
            "a `tokenizer.json` of the `tokenizers` library is needed"
        )
    return Packing(TokenisedText(corpus, backend), context_length, tokens, split_seed, bos)


def lone_contexts(
    texts: Sequence[str], tokenizer: Tokenizer, context_length: int, bos: int | None = None
) -> Contexts:
    """Texts that are no part of a corpus, a context for each, cut off where it is full.

    What counts of a text is what would count in the midst of a packed context, the first token
    included: where the tokenizer puts nothing before a text a line break does, masked, in the place
    of the token whose activations never count.

    Args:
        texts: each on its own.
        tokenizer: the subject's.
        context_length: tokens of a context, at most: no context is longer than the longest text.
        bos: as the corpus was packed with.

    Returns:
        The contexts, their document ids being the texts' numbers.

    Raises:
        InputError: no room for a text.
    """
    plain = plain_tokenizer(tokenizer)
    prefix, suffix = special_tokens(plain)
    if bos is not None and prefix[:1] != [bos]:
        prefix = [bos, *prefix]
    prefix = prefix or plain.encode("\n", add_special_tokens=False).ids[:1]
    room = context_length - len(prefix) - len(suffix)
    if room < 1:
        raise InputError(
            f"context_length = {context_length}: no room for a text; take a longer one"
        )
    encodings = plain.encode_batch_fast(list(texts), add_special_tokens=False)
    cut = [encoding.ids[:room] for encoding in encodings]
    rows = [[*prefix, *ids, *suffix] for ids in cut]
    shape = (len(rows), max(map(len, rows), default=0))
    contexts = Contexts(
        np.zeros(shape, np.uint32), np.full(shape, NO_DOCUMENT, np.uint64), np.zeros(shape, bool)
    )
    for number, (row, ids) in enumerate(zip(rows, cut, strict=True)):
        contexts.tokens[number, : len(row)] = row
        contexts.document_ids[number, : len(row)] = number
        contexts.mask[number, len(prefix) : len(prefix) + len(ids)] = True
    return contexts


def _numbered(parts: Iterator[Part], size: int) -> Iterator[tuple[int, Part]]:
    """A document's tokens in stretches of `size`, numbered; the last may be shorter."""
    held, counts = np.empty(0, np.uint32), np.empty(0, np.bool_)
    number = 0
    for part in parts:
        held = np.concatenate((held, part.tokens))
        counts = np.concatenate((counts, part.counts()))
        whole = len(held) // size * size
        for begin in range(0, whole, size):
            some = slice(begin, begin + size)
            yield number, Part(part.document, held[some], last=False, counted=counts[some])
            number += 1
        held, counts = held[whole:], counts[whole:]
        if part.last and len(held):
            yield number, Part(part.document, held, last=True, counted=counts)


def _pseudo_document(document: int, number: int) -> int:
    digest = xxhash.xxh3_64_intdigest(document.to_bytes(8, "little") + number.to_bytes(8, "little"))
    return min(digest, NO_DOCUMENT - 1)
