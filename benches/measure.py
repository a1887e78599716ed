"""Figures: taken in a process of their own, kept as rows with their peers and limits.

    seconds = [child("benches.peer_tasks", "scipy_build", data="...")["seconds"] for _ in range(5)]
    figures = Figures("benches/results/index.csv")
    figures.add("build", "peer: SciPy", shape, "rate", "non-zeros/s", [nnz / s for s in seconds])
    figures.write()

A ratio above 1 is a win for rates, below 1 for sizes; a time's ratio is how many times shorter it
is. Peers are rows whose implementation begins with `peer:`, limits those with `limit:`; the best of
a kind counts.
"""

import argparse
import csv
import inspect
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from benches.table import machine

COLUMNS = (
    *("op", "implementation", "shape", "metric", "unit", "p20", "p50", "p80"),
    *("ratio_to_peer", "ratio_to_limit", "commit", "date", "machine", "versions"),
)
PACKAGES = ("glossator", "numpy", "scipy", "pyarrow", "duckdb", "torch")
LESS_IS_BETTER = ("size", "memory", "time")


class Figures:
    """The rows of one run."""

    def __init__(self, path, extra_versions=()):
        self.path = Path(path)
        self.rows = []
        self.shared = {
            "commit": commit(),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": " ".join([*versions(), *extra_versions]),
        }

    def add(self, op, implementation, shape, metric, unit, samples):
        """One figure, from one or more samples; shown at once on standard error."""
        p20, p50, p80 = (float(p) for p in np.percentile(np.atleast_1d(samples), [20, 50, 80]))
        row = {"op": op, "implementation": implementation, "shape": str(shape), "metric": metric}
        row |= {"unit": unit, "p20": p20, "p50": p50, "p80": p80}
        self.rows.append(row)
        spread = f" [{p20:.4g} to {p80:.4g}]" if np.size(samples) > 1 else ""
        log(f"  {op}; {implementation}; {metric}: {p50:.4g} {unit}{spread}")

    def write(self):
        """Replace this run's rows in the file; other operations and shapes stay as they are."""
        ours = {(row["op"], row["shape"]) for row in self.rows}
        kept = []
        if self.path.is_file():
            with self.path.open(newline="") as file:
                kept = [r for r in csv.DictReader(file) if (r["op"], r["shape"]) not in ours]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
            for row in self.rows:
                figures = {name: f"{row[name]:.5g}" for name in ("p20", "p50", "p80")}
                writer.writerow(row | figures | self._ratios(row) | self.shared)

    def _ratios(self, row):
        keys = ("op", "shape", "metric", "unit")
        same = [r for r in self.rows if all(r[key] == row[key] for key in keys)]
        best = min if row["metric"].startswith(LESS_IS_BETTER) else max
        ratios = {}
        for kind in ("peer", "limit"):
            others = [r["p50"] for r in same if r["implementation"].startswith(f"{kind}:")]
            ratio = row["p50"] / best(others) if others and best(others) else 0
            if ratio and row["metric"].startswith("time"):
                ratio = 1 / ratio
            ratios[f"ratio_to_{kind}"] = f"{ratio:.4g}" if ratio else ""
        return ratios


def child(module, task, *, python=sys.executable, one_core=False, **options):
    """Run a task of a module in a fresh process; what it returned.

    Args:
        module: Its name, or the path of a script for another interpreter.
        task: Name of one of its functions.
        python: The interpreter.
        one_core: Keep it on one core, threads included.
        options: The function's arguments.

    Raises:
        RuntimeError: The task failed; the text holds the end of its standard error.
    """
    where = [str(module)] if str(module).endswith(".py") else ["-m", module]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), *where, task]
    command += [f"--{name}={json.dumps(value, default=str)}" for name, value in options.items()]
    if one_core:
        environment["RAYON_NUM_THREADS"] = environment["OMP_NUM_THREADS"] = "1"
        command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *command]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{task}: exit {done.returncode}\n{done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def serve(tasks):
    """The other end of `child`: run the task that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=sorted(tasks))
    asked, rest = parser.parse_known_args()
    task = tasks[asked.task]
    options = dict(option.removeprefix("--").split("=", 1) for option in rest)
    known = inspect.signature(task).parameters
    result = task(**{name: json.loads(text) for name, text in options.items() if name in known})
    print(json.dumps(result))


def rounds(n, *tasks):
    """Each task n times, in turn, so that a slow minute of the machine falls on all alike."""
    results = [[] for _ in tasks]
    for _ in range(n):
        for task, kept in zip(tasks, results, strict=True):
            kept.append(task())
    return results


def timed(function, *arguments):
    """Seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - begun, result


def memory(key="VmRSS"):
    """Of this process, in bytes: `VmRSS`, `RssAnon`, or `VmHWM`, the most since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def reset_peak():
    """Let `VmHWM` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def files_of(folder):
    """Size in bytes of every file below a folder, by relative path."""
    folder = Path(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths}


def versions(names=PACKAGES):
    """`name=version` of each package that is installed."""
    for name in names:
        try:
            yield f"{name}={version(name)}"
        except PackageNotFoundError:
            continue


def commit():
    """The commit, with a plus where the tree differs from it."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip()


def log(line):
    """Tell how far the run is."""
    print(line, file=sys.stderr, flush=True)


ROOT = Path(__file__).resolve().parent.parent
