"""Progress of long work: bars on a terminal, one JSON line every 30 seconds elsewhere.

    progress = reporter()
    with progress.stage("harvest", total=300_000, unit="tokens") as bar:
        bar.advance(4_096)

Library functions take `progress=SILENT`: a caller who wants none passes nothing.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)
from rich.text import Text

__all__ = ["SILENT", "Bar", "Progress", "reporter"]


class Bar(Protocol):
    """One stage's counter."""

    def advance(self, amount: int = 1, *, tokens: int = 0, failures: int = 0) -> None:
        """Count `amount` units done, and the language-model tokens and failures among them."""

    def note(self, text: str) -> None:
        """Say one line beside the bar: a choice made, a figure reached."""


class Progress(Protocol):
    """Something that shows stages."""

    def stage(
        self, name: str, total: int | None = None, unit: str = "it"
    ) -> AbstractContextManager[Bar]:
        """Open a stage of `total` units; None where the total is not known."""


class _SilentBar:
    def advance(self, amount: int = 1, *, tokens: int = 0, failures: int = 0) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class _Silent:
    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Bar]:
        yield _SilentBar()


SILENT: Progress = _Silent()
"""Shows nothing."""


class _Rate(ProgressColumn):
    """Units per second, with the unit's name."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "it")
        return Text("" if speed is None else f"{speed:,.0f} {unit}/s", style="cyan")


class _TerminalBar:
    def __init__(self, bars: RichProgress, task: int) -> None:
        self._bars, self._task, self._failures = bars, task, 0

    def advance(self, amount: int = 1, *, tokens: int = 0, failures: int = 0) -> None:
        self._failures += failures
        if failures:
            self._bars.update(self._task, failed=f"{self._failures} failed")  # type: ignore[arg-type]
        self._bars.advance(self._task, amount)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self._bars.console.print(f"  {text}", style="dim", markup=False, highlight=False)


class _Terminal:
    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Bar]:
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]}", style="red"),
        )
        with RichProgress(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=total, unit=unit, failed="")
            yield _TerminalBar(bars, task)
            done = bars.tasks[0].completed
            bars.update(task, total=done, completed=done)


class _LineBar:
    def __init__(self, stage: str, total: int | None, unit: str, out: TextIO, every: float) -> None:
        self._stage, self._total, self._unit, self._out, self._every = (
            stage,
            total,
            unit,
            out,
            every,
        )
        self._done = self._tokens = self._failures = 0
        self._begun = self._last = time.monotonic()
        self._lock = threading.RLock()

    def advance(self, amount: int = 1, *, tokens: int = 0, failures: int = 0) -> None:
        with self._lock:
            self._done += amount
            self._tokens += tokens
            self._failures += failures
            if time.monotonic() - self._last >= self._every:
                self.say()

    def note(self, text: str) -> None:
        with self._lock:
            self._write({"stage": self._stage, "note": text})

    def beat(self, over: threading.Event) -> None:
        """Speak also while nothing advances: a server that stalls, a step that takes minutes."""
        while not over.wait(max(self._every, 0.05)):
            with self._lock:
                if not over.is_set() and time.monotonic() - self._last >= self._every:
                    self.say()

    def say(self, *, finished: bool = False) -> None:
        self._last = time.monotonic()
        rate = self._done / max(self._last - self._begun, 1e-9)
        left = None
        if self._total is not None and rate > 0:
            left = round(max(self._total - self._done, 0) / rate, 1)
        self._write(
            {
                "stage": self._stage,
                "done": self._done,
                "total": self._total,
                "unit": self._unit,
                "rate": round(rate, 1),
                "seconds_left": 0.0 if finished else left,
                "tokens": self._tokens,
                "failures": self._failures,
                "finished": finished,
            }
        )

    def _write(self, line: dict[str, object]) -> None:
        # One write: an interrupt between a line and its end would run two lines together.
        self._out.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._out.flush()


class _Lines:
    def __init__(self, out: TextIO, every: float) -> None:
        self._out, self._every = out, every

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Bar]:
        bar = _LineBar(name, total, unit, self._out, self._every)
        over = threading.Event()
        beating = threading.Thread(target=bar.beat, args=(over,), daemon=True)
        beating.start()
        try:
            yield bar
        finally:
            over.set()
            beating.join()
        bar.say(finished=True)


def reporter(out: TextIO | None = None, *, every: float = 30.0) -> Progress:
    """Bars where `out` is a terminal, else JSON lines.

    Args:
        out: where to write; standard error by default.
        every: seconds between two lines of one stage, where `out` is no terminal.
    """
    out = sys.stderr if out is None else out
    if out.isatty():
        return _Terminal(Console(file=out))
    return _Lines(out, every)
