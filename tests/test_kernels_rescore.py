"""Rescoring: one order of summation, in the kernel, in plain torch and by hand."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from glossator._kernels import reference_rescore
from glossator._kernels.rescore import rescore_pairs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _operands(n_rows, n_latents, width, dtype, seed=0):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(n_rows, width, generator=made).to(dtype)
    weight = torch.randn(n_latents, width, generator=made).to(dtype)
    return reference_rescore.pad_width(x), reference_rescore.pad_width(weight)


def _rounded(exact):
    """A fraction as the nearest float32, ties to even."""
    near = np.float32(float(exact))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(
        around,
        key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view(np.uint32)) & 1),
    )


def _by_hand(x, weight):
    """The definition in exact arithmetic, each step rounded once."""
    lanes = [np.float32(0)] * 32
    for place, (left, right) in enumerate(zip(x.tolist(), weight.tolist(), strict=True)):
        lane = place % 32
        lanes[lane] = _rounded(Fraction(left) * Fraction(right) + Fraction(float(lanes[lane])))
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [np.float32(lanes[i] + lanes[i + half]) for i in range(half)]
    return lanes[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 45, 300])
def test_kernel_and_twin_agree_in_every_bit_and_with_exact_arithmetic(dtype, width):
    x, weight = _operands(3, 40, width, dtype)
    rows = torch.arange(120, dtype=torch.int32) % 3
    latents = torch.arange(120, dtype=torch.int32) // 3
    kernel = rescore_pairs(x, weight, rows, latents)
    assert torch.equal(kernel, reference_rescore.rescore_pairs(x, weight, rows, latents))
    for pair in range(0, 120, 29):
        by_hand = _by_hand(x[rows[pair]], weight[latents[pair]])
        assert kernel[pair].item() == float(by_hand)


def test_fused_rounds_once_where_two_roundings_differ():
    # A product just beside a tie of float32: rounding to float64 first would land on the tie.
    a = torch.tensor([1 + 2.0**-12, 1 + 2.0**-23, 3.0, 1.0])
    b = torch.tensor([1 + 2.0**-12, 1 - 2.0**-24, 2.0**-70, 1.0])
    c = torch.tensor([2.0**24, 2.0**24, 1.0, -1.0])
    exact = [
        _rounded(Fraction(p) * Fraction(q) + Fraction(r))
        for p, q, r in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    assert reference_rescore.fused(a, b, c).tolist() == [float(value) for value in exact]


def test_no_pairs_give_no_values():
    x, weight = _operands(1, 1, 8, torch.float32)
    none = torch.empty(0, dtype=torch.int32)
    assert rescore_pairs(x, weight, none, none).shape == (0,)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gpu_gives_the_bits_of_the_twin(dtype):
    x, weight = _operands(64, 500, 768, dtype)
    rows = torch.arange(2000, dtype=torch.int32) % 64
    latents = torch.arange(2000, dtype=torch.int32) % 500
    twin = reference_rescore.rescore_pairs(x, weight, rows, latents)
    given = [part.cuda() for part in (x, weight, rows, latents)]
    assert torch.equal(rescore_pairs(*given).cpu(), twin)
