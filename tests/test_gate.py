"""Every convention read wrongly is named; the coder as it was made passes."""

from dataclasses import replace

import pytest
import torch

from glossator.coders import SparseCoder
from glossator.encode import Threshold, TopK
from glossator.errors import InputError
from glossator.gate import GateReport, check_coder, refuse_misread

# Products this small only wait for a second thread.
torch.set_num_threads(1)
D, K = 32, 3


def _planted(n_latents=48, *, norms=False):
    """A coder with near-orthogonal latents, and states that it describes but for noise."""
    made = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(D, D, generator=made)).Q
    rest = torch.nn.functional.normalize(torch.randn(n_latents - D, D, generator=made), dim=1)
    rows = torch.cat((basis, rest))
    bias = 3 * torch.randn(D, generator=made)
    chosen = torch.rand(600, D, generator=made).topk(K, dim=1).indices
    values = torch.zeros(600, n_latents).scatter_(
        1, chosen, 6 + 4 * torch.rand(600, K, generator=made)
    )
    x = values @ rows + bias + 0.3 * torch.randn(600, D, generator=made)
    size = 0.2 + 3 * torch.rand(n_latents, generator=made) if norms else torch.ones(n_latents)
    coder = SparseCoder(
        encoder_weight=rows,
        encoder_bias=torch.zeros(n_latents),
        decoder=rows * size[:, None],
        decoder_bias=bias,
        rule=TopK(K),
        input_bias=bias,
        decoder_scale=1 / size if norms else None,
        declared={"l0": K, "k": K, "threshold": 5.0},
    )
    return coder, x


def _named(coder, x, convention, **given):
    report = check_coder(coder, x, **given)
    assert (report.verdict, report.culprit) == ("misread", convention), report.line
    assert "\n" not in report.line
    assert "`" in report.line
    with pytest.raises(InputError, match=convention):
        refuse_misread(report)


def test_a_coder_as_it_was_made_passes():
    coder, x = _planted()
    report = check_coder(coder, x)
    assert report.verdict == "passes", report.line
    assert report.figures.l0 == pytest.approx(K)
    quality = coder.quality(x)
    assert report.figures.unexplained == pytest.approx(1 - quality.variance_explained, abs=1e-4)
    refuse_misread(report)
    assert GateReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("changes", "convention"),
    [
        ({"input_bias": None}, "input bias"),
        ({"normalization": "layer_norm"}, "normalization"),
        ({"normalization": "unit_norm"}, "normalization"),
        ({"input_scale": 0.2, "output_scale": 5.0}, "input scale"),
        ({"input_scale": 5.0, "output_scale": 0.2}, "input scale"),
        ({"output_scale": 4.0}, "output scale"),
        ({"rule": Threshold(torch.zeros(48))}, "rule"),
        ({"rule": TopK(24)}, "rule"),
    ],
)
def test_a_convention_read_wrongly_is_named(changes, convention):
    coder, x = _planted()
    _named(replace(coder, **changes), x, convention)


@pytest.mark.parametrize("sides", ["encoder_weight", "decoder", "both"])
def test_a_transposed_square_matrix_is_named(sides):
    coder, x = _planted(D)
    names = ["encoder_weight", "decoder"] if sides == "both" else [sides]
    turned = {name: getattr(coder, name).T.contiguous() for name in names}
    kind = "both orientations" if sides == "both" else f"{sides.split('_')[0]} orientation"
    _named(replace(coder, **turned), x, kind)


def test_a_norm_that_activations_carry_is_named():
    coder, x = _planted(norms=True)
    assert check_coder(coder, x).verdict == "passes"
    _named(replace(coder, decoder_scale=None), x, "decoder norm")


def test_hidden_states_of_the_other_side_are_named():
    coder, x = _planted()
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 5
    _named(coder, other, "input", others={"layers.3.mlp:in": x})
    assert check_coder(coder, x, others={"layers.3.mlp:in": other}).verdict == "passes"


def test_the_target_of_a_transcoder_is_named():
    coder, x = _planted()
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(2))).Q
    transcoder = replace(
        coder, decoder=coder.decoder @ turn, decoder_bias=coder.decoder_bias @ turn
    )
    assert check_coder(transcoder, x, x @ turn).verdict == "passes"
    _named(transcoder, x, "target", target=x, others={"mlp:out": x @ turn})


def test_rows_of_outlying_norm_hide_nothing():
    coder, x = _planted()
    x[::100] += 4_000 * coder.decoder[0]
    broken = replace(coder, input_bias=None)
    _named(broken, x, "input bias")
    assert check_coder(broken, x).outlying == pytest.approx(0.01)


def test_an_honestly_poor_coder_is_warned_of_and_not_refused():
    coder, x = _planted()
    hurt = replace(coder, encoder_bias=torch.where(torch.arange(48) % 4 > 0, -50.0, 0.0))
    report = check_coder(replace(hurt, declared={}), x)
    assert report.verdict == "warns", report.line
    refuse_misread(report)


def test_a_coder_that_is_never_active_is_refused_without_a_culprit():
    coder, x = _planted()
    report = check_coder(replace(coder, encoder_bias=torch.full((48,), -1e6)), x)
    assert (report.verdict, report.culprit) == ("misread", None)


@pytest.mark.parametrize(
    ("rows", "named"), [(torch.zeros(100, 7), "shape"), (torch.zeros(9, D), "rows")]
)
def test_rows_that_do_not_fit_are_refused(rows, named):
    with pytest.raises(InputError, match=named):
        check_coder(_planted()[0], rows)
