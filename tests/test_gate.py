"""Every convention read wrongly is named; the coder as it was made passes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glossator.coders import SparseCoder
from glossator.encode import Threshold, TopK
from glossator.errors import InputError
from glossator.gate import GateReport, check_coder, refuse_misread
from glossator.reconstruction import activation_factor, distinct_states

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
        ({"decoder_scale": torch.full((48,), 0.3)}, "activation scale"),
    ],
)
def test_a_convention_read_wrongly_is_named(changes, convention):
    coder, x = _planted()
    _named(replace(coder, **changes), x, convention)


@pytest.mark.parametrize("declared", [{"k": K}, {"l0": K}, {"l0": [2, 4]}, {"l0_range": [2, 5]}])
def test_what_the_files_declare_names_a_top_k_coder_read_as_relu(declared):
    coder, x = _planted()
    _named(replace(coder, rule=Threshold(torch.zeros(48)), declared=declared), x, "rule")


def _wide(k):
    """A coder of which k latents of 512 are active, and its states; nothing is declared."""
    made = torch.Generator().manual_seed(3)
    rows = torch.nn.functional.normalize(torch.randn(512, 256, generator=made), dim=1)
    chosen = torch.rand(300, 512, generator=made).topk(k, dim=1).indices
    values = torch.zeros(300, 512).scatter_(1, chosen, 6 + torch.rand(300, k, generator=made))
    x = values @ rows
    coder = SparseCoder(
        encoder_weight=rows,
        encoder_bias=torch.zeros(512),
        decoder=rows,
        decoder_bias=torch.zeros(256),
        rule=TopK(k),
    )
    return coder, x


def test_a_top_k_coder_read_as_relu_is_named_where_nothing_is_declared():
    coder, x = _wide(16)
    assert check_coder(coder, x).verdict == "passes"
    relu = replace(coder, rule=Threshold(torch.zeros(512)))
    report = check_coder(relu, x)
    _named(relu, x, "rule")
    assert "16 largest" in report.line
    assert "or the k of its training" in report.line


def test_a_threshold_coder_read_as_top_k_is_named():
    coder, x = _planted()
    values = torch.full((48,), 3.0)
    made = replace(coder, rule=Threshold(values), declared={"threshold": 3.0})
    assert check_coder(made, x).verdict == "passes"
    _named(replace(made, rule=TopK(1)), x, "rule")
    _named(replace(made, rule=TopK(24)), x, "rule")
    # A ReLU needs nothing that the files would declare.
    lower = torch.full((48,), -3.0)
    scale = torch.full((48,), 8 / 5)
    relu = replace(coder, rule=Threshold(torch.zeros(48)), encoder_bias=lower, declared={})
    relu = replace(relu, decoder_scale=scale)
    assert check_coder(relu, x).verdict == "passes"
    _named(replace(relu, rule=TopK(1)), x, "rule")


def test_the_gain_of_a_norm_that_was_folded_or_not_is_named():
    coder, x = _planted()
    gain = torch.rand(D, generator=torch.Generator().manual_seed(4)) * 3 + 0.1
    sides = {"ln2:normalized": x, "ln2": x * gain, "ln2:in": x / 0.37}
    for read, rows in sides.items():
        rest = {name: other for name, other in sides.items() if name != read}
        if read == "ln2:normalized":
            assert check_coder(coder, rows, others=rest).verdict == "passes"
            continue
        report = check_coder(coder, rows, others=rest)
        assert (report.verdict, report.culprit) == ("misread", "input"), report.line
        assert "harvest at `ln2:normalized`" in report.line


def test_a_transposed_square_skip_is_named():
    coder, x = _planted()
    skip = torch.randn(D, D, generator=torch.Generator().manual_seed(5))
    target = coder.decode(*coder.encode(x)) + x @ skip.T
    made = replace(coder, skip=skip)
    assert check_coder(made, x, target).verdict == "passes"
    _named(replace(made, skip=skip.T.contiguous()), x, "skip orientation", target=target)


@pytest.mark.parametrize("texts", [1, 2, 12])
def test_text_that_repeats_itself_is_too_uniform_to_tell(texts):
    coder, x = _planted()
    noise = torch.randn(600, D, generator=torch.Generator().manual_seed(6))
    same = x[torch.arange(600) % texts] + (0.02 * noise if texts > 1 else 0)
    # A right coder explains little of what differs, and one read wrongly could be named by chance.
    for read in (coder, replace(coder, input_bias=None), replace(coder, output_scale=9.0)):
        report = check_coder(read, same)
        assert report.verdict != "misread"
        assert report.distinct < 24
        refuse_misread(report)
    assert report.verdict == "warns"
    assert "too uniform to tell" in report.line
    assert report.trials == ()
    assert check_coder(coder, x).distinct == 24


def test_few_states_stand_for_all_where_they_are_few():
    made = torch.Generator().manual_seed(0)
    rows = torch.randn(300, D, generator=made)
    assert distinct_states(rows, most=100) == 100
    for count in (2, 5, 20):
        assert distinct_states(rows[torch.arange(300) % count], share=1e-6) == count
    assert distinct_states(torch.ones(300, D)) == 1


@given(factor=st.floats(0.01, 100), rows=st.integers(64, 200), seed=st.integers(0, 99))
def test_the_factor_on_activations_is_found(factor, rows, seed):
    coder, _ = _planted(norms=True)
    x = torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)) + coder.decoder_bias
    target = coder.decode(*coder.encode(x))
    scaled = replace(coder, decoder_scale=coder.decoder_scale / factor)
    assert activation_factor(scaled, x, target) == pytest.approx(factor, rel=1e-3)


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
