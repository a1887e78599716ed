"""Where text comes from: a stream of documents, each once.

    corpus = open_corpus("stdlib")                       # or "packages", a path, "hf:NAME:split"
    for document in corpus:
        print(document.id, document.name, document.text[:60])
    print(corpus.notes)                                  # duplicates, replaced bytes

A document is what is never split between the two sides of a run, so every source says what one is:
an object of a Python module, a text file, a line of JSONL, a row of Parquet.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from glossator.corpus import docstrings
from glossator.corpus.compressed import kind, lines, opened
from glossator.errors import InputError

__all__ = ["NO_DOCUMENT", "PIECE_CHARACTERS", "Corpus", "Document", "open_corpus"]

NO_DOCUMENT = 2**64 - 1
"""The document id of padding."""

PIECE_CHARACTERS = 1 << 18
"""Longest stretch of a document that is held and tokenised at once."""

_TEXT_SUFFIXES = (".txt", ".md", ".rst", ".text")
_SUFFIXES = (*_TEXT_SUFFIXES, ".jsonl", ".parquet")
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Document:
    """One text that stays on one side of a run.

    Attributes:
        id: xxh3-64 of the text's UTF-8 bytes; never `NO_DOCUMENT`.
        name: where the text stands, for people.
        open: gives the text from its start, in strings of any length.
    """

    id: int
    name: str
    open: Callable[[], Iterable[str]] = field(repr=False, compare=False)

    @classmethod
    def of(cls, name: str, text: str) -> Document:
        """A document held in memory."""
        return cls(_document_id((text,)), name, lambda: (text,))

    @property
    def text(self) -> str:
        """The whole text, in memory."""
        return "".join(self.open())

    def pieces(self, limit: int = PIECE_CHARACTERS) -> Iterator[str]:
        """The text in stretches of at most `limit` characters, cut before white space.

        Byte-level tokenizers give the same tokens for the pieces as for the whole, since they
        never merge over the end of a word. A run of `limit` characters without white space is cut
        where it stands.
        """
        held = ""
        for part in self.open():
            held += part
            begin = 0
            while len(held) - begin > limit:
                end = _cut(held, begin, begin + limit)
                yield held[begin:end]
                begin = end
            held = held[begin:]
        if held:
            yield held


class Corpus:
    """A stream of documents that can be read again: every iteration starts anew.

    Documents of equal text are given once; empty ones not at all. The ids seen are held in memory,
    about 60 bytes a document.

    Attributes:
        spec: what was asked for.
    """

    def __init__(self, spec: str, source: Callable[[_Tally], Iterator[Document]]) -> None:
        self.spec = spec
        self._source = source
        self._tally = _Tally()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know about the documents read last."""
        return self._tally.notes()

    def __iter__(self) -> Iterator[Document]:
        self._tally = tally = _Tally()
        seen: set[int] = set()
        for document in self._source(tally):
            if document.id in seen:
                tally.duplicates += 1
                continue
            seen.add(document.id)
            yield document
        if not seen:
            raise InputError(
                f"corpus `{self.spec}`: no document with any text; give another path or column"
            )


@dataclass
class _Tally:
    duplicates: int = 0
    empty: int = 0
    replaced: int = 0

    def notes(self) -> tuple[str, ...]:
        said = (
            (self.duplicates, "duplicate documents left out"),
            (self.empty, "documents without text left out"),
            (self.replaced, "invalid UTF-8 sequences replaced by U+FFFD"),
        )
        return tuple(f"{count:,} {what}" for count, what in said if count)


def open_corpus(
    spec: str | Path | Sequence[str | Path] = "stdlib",
    *,
    column: str = "text",
    subset: str | None = None,
) -> Corpus:
    """Open a corpus by its name.

    Args:
        spec: `stdlib` (pydoc topics, then the docstrings of the standard library, then those of
            built-in modules), `packages` (docstrings of all installed packages),
            `hf:NAME[@CONFIG][:SPLIT]` (a Hugging Face dataset, streamed), or a path: `.jsonl` (a
            document a line), `.parquet` (a row), any other file as one document of text, a folder
            with all the files of these kinds below it, in order of their names; or several of
            these, one after the other. Text and JSONL may be compressed: `.jsonl.gz`, `.txt.zst`.
        column: the field that holds the text, in JSONL, Parquet and datasets.
        subset: the configuration of a Hugging Face dataset that has several.

    Invalid UTF-8 is replaced by U+FFFD and counted in `Corpus.notes`.

    Raises:
        InputError: a path does not exist. What is wrong inside a file is raised on reading it,
            naming the file, the line and the field.
    """
    given = [spec] if isinstance(spec, str | Path) else list(spec)
    if not given:
        raise InputError("corpus: no source given; `stdlib` is one")
    sources = [_source(str(one), column, subset) for one in given]
    return Corpus(
        ", ".join(str(one) for one in given),
        lambda tally: (document for source in sources for document in source(tally)),
    )


def _source(spec: str, column: str, subset: str | None) -> Callable[[_Tally], Iterator[Document]]:
    if spec == "stdlib":
        return lambda tally: _named(docstrings.standard_library(), tally)
    if spec == "packages":
        return lambda tally: _named(docstrings.installed_packages(), tally)
    if spec.startswith("hf:"):
        return lambda tally: _hugging_face(spec.removeprefix("hf:"), column, subset, tally)
    files = _files(Path(spec))
    return lambda tally: (document for file in files for document in _file(file, column, tally))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if _is_read(file))
        if not found:
            raise InputError(f"corpus `{path}`: the folder holds no file of {', '.join(_SUFFIXES)}")
        return found
    if not path.is_file():
        raise InputError(
            f"corpus `{path}`: no such file; give a path, `stdlib`, `packages` or `hf:NAME[:split]`"
        )
    return [path]


def _is_read(file: Path) -> bool:
    return file.suffix in _SUFFIXES or kind(file) in (*_TEXT_SUFFIXES, ".jsonl")


def _file(path: Path, column: str, tally: _Tally) -> Iterator[Document]:
    try:
        if kind(path) == ".jsonl":
            yield from _named(_jsonl(path, column, tally), tally)
        elif path.suffix == ".parquet":
            yield from _named(_parquet(path, column), tally)
        else:
            yield from _text(path, tally)
    except OSError as error:
        raise InputError(f"corpus `{path}`: {error.strerror or error}") from error


def _named(texts: Iterable[tuple[str, str]], tally: _Tally) -> Iterator[Document]:
    for name, text in texts:
        if not text or text.isspace():
            tally.empty += 1
            continue
        yield Document.of(name, text)


def _text(path: Path, tally: _Tally) -> Iterator[Document]:
    with opened(path) as file:
        if b"\0" in file.read(_READ_BYTES):
            raise InputError(
                f"corpus `{path}`: holds NUL bytes, so it is no text; give text, .jsonl or .parquet"
            )
    counted = _Tally()
    blank = True

    def read() -> Iterator[str]:
        nonlocal blank
        for part in _decoded(path, counted):
            blank = blank and part.isspace()
            yield part

    identity = _document_id(read())
    tally.replaced += counted.replaced
    if blank:
        tally.empty += 1
        return
    yield Document(identity, str(path), lambda: _decoded(path, _Tally()))


def _decoded(path: Path, tally: _Tally) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    tail = b""
    with opened(path) as file:
        while block := file.read(_READ_BYTES):
            text = decoder.decode(block)
            tally.replaced += text.count("\ufffd") - (tail + block).count(b"\xef\xbf\xbd")
            tail = block[-2:]
            if text:
                yield text
    if text := decoder.decode(b"", final=True):
        tally.replaced += text.count("\ufffd")
        yield text


def _jsonl(path: Path, column: str, tally: _Tally) -> Iterator[tuple[str, str]]:
    with opened(path) as file:
        for number, line in enumerate(lines(file, str(path)), start=1):
            if line.isspace():
                continue
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
            tally.replaced += text.count("\ufffd") - line.count(b"\xef\xbf\xbd")
            name = f"{path}:{number}"
            try:
                row = json.loads(text, strict=False)
            except ValueError as error:
                raise InputError(f"corpus `{name}`: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise InputError(f"corpus `{name}`: the line is no JSON object")
            yield from _cell(name, row, column)


def _parquet(path: Path, column: str) -> Iterator[tuple[str, str]]:
    try:
        with pq.ParquetFile(path) as table:
            if column not in table.schema_arrow.names:
                raise InputError(_no_column(str(path), column, table.schema_arrow.names))
            number = 0
            for batch in table.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0):
                    yield from _cell(f"{path}:{number}", {column: value.as_py()}, column)
                    number += 1
    except pa.ArrowException as error:
        raise InputError(f"corpus `{path}`: not readable as Parquet ({error})") from error


def hugging_face_rows(name: str, column: str, subset: str | None) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, streamed, with the one field that is wanted.

    Args:
        name: `NAME[@CONFIG][:SPLIT]`, a dataset of the hub or a folder; `train` without a split.
        column: the field.
        subset: the configuration, where the name has none.

    Raises:
        InputError: no such dataset or field, or a row that cannot be read; the error names it.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"corpus `hf:{name}`: the package `datasets` is missing; "
            "`pip install 'glossator[models]'`"
        ) from error
    path, _, split = name.partition(":")
    if "@" in path.rpartition("/")[2]:
        path, _, subset = path.rpartition("@")
    number = 0
    try:
        rows = datasets.load_dataset(path, subset, split=split or "train", streaming=True)
        if column in (rows.column_names or ()):
            rows = rows.select_columns([column])
        for number, row in enumerate(rows):
            if column not in row:
                raise InputError(_no_column(f"hf:{name}:{number}", column, list(row)))
            yield row
            number += 1
    except InputError:
        raise
    except Exception as error:  # the library raises a dozen types for what it cannot get
        where = f"hf:{name}:{number}" if number else f"hf:{name}"
        raise InputError(
            f"corpus `{where}`: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _hugging_face(name: str, column: str, subset: str | None, tally: _Tally) -> Iterator[Document]:
    yield from _named(
        (
            named
            for number, row in enumerate(hugging_face_rows(name, column, subset))
            for named in _cell(f"hf:{name}:{number}", row, column)
        ),
        tally,
    )


def _cell(name: str, row: dict[str, Any], column: str) -> Iterator[tuple[str, str]]:
    if column not in row:
        raise InputError(_no_column(name, column, list(row)))
    value = row[column]
    if value is None:
        value = ""
    if not isinstance(value, str):
        tokens = isinstance(value, list) and all(isinstance(one, int) for one in value)
        raise InputError(
            f"corpus `{name}`: field `{column}` is {type(value).__name__}, not text; "
            + ("tokens are for `open_tokens`" if tokens else "name another with `column`")
        )
    # JSON may escape half of a surrogate pair; what cannot be written as UTF-8 cannot be hashed.
    yield name, value.encode("utf-8", "replace").decode() if not _encodable(value) else value


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_column(name: str, column: str, columns: Sequence[str]) -> str:
    known = ", ".join(f"`{other}`" for other in columns) or "none"
    return f"corpus `{name}`: no field `{column}`; there are {known}: name one with `column`"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _document_id(parts: Iterable[str]) -> int:
    digest = xxhash.xxh3_64()
    for part in parts:
        digest.update(part.encode())
    return min(digest.intdigest(), NO_DOCUMENT - 1)


def _cut(text: str, begin: int, end: int) -> int:
    """Where to cut `text[begin:end]`: before its last run of white space, or at `end`."""
    cut = end
    while cut > begin and not text[cut].isspace():
        cut -= 1
    while cut > begin and text[cut - 1].isspace():
        cut -= 1
    return cut if cut > begin else end
