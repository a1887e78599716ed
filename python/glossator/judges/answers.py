"""The file in which answers are kept: rows found by a hash, committed in groups.

    with Replay("answers.db") as replay:
        replay.find(key)                # bytes, or None
        await replay.keep(key, body)    # returns when it is committed
        replay.remember("NAME", judge.capabilities, judge.notes)

One SQLite file, usable from several processes at once. `glossator.judges.replay` decides what is
kept in it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

import pyarrow as pa

from glossator.errors import InputError
from glossator.judges.base import Capabilities
from glossator.store import journal_mode, transaction

__all__ = ["Replay"]

_VERSION = 1
_APPLICATION = 0x676C6F73  # marks the file as ours, in its header
# A shorter body is kept as it is: its size is then 0, and compressing it would save no byte.
_SHORT = 256
# An answer waits so long for others to be committed with it: a commit costs more than a row.
_GROUP_SECONDS = 0.005
_GROUP_ROWS = 256
# Another process that writes is waited for.
_BUSY_SECONDS = 60.0
_TABLES = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    free INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE judges (model TEXT PRIMARY KEY, capabilities TEXT NOT NULL, notes TEXT NOT NULL);
"""
# What was paid for is never overwritten, whichever process comes first.
_KEEP = (
    "INSERT INTO answers (key, free, size, body) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
    "SET free = excluded.free, size = excluded.size, body = excluded.body WHERE answers.free"
)


class Replay:
    """A file of answers and readings."""

    def __init__(self, path: str | Path) -> None:
        """Open the file, or make it.

        Raises:
            InputError: the file is something else, is damaged, or is a newer glossator's.
        """
        self.path = Path(path)
        self._codec = pa.Codec("zstd", 3)
        self._rows: list[tuple[bytes, bool, int, bytes]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        with self._told("could not be opened"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._told("could not be opened"):
                self._prepare()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what waits and close the file; a second call does nothing."""
        with suppress(sqlite3.ProgrammingError):  # closed before
            self.flush()
        self._database.close()

    def find(self, key: bytes, *, free: bool = True) -> bytes | None:
        """What was kept under a key, or None.

        Args:
            key: the question's hash.
            free: give failures that cost nothing, too.
        """
        with self._told("could not be read"):
            row = self._database.execute(
                "SELECT size, body FROM answers WHERE key = ? AND free <= ?", (key, free)
            ).fetchone()
        if row is None:
            return None
        size, body = row
        if not size:
            return bytes(body)
        try:
            return bytes(self._codec.decompress(body, decompressed_size=size, asbytes=True))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.path}: an answer is damaged ({error}); move the file away to ask again"
            ) from error

    async def keep(self, key: bytes, body: bytes, *, free: bool = False) -> None:
        """Keep an answer; returns when it is committed.

        Args:
            key: the question's hash.
            body: what is kept.
            free: it is a failure that cost nothing and may be replaced.

        Raises:
            InputError: the disk is full, say.
        """
        size = len(body) if len(body) > _SHORT else 0
        if size:
            body = self._codec.compress(body, asbytes=True)
        self._rows.append((key, free, size, body))
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Nobody of a loop that has ended waits; its rows are committed with this group.
            self._loop, self._timer, self._waiting = loop, None, []
        committed = loop.create_future()
        self._waiting.append(committed)
        if len(self._rows) >= _GROUP_ROWS:
            self._end()
        elif self._timer is None:
            self._timer = loop.call_later(_GROUP_SECONDS, self._end)
        try:
            await committed
        except asyncio.CancelledError:
            # Whoever waited may be gone with the loop; the answer is paid for.
            self._end()
            raise

    def _end(self) -> None:
        """Commit the group and let those go on who wait for it."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        waiting, self._waiting = self._waiting, []
        fault: Exception | None = None
        try:
            self.flush()
        except Exception as error:
            fault = error
        for committed in waiting:
            if committed.done():
                continue
            if fault is None:
                committed.set_result(None)
            else:
                committed.set_exception(fault)

    def flush(self) -> None:
        """Commit what waits.

        Raises:
            InputError: the disk is full, say; nothing of the group is there then.
        """
        rows, self._rows = self._rows, []
        if not rows:
            return
        with self._told("could not be written"), transaction(self._database):
            self._database.executemany(_KEEP, rows)

    def models(self) -> list[str]:
        """Names of the models whose answers are here."""
        with self._told("could not be read"):
            rows = self._database.execute("SELECT model FROM judges ORDER BY model").fetchall()
        return [name for (name,) in rows]

    def describe(self, model: str) -> tuple[Capabilities, tuple[str, ...]] | None:
        """What `check` found about a model: what it can be held to, and notes."""
        with self._told("could not be read"):
            row = self._database.execute(
                "SELECT capabilities, notes FROM judges WHERE model = ?", (model,)
            ).fetchone()
        if row is None:
            return None
        return Capabilities(**json.loads(row[0])), tuple(json.loads(row[1]))

    def remember(self, model: str, capabilities: Capabilities, notes: Sequence[str]) -> None:
        """Keep what `check` found about a model."""
        row = (model, json.dumps(asdict(capabilities)), json.dumps(list(notes)))
        with self._told("could not be written"), transaction(self._database):
            self._database.execute("INSERT OR REPLACE INTO judges VALUES (?, ?, ?)", row)

    def _prepare(self) -> None:
        database = self._database
        version = database.execute("PRAGMA user_version").fetchone()[0]
        application = database.execute("PRAGMA application_id").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application not in (0, _APPLICATION) or (application == 0 and tables):
            raise InputError(f"{self.path}: no store of answers; name another file")
        if version > _VERSION:
            raise InputError(
                f"{self.path}: version {version} is newer than {_VERSION}, the newest that this "
                "glossator knows; upgrade glossator"
            )
        database.execute(f"PRAGMA journal_mode = {journal_mode(self.path.parent)}")
        database.execute("PRAGMA synchronous = NORMAL")
        with transaction(self._database):
            # Another process may have made it meanwhile.
            if not database.execute("PRAGMA user_version").fetchone()[0]:
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise InputError(
                f"{self.path}: the answers {what} ({error}); "
                "is the disk full, or the file not yours?"
            ) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise  # a mistake in this module
            raise InputError(
                f"{self.path}: the answers {what} ({error}); the file is damaged or something else"
            ) from error
