"""A peer's own code, run on what was written here, in a process that has its package.

    said = read_by("delphi", "read_delphi.py", folder, tokenizer_file)

Scripts are in `tests/peers`, packages where `make test-peers` puts them. A script is given a file
to write its JSON to, then the arguments.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(__file__).parent / "peers"
LONGEST = 300


def run_with(peer: str, script: Path, *arguments: object, **environment: str) -> None:
    """Run a script with a peer's package before all others."""
    packages = ROOT / ".peers" / peer
    if not (packages / ".fetched").is_file():
        pytest.fail(f"the package of {peer} is not in {packages}: run `make test-peers`")
    quiet = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["node" if script.suffix == ".mjs" else sys.executable, script, *map(str, arguments)],
        env=os.environ | quiet | environment | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert done.returncode == 0, f"{peer}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


def read_by(peer: str, script: str, *arguments: object, **environment: str) -> Any:
    """What a script of `tests/peers` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "said.json"
        run_with(peer, SCRIPTS / script, out, *arguments, **environment)
        return json.loads(out.read_text(encoding="utf-8"))
