"""End an engine's processes with the process that started them: run as a script, never imported.

    python tether.py OWNER

Standard input is a pipe from the owner. Until `up` comes through it the engine is starting, and the
owner's new children are noted. After `down` nothing is left to do. If the pipe closes without it,
the owner was killed, and what was noted is killed too: vLLM's processes would stay for good.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress

import psutil

_POLL_SECONDS = 0.5


def main(owner: int) -> None:
    """Wait for the owner to end, and kill what it left."""
    asker = psutil.Process(owner)
    before = set(asker.children(recursive=True))
    noted: set[psutil.Process] = set()

    def note() -> None:
        with suppress(psutil.Error):
            noted.update(set(asker.children(recursive=True)) - before)

    said = b""
    while not said:
        note()
        if select.select([0], [], [], _POLL_SECONDS)[0] and not (said := os.read(0, 1024)):
            break
    note()
    while more := os.read(0, 1024):
        said += more
    if b"down" in said:
        return
    for process in noted:
        with suppress(psutil.Error):
            if _is_engine(process):
                for child in (*process.children(recursive=True), process):
                    child.kill()


def _is_engine(process: psutil.Process) -> bool:
    """Not, say, another engine's tether, or the tracker that clears up after all of them."""
    line = " ".join(process.cmdline())
    return process.name().startswith("VLLM") or "VLLM" in line or "spawn_main" in line


if __name__ == "__main__":
    main(int(sys.argv[1]))
