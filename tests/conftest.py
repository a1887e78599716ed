"""What every test may use, and the rule that CI skips nothing."""

from __future__ import annotations

import os

import hypothesis
import pytest

# How long an example takes depends on who else uses the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


_skipped: list[str] = []

# Before any test imports what reads it: no test waits for a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before any test imports a kernel: on a GPU they run by `TRITON_INTERPRET=0 pytest -m gpu`.
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_runtest_logreport(report):
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session, exitstatus):
    """With GLOSSATOR_NO_SKIP set, a skipped test fails the session: its real part is missing."""
    if os.environ.get("GLOSSATOR_NO_SKIP") and _skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if os.environ.get("GLOSSATOR_NO_SKIP") and _skipped:
        terminalreporter.write_line("GLOSSATOR_NO_SKIP is set and these skipped:", red=True)
        for node in _skipped:
            terminalreporter.write_line(f"  {node}", red=True)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny subject, coder and corpus on disk: see `tiny_runs`."""
    from tiny_runs import make_world

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory):
    """Trained coders stay in the session; smollm2, once converted, is taken from where it is."""
    from glossator.folders import cache_folder

    folder = tmp_path_factory.mktemp("cache")
    for converted in cache_folder().glob("smollm2-*"):
        (folder / converted.name).symlink_to(converted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOSSATOR_CACHE", str(folder))
        for name in ("GLOSSATOR_JUDGE_API_KEY", "OPENAI_API_KEY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def one_thread():
    """Products that are small only wait for a second thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
