"""The kernels as a GPU's compiler leaves them, without a GPU: instructions, registers, memory.

    python tests/compiled.py            # the table on standard output
    python tests/compiled.py --write    # into tests/golden/kernels.csv

Run in a process of its own: kernels are compiled only where the interpreter is off. A row is a
specimen for one architecture; `epilogue` counts the instructions a thread executes for each
pre-activation of a tile after the last of its tensor-core instructions.
"""

import csv
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TABLE = Path(__file__).parent / "golden" / "kernels.csv"
COLUMNS = (
    *("kernel", "arch", "triton", "registers", "spills", "shared", "instructions"),
    *("tensor_core", "async_copies", "tma", "epilogue"),
)
ARCHITECTURES = (80, 90, 100)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# An operand's name before its modifiers.
OPERATION = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE
)
TENSOR_CORE = ("HMMA", "HGMMA", "UTCHMMA")


@dataclass(frozen=True)
class Specimen:
    """A kernel with what its launcher would give it."""

    name: str
    kernel: object
    types: dict
    """Type of each argument that is not a constant, as Triton writes them."""
    constants: dict
    options: dict = field(default_factory=dict)
    architectures: tuple = ARCHITECTURES
    tile: int = 0
    """Pre-activations of a tile for each thread, where there is a product."""
    odd: tuple = ()
    """Arguments that need not be a multiple of 16."""


def compiled(specimen, arch):
    """A row of the table."""
    names = specimen.kernel.arg_names
    signature = {name: specimen.types.get(name, "constexpr") for name in names}
    even = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if name in specimen.types
        and name not in specimen.odd
        and not specimen.types[name].startswith(("tensordesc", "fp"))
    }
    source = ASTSource(specimen.kernel, signature, constexprs=specimen.constants, attrs=even)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=specimen.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    names = [name for _, name in OPERATION.findall(code)]
    found = Counter(names)
    spilled = int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1])
    return {
        "kernel": specimen.name,
        "arch": arch,
        "triton": triton.__version__,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spills": spilled,
        "shared": made.metadata.shared,
        "instructions": len(names),
        "tensor_core": sum(found[name] for name in TENSOR_CORE),
        "async_copies": found["LDGSTS"],
        "tma": found["UTMALDG"],
        "epilogue": _epilogue(names, specimen.tile),
    }


def _epilogue(names, tile):
    """Instructions after the last of the tensor cores', up to the end, for each pre-activation.

    What fetches the next tile is laid among them where loops are flattened, and is counted too.
    """
    last = max((i for i, name in enumerate(names) if name in TENSOR_CORE), default=None)
    if last is None or not tile:
        return ""
    return round(sum(name != "NOP" for name in names[last + 1 :]) / tile, 2)


def _tool(name, *arguments):
    done = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@cache
def specimens():
    """Everything that is compiled."""
    from kernel_specimens import SPECIMENS

    return SPECIMENS


def _row(wanted):
    place, arch = wanted
    return compiled(specimens()[place], arch)


def main():
    """Compile everything, write a table."""
    write = "--write" in sys.argv
    asked = [name for name in sys.argv[1:] if not name.startswith("--")]
    rows = []
    out = csv.DictWriter(sys.stdout, COLUMNS)
    out.writeheader()
    wanted = [
        (place, arch)
        for place, specimen in enumerate(specimens())
        if not asked or any(name in specimen.name for name in asked)
        for arch in specimen.architectures
    ]
    # Forked, so that nothing is imported again.
    with multiprocessing.get_context("fork").Pool() as pool:
        for row in pool.imap(_row, wanted):
            rows.append(row)
            out.writerow(row)
            sys.stdout.flush()
    if write:
        with TABLE.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
