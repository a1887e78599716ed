"""Write `python/glossator/_core.pyi` from the signatures and docstrings in the Rust sources.

    python rust/python/stubs.py           # writes it
    python rust/python/stubs.py --check   # exits 1 if it is not up to date

PyO3 puts them into the library (feature `stubs`) and maturin reads them out. Two things are added
here: the imports of the types that are named in the signatures, and the exceptions, which PyO3
does not describe.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

CRATE = Path(__file__).resolve().parent
STUB = CRATE.parent.parent / "python" / "glossator" / "_core.pyi"
HEADER = "# Written by rust/python/stubs.py from the Rust sources: change those.\n\n"
IMPORTS = """
from collections.abc import Callable
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
"""
INCOMPLETE = "def __getattr__(name: str) -> Incomplete: ...\n"


def tool(name: str) -> str:
    """The path of a command that is installed beside this Python."""
    beside = Path(sysconfig.get_path("scripts")) / name
    return str(beside) if beside.exists() else name


def exceptions() -> str:
    """The classes that `create_exception!` makes."""
    source = (CRATE / "src" / "errors.rs").read_text()
    pattern = r'create_exception!\(\s*[\w.]+,\s*(\w+),\s*(\w+),\s*"([^"]*)"\s*\)'
    found = re.findall(pattern, source)
    if not found:
        raise SystemExit("stubs: no exceptions found in errors.rs")
    return "".join(
        f'class {name}({"Exception" if base == "PyException" else base}):\n    """{doc}"""\n'
        for name, base, doc in found
    )


def generate() -> str:
    """The whole stub."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = str(CRATE / "Cargo.toml")
        command = [tool("maturin"), "generate-stubs", "--manifest-path", manifest, "--out", folder]
        subprocess.run([*command, "--features", "stubs", "--profile", "dev", "-q"], check=True)
        (written,) = Path(folder).rglob("_core.pyi")
        text = written.read_text()
    if INCOMPLETE not in text:
        raise SystemExit("stubs: the exceptions are described now; this script can go")
    text = text.replace(INCOMPLETE, exceptions())
    text = re.sub(r"^(from|import) .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r'(: |-> )"([^"\n]+)"', r"\1\2", text)  # every name in them is imported
    text = re.sub(r':\n( +)"""\n +(\S[^\n]*)\n +"""\n', r':\n\1"""\2"""\n', text)
    text = re.sub(r'^"""\n(.*?)\n"""\n', r'"""\1"""\n' + IMPORTS, text, flags=re.DOTALL)
    format_ = [tool("ruff"), "format", "--isolated", "--line-length=100", "--stdin-filename=x.pyi"]
    done = subprocess.run(
        [*format_, "-"], input=HEADER + text, check=True, text=True, stdout=subprocess.PIPE
    )
    return done.stdout


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = generate()
    if not check:
        STUB.write_text(text)
        return 0
    if STUB.exists() and STUB.read_text() == text:
        return 0
    print(f"{STUB} is not up to date: run python rust/python/stubs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
