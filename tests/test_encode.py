"""Which latents are active, by every rule: equal to brute force, on every way to encode."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.coders import SparseCoder
from glossator.encode import Encoder, Gated, GroupMax, Threshold, TopK
from glossator.errors import InputError

L, WIDTH = 24, 5


def whole(made, *shape, low=-2, high=3):
    """Small whole numbers: products are exact and ties are frequent."""
    return torch.randint(low, high, shape, generator=made).float()


def rules(made):
    return {
        "topk": TopK(5),
        "groupmax": GroupMax(6),
        "relu": Threshold(torch.zeros(L)),
        "jumprelu": Threshold(whole(made, L, low=0)),
        "gated": Gated(whole(made, L, low=1), whole(made, L)),
    }


def by_hand(pre, rule, bias):
    """One token's (activation, latent) pairs, strongest first."""
    pre = pre.tolist()
    if isinstance(rule, GroupMax):
        width = L // rule.k
        groups = [range(first, first + width) for first in range(0, L, width)]
        pairs = [max((pre[j], -j) for j in group) for group in groups]
        found = [(value, -j) for value, j in pairs]
    elif isinstance(rule, Gated):
        found = [
            (float(rule.scale[j] * (value - bias[j]) + rule.bias[j]), j)
            for j, value in enumerate(pre)
            if value > 0
        ]
    elif isinstance(rule, Threshold):
        found = [(value, j) for j, value in enumerate(pre) if value > rule.values[j]]
    else:
        found = [(value, j) for j, value in enumerate(pre)]
    found = sorted((-value, j) for value, j in found if value > 0)
    found = found[: rule.k] if isinstance(rule, TopK) else found
    return [(-value, j) for value, j in found]


@pytest.mark.parametrize("name", ["topk", "groupmax", "relu", "jumprelu", "gated"])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9_999), n=st.integers(0, 9))
def test_every_rule_is_brute_force(name, seed, n):
    made = torch.Generator().manual_seed(seed)
    x, weight, bias = whole(made, n, WIDTH), whole(made, L, WIDTH), whole(made, L)
    rule = rules(made)[name]
    active = Encoder(weight, bias, rule).encode(x)
    pre = x @ weight.T + bias
    assert len(active.starts) == n + 1
    for row in range(n):
        here = slice(int(active.starts[row]), int(active.starts[row + 1]))
        pairs = zip(active.activations[here].tolist(), active.latents[here].tolist(), strict=True)
        assert list(pairs) == by_hand(pre[row], rule, bias)
    assert active.tokens().tolist() == np.repeat(np.arange(n), active.starts.diff()).tolist()


def test_rows_are_filled_up_and_read_back():
    made = torch.Generator().manual_seed(0)
    active = Encoder(whole(made, L, WIDTH), whole(made, L), Threshold(torch.ones(L))).encode(
        whole(made, 20, WIDTH)
    )
    latents, activations = active.rows()
    assert latents.shape[1] == int(active.starts.diff().max())
    assert (latents[activations == 0] == 0xFFFFFFFF).all()
    again = type(active).of_rows(latents, activations)
    for name in ("starts", "latents", "activations"):
        assert torch.equal(getattr(again, name), getattr(active, name))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (TopK(0), "k = 0 of 24"),
        (GroupMax(5), "do not fall into k = 5"),
        (Threshold(torch.zeros(3)), r"`threshold` has shape \[3\]"),
        (Threshold(-torch.ones(L)), "`threshold` holds a negative number"),
        (Threshold(torch.full((L,), float("nan"))), "`threshold` holds"),
        (Gated(torch.zeros(L), torch.zeros(L)), "not positive"),
        (Gated(torch.ones(L), torch.zeros(3)), "`magnitude_bias` has shape"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule, said):
    with pytest.raises(InputError, match=said):
        Encoder(torch.ones(L, WIDTH), torch.zeros(L), rule)


def test_an_encoder_refuses_what_it_cannot_read():
    encoder = Encoder(torch.ones(L, WIDTH), torch.zeros(L), TopK(2))
    with pytest.raises(InputError, match=r"x has shape \[3, 4\]"):
        encoder.encode(torch.zeros(3, 4))
    with pytest.raises(InputError, match="x is on meta, the encoder on cpu"):
        encoder.encode(torch.zeros(3, WIDTH, device="meta"))
    with pytest.raises(InputError, match="dtype `int8`"):
        Encoder(torch.ones(L, WIDTH), torch.zeros(L), TopK(2), dtype="int8")
    with pytest.raises(InputError, match="bias has shape"):
        Encoder(torch.ones(L, WIDTH), torch.zeros(3), TopK(2))


@pytest.mark.parametrize("rule", [TopK(2), GroupMax(4), Threshold(torch.zeros(L))])
def test_a_row_that_is_not_finite_is_named(rule):
    x = torch.zeros(9, WIDTH)
    x[7, 2] = float("nan")
    with pytest.raises(InputError, match="NaN or infinity in row 7"):
        Encoder(torch.ones(L, WIDTH), torch.zeros(L), rule).encode(x)


# --- the record's conventions ------------------------------------------------------------------


def coder(**changes):
    made = torch.Generator().manual_seed(3)
    fields = {
        "encoder_weight": torch.randn(L, WIDTH, generator=made),
        "encoder_bias": torch.randn(L, generator=made),
        "decoder": torch.randn(L, WIDTH, generator=made),
        "decoder_bias": torch.randn(WIDTH, generator=made),
        "rule": Threshold(torch.full((L,), 0.5)),
    }
    return SparseCoder(**{**fields, **changes})


X = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(4)) * 3 + 1


@pytest.mark.parametrize("normalization", ["none", "layer_norm", "unit_norm"])
def test_a_coder_reads_and_writes_on_the_scale_of_its_model(normalization):
    made = coder(
        normalization=normalization,
        input_scale=2.0,
        output_scale=0.5,
        input_bias=torch.ones(WIDTH),
        decoder_scale=torch.full((L,), 3.0),
        skip=torch.eye(WIDTH),
    )
    x = (X * 2.0).double()
    offset, factor = torch.zeros(30, 1).double(), torch.ones(30, 1).double()
    if normalization == "layer_norm":
        offset, factor = x.mean(1, keepdim=True), x.std(1, keepdim=True)
    if normalization == "unit_norm":
        factor = x.norm(dim=1, keepdim=True) / WIDTH**0.5
    pre = ((x - offset) / factor - 1) @ made.encoder_weight.double().T + made.encoder_bias
    acts = pre * (pre > 0.5)
    wanted = (acts * 3 @ made.decoder.double() + made.decoder_bias) * 0.5 * factor + offset + X
    latents, activations = made.encode(X)
    torch.testing.assert_close(
        made.decode(latents, activations, X).double(), wanted, rtol=1e-3, atol=1e-3
    )
    with pytest.raises(InputError, match="decode needs `x`"):
        made.decode(latents, activations)


def test_rows_of_no_length_decode_to_the_bias():
    made = coder(rule=Threshold(torch.full((L,), 1e6)))
    latents, activations = made.encode(X)
    assert latents.shape == (30, 0)
    assert torch.equal(made.decode(latents, activations), made.decoder_bias.expand(30, WIDTH))


def test_a_layer_normed_coder_sees_neither_scale_nor_offset_of_its_input():
    made = coder(normalization="layer_norm", rule=TopK(4))
    wanted = made.encode(X)
    found = made.encode(X * 7 + 3)
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-3, atol=1e-3)
