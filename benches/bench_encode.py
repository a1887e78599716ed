"""Top-K encode on a CPU: beside the peers' dense way, and the matrix product alone as the limit."""

import pytest
import torch

from glossator._kernels.reference import topk_encode

N, D, L, K = 2_048, 576, 4_096, 32
SHAPE = f"N={N} d={D} L={L} k={K}"


@pytest.fixture(scope="module")
def operands():
    torch.manual_seed(0)
    weight = torch.nn.functional.normalize(torch.randn(L, D), dim=1)
    return torch.randn(N, D), weight, torch.zeros(L)


def _dense(x, weight, bias):
    """ReLU, top-k, scatter into a dense row, search it again."""
    values, ids = torch.relu(torch.addmm(bias, x, weight.T)).topk(K, dim=1, sorted=False)
    dense = torch.zeros(len(x), L).scatter_(1, ids, values)
    places = (dense.abs() > 1e-5).nonzero()
    return places, dense[dense.abs() > 1e-5]


def test_encode_glossator(measure, operands):
    activations, latents = measure(
        lambda: topk_encode(*operands, K),
        op="encode",
        implementation="glossator (torch reference)",
        shape=SHAPE,
        amount=N,
        unit="tokens",
    )
    places, values = _dense(*operands)
    dense = torch.zeros(N, L).index_put_((places[:, 0], places[:, 1]), values)
    kept = activations > 0
    ours = torch.zeros(N, L).scatter_(1, latents.where(kept, 0), activations.where(kept, 0.0))
    assert int(kept.sum()) == len(values)
    torch.testing.assert_close(ours.sum(1), dense.sum(1))


def test_encode_peer(measure, operands):
    measure(
        lambda: _dense(*operands),
        op="encode",
        implementation="peer: matmul, relu, topk, dense scatter, nonzero",
        shape=SHAPE,
        amount=N,
        unit="tokens",
    )


def test_encode_limit(measure, operands):
    x, weight, bias = operands
    measure(
        lambda: torch.addmm(bias, x, weight.T),
        op="encode",
        implementation="limit: the matrix product alone",
        shape=SHAPE,
        amount=N,
        unit="tokens",
    )
