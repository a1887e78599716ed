"""Benchmarks: each claim beside a peer and a limit of the machine, in one run.

    make bench

Every benchmark first asserts that glossator and its peer give the same result. The figures go to
`benches/results/cpu.csv`: percentiles of the rounds, the ratio to the peer and to the limit.
"""

import csv
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

RESULTS = Path(__file__).parent / "results" / "cpu.csv"
COLUMNS = (
    *("op", "implementation", "shape", "metric", "unit", "p20", "p50", "p80"),
    *("ratio_to_peer", "ratio_to_limit", "commit", "date", "machine", "versions"),
)
_rows = []


@pytest.fixture
def measure(benchmark, request):
    """Time a function: `measure(function, op=..., implementation=..., shape=..., amount=..., ...)`.

    `amount` units of `unit` are done by one call; the figures are units per second.
    """

    def run(function, *, op, implementation, shape, amount, unit, rounds=7, setup=None):
        result = benchmark.pedantic(function, setup=setup, rounds=rounds, warmup_rounds=1)
        rates = amount / np.array(benchmark.stats.stats.data)
        p20, p50, p80 = np.percentile(rates, [20, 50, 80])
        _rows.append(
            {
                "op": op,
                "implementation": implementation,
                "shape": shape,
                "metric": "rate",
                "unit": f"{unit}/s",
                "p20": p20,
                "p50": p50,
                "p80": p80,
            }
        )
        return result

    return run


def _machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor()}, {sum('processor' in line for line in lines)} cores"


def pytest_sessionfinish(session):
    if not _rows:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    names = ("glossator", "numpy", "scipy", "torch")
    shared = {
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "versions": " ".join(f"{name}={version(name)}" for name in names),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in _rows:
            same = [r for r in _rows if (r["op"], r["shape"]) == (row["op"], row["shape"])]
            peers = [r["p50"] for r in same if r["implementation"].startswith("peer")]
            limits = [r["p50"] for r in same if r["implementation"].startswith("limit")]
            ratios = {
                "ratio_to_peer": f"{row['p50'] / max(peers):.3f}" if peers else "",
                "ratio_to_limit": f"{row['p50'] / max(limits):.3f}" if limits else "",
            }
            figures = {name: f"{row[name]:.4g}" for name in ("p20", "p50", "p80")}
            writer.writerow(row | figures | ratios | shared)
