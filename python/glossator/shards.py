"""Which part of a corpus does each of several processes encode, and how do their parts become one?

    shard = Shard.of(contexts.census(), number=3, shards=8)
    shard.write("run/shards/3")                          # before anything is encoded
    with IndexWriter("run/shards/3/index", first_context=shard.first_context, …) as writer: …
    join_shards(["run/shards/0", …, "run/shards/7"], "run/index")

Segments of an index end at fixed multiples of contexts, so shards are cut there: what they write is
linked into one index and nothing is written again. Where there are fewer segments than shards the
contexts are divided evenly, and joining merges what is partial. Either way the bytes are those of
one build that nothing disturbed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from glossator.corpus import Census, Contexts, ContextSource
from glossator.corpus.contexts import BATCH_ROWS
from glossator.errors import InputError
from glossator.folders import new_file
from glossator.index import Index, compact, join
from glossator.progress import SILENT, Progress
from glossator.records import Record

__all__ = ["SHARD_FILE", "Shard", "join_shards", "parse_shard", "read_shard"]

SHARD_FILE = "shard.json"
"""What a shard's folder says about itself, beside its `index`."""

_SEGMENT_TOKENS = 1 << 24
"""Tokens of an index's segment where nothing else is asked for."""


class Shard(Record):
    """A run of contexts that one process encodes."""

    number: int = Field(ge=0)
    """Which of the shards, from 0."""
    shards: int = Field(gt=0)
    """How many there are."""
    contexts: int = Field(ge=0)
    """Contexts of the whole corpus."""
    segment_contexts: int = Field(gt=0)
    """Contexts of a segment of the index."""
    corpus_hash: str
    """Hash of the whole corpus as packed; see `Census`."""

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if self.number >= self.shards:
            raise ValueError(
                f"shard {self.number} of {self.shards}: they are numbered from 0 to "
                f"{self.shards - 1}"
            )
        return self

    @classmethod
    def of(
        cls, census: Census, *, number: int, shards: int, segment_contexts: int | None = None
    ) -> Shard:
        """A shard of a packed corpus.

        Args:
            census: of the whole corpus.
            number: which shard, from 0.
            shards: how many there are.
            segment_contexts: as `IndexWriter` is given it; None for its own choice.

        Raises:
            InputError: there is no shard of that number.
        """
        try:
            return cls(
                number=number,
                shards=shards,
                contexts=census.contexts,
                segment_contexts=segment_contexts
                or max(_SEGMENT_TOKENS // census.context_length, 1),
                corpus_hash=census.hash,
            )
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise InputError(f"shard {number}/{shards}: {said}") from error

    @property
    def first_context(self) -> int:
        """The first context that is the shard's."""
        return self._cut(self.number)

    @property
    def end_context(self) -> int:
        """The first context behind it that is not; the same as the first of an empty shard."""
        return self._cut(self.number + 1)

    @property
    def n_contexts(self) -> int:
        """How many are the shard's; none where there are fewer contexts than shards."""
        return self.end_context - self.first_context

    def batches(
        self, source: ContextSource, start: int | None = None, size: int = BATCH_ROWS
    ) -> Iterator[Contexts]:
        """The shard's contexts from number `start` on, `size` at a time.

        Args:
            source: the whole corpus.
            start: number of a context in the whole corpus, such as `IndexWriter.next_context`; the
                shard's first if None.
            size: contexts in a batch; the last may be smaller.
        """
        start = self.first_context if start is None else start
        left = self.end_context - start
        if left <= 0:
            return
        for batch in islice(source.batches(start, size), -(-left // size)):
            if len(batch) <= left:
                yield batch
            else:
                yield Contexts(batch.tokens[:left], batch.document_ids[:left], batch.mask[:left])
            left -= len(batch)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Say in a folder, made if need be, which shard's it is.

        Raises:
            InputError: it is another shard's already, or cannot be written.
        """
        path = Path(folder) / SHARD_FILE
        if path.exists():
            there = read_shard(folder)
            if there != self:
                raise InputError(
                    f"shard folder `{folder}`: holds shard {there.number} of {there.shards} of "
                    f"{there.contexts:,} contexts; name another folder, or remove it"
                )
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"shard folder `{folder}`: {error.strerror or error}") from error
        with new_file(path) as file:
            file.write(self.model_dump_json(indent=1).encode())

    def _cut(self, number: int) -> int:
        """Where shard `number` begins."""
        segments = -(-self.contexts // self.segment_contexts)
        if segments < self.shards:
            return number * self.contexts // self.shards
        return min(number * segments // self.shards * self.segment_contexts, self.contexts)


def parse_shard(text: str) -> tuple[int, int]:
    """`3/8` as (3, 8): shard 3 of 8, numbered from 0.

    Raises:
        InputError: not of that form, or no shard has that number.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None or int(found[1]) >= int(found[2]):
        raise InputError(
            f"--shard `{text}`: give a number and how many there are, from `0/8` to `7/8`"
        )
    return int(found[1]), int(found[2])


def read_shard(folder: str | os.PathLike[str]) -> Shard:
    """What a shard's folder says about itself.

    Raises:
        InputError: it says nothing, or nothing that can be read.
    """
    path = Path(folder) / SHARD_FILE
    try:
        return Shard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"shard `{path}`: {error.strerror}; is it a shard's folder?") from error
    except ValidationError as error:
        raise InputError(f"shard `{path}`: not readable ({error.errors()[0]['msg']})") from error


def join_shards(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    durable: bool = True,
    progress: Progress = SILENT,
) -> None:
    """Join the indices of all shards into one, after a check that nothing is missing.

    The folders may come in any order and stay as they are. A call that was interrupted is made
    again; where the whole index is there already, nothing happens.

    Args:
        folders: each with what `Shard.write` wrote and the finished `index`, of one hookpoint or of
            several, each in a folder of its own. Shards without contexts need none.
        out: the folder of the index.
        durable: whether what is committed survives a loss of power; False is quicker.
        progress: counts parts.

    Raises:
        InputError: a shard is missing, there twice, unfinished or of another corpus; the error
            names it.
        CorruptIndexError: a part is damaged.
    """
    found: dict[int, tuple[Shard, Path]] = {}
    for folder in map(Path, folders):
        shard = read_shard(folder)
        first = next(iter(found.values()), (shard, folder))
        if shard.model_copy(update={"number": first[0].number}) != first[0]:
            raise InputError(
                f"shard folders `{first[1]}` and `{folder}`: of another corpus, another number of "
                "shards or other segments; harvest them with the same settings"
            )
        if shard.number in found:
            raise InputError(
                f"shard {shard.number} of {shard.shards} is in two folders, "
                f"`{found[shard.number][1]}` and `{folder}`; leave one of them out"
            )
        found[shard.number] = (shard, folder)
    if not found:
        raise InputError("there are no shards to join; name their folders")
    whole = next(iter(found.values()))[0]
    every = [whole.model_copy(update={"number": number}) for number in range(whole.shards)]
    wanted = [shard for shard in every if shard.n_contexts]
    if missing := [shard.number for shard in wanted if shard.number not in found]:
        named = ", ".join(map(str, missing))
        raise InputError(
            f"of {whole.shards} shards these are missing: {named}; run "
            f"`glossator harvest --shard {missing[0]}/{whole.shards}`, then join them"
        )
    if _is_whole(Path(out), whole):
        return
    parts = [found[shard.number][1] / "index" for shard in wanted]
    for shard, part in zip(wanted, parts, strict=True):
        _refuse_unfinished(shard, part)
    join(parts, out, durable=durable, progress=progress)
    compact(out, durable=durable, progress=progress)


def _refuse_unfinished(shard: Shard, part: Path) -> None:
    indices = _indices(part)
    again = f"run `glossator harvest --shard {shard.number}/{shard.shards}` again, then join"
    if not indices:
        raise InputError(f"shard `{part}`: holds no index; {again}")
    for folder in indices:
        index = Index.open(folder, unfinished=True)
        end = index.first_context + index.n_contexts
        if not index.complete:
            raise InputError(
                f"shard `{folder}`: not finished, contexts {end} to {shard.end_context} are "
                f"missing; {again}"
            )
        if (index.first_context, end) != (shard.first_context, shard.end_context):
            raise InputError(
                f"shard `{folder}`: holds contexts {index.first_context} to {end}, but shard "
                f"{shard.number} of {shard.shards} is {shard.first_context} to {shard.end_context}"
            )
        corpus = index.attributes.get("corpus_hash", shard.corpus_hash)
        if corpus != shard.corpus_hash:
            raise InputError(f"shard `{folder}`: of another corpus than its {SHARD_FILE} says")


def _is_whole(out: Path, shard: Shard) -> bool:
    """Whether the joined index is there; partial segments are merged where that was interrupted."""
    indices = _indices(out)
    for folder in indices:
        index = Index.open(folder, unfinished=True)
        ends = (index.first_context, index.first_context + index.n_contexts)
        if not index.complete or ends != (0, shard.contexts):
            return False
        if index.attributes.get("corpus_hash", shard.corpus_hash) != shard.corpus_hash:
            return False
    if indices:
        compact(out)
    return bool(indices)


def _indices(path: Path) -> list[Path]:
    """The index in a folder, or those of the hookpoints in it."""
    if (path / "manifest.json").is_file():
        return [path]
    return [folder for folder in sorted(path.glob("*/")) if (folder / "manifest.json").is_file()]
