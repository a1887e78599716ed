"""What every test may use, and the rule that CI skips nothing."""

from __future__ import annotations

import os

import pytest

_skipped: list[str] = []


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
