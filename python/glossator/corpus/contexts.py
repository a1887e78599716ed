"""Contexts: the token rows that a subject model reads, in batches, fixed on disk where wanted.

    stored = pack(corpus, tokenizer).store("run/contexts")
    stored = open_contexts("run/contexts")
    for batch in stored.batches(start=512, size=64):
        batch.tokens, batch.document_ids, batch.mask

A folder of contexts is three plain little-endian arrays of `[contexts, context_length]`,
`tokens.u32`, `documents.u64` and `mask.u8`, and `contexts.json`, which says their shape and hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from glossator.corpus.documents import NO_DOCUMENT
from glossator.errors import InputError
from glossator.folders import new_folder
from glossator.progress import SILENT, Progress

__all__ = ["BATCH_ROWS", "Census", "ContextSource", "Contexts", "StoredContexts", "open_contexts"]

BATCH_ROWS = 64
"""Contexts in a batch, unless the caller says otherwise."""

_FILES = (("tokens.u32", "<u4"), ("documents.u64", "<u8"), ("mask.u8", "|b1"))
_HEAD = "contexts.json"


@dataclass(frozen=True)
class Contexts:
    """A batch of `B` contexts of `S` tokens.

    Attributes:
        tokens: uint32[B, S].
        document_ids: uint64[B, S]: the document that each token belongs to, `NO_DOCUMENT` at
            padding. A tokenizer's own prefix and suffix carry the id of the text beside them.
        mask: bool[B, S]: False where activations do not count: padding, the tokenizer's own prefix
            and suffix, and the first position where there is no prefix (an attention sink).
    """

    tokens: npt.NDArray[np.uint32]
    document_ids: npt.NDArray[np.uint64]
    mask: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def attended(self) -> npt.NDArray[np.bool_]:
        """bool[B, S]: the attention mask of the subject model, False at padding alone."""
        attended: npt.NDArray[np.bool_] = self.document_ids != np.uint64(NO_DOCUMENT)
        return attended


@dataclass(frozen=True)
class Census:
    """What all batches hold together.

    Attributes:
        contexts: number of rows.
        context_length: tokens in a row.
        tokens: tokens that count (unmasked).
        documents: documents of which at least one token counts.
        hash: xxh3-128 of the three arrays and the context length, the same for any batch size.
        notes: what a reader of the results should know about the corpus.
    """

    contexts: int
    context_length: int
    tokens: int
    documents: int
    hash: str
    notes: tuple[str, ...]


class ContextSource(Protocol):
    """Contexts that can be read more than once, in the same order."""

    @property
    def context_length(self) -> int:
        """Tokens in a context."""

    def batches(self, start: int = 0, size: int = BATCH_ROWS) -> Iterator[Contexts]:
        """The contexts from number `start` on, `size` at a time."""

    def census(self) -> Census:
        """What all batches hold together."""


class StoredContexts:
    """Contexts in a folder; opened by `open_contexts`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, census: Census) -> None:
        self.path = path
        self._census = census
        shape = (census.contexts, census.context_length)
        self._tokens, self._documents, self._mask = (
            np.memmap(path / name, dtype=kind, mode="r", shape=shape) for name, kind in _FILES
        )

    @property
    def context_length(self) -> int:
        """Tokens in a context."""
        return self._census.context_length

    def census(self) -> Census:
        """What the folder says about itself."""
        return self._census

    def __len__(self) -> int:
        return self._census.contexts

    def batches(self, start: int = 0, size: int = BATCH_ROWS) -> Iterator[Contexts]:
        """The contexts from number `start` on, `size` at a time, copied out of the files."""
        for begin in range(start, len(self), size):
            rows = slice(begin, begin + size)
            yield Contexts(
                np.array(self._tokens[rows], dtype=np.uint32),
                np.array(self._documents[rows], dtype=np.uint64),
                np.array(self._mask[rows], dtype=np.bool_),
            )


class Count:
    """Counts and hashes batches as they pass."""

    def __init__(self, context_length: int) -> None:
        self._length = context_length
        self._contexts = self._tokens = 0
        self._documents: set[int] = set()
        self._hashes = [xxhash.xxh3_128() for _ in _FILES]

    def add(self, batch: Contexts) -> int:
        """Count a batch; the number of its tokens that count."""
        tokens = int(batch.mask.sum())
        self._contexts += len(batch)
        self._tokens += tokens
        self._documents.update(np.unique(batch.document_ids[batch.mask]).tolist())
        for digest, data in zip(self._hashes, _arrays(batch), strict=True):
            digest.update(data)
        return tokens

    def census(self, notes: tuple[str, ...]) -> Census:
        """What was counted."""
        whole = xxhash.xxh3_128(str(self._length).encode())
        for digest in self._hashes:
            whole.update(digest.digest())
        return Census(
            contexts=self._contexts,
            context_length=self._length,
            tokens=self._tokens,
            documents=len(self._documents),
            hash=whole.hexdigest(),
            notes=notes,
        )


def store_contexts(
    source: ContextSource, path: str | Path, *, total: int | None, progress: Progress = SILENT
) -> StoredContexts:
    """Write all of a source's contexts into a new folder, visible once it is whole."""
    path = Path(path)
    if path.exists():
        raise InputError(f"contexts `{path}`: exists; open it, or name another folder")
    with new_folder(path) as scratch:
        with ExitStack() as opened, progress.stage("corpus", total, "tokens") as bar:
            files = [opened.enter_context((scratch / name).open("wb")) for name, _ in _FILES]
            for batch in source.batches():
                for file, data in zip(files, _arrays(batch), strict=True):
                    file.write(data)
                bar.advance(int(batch.mask.sum()))
            for note in source.census().notes:
                bar.note(note)
        (scratch / _HEAD).write_text(json.dumps(asdict(source.census()), indent=1))
    return open_contexts(path)


def open_contexts(path: str | Path) -> StoredContexts:
    """Open a folder that `Packing.store` wrote.

    Raises:
        InputError: a file is missing, or not of the size that `contexts.json` says.
    """
    path = Path(path)
    try:
        head = json.loads((path / _HEAD).read_text())
        census = Census(**{**head, "notes": tuple(head["notes"])})
        for name, kind in _FILES:
            wanted = census.contexts * census.context_length * np.dtype(kind).itemsize
            found = (path / name).stat().st_size
            if found != wanted:
                raise InputError(
                    f"contexts `{path / name}`: {found:,} bytes where {wanted:,} belong; "
                    "remove the folder and pack the corpus again"
                )
    except OSError as error:
        raise InputError(f"contexts `{error.filename}`: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"contexts `{path / _HEAD}`: not readable ({error}); "
            "remove the folder and pack the corpus again"
        ) from error
    return StoredContexts(path, census)


def _arrays(batch: Contexts) -> tuple[bytes, ...]:
    values = (batch.tokens, batch.document_ids, batch.mask)
    return tuple(
        np.ascontiguousarray(value, dtype=kind).tobytes()
        for value, (_, kind) in zip(values, _FILES, strict=True)
    )
