"""Indices made up by someone who means harm: an answer or one clear line, never a crash.

`GLOSSATOR_FUZZ_SECONDS` makes it longer than the 8 seconds of a usual run; see `hostile`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hostile

SECONDS = float(os.environ.get("GLOSSATOR_FUZZ_SECONDS", "8"))


@pytest.mark.timeout(SECONDS + 300)
def test_no_content_of_an_index_gets_more_than_an_error():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    seed = 0 if "GLOSSATOR_FUZZ_SECONDS" not in os.environ else int.from_bytes(os.urandom(4))
    command = [sys.executable, str(Path(hostile.__file__)), str(SECONDS), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"made up with seed {last}: {done.stderr}"
    assert int(last[0].split()[0]) > 20
