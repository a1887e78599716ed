"""Encoders on a GPU, beside the plain product, the chip's limit and the usual way.

    python -m benches.gpu_figures                # benches/results/gpu.csv; under 8 minutes
    python -m benches.gpu_figures --shapes 768/32768/32 --tiles

Correctness comes first: a wrong result ends the run before anything is timed. Data are random, as
zeros run faster. Peers: product, relu and `torch.topk`; and that followed by a dense scatter that
is searched for what is not zero, which is how delphi keeps activations, written from its
description.
"""

import argparse
import time

import torch
from benches.measure import Figures, log

from glossator._kernels.group_maxima import Grouping, grouping
from glossator._kernels.operands import Operands
from glossator._kernels.product import LARGE, SMALL, TileShape
from glossator._kernels.topk_encode import topk_encode

SHAPES = ((768, 32_768, 32), (768, 131_072, 32), (4_096, 131_072, 64), (4_096, 131_072, 192))
LIMIT = 790e12
"""Operations a second of a large bf16 product on an H200, as measured."""
SECONDS = 420
REPEATS = 9
TOKENS = {32_768: 65_536, 131_072: 32_768}
PEER_TOKENS = 8_192
"""The peers write every pre-activation: 4 GiB of float32 at 131,072."""


def _made(d, L, n):
    made = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(L, d, generator=made, device="cuda") / d**0.5
    bias = torch.randn(L, generator=made, device="cuda") * 0.01
    x = torch.randn(n, d, generator=made, device="cuda", dtype=torch.bfloat16)
    return x, weight, bias


def _times(*tasks):
    """Seconds of each task, in turn, REPEATS times, after two rounds of warming."""
    kept = [[] for _ in tasks]
    for repeat in range(REPEATS + 2):
        for task, seconds in zip(tasks, kept, strict=True):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            task()
            end.record()
            end.synchronize()
            if repeat > 1:
                seconds.append(begin.elapsed_time(end) / 1e3)
    return kept


def check(x, weight, bias, operands, k):
    """Refuse to go on unless every kept pre-activation is at least every dropped one."""
    found = topk_encode(x, operands, k).settle().refuse_bad()
    dtype = operands.exact.dtype
    scores = x.to(dtype).double() @ weight.to(dtype).double().T + bias.double()
    error = 2.0**-18 * float(x.float().norm(dim=1).max() * weight.norm(dim=1).max())
    latents = found.latents.long()
    if not bool((latents >= 0).all()):
        raise SystemExit("topk_encode: a row is short where every row has enough")
    kept = scores.gather(1, latents)
    rest = scores.scatter(1, latents, float("-inf"))
    wrong = (kept.amin(1) < rest.amax(1) - error) | (
        (kept - found.activations.double()).abs().amax(1) > error
    )
    rows = operands.rows(x)
    there = operands.latents >= 0
    proposed = rows.product.float() @ operands.product[there].float().T
    exact = rows.exact.double() @ operands.exact[there].double().T
    beyond = (proposed.double() - exact).abs().amax(1) > rows.margin.double()
    if bool(wrong.any()) or bool(beyond.any()):
        raise SystemExit(f"topk_encode: {int(wrong.sum())} rows wrong, {int(beyond.sum())} margins")


def _alone(x, weight):
    """The plain product, bf16 out."""
    out = torch.empty(len(x), len(weight), dtype=torch.bfloat16, device=x.device)
    return lambda: torch.mm(x, weight.T, out=out)


def usual(x, weight, bias, k):
    """Product, relu, topk."""
    return torch.relu(torch.addmm(bias, x, weight.T)).topk(k, dim=1, sorted=False)


def delphi_way(x, weight, bias, k):
    """The same, scattered into zeros, searched for what is not zero."""
    values, ids = usual(x, weight, bias, k)
    dense = torch.zeros(len(x), len(weight), dtype=values.dtype, device=x.device)
    dense.scatter_(1, ids, values)
    places = torch.nonzero(dense.abs() > 1e-5)
    return places, dense[dense.abs() > 1e-5]


def measure(figures, shape, tiles):
    """All figures of one shape."""
    d, L, k = shape
    name = f"{d}/{L}/{k}"
    n = TOKENS[L] if d < 2_048 else TOKENS[L] // 2
    x, weight, bias = _made(d, L, n)
    operands = Operands.of(weight, bias, dtype=torch.bfloat16)
    check(x[:1_024], weight, bias, operands, k)
    exact = Operands.of(weight, bias, dtype=torch.float32)
    check(x[:256].float(), weight, bias, exact, k)
    keep = grouping(L, k, torch.bfloat16)
    half, half_bias = weight.bfloat16(), bias.bfloat16()
    few = x[:PEER_TOKENS]

    def rate(implementation, seconds, tokens, op="top-K encode"):
        figures.add(op, implementation, name, "rate", "tokens/s", [tokens / s for s in seconds])

    # The peers write every pre-activation, and so are given fewer tokens at a time.
    ours, ours_exact, product, plain, dense = _times(
        lambda: topk_encode(x, operands, k).settle(),
        lambda: topk_encode(x, exact, k).settle(),
        _alone(x, half),
        lambda: usual(few, half, half_bias, k),
        lambda: delphi_way(few, half, half_bias, k),
    )
    rate("glossator, bf16 operands", ours, n)
    rate("glossator, float32 operands", ours_exact, n)
    rate("torch.mm alone, bf16 out", product, n)
    rate("peer: matmul, relu, topk", plain, len(few))
    rate("peer: as delphi, dense scatter and nonzero", dense, len(few))
    rate("limit: 790 TFLOP/s", [2 * d * L / LIMIT], 1)
    found = topk_encode(x, operands, k)
    share = float(found.fallback) / n
    figures.add("top-K encode", "glossator, bf16 operands", name, "fallback", "share", share)
    share = float(topk_encode(x, exact, k).fallback) / n
    figures.add("top-K encode", "glossator, float32 operands", name, "fallback", "share", share)
    _memory(figures, name, x, operands, k)
    _others(figures, name, x, operands, k, ours)
    if tiles:
        _tiles(figures, name, x, operands, k, keep)


def _memory(figures, name, x, operands, k):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = topk_encode(x, operands, k)
    peak = torch.cuda.max_memory_allocated() - before
    kept = sum(t.nbytes for t in (found.latents, found.activations, found.rows.product))
    figures.add(
        *("top-K encode", "glossator, bf16 operands", name, "memory beyond results", "bytes/token"),
        (peak - kept) / len(x),
    )


def _others(figures, name, x, operands, k, ours):
    """Threshold encode beside the product alone, and what statistics add."""
    from glossator._kernels import activation_statistics, threshold_encode

    found = topk_encode(x, operands, k).settle()
    n_latents = operands.n_latents
    level = float(found.activations[:, -1].median())
    thresholds = torch.full((n_latents,), level, device=x.device)
    half = operands.product[:n_latents]
    capacity = len(x) * k * 2
    active, plain = _times(
        lambda: threshold_encode.threshold_encode(x, operands, thresholds, capacity=capacity),
        _alone(x, half),
    )
    figures.add("threshold encode", "glossator", name, "time", "s", active)
    figures.add("threshold encode", "peer: torch.mm alone, bf16 out", name, "time", "s", plain)
    latents, activations = found.latents.flatten(), found.activations.flatten()
    histogram = torch.zeros((n_latents, 256), dtype=torch.int32, device=x.device)
    maximum = torch.zeros(n_latents, device=x.device)
    total = torch.zeros(n_latents, dtype=torch.int64, device=x.device)
    (added,) = _times(
        lambda: activation_statistics.activation_statistics(
            latents, activations, histogram, maximum, total
        )
    )
    median = sorted(ours)[len(ours) // 2]
    figures.add(
        "statistics", "glossator", name, "share of encode", "share", [s / median for s in added]
    )


def _tiles(figures, name, x, operands, k, keep):
    """The same encoder with other tiles."""
    shapes = {
        "128x256, one program": LARGE,
        "128x256, one program, not flattened": TileShape(latents=256, warps=8, resident=1),
        "128x128, two programs": SMALL,
        "128x128, two programs, four steps": TileShape(stages=4, width=32),
    }
    for label, shape in shapes.items():
        kept = Grouping(min(keep.group, shape.latents), keep.kept)
        (seconds,) = _times(lambda s=shape, g=kept: topk_encode(x, operands, k, shape=s, keep=g))
        rates = [len(x) / s for s in seconds]
        figures.add("top-K encode, tiles", f"glossator, {label}", name, "rate", "tokens/s", rates)


def main():
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=["/".join(map(str, s)) for s in SHAPES])
    parser.add_argument("--tiles", action="store_true", help="the same with other tiles")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_figures: no CUDA device here; figures are taken on an H200 or H100")
    begun = time.monotonic()
    figures = Figures("benches/results/gpu.csv", [f"gpu={torch.cuda.get_device_name()}"])
    for text in asked.shapes:
        if time.monotonic() - begun > SECONDS:
            log(f"  {text}: left out, {SECONDS} s are over")
            continue
        measure(figures, tuple(int(part) for part in text.split("/")), asked.tiles)
        torch.cuda.empty_cache()
        figures.write()


if __name__ == "__main__":
    main()
