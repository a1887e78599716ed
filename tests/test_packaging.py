"""What is shipped: the wheel holds kernels, types and page; the sdist builds it again."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IN_BOTH = {
    "_kernels/reference.py",
    "_core.pyi",
    "py.typed",
    "__init__.py",
    "cli.py",
    "atlas/page/atlas.html",
}
SDIST_ONLY = {
    "Cargo.toml",
    "Cargo.lock",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "rust/core/Cargo.toml",
    "rust/core/src/lib.rs",
    "rust/python/src/lib.rs",
}


def _build(what, source, out):
    """Build with the maturin of this environment, over the crates that are compiled already."""
    env = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target")}
    command = [sys.executable, "-m", "maturin", *what, "--out", str(out)]
    subprocess.run(command, cwd=source, env=env, check=True, capture_output=True, timeout=900)
    return next(out.iterdir())


def _wheel_files(path):
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return _build(["build", "--release"], ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return _build(["sdist"], ROOT, tmp_path_factory.mktemp("sdist"))


def test_the_wheel_holds_every_python_file_of_the_tree_and_the_kernels(wheel):
    files = _wheel_files(wheel)
    expected = {
        f"glossator/{path.relative_to(ROOT / 'python' / 'glossator')}"
        for path in (ROOT / "python" / "glossator").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    } | {f"glossator/_kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    assert expected <= files
    assert {f"glossator/{name}" for name in IN_BOTH} <= files
    assert any(name.startswith("glossator/_core") and name.endswith(".so") for name in files)


def test_the_wheel_holds_nothing_else(wheel):
    outside = {
        name
        for name in _wheel_files(wheel)
        if not name.startswith("glossator/") and ".dist-info/" not in name
    }
    assert outside == set()


def test_the_wheel_serves_every_python_from_3_11(wheel):
    assert "-cp311-abi3-" in wheel.name


def test_the_sdist_holds_the_sources_and_builds_the_same_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        files = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        archive.extractall(tmp_path / "source", filter="data")
    assert files >= SDIST_ONLY
    assert {f"python/glossator/{name}" for name in IN_BOTH} <= files
    source = next((tmp_path / "source").iterdir())
    again = _build(["build", "--release"], source, tmp_path / "again")
    assert _wheel_files(again) == _wheel_files(wheel)
