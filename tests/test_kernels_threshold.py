"""Encode above a threshold: the kernel gives the bits of the twin, whatever lies above."""

import math

import pytest
import torch

from glossator._kernels import reference_threshold
from glossator._kernels.operands import Operands
from glossator._kernels.threshold_encode import threshold_encode
from glossator.errors import InputError

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _problem(n, width, n_latents, seed=0):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=made)
    weight = torch.randn(n_latents, width, generator=made)
    bias = torch.randn(n_latents, generator=made)
    return x, weight, bias


def _canonical(found):
    """Starts, latents ascending within each row, activations."""
    starts, latents, activations = found.starts, found.latents, found.activations
    rows = torch.arange(len(starts) - 1).repeat_interleave(starts.diff())
    order = (rows * 2**32 + latents.long()).argsort()
    return starts, latents[order], activations[order]


def _same(found, twin):
    return all(torch.equal(a, b) for a, b in zip(_canonical(found), twin, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "width", "n_latents"), [(1, 5, 3), (4, 40, 130)])
def test_the_bits_of_the_twin_and_the_set_of_float64(n, width, n_latents, dtype):
    x, weight, bias = _problem(n, width, n_latents)
    thresholds = torch.linspace(-1, 2 * math.sqrt(width), n_latents)
    operands = Operands.of(weight, bias, dtype=dtype)
    found = threshold_encode(x, operands, thresholds)
    twin = reference_threshold.threshold_encode(x.to(dtype), weight.to(dtype), bias, thresholds)
    assert _same(found, twin)
    exact = x.to(dtype).double() @ weight.to(dtype).double().T + bias
    allowed = 2**-18 * x.norm(dim=1, keepdim=True) * weight.norm(dim=1)
    limits = thresholds.clamp(min=0)
    got = torch.zeros(n, n_latents, dtype=torch.bool)
    rows = torch.arange(n).repeat_interleave(found.starts.diff())
    got[rows, found.latents.long()] = True
    assert not (got & (exact < limits - allowed)).any()
    assert not (~got & (exact > limits + allowed)).any()


def test_equal_values_at_the_threshold_are_decided_alike():
    x, _, _ = _problem(3, 64, 1)
    weight = torch.ones(40, 64)
    operands = Operands.of(weight, torch.zeros(40))
    level = reference_threshold.threshold_encode(x.abs(), weight, torch.zeros(40), torch.zeros(40))[
        2
    ].view(3, 40)[:, 0]
    at = threshold_encode(x.abs(), operands, token_thresholds=level)
    assert at.starts.tolist() == [0] * 4
    below = torch.nextafter(level, torch.zeros(3))
    just = threshold_encode(x.abs(), operands, token_thresholds=below)
    assert just.starts.tolist() == [0, 40, 80, 120]


@pytest.mark.parametrize("capacity", [None, 37, 1_000])
def test_every_latent_or_none_is_active_whatever_the_room(capacity):
    x, weight, bias = _problem(2, 16, 72)
    operands = Operands.of(weight, bias + 1e3)
    full = threshold_encode(x, operands, torch.zeros(72), capacity=capacity).settle()
    twin = reference_threshold.threshold_encode(x, weight, bias + 1e3, torch.zeros(72))
    assert _same(full, twin)
    assert full.starts.tolist() == [0, 72, 144]
    operands = Operands.of(weight, bias - 1e3)
    none = threshold_encode(x, operands, torch.zeros(72), capacity=capacity).settle()
    assert none.starts.tolist() == [0] * 3
    assert len(none.latents) == 0


# The interpreter computes in NumPy, which warns of infinity minus infinity.
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_bad_token_is_flagged_and_leaves_its_neighbours_alone():
    x, weight, bias = _problem(6, 20, 140)
    thresholds = torch.full((140,), 3.0)
    operands = Operands.of(weight, bias)
    whole = reference_threshold.threshold_encode(x, weight, bias, thresholds)
    x[2, 7], x[4, 0] = float("nan"), float("inf")
    found = threshold_encode(x, operands, thresholds)
    assert found.bad.tolist() == [0, 0, 1, 0, 1, 0]
    assert _same(found, reference_threshold.threshold_encode(x, weight, bias, thresholds))
    ours, theirs = found.starts.diff(), whole[0].diff()
    assert ours[[0, 1, 3, 5]].tolist() == theirs[[0, 1, 3, 5]].tolist()


def test_a_gate_decides_and_a_magnitude_is_given():
    x, weight, bias = _problem(3, 24, 131)
    made = torch.Generator().manual_seed(1)
    magnitude = tuple(torch.randn(131, generator=made) for _ in range(2))
    operands = Operands.of(weight, bias)
    found = threshold_encode(x, operands, torch.zeros(131), magnitude=magnitude)
    twin = reference_threshold.threshold_encode(
        x, weight, bias, torch.zeros(131), magnitude=magnitude
    )
    assert _same(found, twin)
    assert len(found.latents) > 0
    assert (found.activations > 0).all()


def test_listed_rows_with_thresholds_of_their_own():
    x, weight, bias = _problem(10, 24, 131)
    limits = torch.linspace(0, 9, 10)
    rows = torch.tensor([7, 2, 2, 9, 0], dtype=torch.int32)
    found = threshold_encode(
        x,
        Operands.of(weight, bias),
        token_thresholds=limits,
        rows=rows,
        n_rows=torch.tensor([3], dtype=torch.int32),
    )
    twin = reference_threshold.threshold_encode(
        x[[7, 2, 2]], weight, bias, limits[[7, 2, 2]], by_token=True
    )
    assert found.starts.diff()[3:].tolist() == [0, 0]
    found.starts = found.starts[:4]
    assert _same(found, twin)


def test_any_chunking_gives_the_same(monkeypatch):
    x, weight, bias = _problem(3, 24, 131)
    operands, thresholds = Operands.of(weight, bias), torch.full((131,), 2.0)
    whole = threshold_encode(x, operands, thresholds)
    module = "glossator._kernels.threshold_encode._WORDS_AT_ONCE"
    monkeypatch.setattr(module, 2 * len(operands.bias) // 8)
    parts = threshold_encode(x, operands, thresholds)
    for name in ("starts", "latents", "activations", "bad"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


def test_what_does_not_fit_together_is_refused():
    x, weight, bias = _problem(2, 8, 5)
    operands = Operands.of(weight, bias)
    with pytest.raises(InputError, match="one a latent"):
        threshold_encode(x, operands)
    with pytest.raises(InputError, match=r"\[5\] on cpu is asked"):
        threshold_encode(x, operands, torch.zeros(4))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [0.0, 60.0])
def test_the_gpu_gives_the_bits_of_the_twin(dtype, level):
    x, weight, bias = _problem(300, 768, 1_000)
    thresholds = torch.full((1_000,), level)
    operands = Operands.of(weight, bias, dtype=dtype, device="cuda")
    found = threshold_encode(x.cuda(), operands, thresholds.cuda())
    for name in ("starts", "latents", "activations"):
        setattr(found, name, getattr(found, name).cpu())
    twin = reference_threshold.threshold_encode(x.to(dtype), weight.to(dtype), bias, thresholds)
    assert _same(found, twin)
