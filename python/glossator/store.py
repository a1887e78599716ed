"""The database of one run: what was explained, asked, answered and scored.

    with Store.open("run") as store:
        store.add("explanations", [explanation])
        store.table("explanations")  # pyarrow.Table

One SQLite file in the run directory, one writer at a time. Every `add` is one transaction: a
process killed at any instant leaves whole rows and nothing else. Adding a row again replaces it by
its key, so a resumed run repeats no work and counts nothing twice.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

import psutil
import pyarrow as pa
from filelock import FileLock, Timeout

from glossator.errors import InputError, RunLockedError
from glossator.records import TABLES, Record

__all__ = ["SCHEMA_VERSION", "Rows", "Store", "journal_mode", "transaction"]

Rows: TypeAlias = "Iterable[Record | Mapping[str, Any]] | pa.Table"
"""What a table takes: records, mappings by column, or Arrow."""

SCHEMA_VERSION = 3
DATABASE = "run.db"
LOCK = "run.lock"

_ROWS = 4_096
"""Rows that are turned into Arrow at once."""

# What tells one row of a table from another; adding the same key again replaces the row.
_KEYS = {
    "latents": ("hookpoint", "latent"),
    "explanations": ("explanation_id",),
    "examples": ("example_id",),
    "protocols": ("protocol_id",),
    "verdicts": ("explanation_id", "protocol_id", "scorer", "prompt_id", "slot"),
    "scores": ("explanation_id", "protocol_id", "scorer", "metric", "kind", "decile"),
    "ledger": ("stage", "scorer", "latent"),
}
_SQL_TYPES = {"int64": "INTEGER", "uint64": "INTEGER", "bool": "INTEGER", "double": "REAL"}

# File systems on which the shared memory of a write-ahead log does not work.
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "ceph", "fuse", "9p", "afs", "beegfs")


def _column(field: pa.Field) -> str:
    return f'"{field.name}" {_SQL_TYPES.get(str(field.type), "TEXT")}'


def _create(name: str) -> str:
    columns = ", ".join(_column(field) for field in TABLES[name])
    key = ", ".join(f'"{column}"' for column in _KEYS[name])
    return f'CREATE TABLE IF NOT EXISTS "{name}" ({columns}, PRIMARY KEY ({key}))'


def _name_sources(database: sqlite3.Connection) -> None:
    """Version 2: an example says from which latent it was drawn, and at which rank."""
    for column in ("source_latent", "source_rank"):
        database.execute(f'ALTER TABLE "examples" ADD COLUMN "{column}" INTEGER')


def _tell_latents(database: sqlite3.Connection) -> None:
    """Version 3: the ledger tells latents apart; what was booked before is no single one's."""
    database.execute('ALTER TABLE "ledger" RENAME TO "ledger_of_2"')
    database.execute(_create("ledger"))
    columns = (
        "stage, scorer, requests, prompt_tokens, unique_prompt_tokens, cached_tokens, "
        "completion_tokens, seconds"
    )
    database.execute(
        f"INSERT INTO ledger ({columns}, latent, verdicts) SELECT {columns}, -1, 0 FROM ledger_of_2"
    )
    database.execute('DROP TABLE "ledger_of_2"')


# By version: what turns a database of that version into one of the next.
_MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: _name_sources,
    2: _tell_latents,
}


def journal_mode(path: Path) -> str:
    """`WAL` on a local disk; `DELETE` where the file system is a network's."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for parent in [path.resolve(), *path.resolve().parents]:
        kind = mounts.get(str(parent))
        if kind is not None:
            return "DELETE" if kind.lower().startswith(_NETWORK) else "WAL"
    return "WAL"


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of the block's writes, or none of them."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # SQLite ends the transaction itself on some errors, a full disk among them.
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextmanager
def _told(
    file: Path,
    what: str,
    remedy: str = "is the disk full, or the file damaged or not yours to read?",
) -> Iterator[None]:
    """The database's own errors, a full disk or a damaged file, as one line."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Its other subclasses (a closed database, a broken constraint) are mistakes in this module.
        if (
            not isinstance(error, sqlite3.OperationalError)
            and type(error) is not sqlite3.DatabaseError
        ):
            raise
        raise InputError(f"{file}: {what} ({error}); {remedy}") from error


def _encode(value: Any, field: pa.Field) -> Any:  # noqa: ANN401 - whatever SQLite takes
    if value is None or isinstance(value, str | float):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        # SQLite's integers are signed: a u64 document id is kept as its two's complement.
        return value - 2**64 if field.type == pa.uint64() and value >= 2**63 else value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """A column as SQLite gives it, in the type of its field."""
    if pa.types.is_list(field.type):
        # One text for all: the parser is called once for a batch, not once for a cell.
        values = json.loads("[" + ",".join("null" if v is None else v for v in values) + "]")
    elif field.type == pa.bool_():
        values = [None if value is None else bool(value) for value in values]
    elif field.type == pa.uint64():
        values = [v + 2**64 if v is not None and v < 0 else v for v in values]
    return pa.array(values, field.type)


class Store:
    """The run's tables, by the names and columns of `glossator.records.TABLES`.

    Attributes:
        path: the run directory.
        writable: whether this process holds the run's lock.
    """

    def __init__(self, path: Path, database: sqlite3.Connection, lock: FileLock | None) -> None:
        self.path = path
        self.writable = lock is not None
        self._database = database
        self._lock = lock
        self._open = True

    @classmethod
    def open(cls, path: str | Path, *, write: bool = True) -> Self:
        """Open a run's database, making or migrating it where `write` is true.

        Args:
            path: the run directory; made if missing and `write` is true.
            write: take the run's lock. Readers need none and may open a run that is being written.

        Raises:
            RunLockedError: another process writes to this run.
            InputError: there is no run here, it cannot be written, or it was written by a newer
                version of glossator.
        """
        path = Path(path)
        file = path / DATABASE
        if not write and not file.is_file():
            raise InputError(f"{path}: no run here (`{DATABASE}` is missing); name a run directory")
        lock = None
        try:
            if write:
                path.mkdir(parents=True, exist_ok=True)
                lock = FileLock(path / LOCK)
                lock.acquire(timeout=0)
        except Timeout as error:
            raise RunLockedError(
                f"{path}: another process is writing to this run; "
                "wait for it or choose another directory"
            ) from error
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}); choose --out"
            ) from error
        try:
            with _told(file, "could not be opened"):
                database = sqlite3.connect(file, isolation_level=None, timeout=30.0)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        store = cls(path, database, lock)
        try:
            with _told(file, "could not be opened"):
                store._prepare(write=write)
        except BaseException:
            store.close()
            raise
        return store

    def _prepare(self, *, write: bool) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise InputError(
                f"{self.path / DATABASE}: schema version {version} is newer than {SCHEMA_VERSION}, "
                "the newest that this glossator knows; upgrade glossator"
            )
        if not write:
            if version < SCHEMA_VERSION:
                raise InputError(
                    f"{self.path / DATABASE}: schema version {version} is older than "
                    f"{SCHEMA_VERSION}; run `glossator atlas` on it once to bring it up to date"
                )
            return
        self._database.execute(f"PRAGMA journal_mode = {journal_mode(self.path)}")
        self._database.execute("PRAGMA synchronous = NORMAL")
        if version == SCHEMA_VERSION:
            return
        with transaction(self._database):
            if version:
                for old in range(version, SCHEMA_VERSION):
                    _MIGRATIONS[old](self._database)
            for name in TABLES:
                self._database.execute(_create(name))
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
            )
            self._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _writing(self, what: str) -> AbstractContextManager[None]:
        return _told(
            self.path / DATABASE,
            f"{what} could not be written",
            "free space on the disk and run the same command again: what was stored is kept",
        )

    def add(self, name: str, rows: Rows, *, replace: bool = False) -> None:
        """Add rows in one transaction; a row whose key is there replaces the old one.

        Args:
            name: a table of `TABLES`.
            rows: records, mappings or an Arrow table. Columns that are missing become null.
            replace: empty the table first, in the same transaction.

        Raises:
            InputError: the disk is full or the database cannot be written.
        """
        schema = TABLES[name]
        if isinstance(rows, pa.Table):
            rows = rows.to_pylist()
        encoded = []
        for row in rows:
            values = row.model_dump(mode="json") if isinstance(row, Record) else row
            encoded.append([_encode(values.get(field.name), field) for field in schema])
        # By name: a migrated table has its newer columns at the end.
        columns = ", ".join(f'"{field.name}"' for field in schema)
        places = ", ".join("?" * len(schema))
        with self._writing(f"table `{name}`"), transaction(self._database):
            if replace:
                self._database.execute(f'DELETE FROM "{name}"')
            self._database.executemany(
                f'INSERT OR REPLACE INTO "{name}" ({columns}) VALUES ({places})', encoded
            )

    def table(self, name: str, where: str = "", parameters: tuple[object, ...] = ()) -> pa.Table:
        """A table as Arrow, in the order of its key.

        Args:
            name: a table of `TABLES`.
            where: an SQL condition, with `?` for each of `parameters`.
            parameters: values of the condition.

        Raises:
            InputError: no such table.
        """
        batches = self.batches(name, where, parameters)
        return pa.Table.from_batches(batches, TABLES[name]).combine_chunks()

    def batches(
        self,
        name: str,
        where: str = "",
        parameters: tuple[object, ...] = (),
        *,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The same a few thousand rows at a time, of which one batch is held.

        What another process writes meanwhile is not in them.

        Args:
            name: a table of `TABLES`.
            where: an SQL condition, with `?` for each of `parameters`.
            parameters: values of the condition.
            columns: which of them; all if None.

        Raises:
            InputError: no such table.
        """
        if name not in TABLES:
            raise InputError(f"table `{name}`: unknown; known are {', '.join(TABLES)}")
        schema = TABLES[name]
        if columns is not None:
            schema = pa.schema([schema.field(column) for column in columns])
        return self._read(name, schema, where, parameters)

    def _read(
        self, name: str, schema: pa.Schema, where: str, parameters: tuple[object, ...]
    ) -> Iterator[pa.RecordBatch]:
        columns = ", ".join(f'"{field.name}"' for field in schema)
        order = ", ".join(f'"{column}"' for column in _KEYS[name])
        condition = f" WHERE {where}" if where else ""
        told = f"table `{name}` could not be read"
        with _told(self.path / DATABASE, told):
            cursor = self._database.execute(
                f'SELECT {columns} FROM "{name}"{condition} ORDER BY {order}', parameters
            )
        while True:
            with _told(self.path / DATABASE, told):
                rows = cursor.fetchmany(_ROWS)
            if not rows:
                return
            yield pa.RecordBatch.from_arrays(
                [_array(*of) for of in zip(zip(*rows, strict=True), schema, strict=True)],
                schema=schema,
            )

    def count(self, name: str) -> int:
        """How many rows a table of `TABLES` has."""
        with _told(self.path / DATABASE, f"table `{name}` could not be read"):
            found = self._database.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()
        return int(found[0])

    def fact(self, name: str) -> Any:  # noqa: ANN401 - JSON
        """A named JSON value of the run; None where there is none."""
        with _told(self.path / DATABASE, f"`{name}` could not be read"):
            row = self._database.execute(
                "SELECT value FROM facts WHERE name = ?", (name,)
            ).fetchone()
        return None if row is None else json.loads(row[0])

    def facts(self) -> dict[str, Any]:
        """All named values."""
        with _told(self.path / DATABASE, "its facts could not be read"):
            rows = self._database.execute("SELECT name, value FROM facts ORDER BY name").fetchall()
        return {name: json.loads(value) for name, value in rows}

    def set_fact(self, name: str, value: object) -> None:
        """Store a JSON value under a name.

        Raises:
            InputError: the disk is full or the database cannot be written.
        """
        with self._writing(f"`{name}`"), transaction(self._database):
            self._database.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)",
                (name, json.dumps(value, ensure_ascii=False)),
            )

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return self._open

    def close(self) -> None:
        """Close the database and give the lock back."""
        self._open = False
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
