"""Encoding on a CPU: the defined result, whatever the product's type and the instructions."""

import numpy as np
import pytest
import torch

from glossator import _core
from glossator.encode.cpu import CpuEncoder
from glossator.encode.plain import encode_plain
from glossator.encode.rules import Gated, Threshold, TopK
from glossator.errors import InputError

N_LATENTS, WIDTH = 1_111, 77


@pytest.fixture(scope="module")
def operands():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn((N_LATENTS, WIDTH), generator=generator)
    bias = 0.1 * torch.randn(N_LATENTS, generator=generator)
    return torch.randn((150, WIDTH), generator=generator), weight, bias


RULES = {
    "topk": TopK(17),
    "all": TopK(N_LATENTS),
    "threshold": Threshold(torch.linspace(0, 30, N_LATENTS)),
    "gated": Gated(torch.linspace(0.5, 2, N_LATENTS), torch.linspace(-9, 1, N_LATENTS)),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_way_gives_the_same_bits_and_those_of_plain_torch_but_for_rounding(
    operands, name, dtype
):
    x, weight, bias = operands
    ways = [
        CpuEncoder(weight, bias, RULES[name], dtype=dtype, product=product, portable=portable)
        for product in ("bfloat16", "float32")
        for portable in (False, True)
    ]
    found = [way.encode(x) for way in ways]
    for other in found[1:]:
        assert torch.equal(found[0].starts, other.starts)
        assert torch.equal(found[0].latents, other.latents)
        assert torch.equal(found[0].activations, other.activations)
    expected = encode_plain(x, weight, bias, RULES[name], dtype=ways[0]._dtype)
    dense, theirs = (torch.zeros(len(x), N_LATENTS) for _ in range(2))
    for active, into in ((found[0], dense), (expected, theirs)):
        into[active.tokens(), active.latents] = active.activations
    differ = (dense - theirs).abs() > 1e-4
    assert differ.float().mean() < 1e-5  # what rounding puts on the other side of a threshold


def test_rows_do_not_depend_on_their_block_or_layout(operands):
    x, weight, bias = operands
    encoder = CpuEncoder(weight, bias, TopK(17), workers=2)
    whole = encoder.encode(x)
    turned = encoder.encode(x.T.contiguous().T)
    assert torch.equal(whole.latents, turned.latents)
    one = encoder.encode(x[140:141])
    assert torch.equal(one.latents, whole.latents[140 * 17 : 141 * 17])
    assert encoder.encode(x[:0]).starts.tolist() == [0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(operands, value):
    x, weight, bias = operands
    broken = x.clone()
    broken[133, 5] = value
    with pytest.raises(InputError, match="row 133"):
        CpuEncoder(weight, bias, TopK(3)).encode(broken)


def test_statistics_add_up():
    rng = np.random.default_rng(1)
    latents = rng.integers(0, 5, 1_000, dtype=np.uint32)
    values = rng.gamma(1, 2, 1_000).astype(np.float32)
    histogram, maximum = np.zeros((5, 256), np.uint32), np.zeros(5, np.float32)
    total = np.zeros(5, np.int64)
    for part in (slice(0, 300), slice(300, None)):
        _core.add_statistics(latents[part], values[part], histogram, maximum, total)
    for latent in range(5):
        of = values[latents == latent]
        assert histogram[latent].sum() == len(of)
        assert maximum[latent] == of.max()
        assert total[latent] / 2**20 == pytest.approx(of.sum(dtype=np.float64), rel=1e-5)
