"""On a GPU, at real shapes: each kernel and its twin, and the encoder beside the one of the CPU.

TRITON_INTERPRET=0 python -m pytest -m gpu tests/test_kernels_gpu.py
"""

import numpy as np
import pytest
import torch

from glossator._kernels import reference_rescore, reference_statistics
from glossator._kernels.activation_statistics import activation_statistics
from glossator._kernels.neighbours import nearest
from glossator._kernels.operands import Operands
from glossator._kernels.product import INTERPRETED
from glossator._kernels.rescore import rescore_pairs
from glossator._kernels.sort_by_latent import sort_by_latent
from glossator._kernels.threshold_encode import threshold_encode
from glossator._kernels.topk_encode import topk_encode
from glossator.encode import Encoder, Gated, Threshold, TopK
from glossator.neighbours import neighbours

pytestmark = pytest.mark.gpu

SHAPES = [(768, 32_768, 32), (4_096, 8_192, 64)]
ROWS = 300
"""Not a multiple of a tile."""


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    assert not INTERPRETED.value, "kernels are interpreted: set TRITON_INTERPRET=0"
    assert torch.cuda.is_available(), "there is no GPU"


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"{shape[0]}-{shape[1]}")
def problem(request):
    """Tokens and an encoder on the CPU, and k."""
    width, n_latents, k = request.param
    made = torch.Generator().manual_seed(2)
    weight = torch.randn(n_latents, width, generator=made) / width**0.5
    x = torch.randn(ROWS, width, generator=made)
    return x, weight, torch.randn(n_latents, generator=made) * 0.1, k


def _rules(k, n_latents):
    made = torch.Generator().manual_seed(3)
    level = torch.rand(n_latents, generator=made)
    return {
        "topk": TopK(k),
        "threshold": Threshold(1.5 + level),
        "relu": Threshold(torch.zeros(n_latents)),
        "gated": Gated(0.5 + level, level - 1),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["topk", "threshold", "relu", "gated"])
def test_the_encoder_gives_the_bits_of_the_one_on_the_cpu(problem, name, dtype):
    x, weight, bias, k = problem
    rule = _rules(k, len(weight))[name]
    on_cpu = Encoder(weight, bias, rule, dtype=dtype).encode(x)
    on_gpu = Encoder(weight, bias, rule, dtype=dtype, device="cuda").encode(x.cuda())
    for part in ("starts", "latents", "activations"):
        assert torch.equal(getattr(on_gpu, part).cpu(), getattr(on_cpu, part)), part


def test_equal_values_fail_the_check_and_are_settled_with_the_smallest_latents(problem):
    x, weight, bias, k = problem
    same = weight[:1].expand_as(weight)
    rows = torch.stack([weight[0], x[0], -weight[0]])
    found = topk_encode(rows.cuda(), Operands.of(same, bias * 0, device="cuda"), k).settle()
    assert int(found.fallback) >= 1
    assert found.latents[0].tolist() == list(range(k))
    assert found.latents[2].tolist() == [-1] * k


def test_rows_that_are_not_finite_are_reported_and_their_neighbours_are_not(problem):
    x, weight, bias, k = problem
    operands = Operands.of(weight, bias, dtype=torch.bfloat16, device="cuda")
    clean = topk_encode(x.cuda(), operands, k).settle()
    broken = x.clone()
    broken[7, 3], broken[200, 0] = float("nan"), float("inf")
    found = topk_encode(broken.cuda(), operands, k).settle()
    others = [row for row in range(len(x)) if row not in (7, 200)]
    assert found.bad.nonzero()[:, 0].tolist() == [7, 200]
    assert torch.equal(found.latents[others], clean.latents[others])
    above = threshold_encode(broken.cuda(), operands, torch.ones(len(weight), device="cuda"))
    assert above.bad.nonzero()[:, 0].tolist() == [7, 200]
    assert above.starts.diff()[[7, 200]].tolist() == [0, 0]


def test_lists_that_are_too_short_are_made_again(problem):
    x, weight, bias, _ = problem
    operands = Operands.of(weight, bias, device="cuda")
    zeros = torch.zeros(len(weight), device="cuda")
    whole = threshold_encode(x.cuda(), operands, zeros)
    short = threshold_encode(x.cuda(), operands, zeros, capacity=1_000).settle()
    assert torch.equal(whole.starts, short.starts)
    assert torch.equal(whole.latents, short.latents)
    assert torch.equal(whole.activations, short.activations)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rescoring_gives_the_bits_of_its_twin(problem, dtype):
    x, weight, _, _ = problem
    made = torch.Generator().manual_seed(5)
    rows, latents = (torch.randint(0, n, (2_000,), generator=made) for n in (ROWS, len(weight)))
    given = x.to(dtype), weight.to(dtype), rows, latents
    ours = rescore_pairs(*(part.cuda() for part in given))
    assert torch.equal(ours.cpu(), reference_rescore.rescore_pairs(*given))


def test_statistics_and_runs_are_those_of_their_twins(problem):
    x, weight, bias, k = problem
    found = topk_encode(x.cuda(), Operands.of(weight, bias, device="cuda"), k).settle()
    latents, values = found.latents.flatten(), found.activations.flatten()
    tables = [
        [
            torch.zeros((len(weight), 256), dtype=torch.int32, device=device),
            torch.zeros(len(weight), device=device),
            torch.zeros(len(weight), dtype=torch.int64, device=device),
        ]
        for device in ("cuda", "cpu")
    ]
    activation_statistics(latents, values, *tables[0])
    reference_statistics.activation_statistics(latents.cpu(), values.cpu(), *tables[1])
    for ours, theirs in zip(*tables, strict=True):
        assert torch.equal(ours.cpu(), theirs)
    runs = sort_by_latent(found.latents, found.activations, len(weight)).to_host().wait()
    rows = torch.arange(ROWS).repeat_interleave(k)
    twin = reference_statistics.sort_by_latent(latents.cpu(), rows, values.cpu(), len(weight))
    for ours, theirs in zip(runs, twin, strict=True):
        assert torch.equal(ours, theirs)


def test_neighbours_are_those_of_the_search_on_the_cpu(problem):
    weight = problem[1][:2_000]
    ids, cosines = nearest(weight.cuda(), 8)
    expected, values = neighbours(weight.numpy(), k=8)
    assert np.array_equal(ids.cpu().numpy(), expected)
    assert np.allclose(cosines.cpu().numpy(), values, atol=1e-6)
