"""Encoding on a CPU, beside the matrix product alone and the peers' way, in one run.

    python -m benches.encode_figures                             # 768 / 32,768 / 32
    python -m benches.encode_figures --width 576 --latents 4096
    python -m benches.encode_figures --sparsify-python PYTHON    # where eai-sparsify is installed

Every implementation has a process of its own, and they take turns; each round's figure is the best
of three calls over the same rows. Limits are the matrix product alone, into memory that is there
already, in either type; what is written without bias or selection. Before anything is written, our
activations are compared with float64 on some rows.
"""

import argparse
import sys
import time
from functools import partial

from benches.measure import ROOT, Figures, child, rounds, serve

CHECKED = 16
"""Rows compared with float64."""
BLOCK = 256


def operands(n, width, latents):
    """x [n, d], weight [L, d] of unit rows, bias [L]; the same in every process."""
    import torch

    generator = torch.Generator().manual_seed(7)
    weight = torch.randn((latents, width), generator=generator)
    weight /= weight.norm(dim=1, keepdim=True)
    bias = 0.05 * torch.randn(latents, generator=generator)
    return torch.randn((n, width), generator=generator), weight, bias


def best(function):
    """Seconds of the best of three calls, after one that is not counted."""
    function()
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return {"seconds": min(times)}


def ours(n, width, latents, k, dtype):
    import torch

    from glossator.encode.cpu import CpuEncoder
    from glossator.encode.rules import TopK

    x, weight, bias = operands(n, width, latents)
    encoder = CpuEncoder(weight, bias, TopK(k), dtype=dtype)
    active = encoder.encode(x[:CHECKED])
    kind = getattr(torch, dtype)
    exact = x[:CHECKED].to(kind).double() @ weight.to(kind).double().T + bias
    wanted = exact.topk(k, dim=1).values.clamp(min=0)
    _, values = active.rows(k)
    error = float((values - wanted).abs().max() / wanted.max())
    return best(lambda: encoder.encode(x)) | {"error": error, "product": encoder.product}


def product(n, width, latents, k, dtype):
    import torch

    x, weight, _ = operands(n, width, latents)
    x, weight = x.to(getattr(torch, dtype)), weight.to(getattr(torch, dtype))
    out = torch.empty((BLOCK, latents), dtype=x.dtype)

    def run():
        for first in range(0, n, BLOCK):
            part = x[first : first + BLOCK]
            torch.mm(part, weight.T, out=out[: len(part)])

    return best(run)


def plain(n, width, latents, k, dtype):
    import torch

    x, weight, bias = (t.to(getattr(torch, dtype)) for t in operands(n, width, latents))

    @torch.no_grad()
    def run():
        for part in x.split(BLOCK):
            torch.relu(torch.addmm(bias, part, weight.T)).topk(k, dim=1, sorted=False)

    return best(run)


def sparsify(n, width, latents, k, dtype):
    """Its `encode`: `FusedEncoder` where the release has it."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    x, weight, bias = operands(n, width, latents)
    factor = latents // width
    config = SparseCoderConfig(expansion_factor=factor, num_latents=latents, k=k)
    kind = getattr(torch, dtype)
    coder = SparseCoder(width, config, device="cpu", dtype=kind)
    with torch.no_grad():
        coder.encoder.weight.copy_(weight)
        coder.encoder.bias.copy_(bias)
    x = x.to(kind)

    @torch.no_grad()
    def run():
        for part in x.split(BLOCK):
            coder.encode(part)

    return best(run)


TASKS = {"ours": ours, "product": product, "plain": plain, "sparsify": sparsify}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_048)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sparsify-python", help="an interpreter with eai-sparsify")
    parser.add_argument("--out", default=ROOT / "benches/results/encode.csv")
    asked = parser.parse_args()
    shape = {"n": asked.rows, "width": asked.width, "latents": asked.latents, "k": asked.k}
    here = partial(child, "benches.encode_figures", **shape)
    jobs = {}
    for dtype in ("float32", "bfloat16"):
        jobs[f"glossator, {dtype} asked"] = partial(here, "ours", dtype=dtype)
        jobs[f"limit: matmul alone, {dtype}"] = partial(here, "product", dtype=dtype)
        jobs[f"peer: matmul, relu, topk, {dtype}"] = partial(here, "plain", dtype=dtype)
        if asked.sparsify_python:
            jobs[f"peer: sparsify, {dtype}"] = partial(
                here, "sparsify", dtype=dtype, python=asked.sparsify_python
            )
    results = dict(zip(jobs, rounds(asked.rounds, *jobs.values()), strict=True))
    figures = Figures(asked.out)
    name = f"N={asked.rows} d={asked.width} L={asked.latents} k={asked.k}"
    limits = [r for job, r in results.items() if job.startswith("limit:")]
    fastest = [min(each["seconds"] for each in turn) for turn in zip(*limits, strict=True)]
    for job, found in results.items():
        seconds = [each["seconds"] for each in found]
        if max(each.get("error", 0) for each in found) > 1e-4:
            raise SystemExit(f"{job}: activations differ from float64's")
        figures.add("encode", job, name, "rate", "tokens/s", [asked.rows / s for s in seconds])
        over = [s / limit for s, limit in zip(seconds, fastest, strict=True)]
        figures.add("encode", job, name, "over the faster matmul, by round", "times", over)
    figures.write()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in TASKS:
        serve(TASKS)
    else:
        main()
