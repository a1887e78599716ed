"""Top-K encode: the kernels against float64, on odd shapes, in the interpreter or on a GPU."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from glossator._kernels import topk_encode as module
from glossator._kernels.group_maxima import Grouping, grouping
from glossator._kernels.neighbours import nearest
from glossator._kernels.operands import DTYPES, Operands
from glossator._kernels.product import INTERPRETED
from glossator._kernels.reference import topk_encode as reference
from glossator._kernels.topk_encode import topk_encode
from glossator.errors import InputError
from glossator.neighbours import neighbours

DEVICE = "cpu" if INTERPRETED.value else "cuda"
DTYPE = list(DTYPES.values())


def _made(n, width, n_latents, seed=0):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=made)
    weight = torch.randn(n_latents, width, generator=made)
    bias = torch.randn(n_latents, generator=made) * 0.1
    return x.to(DEVICE), weight.to(DEVICE), bias.to(DEVICE)


def _scores(x, weight, bias, dtype):
    return x.to(dtype).double() @ weight.to(dtype).double().T + bias.double()


def _check(found, scores, scale):
    """Every kept pre-activation is at least every dropped one, up to the float32 bound."""
    k = found.latents.shape[1]
    error = 2.0**-18 * scale
    for row, latents, activations in zip(scores, found.latents, found.activations, strict=True):
        kept = latents[latents >= 0].long()
        assert len(set(kept.tolist())) == len(kept)
        assert (activations[: len(kept)] > 0).all()
        assert (activations[len(kept) :] == 0).all()
        assert (latents[len(kept) :] == -1).all()
        assert (activations[: len(kept)].double() - row[kept]).abs().max() <= error or not len(kept)
        assert (activations[1:] <= activations[:-1]).all()
        dropped = row.clone()
        dropped[kept] = -math.inf
        least = row[kept].min() if len(kept) == k else torch.zeros((), dtype=row.dtype)
        assert dropped.max() <= least + error


@pytest.mark.parametrize(
    ("n", "width", "n_latents", "k", "keep", "dtype"),
    [
        *((5, 33, 257, 7, Grouping(128, 6), dtype) for dtype in DTYPE),
        *((1, 70, 300, 5, None, dtype) for dtype in (torch.float32, torch.bfloat16)),
        (2, 128, 130, 3, Grouping(64, 4), torch.float16),
        (2, 16, 40, 40, Grouping(64, 6), torch.float32),
    ],
)
def test_the_largest_are_kept(n, width, n_latents, k, keep, dtype):
    x, weight, bias = _made(n, width, n_latents)
    found = topk_encode(x, Operands.of(weight, bias, dtype=dtype), k, keep=keep).settle()
    scale = float(x.norm(dim=1).max() * weight.norm(dim=1).max())
    _check(found, _scores(x, weight, bias, dtype), scale)


@settings(max_examples=3)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 2), st.integers(0, 99))
def test_every_odd_shape_is_that_of_the_reference(k, width, n, seed):
    # Small integers: float32 sums are exact, many are equal, and ties go to the smaller latent.
    made = np.random.default_rng(seed)
    x = torch.tensor(made.integers(-2, 3, (n, width)), dtype=torch.float32, device=DEVICE)
    weight = torch.tensor(made.integers(-2, 3, (61, width)), dtype=torch.float32, device=DEVICE)
    found = topk_encode(x, Operands.of(weight), k).settle()
    activations, latents = reference(x, weight, None, k)
    assert torch.equal(found.activations, activations)
    assert torch.equal(found.latents.long(), latents.masked_fill(activations == 0, -1))


def test_a_row_of_equal_values_gives_the_smallest_latents():
    x = torch.ones(2, 8, device=DEVICE)
    found = topk_encode(x, Operands.of(torch.ones(130, 8, device=DEVICE)), 5)
    assert int(found.fallback) == 2
    assert found.settle().latents.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert found.activations.tolist() == [[8.0] * 5] * 2


def test_negative_rows_have_no_latents_and_few_positive_ones_are_all_found():
    weight = -torch.ones(130, 8, device=DEVICE)
    weight[[7, 90]] = torch.tensor([[2.0], [1.0]], device=DEVICE)
    x = torch.ones(2, 8, device=DEVICE)
    x[1] = 0
    found = topk_encode(x, Operands.of(weight, torch.zeros(130, device=DEVICE)), 4).settle()
    assert found.latents.tolist() == [[7, 90, -1, -1], [-1] * 4]
    assert found.activations.tolist() == [[16.0, 8.0, 0.0, 0.0], [0.0] * 4]


def test_a_token_that_is_not_finite_is_reported_and_its_neighbours_are_not():
    x, weight, bias = _made(6, 20, 90)
    operands = Operands.of(weight, bias)
    clean = topk_encode(x, operands, 3).settle()
    x[[1, 2, 4], 4] = torch.tensor([math.nan, -math.inf, 3e38], device=DEVICE)
    found = topk_encode(x, operands, 3).settle()
    assert found.bad.tolist() == [0, 1, 1, 0, 1, 0]
    assert found.latents[[1, 2, 4]].tolist() == [[-1] * 3] * 3
    others = [0, 3, 5]
    assert torch.equal(found.latents[others], clean.latents[others])
    assert torch.equal(found.activations[others], clean.activations[others])
    with pytest.raises(InputError, match="row 1"):
        found.refuse_bad()


def test_outputs_and_scratch_that_hold_anything_leave_no_trace(monkeypatch):
    x, weight, bias = _made(2, 20, 90)
    operands = Operands.of(weight, bias)
    clean = topk_encode(x, operands, 3).settle()
    empty = torch.empty

    def filled(*args, **kwargs):
        made = empty(*args, **kwargs)
        return made.fill_(math.nan if made.is_floating_point() else 2_000_000_000)

    monkeypatch.setattr(torch, "empty", filled)
    found = topk_encode(x, operands, 3).settle()
    assert torch.equal(found.latents, clean.latents)
    assert torch.equal(found.activations, clean.activations)


def test_strides_types_and_chunks_do_not_matter():
    x, weight, bias = _made(3, 20, 90)
    x = x.bfloat16()
    operands = Operands.of(weight, bias)
    whole = topk_encode(x, operands, 3).settle()
    turned = topk_encode(x.float().T.contiguous().T, operands, 3, memory=1).settle()
    assert torch.equal(whole.latents, turned.latents)
    assert torch.equal(whole.activations, turned.activations)


def test_the_input_bias_is_taken_off_first():
    x, weight, bias = _made(2, 20, 90)
    shift = torch.randn(20, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    found = topk_encode(x, Operands.of(weight, bias, input_bias=shift), 3).settle()
    same = topk_encode(x - shift, Operands.of(weight, bias), 3).settle()
    assert torch.equal(found.latents, same.latents)
    assert torch.equal(found.activations, same.activations)


def test_no_tokens_give_no_rows():
    _, weight, bias = _made(1, 20, 90)
    found = topk_encode(torch.empty(0, 20, device=DEVICE), Operands.of(weight, bias), 3).settle()
    assert found.latents.shape == found.activations.shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "k", "says"),
    [
        (torch.zeros(2, 21, device=DEVICE), 3, "asks for"),
        (torch.zeros(2, 20, device=DEVICE), 91, "k = 91"),
        (torch.zeros(2, 20, device=DEVICE), 0, "k = 0"),
        (torch.zeros(2, 20, dtype=torch.int32, device=DEVICE), 3, "floating point"),
        (torch.zeros(2, 20, device="meta"), 3, "is on meta"),
    ],
)
def test_what_cannot_be_encoded_is_refused(x, k, says):
    _, weight, bias = _made(1, 20, 90)
    with pytest.raises(InputError, match=says):
        topk_encode(x, Operands.of(weight, bias), k)


def test_without_memory_chunks_shrink_and_then_a_line_says_so(monkeypatch):
    asked = []

    def full(shape, **_):
        asked.append(shape[0])
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(InputError, match="no memory"):
        module._room(512, 4, torch.device("cpu"))
    assert asked == [512, 256, 128]


@pytest.mark.parametrize("dtype", DTYPE, ids=list(DTYPES))
def test_the_margin_bounds_what_the_product_may_be_off(dtype):
    x, weight, bias = _made(5, 200, 300)
    operands = Operands.of(weight, bias, dtype=dtype)
    rows = operands.rows(x)
    there = operands.latents >= 0
    proposed = rows.product.double() @ operands.product[there].double().T
    exact = rows.exact.double() @ operands.exact[there].double().T
    off = (proposed - exact).abs().amax(1)
    assert (off <= rows.margin.double()).all()
    assert torch.equal(operands.latents[there].sort().values, torch.arange(300, device=DEVICE))


@pytest.mark.parametrize(
    ("n_latents", "k", "memory"),
    [(32_768, 32, 4_096), (131_072, 32, 12_288), (131_072, 64, 12_288), (131_072, 192, 12_288)],
)
def test_what_is_kept_stays_within_its_memory_and_its_share_of_failures(n_latents, k, memory):
    keep = grouping(n_latents, k, torch.bfloat16)
    assert keep.bytes(n_latents) <= memory
    assert keep.failing(n_latents, 1.1 * k) < 0.005


def test_neighbours_are_those_of_the_search_on_the_cpu():
    made = torch.Generator().manual_seed(3)
    decoder = torch.randn(6, 12, generator=made)
    decoder[5] = -decoder[1]
    ids, cosines = nearest(decoder.to(DEVICE), 3)
    expected, values = neighbours(decoder.numpy(), k=3)
    assert ids.cpu().numpy().tolist() == expected.tolist()
    assert np.allclose(cosines.cpu().numpy(), values, atol=1e-6)
