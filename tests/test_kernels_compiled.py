"""Without a GPU: every kernel compiles for three generations, within the registers it had.

`python tests/compiled.py --write` makes the table anew; a figure that grows is a commit of its own.
"""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = HERE / "golden" / "kernels.csv"


def _rows(text):
    return {(row["kernel"], int(row["arch"])): row for row in csv.DictReader(text.splitlines())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The table as this machine makes it, in a process in which the interpreter is off."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, HERE / "compiled.py"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return _rows(done.stdout)


def test_the_table_has_a_row_for_each_kernel_and_architecture(made):
    assert set(made) == set(_rows(TABLE.read_text()))
    assert {arch for _, arch in made} == {80, 90, 100}


def test_no_kernel_spills(made):
    assert {key: row["spills"] for key, row in made.items() if row["spills"] != "0"} == {}


def test_products_use_tensor_cores_and_asynchronous_copies(made):
    products = {key: row for key, row in made.items() if row["epilogue"]}
    assert {arch for _, arch in products} == {80, 90, 100}
    for (name, arch), row in products.items():
        assert int(row["tensor_core"]) > 0, (name, arch)
        copies = "async_copies" if arch == 80 else "tma"
        assert int(row[copies]) > 0, (name, arch)


def test_registers_and_epilogues_are_no_larger_than_in_the_table(made):
    table = _rows(TABLE.read_text())
    versions = {row["triton"] for row in table.values()} | {row["triton"] for row in made.values()}
    # Another compiler allots otherwise: what it may take more, as Triton 3.6 does.
    registers, share = (0, 1.0) if len(versions) == 1 else (40, 1.2)
    for key, row in made.items():
        assert int(row["registers"]) <= int(table[key]["registers"]) + registers, key
        if row["epilogue"]:
            assert float(row["epilogue"]) <= float(table[key]["epilogue"]) * share, key
