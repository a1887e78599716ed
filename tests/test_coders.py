"""Sparse coders: encode and decode, the sparsify layout, and training."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from glossator._kernels.reference import NO_LATENT, topk_encode
from glossator.coders import SparseCoder, TrainConfig, load_coder, sparsify, train, trained_coder
from glossator.coders.train import _Trainer
from glossator.encode import GroupMax, Threshold, TopK
from glossator.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def _coder(n_latents=24, width=6, out=None, seed=0, **changes):
    made = torch.Generator().manual_seed(seed)
    out = width if out is None else out

    def random(*shape):
        return torch.randn(*shape, generator=made)

    fields = {
        "encoder_weight": random(n_latents, width),
        "encoder_bias": random(n_latents),
        "decoder": random(n_latents, out),
        "decoder_bias": random(out),
        "rule": TopK(4),
        "hookpoint": "layers.1",
        "hookpoint_out": "layers.1",
    }
    if out == width:
        fields["input_bias"] = fields["decoder_bias"]
    return SparseCoder(**{**fields, **changes})


def _brute_force(scores, k):
    """Per row: the k best positive (value, id) pairs, the smaller id first among equals."""
    found = []
    for row in scores:
        ranked = sorted((-value, at) for at, value in enumerate(row.tolist()) if value > 0)[:k]
        pairs = [(-value, at) for value, at in ranked]
        found.append(pairs + [(0.0, NO_LATENT)] * (k - len(pairs)))
    return found


@settings(deadline=None)
@given(st.integers(0, 9_999), st.integers(1, 9), st.integers(1, 20), st.data())
def test_topk_is_brute_force_with_ties_negatives_and_short_rows(seed, rows, n_latents, data):
    k = data.draw(st.integers(1, n_latents))
    made = torch.Generator().manual_seed(seed)
    # Small whole numbers: products are exact and ties are frequent.
    x = torch.randint(-2, 3, (rows, 3), generator=made).float()
    weight = torch.randint(-2, 3, (n_latents, 3), generator=made).float()
    bias = torch.randint(-2, 2, (n_latents,), generator=made).float()
    activations, latents = topk_encode(x, weight, bias, k)
    found = [
        list(zip(values, ids, strict=True))
        for values, ids in zip(activations.tolist(), latents.tolist(), strict=True)
    ]
    assert found == _brute_force(x @ weight.T + bias, k)


def test_topk_does_not_depend_on_how_rows_are_chunked(monkeypatch):
    made = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (40, 5), generator=made).float()
    weight = torch.randint(-3, 4, (30, 5), generator=made).float()
    whole = topk_encode(x, weight, None, 6)
    monkeypatch.setitem(topk_encode.__globals__, "_CHUNK_ELEMENTS", 100)
    parts = topk_encode(x, weight, None, 6)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_topk_rounds_both_operands_to_the_dtype_asked():
    made = torch.Generator().manual_seed(0)
    x, weight = torch.randn(9, 32, generator=made), torch.randn(50, 32, generator=made)
    rounded = topk_encode(x.bfloat16().float(), weight.bfloat16().float(), None, 5)
    asked = topk_encode(x, weight, None, 5, dtype=torch.bfloat16)
    assert torch.equal(rounded[0], asked[0])
    assert torch.equal(rounded[1], asked[1])
    assert not torch.equal(asked[0], topk_encode(x, weight, None, 5)[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_topk_refuses_what_is_not_finite_and_names_the_row(bad):
    x = torch.zeros(20, 3)
    x[13, 1] = bad
    with pytest.raises(InputError, match="NaN or infinity in row 13"):
        topk_encode(x, torch.ones(4, 3), None, 2)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "k", "said"),
    [
        ((2, 3), (4, 5), 4, 1, r"x has shape \[2, 3\]"),
        ((2, 3), (4, 3), 5, 1, r"bias has shape \[5\]"),
        ((2, 3), (4, 3), 4, 5, "k = 5"),
        ((2, 3), (4, 3), 4, 0, "k = 0"),
    ],
)
def test_topk_refuses_shapes_that_disagree(x, weight, bias, k, said):
    with pytest.raises(InputError, match=said):
        topk_encode(torch.zeros(x), torch.zeros(weight), torch.zeros(bias), k)


# --- the record --------------------------------------------------------------------------------


def test_encode_and_decode_follow_their_formula_for_arrays_and_tensors():
    coder = _coder()
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    latents, activations = coder.encode(x)
    assert latents.dtype == np.uint32
    assert activations.dtype == np.float32
    w, b = coder.encoder_weight.numpy(), coder.encoder_bias.numpy()
    scores = (x - coder.decoder_bias.numpy()) @ w.T + b
    for row, pairs in enumerate(_brute_force(scores, 4)):
        assert latents[row].tolist() == [at for _, at in pairs]
        np.testing.assert_allclose(activations[row], [value for value, _ in pairs], rtol=1e-4)
    dense = np.zeros((50, 24), np.float32)
    for row in range(50):
        for at, value in zip(latents[row], activations[row], strict=True):
            if value:
                dense[row, at] = value
    wanted = dense @ coder.decoder.numpy() + coder.decoder_bias.numpy()
    np.testing.assert_allclose(coder.decode(latents, activations), wanted, rtol=1e-4, atol=1e-5)
    ids, values = coder.encode(torch.from_numpy(x))
    assert (ids.numpy() == latents).all()
    assert (values.numpy() == activations).all()
    np.testing.assert_allclose(coder.decode(ids, values).numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_a_row_without_activation_decodes_to_the_bias():
    coder = _coder(encoder_bias=torch.full((24,), -1e6))
    latents, activations = coder.encode(np.zeros((2, 6), np.float32))
    assert (latents == NO_LATENT).all()
    assert (coder.decode(latents, activations) == coder.decoder_bias.numpy()).all()


def test_a_transcoder_reads_its_input_as_it_is_and_adds_its_skip():
    skip = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    coder = _coder(out=3, skip=skip)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    latents, activations = coder.encode(x)
    wanted, _ = topk_encode(x, coder.encoder_weight, coder.encoder_bias, 4)
    torch.testing.assert_close(activations, wanted)
    without = dataclasses.replace(coder, skip=None)
    assert torch.allclose(
        coder.decode(latents, activations, x), without.decode(latents, activations) + x @ skip.T
    )
    with pytest.raises(InputError, match="skip connection: decode needs `x`"):
        coder.decode(latents, activations)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder_bias": torch.zeros(3)}, "`encoder_bias` has shape"),
        ({"decoder": torch.zeros(3, 6)}, "`decoder` has shape"),
        ({"decoder_bias": torch.zeros(7)}, "`decoder_bias` has shape"),
        ({"decoder_bias": torch.full((6,), float("nan"))}, "`decoder_bias` holds NaN"),
        ({"rule": TopK(25)}, "k = 25 of 24"),
        ({"input_bias": torch.zeros(5)}, "`input_bias` has shape"),
        ({"normalization": "batch"}, "`batch`: not one of"),
    ],
)
def test_a_coder_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        _coder(**changes)


def test_another_width_is_refused_by_name():
    with pytest.raises(InputError, match=r"reads rows of 6 numbers; x has shape \[2, 5\]"):
        _coder().encode(np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match="dtype `int8`"):
        _coder().encode(np.zeros((2, 6), np.float32), dtype="int8")


def test_the_hash_sees_every_weight_and_k():
    coder = _coder()
    assert coder.hash == _coder().hash == dataclasses.replace(coder, source="elsewhere").hash
    changed = [
        dataclasses.replace(coder, **change)
        for change in (
            {"rule": TopK(5)},
            {"rule": GroupMax(4)},
            {"rule": Threshold(torch.zeros(24))},
            {"input_bias": None},
            {"normalization": "layer_norm"},
            {"input_scale": 2.0},
        )
    ]
    for name in ("encoder_weight", "encoder_bias", "decoder", "decoder_bias"):
        weight = getattr(coder, name).clone()
        weight.flatten()[-1] += 1
        changed.append(dataclasses.replace(coder, **{name: weight}))
    assert len({coder.hash, *(other.hash for other in changed)}) == 1 + len(changed)


def test_quality_is_one_for_a_perfect_coder_and_counts_dead_latents():
    eye = torch.eye(4)
    coder = SparseCoder(
        encoder_weight=torch.cat([eye, -eye, torch.zeros(2, 4)]),
        encoder_bias=torch.zeros(10),
        decoder=torch.cat([eye, -eye, torch.zeros(2, 4)]),
        decoder_bias=torch.zeros(4),
        rule=TopK(4),
    )
    quality = coder.quality(torch.randn(5_000, 4, generator=torch.Generator().manual_seed(0)))
    assert quality.variance_explained == pytest.approx(1.0)
    assert quality.l0 == pytest.approx(4.0)
    assert (quality.dead, quality.dense, quality.rows) == (2, 8, 5_000)


# --- the sparsify layout -----------------------------------------------------------------------


@pytest.mark.parametrize("transcoder", [False, True])
def test_what_is_written_is_read_again(tmp_path, transcoder):
    coder = _coder()
    if transcoder:
        coder = _coder(out=3, skip=torch.ones(3, 6), hookpoint_out="mlp.1")
    folder = sparsify.write(coder, tmp_path, {"steps": 3})
    for path, hookpoint in ((folder, None), (tmp_path, None), (tmp_path, "layers.1")):
        read = load_coder(path, hookpoint)
        assert read.hash == coder.hash
        assert read.hookpoint == "layers.1"
        assert read.describe()["rule"] == "topk(4) of relu"
    facts = json.loads((folder / "glossator.json").read_text())
    assert facts["steps"] == 3
    with pytest.raises(InputError, match="exists"):
        sparsify.write(coder, tmp_path)


def test_the_layout_is_sparsifys(tmp_path):
    folder = sparsify.write(_coder(), tmp_path)
    tensors = load_file(folder / "sae.safetensors")
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == {
        "encoder.weight": [24, 6],
        "encoder.bias": [24],
        "W_dec": [24, 6],
        "b_dec": [6],
    }
    config = json.loads((folder / "cfg.json").read_text())
    assert {"d_in": 6, "num_latents": 24, "k": 4, "transcode": False}.items() <= config.items()


def test_a_folder_without_our_own_facts_is_named_after_its_hookpoint(tmp_path):
    folder = sparsify.write(_coder(), tmp_path)
    (folder / "glossator.json").unlink()
    config = json.loads((folder / "cfg.json").read_text())
    config |= {"num_latents": 0, "expansion_factor": 4}
    (folder / "cfg.json").write_text(json.dumps(config))
    assert load_coder(folder).hookpoint == "layers.1"


def test_one_of_several_coders_must_be_named(tmp_path):
    for layer in (1, 2):
        sparsify.write(_coder(hookpoint=f"layers.{layer}", seed=layer), tmp_path)
    with pytest.raises(InputError, match=r"several coders.*`layers\.1`, `layers\.2`"):
        load_coder(tmp_path)
    with pytest.raises(InputError, match=r"none for `layers\.3`"):
        load_coder(tmp_path, "layers.3")
    assert load_coder(tmp_path, "layers.2").hookpoint == "layers.2"


def _damage(folder, name, change):
    if name == "cfg.json":
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        tensors = load_file(folder / "sae.safetensors") | change
        save_file(
            {name: tensor for name, tensor in tensors.items() if tensor is not None},
            folder / "sae.safetensors",
        )


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("cfg.json", {"d_in": 7}, r"cfg\.json`: `d_in` = 7"),
        ("cfg.json", {"num_latents": 25}, r"cfg\.json`: `num_latents` = 25"),
        ("cfg.json", {"k": None}, r"cfg\.json`: field `k`"),
        ("cfg.json", {"activation": "softmax"}, "`softmax` is not read"),
        ("cfg.json", {"signed": True}, "`signed` is not read"),
        ("sae", {"W_dec": None}, r"sae\.safetensors`: tensor `W_dec` is missing"),
        ("sae", {"b_dec": torch.zeros(6, 1)}, r"tensor `b_dec` has shape \[6, 1\]"),
        ("sae", {"W_dec": torch.zeros(24, 5)}, "has shape"),
        (
            "sae",
            {"encoder.bias": torch.full((24,), float("nan"))},
            "tensor `encoder.bias` holds NaN",
        ),
    ],
)
def test_damaged_coders_are_refused_naming_file_and_field(tmp_path, name, change, said):
    folder = sparsify.write(_coder(), tmp_path)
    _damage(folder, name, change)
    with pytest.raises(InputError, match=said) as caught:
        load_coder(folder)
    assert str(folder) in str(caught.value)


def test_files_that_are_missing_or_no_coder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_coder(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"neither cfg\.json nor"):
        load_coder(tmp_path)
    folder = sparsify.write(_coder(), tmp_path)
    (folder / "sae.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not readable as safetensors"):
        load_coder(folder)
    (folder / "sae.safetensors").unlink()
    with pytest.raises(InputError, match=r"sae\.safetensors`: no such file"):
        load_coder(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_coder(folder)


# --- training ----------------------------------------------------------------------------------


def _loss(x, encoder, decoder, encoder_bias, decoder_bias, k, idle):
    """The objective by automatic differentiation: reconstruction, and AuxK for idle latents."""
    centred = x - decoder_bias
    scores = centred @ encoder.T + encoder_bias
    values, latents = scores.topk(k, dim=1)
    dense = torch.zeros_like(scores).scatter(1, latents, values.relu())
    error = dense @ decoder + decoder_bias - x
    loss = error.square().mean()
    if len(idle) >= k:
        # The batch, the active latents' error and the centring are given, not learned, for AuxK.
        spare = centred.detach() @ encoder[idle].T + encoder_bias[idle]
        values, latents = spare.topk(k, dim=1)
        dense = torch.zeros_like(spare).scatter(1, latents, values.relu())
        loss = loss + (dense @ decoder[idle] + error.detach()).square().mean() / 8
    return loss


@pytest.mark.parametrize("n_idle", [0, 3, 9])
def test_the_hand_written_gradient_is_that_of_automatic_differentiation(n_idle):
    config = TrainConfig(n_latents=20, k=4, steps=10, seed=3)
    trainer = _Trainer(7, config, torch.device("cpu"))
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        trainer.encoder_bias += torch.randn(20, generator=made) / 3
        trainer.decoder_bias += torch.randn(7, generator=made) / 3
        trainer.encoder += torch.randn(20, 7, generator=made) / 3
    idle = torch.arange(20)[20 - n_idle :]
    trainer._idle[idle] = 1_000
    x = torch.randn(33, 7, generator=made)
    names = ("encoder", "decoder", "encoder_bias", "decoder_bias")
    copies = {name: getattr(trainer, name).detach().clone().requires_grad_() for name in names}
    _loss(x, **copies, k=4, idle=idle).backward()
    # Along its own row the decoder may not move: its rows keep norm 1.
    rows = copies["decoder"].detach()
    tangent = copies["decoder"].grad
    tangent -= (tangent * rows).sum(1, keepdim=True) * rows
    with torch.no_grad():
        trainer.step(x, 0.0)
    for name in names:
        torch.testing.assert_close(
            getattr(trainer, name).grad, copies[name].grad, rtol=1e-4, atol=1e-6
        )


def _planted(contexts=96, length=32, width=16, atoms=24, seed=0):
    """Hidden states that are sums of two of some directions, far from the origin."""
    made = np.random.default_rng(seed)
    directions = made.normal(size=(atoms, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = made.integers(0, atoms, (contexts, length, 2))
    strength = made.uniform(1, 3, (contexts, length, 2, 1))
    hidden = (directions[chosen] * strength).sum(2) + 50 * made.normal(size=width)
    mask = np.ones((contexts, length), np.bool_)
    mask[:, 0] = False
    hidden[:, 0] = 1e6  # a sink, which must have no say
    return hidden.astype(np.float32), mask


SMALL = TrainConfig(n_latents=48, k=3, steps=200, batch=256, learning_rate=5e-3, held_out=0.1)


def test_training_finds_planted_directions():
    hidden, mask = _planted()
    coder, facts = train(hidden, mask, SMALL, hookpoint="layers.1")
    assert facts["variance_explained"] > 0.9
    assert facts["dead"] <= 4
    assert facts["held_out_tokens"] == 310
    assert torch.allclose(coder.decoder.norm(dim=1), torch.ones(48), atol=1e-5)
    flat = torch.from_numpy(hidden[mask])
    assert coder.quality(flat).variance_explained > 0.9


def test_no_steps_leave_random_directions_on_which_as_many_latents_are_active():
    hidden, mask = _planted()
    coder, facts = train(hidden, mask, SMALL.model_copy(update={"steps": 0}))
    assert torch.allclose(coder.decoder.norm(dim=1), torch.ones(48), atol=1e-5)
    assert facts["l0"] > 0
    assert facts["variance_explained"] < 0.5


def test_training_repeats_itself_and_depends_on_its_seed():
    hidden, mask = _planted()
    config = SMALL.model_copy(update={"steps": 8})
    first, again = (train(hidden, mask, config)[0] for _ in range(2))
    assert first.hash == again.hash
    assert train(hidden, mask, config.model_copy(update={"seed": 1}))[0].hash != first.hash


def test_a_trained_coder_is_kept_and_found_by_all_that_determines_it(tmp_path):
    hidden, mask = _planted()
    config = SMALL.model_copy(update={"steps": 3})
    asked = []

    def data():
        asked.append(1)
        return hidden, mask

    def get(**changes):
        arguments = {"made_from": {"subject": "a"}, "config": config, "hookpoint": "layers.1"}
        return trained_coder(data, **{**arguments, **changes}, cache_dir=tmp_path)

    first = get()
    assert get().hash == first.hash
    assert len(asked) == 1
    get(made_from={"subject": "b"})
    get(config=config.model_copy(update={"k": 2}))
    assert get(hookpoint="layers.2").hookpoint == "layers.2"
    assert len(asked) == 4
    folders = list((tmp_path / "coders").iterdir())
    assert len(folders) == 4
    facts = json.loads(next(folders[0].glob("*/glossator.json")).read_text())
    assert {"variance_explained", "dead", "training", "subject", "hookpoint"} <= facts.keys()


def test_training_on_nothing_is_refused():
    hidden, mask = _planted(contexts=1)
    with pytest.raises(InputError, match="two contexts"):
        train(hidden, mask, SMALL)
    hidden, mask = _planted(contexts=4)
    with pytest.raises(InputError, match="two contexts"):
        train(hidden, np.zeros_like(mask), SMALL)
    with pytest.raises(InputError, match="all the same or not finite"):
        train(np.zeros_like(hidden), mask, SMALL)
    hidden[:, 5, 0] = np.nan
    with pytest.raises(InputError, match="all the same or not finite"):
        train(hidden, mask, SMALL)
