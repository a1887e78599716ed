"""The nearest latents of every latent, beside exact peers and the machine's limit, in one run.

    python -m benches.neighbours_figures                       # 32,768 rows, every kind of rows
    python -m benches.neighbours_figures --latents 131072 --rounds 3 --kinds clustered
    python -m benches.neighbours_figures --portable --peers faiss float32    # no AVX-512 for any

Peers: `faiss` (package faiss-cpu, on the path), torch in float32 and bfloat16 (matmul and topk in
chunks of 1,024 and 4,096). Every measurement has a process of its own, and they take turns. The
limit is L² · d operations on bytes (half the pairs, two operations each) at the speed of
`rust/core/examples/int8_peak.rs`. Before anything is written, our neighbours and each exact peer's
are compared with float64 on some rows.
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
from benches.measure import ROOT, Figures, child, log, memory, reset_peak, rounds, serve, timed

K = 10
KINDS = ("clustered", "gaussian", "two large columns")
SEED = 20_261
CHECKED = 64
"""Rows whose neighbours are compared with float64."""
PEERS = ("faiss", "torch float32, 1,024", "torch float32, 4,096", "torch bfloat16, 4,096")
# What keeps the libraries to AVX2; faiss's BLAS can misread a processor that has AVX-512.
RESTRICTED = {"OPENBLAS_CORETYPE": "HASWELL", "FAISS_OPT_LEVEL": "avx2"} | dict.fromkeys(
    ("ATEN_CPU_CAPABILITY",), "avx2"
)
RESTRICTED |= {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
BEST = {"OPENBLAS_CORETYPE": "SKYLAKEX"}


def decoder(kind, n, d, seed):
    """Rows of float32, [n, d], not normalised."""
    rng = np.random.default_rng([seed, n, d])
    rows = rng.standard_normal((n, d), dtype=np.float32)
    if kind == "clustered":  # An eighth as many centres as rows.
        centres = rng.standard_normal((n // 8, d), dtype=np.float32)
        rows += 0.6 * centres[rng.integers(0, n // 8, n)]
    if kind == "two large columns":
        rows[:, [d // 7, d // 2]] *= 30
    return rows


def ours(path, other=None, portable=False):
    """Seconds, memory beyond the rows, and the neighbours of some rows."""
    from glossator import _core

    rows = np.load(path)
    others = None if other is None else np.load(other)
    _core.neighbours(rows[:1000], None, K)
    before = memory()
    reset_peak()
    seconds, (ids, cosines) = timed(partial(_core.neighbours, rows, others, K, portable=portable))
    return _result(seconds, ids, memory("VmHWM") - before) | {"cosine": float(cosines[:, 0].mean())}


def faiss(path, other=None):
    """IndexFlatIP over normalised rows."""
    import faiss

    rows, base, k = _normalised(path, other)
    before = memory()
    reset_peak()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(base)
    seconds, (_, ids) = timed(index.search, rows, k)
    return _result(seconds, _without_self(ids, other), memory("VmHWM") - before)


def torch(path, other=None, dtype="float32", chunk=1024):
    """Matmul and topk, some rows at a time."""
    import torch

    rows, base, k = _normalised(path, other)
    dtype = getattr(torch, dtype)
    rows, base = torch.from_numpy(rows).to(dtype), torch.from_numpy(base).to(dtype)
    before = memory()
    reset_peak()

    @torch.no_grad()
    def search():
        parts = [
            torch.topk(rows[first : first + chunk] @ base.T, k, dim=1).indices
            for first in range(0, len(rows), chunk)
        ]
        return torch.cat(parts).numpy()

    seconds, ids = timed(search)
    return _result(seconds, _without_self(ids, other), memory("VmHWM") - before)


def _normalised(path, other):
    """Queries, rows searched, and how many neighbours: one more where a row finds itself."""

    def unit(path):
        rows = np.load(path)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    rows = unit(path)
    return (rows, rows, K + 1) if other is None else (rows, unit(other), K)


def _without_self(ids, other):
    if other is not None:
        return ids
    kept = ids != np.arange(len(ids))[:, None]
    kept[kept.all(axis=1), -1] = False
    return ids[kept].reshape(len(ids), K)


def _result(seconds, ids, n_bytes):
    checked = _checked(len(ids))
    return {"seconds": seconds, "memory": n_bytes, "ids": ids[checked].tolist()}


def _checked(n):
    return np.random.default_rng(5).choice(n, CHECKED, replace=False)


def truth(path, other):
    """Neighbours of the checked rows and the next ones' cosines, by float64."""
    rows = np.load(path)
    base = rows if other is None else np.load(other)
    checked = _checked(len(rows))
    queries = rows[checked].astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    cosines = np.empty((CHECKED, len(base)))
    for first in range(0, len(base), 8192):
        part = base[first : first + 8192].astype(np.float64)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        cosines[:, first : first + 8192] = queries @ part.T
    if other is None:
        cosines[np.arange(CHECKED), checked] = -2
    return cosines


def wrong(cosines, found):
    """The share of neighbours found that are not among the true ones, ties at 1e-12 apart."""
    ids = np.array(found["ids"])
    least = np.sort(cosines, axis=1)[:, -K] - 1e-12
    return float(np.mean(np.take_along_axis(cosines, ids, 1) < least[:, None]))


def peak():
    """Operations on bytes a second, best of five; 0 without the instruction."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "glossator-core", "--example"]
    done = subprocess.run(
        [*command, "int8_peak"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return float(done.stdout)


def measure(asked, figures, kind, between):
    """One kind of rows: everyone's times in turn, checked, and written as rows."""
    n, d = asked.latents, asked.width
    path, other = (_made(asked.work, kind, n, d, seed) for seed in (SEED, SEED + 1))
    other = other if between else None
    task = partial(child, "benches.neighbours_figures", path=path, other=other)
    names = [name for name in PEERS if any(word in name for word in asked.peers)]
    jobs = {"glossator": partial(task, "ours", portable=asked.portable)}
    for name in names:
        library, _, rest = name.partition(" ")
        options = {}
        if rest:
            dtype, chunk = rest.split(", ", 1)
            options = {"dtype": dtype, "chunk": int(chunk.replace(",", ""))}
        role = "not exact" if "bfloat16" in name else "peer"
        jobs[f"{role}: {name}"] = partial(task, library, **options)
    results = dict(zip(jobs, rounds(asked.rounds, *jobs.values()), strict=True))
    cosines = truth(path, other)
    op = "between two coders" if between else "of one coder"
    op = f"{K} nearest latents {op}, {kind} rows" + (", no AVX-512" if asked.portable else "")
    shape = f"L={n} d={d}"
    for name, found in results.items():
        share = wrong(cosines, found[0])
        exact = not name.startswith("not exact")
        if exact and share and not _is_near(cosines, found[0]):
            raise SystemExit(f"{name}: {share:.2%} of its neighbours are wrong")
        figures.add(op, name, shape, "time", "s", [each["seconds"] for each in found])
        figures.add(op, name, shape, "memory", "MiB", [each["memory"] / 2**20 for each in found])
        if share:
            figures.add(op, name, shape, "wrong neighbours", "share", share)
    if not asked.portable:
        operations = n * n * d * (2 if between else 1)
        if speed := peak():
            limit = "limit: bytes at the machine's peak"
            figures.add(op, limit, shape, "time", "s", operations / speed)


def _is_near(cosines, found):
    """Whether all neighbours found are as near as the true ones within float32's rounding."""
    ids = np.array(found["ids"])
    least = np.sort(cosines, axis=1)[:, -K]
    return bool((np.take_along_axis(cosines, ids, 1) > least[:, None] - 1e-6).all())


def _made(folder, kind, n, d, seed):
    path = Path(folder) / f"{kind.replace(' ', '-')}-{n}-{d}-{seed}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, decoder(kind, n, d, seed))
    return str(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--between", action="store_true", help="two coders, too")
    parser.add_argument("--portable", action="store_true")
    parser.add_argument("--peers", nargs="*", default=["faiss", "torch"], help="words of names")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", default="/tmp/glossator-neighbours")
    parser.add_argument("--out", default=ROOT / "benches/results/neighbours.csv")
    asked = parser.parse_args()
    os.environ.update(RESTRICTED if asked.portable else BEST)
    figures = Figures(asked.out)
    for kind in asked.kinds:
        log(kind)
        measure(asked, figures, kind, between=False)
    if asked.between:
        log("between two coders")
        measure(asked, figures, asked.kinds[0], between=True)
    figures.write()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in ("ours", "faiss", "torch"):
        serve({"ours": ours, "faiss": faiss, "torch": torch})
    else:
        main()
