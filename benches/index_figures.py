"""The index's figures, each beside its peers and a limit of the machine, in one run.

    python -m benches.index_figures --tokens 1000000
    python -m benches.index_figures --tokens 10000000 --peers scipy parquet --groups size build
    python -m benches.index_figures --delphi-python /path/to/python --peers scipy parquet delphi

Data are made once in `--work` (8 bytes a non-zero, and as much again for each peer's files); every
measurement has a process of its own. Glossator and the peers are compared before anything is
written to `--out`: the ratios are explained in `benches/measure.py`.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from benches.measure import ROOT, Figures, child, log, rounds
from benches.synthetic import COMMON, COMMON_SHARE, RARE, RARE_COUNT, Shape, make

OURS = "glossator"
NAMES = {
    "scipy": "peer: SciPy CSR to CSC, .npy files",
    "parquet": "peer: Parquet, tuned, 8-bit codes",
    "duckdb": "peer: DuckDB table",
    "delphi": "peer: delphi",
}
GROUPS = (
    *("size", "build", "sorted", "memory", "one", "each", "all"),
    *("negatives", "postings", "decode", "cooccurrence", "coactivation"),
)
OTHER_SIZES = "size, with activations as they are kept"
BUILD = "build from token-major batches"
EACH = "one latent's 40 + 50 + 50 windows"
DELPHI = ROOT / "benches" / "delphi_peer.py"
DELPHI_LIMIT = 2_000_000
"""The most tokens of which delphi's cache is built as delphi does, in 68 bytes a non-zero."""
SAMPLED = 256
"""Latents from which a peer's time for all is told."""


class Bench:
    """One shape's data, files and rows."""

    def __init__(self, asked):
        self.asked = asked
        self.shape = Shape(asked.tokens, asked.latents, asked.k)
        self.data = make(asked.work, self.shape, log)
        self.peers = list(asked.peers)
        self.readers = [name for name in self.peers if name != "delphi"]
        others = {}
        if "delphi" in self.peers:
            others = child(DELPHI, "versions", python=asked.delphi_python)
        self.figures = Figures(asked.out, [f"{k}={v}" for k, v in others.items()])
        self.built = {}
        rng = np.random.default_rng(3)
        self.drawn = sorted(rng.choice(self.shape.latents, 100, replace=False).tolist())

    def path(self, name):
        return str(self.data.folder / name)

    def ours(self, task, **options):
        return child("benches.index_tasks", task, **options)

    def peer(self, task, **options):
        return child("benches.peer_tasks", task, **options)

    def delphi(self, task, **options):
        if not task.startswith("build"):
            options["tokenizer"] = str(_tokenizer())
        return child(DELPHI, task, python=self.asked.delphi_python, path=self.cache, **options)

    @property
    def cache(self):
        return self.path("delphi/latents")

    def limit(self, amount, bytes_each, threads=1):
        """Seconds of copying what has to be moved."""
        found = [
            self.peer("copy", amount=amount, bytes_each=bytes_each, threads=threads)["seconds"]
            for _ in range(3)
        ]
        return np.array(found)

    def add(self, op, implementation, metric, unit, samples):
        self.figures.add(op, implementation, self.shape, metric, unit, samples)

    def rate(self, op, implementation, amount, results, unit="non-zeros/s"):
        seconds = np.array([found["seconds"] for found in results])
        self.add(op, implementation, "rate", unit, amount / seconds)

    def build(self):
        """Build everything; each implementation in turn, `--rounds` times."""
        folder, n = str(self.data.folder), self.asked.rounds
        index = partial(self.ours, "build", data=folder)
        jobs = {
            f"{OURS}, synced to disk": partial(index, path=self.path("synced"), durable=True),
            OURS: partial(index, path=self.path("index"), durable=False),
            f"{OURS}, lossless": partial(index, path=self.path("exact"), lossless=True),
        }
        if "scipy" in self.peers:
            task = partial(self.peer, "scipy_build", data=folder, path=self.path("scipy"))
            jobs[NAMES["scipy"]] = task
        results = dict(zip(jobs, rounds(n, *jobs.values()), strict=True))
        if results[OURS][0] is None:  # Before format 1 there was one way to build.
            results[OURS] = [self.ours("build", data=folder, path=self.path("index"))]
        for name in ("parquet", "duckdb"):
            if name in self.peers:
                task = partial(self.peer, f"{name}_build", data=folder, path=self.path(name))
                results[NAMES[name]] = rounds(1 if name == "duckdb" else min(n, 3), task)[0]
        self.built = {name: found for name, found in results.items() if found[0] is not None}

    def check(self):
        """Everyone holds the same postings."""
        folders = {name: self.path(name) for name in self.readers}
        found = self.ours(
            "check", data=str(self.data.folder), path=self.path("index"), peers=folders
        )
        log(f"the same in all: {found['amount']:,} postings of {', '.join([OURS, *self.readers])}")

    def of_build(self):
        """Rates of the builds."""
        for name, results in self.built.items():
            self.rate(BUILD, name, self.shape.nnz, results)
        copied = self.shape.nnz / self.limit(self.shape.nnz, 8, threads=2)
        self.add(BUILD, "limit: copying 8 bytes, 2 threads", "rate", "non-zeros/s", copied)

    def of_size(self):
        """Bits per non-zero of every file but the token ids, beside the data's entropy."""
        bound = self.peer("entropy", data=str(self.data.folder))
        exact = self.path("parquet-bf16")
        ops = {
            "size": (OURS, "codes", NAMES["parquet"]),
            "size, lossless bf16": (f"{OURS}, lossless", "bf16", "peer: Parquet, tuned, bf16"),
        }
        for op, (name, values, peer) in ops.items():
            found = self.built.get(name)
            if found is None:
                log(f"  {op}: not in this version")
                continue
            for group, size in _by_file(found[0]["files"]).items():
                self.bits(f"{op}, by file", group, size)
            self.bits(op, name, sum(_by_file(found[0]["files"]).values()))
            if "parquet" in self.peers:
                kept = (
                    self.built[NAMES["parquet"]][0]
                    if values == "codes"
                    else self.peer(
                        "parquet_build", data=str(self.data.folder), path=exact, values=values
                    )
                )
                self.bits(op, peer, sum(kept["files"].values()))
            limit = bound["positions"] + bound[values]
            self.add(op, "limit: entropy of the data", "size", "bits/non-zero", limit)
        for name in ("scipy", "duckdb"):
            if NAMES[name] in self.built:
                size = sum(self.built[NAMES[name]][0]["files"].values())
                self.bits(OTHER_SIZES, f"{NAMES[name]}, float32", size)

    def bits(self, op, implementation, size):
        self.add(op, implementation, "size", "bits/non-zero", 8 * size / self.shape.nnz)

    def of_sorted(self):
        """Building from runs that are sorted by latent, on one core."""
        op, folder = "build from sorted runs, one core", str(self.data.folder)
        task = partial(
            self.ours, "build_sorted", data=folder, path=self.path("sorted"), one_core=True
        )
        results = rounds(min(self.asked.rounds, 3), task)[0]
        if results[0] is None:
            log(f"  {op}: not in this version")
            return
        whole = self.ours("identity", path=self.path("index"))
        if results[0]["hash"] != whole["hash"]:
            raise RuntimeError("sorted runs gave another index than token-major batches")
        self.rate(op, OURS, self.shape.nnz, results)
        if "scipy" in self.peers:
            task = partial(self.peer, "scipy_build", data=folder, path=self.path("scipy"))
            self.rate(
                op, NAMES["scipy"], self.shape.nnz, rounds(2, partial(task, one_core=True))[0]
            )
        copied = self.shape.nnz / self.limit(self.shape.nnz, 8)
        self.add(op, "limit: copying 8 bytes, 1 thread", "rate", "non-zeros/s", copied)

    def of_memory(self):
        """The most memory that building takes, beside its input."""
        op = "memory of a build"
        folder = str(self.data.folder)
        found = self.ours("build_memory", data=folder, path=self.path("memory"))
        self.add(op, OURS, "memory", "MiB", found["bytes"] / 2**20)
        self.add(f"{op}, no file's pages", OURS, "memory", "MiB", found["anonymous"] / 2**20)
        for found in self.built.get(NAMES["scipy"], [])[:1]:
            self.add(op, NAMES["scipy"], "memory", "MiB", found["bytes"] / 2**20)

    def of_one(self):
        """40 stratified windows of one latent, one call."""
        plan = {"explain": 0, "decile": 4, "negatives": 0}
        kinds = {
            f"a latent of {RARE_COUNT:,} postings": (RARE, 200),
            f"a latent on {COMMON_SHARE:.0%} of the tokens": (COMMON, 5),
        }
        for kind, (latent, calls) in kinds.items():
            op = f"40 stratified windows, one call: {kind}"
            times = self.ours("sample_one", path=self.path("index"), latent=latent)["seconds"]
            self.add(op, OURS, "time", "µs", 1e6 * np.array(times))
            self.add(op, OURS, "time, 99th percentile", "µs", 1e6 * np.percentile(times, 99))
            for name in self.readers:
                times = self.by_hand(name, [latent], calls=calls, **plan)["seconds"]
                self.add(op, f"{NAMES[name]}, NumPy", "time", "µs", 1e6 * np.array(times))

    def of_each(self):
        """The default plan of 100 latents, one after the other."""
        found = self.ours("sample_each", path=self.path("index"), latents=self.drawn)
        self.add(EACH, OURS, "time", "µs", 1e6 * np.array(found["seconds"]))
        self.add(EACH, f"{OURS}, opening included", "time", "µs", 1e6 * found["cold"])
        for name in self.readers:
            times = self.by_hand(name, self.drawn)["seconds"]
            self.add(EACH, f"{NAMES[name]}, NumPy", "time", "µs", 1e6 * np.array(times))

    def of_delphi(self):
        """Delphi's cache and examples: the last, as it takes most of the memory."""
        name, folder = NAMES["delphi"], str(self.data.folder)
        fits = self.shape.tokens <= DELPHI_LIMIT
        built = self.delphi("build" if fits else "build_by_splits", data=folder)
        found = self.delphi("check", data=folder, latents=[*self.drawn[:4], RARE])
        log(f"the same in delphi: {found['amount']:,} postings")
        if fits:
            self.rate(BUILD, name, self.shape.nnz, [built])
        # Its five files hold the token ids, once each.
        size = sum(built["files"].values()) - 5 * 8 * self.shape.tokens
        self.bits(OTHER_SIZES, f"{name}, float16", size)
        found = self.delphi("examples", latents=self.drawn)
        op = f"{EACH}, beside delphi"
        self.add(op, name, "time", "µs", 1e6 * found["seconds"])
        ours = self.ours("sample_each", path=self.path("index"), latents=self.drawn)
        self.add(op, OURS, "time", "µs", 1e6 * np.array(ours["seconds"]))
        self.add(op, f"{OURS}, opening included", "time", "µs", 1e6 * ours["cold"])

    def by_hand(self, reader, latents, **plan):
        """Seconds of drawing with NumPy from what a peer's reader gives."""
        return self.peer(
            "sample",
            reader=reader,
            path=self.path(reader),
            data=str(self.data.folder),
            latents=latents,
            **plan,
        )

    def of_all(self):
        """Explainer, scorer and negatives of every latent."""
        op = f"40 + 50 + 50 windows of all {self.shape.latents:,} latents"
        task = partial(self.ours, "sample_all", path=self.path("index"))
        results = rounds(min(self.asked.rounds, 3), task)[0]
        self.add(op, OURS, "time", "s", [found["seconds"] for found in results])
        if "scipy" in self.peers:
            latents = np.random.default_rng(4).choice(self.shape.latents, SAMPLED, replace=False)
            times = self.by_hand("scipy", latents.tolist())["seconds"]
            whole = np.mean(times) * self.shape.latents
            self.add(op, f"{NAMES['scipy']}, NumPy, told from {SAMPLED}", "time", "s", whole)

    def of_negatives(self):
        """Five kinds of all latents beside random ones: as few, and as many."""
        path = self.path("index")
        for where, bare in (("beside 40 + 50 windows", False), ("alone", True)):
            op = f"negatives, 50 of each kind for all {self.shape.latents:,} latents, {where}"
            task = partial(self.ours, "negatives", path=path, bare=bare)
            few, many = (partial(task, kinds=["random"] * n) for n in (1, 5))
            names = ("five kinds", "50 random", "5 times 50 random")
            results = rounds(min(self.asked.rounds, 3), task, few, many)
            seconds = {
                name: np.array([one["seconds"] for one in found])
                for name, found in zip(names, results, strict=True)
            }
            for name, taken in seconds.items():
                self.add(op, f"{OURS}, {name}", "time", "s", taken)
                if name != names[0]:
                    ratio = seconds[names[0]] / taken
                    self.add(op, f"{OURS}, five kinds to {name}", "times as long", "", ratio)
        first = [[one["first"] for one in found] for found in results[:2]]
        words = np.subtract(*first)
        self.add("negatives, the list of words", OURS, "time", "s", words)

    def of_coactivation(self):
        """Exact counts of all latents with ten others each."""
        op = f"co-activation of all {self.shape.latents:,} latents with 10 each, per window"
        task = partial(self.ours, "coactivation", path=self.path("index"))
        found = task(data=str(self.data.folder))
        self.add(op, OURS, "time", "s", found["seconds"])
        self.add(op, OURS, "memory", "MiB", found["peak"] / 2**20)

    def of_postings(self):
        """Every posting of every latent, on one core."""
        op = "postings: ascending positions and activations, one core"
        self.in_order(op, "postings", bytes_each=12)
        if "scipy" in self.peers:
            task = partial(self.peer, "scipy_postings", path=self.path("scipy"), one_core=True)
            self.rate(op, NAMES["scipy"], self.shape.nnz, rounds(3, task)[0], "postings/s")

    def of_decode(self):
        """Every list in stored order, on one core."""
        self.in_order("decode in stored order, one core", "decode", bytes_each=6)

    def in_order(self, op, task, bytes_each):
        task = partial(self.ours, task, path=self.path("index"), one_core=True)
        results = rounds(3, task)[0]
        if results[0] is None:
            log(f"  {op}: not in this version")
            return
        assert results[0]["amount"] == self.shape.nnz
        self.rate(op, OURS, self.shape.nnz, results, "postings/s")
        copied = self.shape.nnz / self.limit(self.shape.nnz, bytes_each)
        self.add(op, f"limit: copying {bytes_each} bytes, 1 thread", "rate", "postings/s", copied)

    def of_cooccurrence(self):
        """Exact top-10 Jaccard neighbours of all latents, per token."""
        op = f"top-10 Jaccard of all {self.shape.latents:,} latents, per token"
        found = self.ours("cooccurrence", path=self.path("index"), data=str(self.data.folder))
        if found is None:
            log(f"  {op}: not in this version")
            return
        self.add(op, OURS, "time", "s", found["seconds"])
        self.add(op, OURS, "memory", "MiB", found["peak"] / 2**20)
        if "scipy" in self.peers:
            latents = np.random.default_rng(5).choice(self.shape.latents, SAMPLED, replace=False)
            path = self.path("scipy")
            found = self.peer("scipy_cooccurrence", path=path, latents=latents.tolist())
            whole = found["seconds"] * self.shape.latents
            name = f"peer: SciPy sparse product, told from {SAMPLED}"
            self.add(op, name, "time", "s", whole)


def _by_file(files):
    """Bytes by kind of file, the token ids apart, over all segments."""
    sizes = {}
    for path, size in files.items():
        parts = Path(path).parts
        if not parts[-1].startswith("tokens"):
            kind = "/".join(dict.fromkeys((parts[0], parts[-1])))
            sizes[kind] = sizes.get(kind, 0) + size
    return sizes


def _tokenizer():
    """A tokenizer whose vocabulary holds the ids of the data."""
    from glossator.subjects.smollm2 import smollm2_path

    return smollm2_path() / "tokenizer.json"


def main():
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--k", type=int, default=32, help="latents active on a token")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--peers", nargs="*", choices=NAMES, default=("scipy", "parquet"))
    parser.add_argument("--delphi-python", type=Path, help="the interpreter that has delphi")
    parser.add_argument("--rounds", type=int, default=5, help="builds of each implementation")
    parser.add_argument("--work", type=Path, default=Path("/tmp/glossator-figures"))
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results" / "index.csv")
    asked = parser.parse_args()
    if "delphi" in asked.peers and asked.delphi_python is None:
        parser.error("--peers delphi needs --delphi-python")
    bench = Bench(asked)
    log(f"{bench.shape}; {bench.figures.shared['machine']}; {bench.figures.shared['versions']}")
    bench.build()
    bench.check()
    failed = []
    for group in (*(g for g in GROUPS if g in asked.groups), "delphi"):
        if group == "delphi" and group not in bench.peers:
            continue
        log(group)
        try:
            getattr(bench, f"of_{group}")()
        except RuntimeError as error:
            failed.append(group)
            log(f"{group} failed: {error}")
        bench.figures.write()
    if failed:
        sys.exit(f"without: {', '.join(failed)}")


if __name__ == "__main__":
    main()
