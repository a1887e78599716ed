"""Wall time and peak memory of a piece of work.

    with Meter() as meter:
        work()
    meter.seconds, meter.peak_bytes

Seconds are those of the clock, bytes those of this process.
"""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path
from typing import Self

__all__ = ["Meter"]

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def _peak_bytes() -> int:
    """The process's peak resident memory since the last reset, or since its start."""
    if _STATUS.is_file():  # Linux alone
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Measures its `with` block.

    Attributes:
        seconds: wall time of the block.
        peak_bytes: peak resident memory within the block, mapped files included. Where the kernel
            does not let a process reset its peak, that of the process so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_bytes = 0
        self._begun = 0.0

    def __enter__(self) -> Self:
        # Writing 5 sets VmHWM back to the present size. A container may forbid it; the peak is then
        # that of the process so far.
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
        self._begun = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._begun
        self.peak_bytes = _peak_bytes()
