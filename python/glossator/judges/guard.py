"""Keep a server no longer than the process that asked for it: run as a script, never imported.

    python guard.py COMMAND ARGUMENT ...

Starts the command in a session of its own and waits for standard input to close, which happens
when the asking process ends, however it ends. Then the whole session is stopped: first asked to,
ten seconds later killed. Exits with the command's code where the command ends by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

_GRACE_SECONDS = 10.0


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes."""
    # An interrupt on the terminal is for the asking process, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def watch() -> None:
        # Not through sys.stdin: the interpreter cannot end while a thread holds its buffer.
        while os.read(0, 1024):
            pass
        _signal(server.pid, signal.SIGTERM)
        try:
            server.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(server.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = server.wait()
    # Helpers of the server may outlive it.
    _signal(server.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _signal(session: int, number: int) -> None:
    try:
        os.killpg(session, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
