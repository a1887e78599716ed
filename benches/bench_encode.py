"""Top-K encode on a CPU: beside the peers' dense way, and the matrix product alone as the limit."""

import pytest
import torch

import glossator as gl

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
    x, weight, bias = operands
    encoder = gl.Encoder(weight, bias, gl.TopK(K))
    active = measure(
        lambda: encoder.encode(x),
        op="encode",
        implementation="glossator",
        shape=SHAPE,
        amount=N,
        unit="tokens",
    )
    places, values = _dense(*operands)
    dense = torch.zeros(N, L).index_put_((places[:, 0], places[:, 1]), values)
    ours = torch.zeros(N, L).index_put_((active.tokens(), active.latents), active.activations)
    assert len(active.latents) == len(values)
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
