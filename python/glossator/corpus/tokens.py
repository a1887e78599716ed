"""Corpora that come as tokens: arrays, Parquet columns of lists, tokenised datasets.

    corpus = open_tokens("tokens.npy", separator=50256)      # a document ends behind that token
    corpus = open_tokens("rows.parquet", column="input_ids") # a row is a document
    contexts = pack(corpus, context_length=128, bos=50256)

What says where documents end is, in this order: document ids or starts beside the tokens, a
`separator`, the rows of a column of lists or of a table. A single line of tokens without any of
these has no documents: packed, each context counts as one, and the census says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from glossator.corpus.documents import NO_DOCUMENT, hugging_face_rows
from glossator.corpus.parts import Part
from glossator.errors import InputError

__all__ = ["TokenCorpus", "open_tokens"]

_AT_ONCE = 1 << 18
"""Tokens of a document in a part, and of a line of tokens that are read at once."""

_Tokens = npt.NDArray[np.uint64]
"""Token ids, with `_UNCOUNTED` added where a token is read and does not count."""
_UNCOUNTED = np.uint64(1 << 32)
_Any = npt.NDArray[Any]


class TokenCorpus:
    """Documents as tokens; opened by `open_tokens`, packed by `pack` without a tokenizer.

    Documents of equal tokens are read once where their ids are not given. Memory is bounded by the
    longest document; `.npz` files are read whole.

    Attributes:
        spec: what was asked for.
        bounded: whether it says where a document ends.
        special: tokens that the model reads and that never count.
        around: nothing: what stands around a text stands among the tokens already.
    """

    def __init__(
        self,
        spec: str,
        source: Mapping[str, _Any] | Path | str,
        column: str,
        separator: int | None,
        special: Sequence[int],
    ) -> None:
        self.spec = spec
        self._source, self._column, self._separator = source, column, separator
        self.special = tuple(special) if separator is None else (*special, separator)
        self.around: tuple[list[int], list[int]] = ([], [])
        self._duplicates, self._lengths = 0, set[int]()
        line = isinstance(source, Mapping) and source["tokens"].ndim == 1
        ends = isinstance(source, Mapping) and not _ENDS.isdisjoint(source)
        self.bounded = not line or ends or separator is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know about the documents read last."""
        said = []
        if self._duplicates:
            said.append(f"{self._duplicates:,} duplicate documents left out")
        if len(self._lengths) == 1:
            said.append(
                f"all rows have {next(iter(self._lengths)):,} tokens, so they are no whole "
                "documents: each row counts as a document, so the explainer's and the scorer's "
                "texts may come from the same one"
            )
        return tuple(said)

    def parts(self) -> Iterator[Part]:
        """The tokens, in order.

        Raises:
            InputError: a file that cannot be read, or what is no token; the error says where.
        """
        self._duplicates, self._lengths = 0, set()
        if not self.bounded:
            yield from self._line()
            return
        seen: set[int] = set()
        for given, tokens in self._documents():
            document = given
            if document is None:
                document = min(_hash(tokens), NO_DOCUMENT - 1)
                if document in seen:
                    self._duplicates += 1
                    continue
                seen.add(document)
            for begin in range(0, len(tokens), _AT_ONCE):
                end = begin + _AT_ONCE
                yield _part(document, tokens[begin:end], last=end >= len(tokens))

    def _line(self) -> Iterator[Part]:
        document = None
        blocks = _ahead(self._blocks())
        for tokens, last in blocks:
            if document is None:
                document = _hash(tokens) >> 1
            yield _part(document, tokens, last)

    def _documents(self) -> Iterator[tuple[int | None, _Tokens]]:
        """Id, where it is given, and tokens of each document that has any."""
        source = self._source
        if isinstance(source, Mapping) and "document_ids" in source:
            yield from self._by_ids(source, source["document_ids"])
        elif isinstance(source, Mapping) and "document_starts" in source:
            starts = [*source["document_starts"].tolist(), len(source["tokens"])]
            for begin, end in itertools.pairwise(starts):
                document = self._read(source, slice(begin, end))
                if len(document):
                    yield None, document
        elif self._separator is not None:
            yield from self._separated()
        else:
            for row in self._blocks():
                if len(row):
                    if len(self._lengths) < 2:
                        self._lengths.add(len(row))
                    yield None, row

    def _by_ids(
        self, source: Mapping[str, _Any], ids: _Any
    ) -> Iterator[tuple[int | None, _Tokens]]:
        """Runs of equal ids; what has none is padding."""
        flat = {name: source[name].reshape(-1) for name in ("tokens", *_MASKS) if name in source}
        owners = ids
        if ids.shape != source["tokens"].shape:
            owners = np.repeat(ids, source["tokens"].shape[1])
        owners = owners.reshape(-1)
        held: list[_Tokens] = []
        owner: int | None = None
        for begin in range(0, len(owners), _AT_ONCE):
            here = slice(begin, begin + _AT_ONCE)
            some, read = owners[here].astype(np.uint64), self._read(flat, here)
            if "attention_mask" in flat:
                some = some[flat["attention_mask"][here] != 0]
            if not len(some):
                continue
            cuts = [0, *(np.flatnonzero(np.diff(some)) + 1).tolist(), len(some)]
            for first, end in itertools.pairwise(cuts):
                if int(some[first]) != owner:
                    if held and owner != NO_DOCUMENT:
                        yield owner, np.concatenate(held)
                    owner, held = int(some[first]), []
                held.append(read[first:end])
        if held and owner != NO_DOCUMENT:
            yield owner, np.concatenate(held)

    def _separated(self) -> Iterator[tuple[int | None, _Tokens]]:
        held: list[_Tokens] = []
        for tokens in self._blocks():
            begin = 0
            ends = (tokens & ~_UNCOUNTED) == self._separator
            for end in (np.flatnonzero(ends) + 1).tolist():
                held.append(tokens[begin:end])
                yield None, np.concatenate(held)
                held, begin = [], end
            if begin < len(tokens):
                held.append(tokens[begin:])
        if held:
            yield None, np.concatenate(held)

    def _blocks(self) -> Iterator[_Tokens]:
        """Rows where there are any, else stretches of the line."""
        source = self._source
        if isinstance(source, Mapping):
            tokens = source["tokens"]
            size = 1 if tokens.ndim == 2 else _AT_ONCE
            for begin in range(0, len(tokens), size):
                yield self._read(source, slice(begin, begin + size))
        elif isinstance(source, Path):
            yield from _parquet(source, self._column)
        else:
            for number, row in enumerate(hugging_face_rows(source, self._column, None)):
                name = f"hf:{source}:{number}"
                yield _checked(name, _listed(name, self._column, row[self._column]), 0)

    def _read(self, arrays: Mapping[str, _Any], where: slice) -> _Tokens:
        """The tokens of a stretch, marked where they do not count, without its padding."""
        tokens = _checked(self.spec, arrays["tokens"][where].reshape(-1), where.start)
        if "mask" in arrays:
            tokens = tokens | np.where(arrays["mask"][where].reshape(-1), np.uint64(0), _UNCOUNTED)
        if "attention_mask" in arrays:
            tokens = tokens[arrays["attention_mask"][where].reshape(-1) != 0]
        return tokens


def open_tokens(
    spec: str | Path | npt.ArrayLike | Mapping[str, npt.ArrayLike],
    *,
    column: str = "input_ids",
    separator: int | None = None,
    special: Sequence[int] = (),
) -> TokenCorpus:
    """Open a corpus of tokens.

    Args:
        spec: a `.npy` file of integers [N] or [rows, S], which is mapped, not read; a `.npz` file
            with `tokens` and, where documents are known, `document_ids` ([N], [rows] or [rows, S];
            2^64 - 1 is padding and left out) or `document_starts` (of a line of tokens), and where
            not all tokens count, masks of their shape: `mask`, False where a token is read and does
            not count, `attention_mask`, 0 at padding, which is left out; a `.parquet` file with a
            column of lists; `hf:NAME[@CONFIG][:SPLIT]` with such a column; or an array, or a
            mapping of arrays of these names.
        column: the field that holds the lists, in Parquet and datasets.
        separator: the token behind which a document ends. It is read and does not count.
        special: further tokens that the model reads and that never count, such as BOS among them.

    Raises:
        InputError: no such file, or arrays that do not fit one another; the error names the field.
    """
    name = str(spec) if isinstance(spec, str | Path) else "tokens"
    if isinstance(spec, str) and spec.startswith("hf:"):
        return TokenCorpus(name, spec.removeprefix("hf:"), column, separator, special)
    if not isinstance(spec, str | Path):
        given = spec if isinstance(spec, Mapping) else {"tokens": spec}
        arrays = {str(key): np.asarray(value) for key, value in given.items()}
        return TokenCorpus(name, _fitting(name, arrays), column, separator, special)
    path = Path(spec)
    if not path.is_file():
        raise InputError(
            f"tokens `{path}`: no such file; give .npy, .npz, .parquet or `hf:NAME[:SPLIT]`"
        )
    if path.suffix == ".parquet":
        return TokenCorpus(name, path, column, separator, special)
    return TokenCorpus(name, _fitting(name, _arrays(path)), column, separator, special)


def _arrays(path: Path) -> dict[str, _Any]:
    try:
        if path.suffix == ".npy":
            return {"tokens": np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"tokens `{path}`: not readable ({error})") from error
    raise InputError(f"tokens `{path}`: not .npy, .npz or .parquet; text is for `open_corpus`")


_ENDS = frozenset({"document_ids", "document_starts"})
_MASKS = ("mask", "attention_mask")


def _fitting(name: str, arrays: dict[str, _Any]) -> dict[str, _Any]:
    known = {"tokens", *_ENDS, *_MASKS}
    if "tokens" not in arrays or not set(arrays) <= known or set(arrays) >= _ENDS:
        held = ", ".join(f"`{key}`" for key in arrays) or "nothing"
        raise InputError(
            f"tokens `{name}`: holds {held}; it needs `tokens`, and beside it at most "
            "`document_ids` or `document_starts`, `mask` and `attention_mask`"
        )
    for key, array in arrays.items():
        if key in _MASKS:
            _check_mask(name, key, array, arrays["tokens"])
        elif not np.issubdtype(array.dtype, np.integer):
            raise InputError(f"tokens `{name}`: `{key}` is {array.dtype}; it must be of integers")
    tokens = arrays["tokens"]
    if tokens.ndim not in {1, 2} or not tokens.size:
        raise InputError(
            f"tokens `{name}`: `tokens` has shape {tokens.shape}; it must be (N,) or (rows, S), "
            "and not empty"
        )
    if "document_ids" in arrays:
        ids = arrays["document_ids"]
        if ids.shape not in {tokens.shape, tokens.shape[:1]}:
            raise InputError(
                f"tokens `{name}`: `document_ids` has shape {ids.shape}; with `tokens` "
                f"{tokens.shape} it must be {tokens.shape[:1]} or {tokens.shape}"
            )
        if ids.dtype.kind == "i" and ids.min() < 0:
            raise InputError(f"tokens `{name}`: `document_ids` holds {ids.min()}; none is negative")
    if "document_starts" in arrays:
        starts = arrays["document_starts"]
        rising = starts.ndim == 1 and len(starts) and starts[0] == 0
        if tokens.ndim != 1 or not rising or (np.diff(starts.astype(np.int64)) <= 0).any():
            raise InputError(
                f"tokens `{name}`: `document_starts` must ascend from 0, beside `tokens` of one "
                "dimension"
            )
        if starts[-1] >= len(tokens):
            raise InputError(
                f"tokens `{name}`: `document_starts` ends at {starts[-1]}, behind the last of "
                f"{len(tokens):,} tokens"
            )
    return arrays


def _check_mask(name: str, key: str, mask: _Any, tokens: _Any) -> None:
    if mask.shape != tokens.shape:
        raise InputError(
            f"tokens `{name}`: `{key}` has shape {mask.shape}; it must be that of `tokens`, "
            f"{tokens.shape}"
        )
    if mask.dtype.kind not in "biu" or (mask.size and (mask.min() < 0 or mask.max() > 1)):
        raise InputError(f"tokens `{name}`: `{key}` holds more than true and false, or 0 and 1")


def _hash(tokens: _Tokens) -> int:
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(tokens, "<u4").data)


def _part(document: int, tokens: _Tokens, last: bool) -> Part:
    counted = tokens < _UNCOUNTED
    return Part(document, tokens.astype(np.uint32), last, None if counted.all() else counted)


def _checked(name: str, tokens: _Any, at: int) -> _Tokens:
    """Token ids, of what may be none."""
    if tokens.dtype.kind not in "iu":
        raise InputError(f"tokens `{name}`: {tokens.dtype} at {at}; tokens are integers")
    if tokens.size and (int(tokens.min()) < 0 or int(tokens.max()) > 0xFFFF_FFFF):
        bad = int(tokens.min()) if int(tokens.min()) < 0 else int(tokens.max())
        raise InputError(f"tokens `{name}`: {bad} at {at} or behind it; no token has that number")
    return np.ascontiguousarray(tokens, np.uint64)


def _listed(name: str, column: str, value: object) -> _Any:
    try:
        row = np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"tokens `{name}`: field `{column}` ({error})") from error
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise InputError(
            f"tokens `{name}`: field `{column}` is no list of integers; name another with `column`"
        )
    return row if row.size else np.empty(0, np.uint64)


def _parquet(path: Path, column: str) -> Iterator[_Tokens]:
    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if column not in names:
                known = ", ".join(f"`{name}`" for name in names)
                raise InputError(
                    f"tokens `{path}`: no field `{column}`; there are {known}: name one with "
                    "`column`"
                )
            kind = table.schema_arrow.field(column).type
            lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            lists = lists or pa.types.is_fixed_size_list(kind)
            if not lists or not pa.types.is_integer(kind.value_type):
                raise InputError(
                    f"tokens `{path}`: field `{column}` is {kind}, no list of integers; name "
                    "another with `column`"
                )
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0):
                    if value.is_valid:
                        if value.values.null_count:
                            raise InputError(f"tokens `{path}:{number}`: holds a null")
                        tokens = value.values.to_numpy(zero_copy_only=False)
                        yield _checked(f"{path}:{number}", tokens, 0)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"tokens `{path}`: not readable as Parquet ({error})") from error


def _ahead(blocks: Iterable[_Tokens]) -> Iterator[tuple[_Tokens, bool]]:
    """Each block, and whether it is the last."""
    held = None
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    if held is not None:
        yield held, True
