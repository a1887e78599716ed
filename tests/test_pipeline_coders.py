"""Whole runs with coders of the field's kinds, and with ones that are read wrongly.

The coders are made for the tiny subject of `tiny_runs`: one latent for each word of the corpus, and
transcoders of its first MLP by least squares, written as SAELens and circuit-tracer write theirs.
"""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from glossator.coders import load_coder
from glossator.corpus import open_corpus, pack
from glossator.harvest import live_states
from glossator.runs import Run
from glossator.subjects import load_subject
from tiny_runs import DOCUMENTS, HOOKPOINT, WIDTH, WORDS, command

MLP = f"{HOOKPOINT}.mlp"
L = 256


@pytest.fixture(scope="module")
def states(world):
    """What stands at the places of the first block on the corpus's tokens."""
    subject = load_subject(world.subject, HOOKPOINT, dtype="float32")
    contexts = pack(open_corpus(str(world.corpus)), subject.tokenizer)
    places = [HOOKPOINT, f"{HOOKPOINT}:in", f"{MLP}:in", MLP]
    return live_states(subject, contexts, places, n=4_000)


def save_saelens(folder, tensors, **settings):
    """A coder as SAELens 6 saves it; `settings` may hold `metadata`."""
    folder.mkdir(parents=True)
    held = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(held, folder / "sae_weights.safetensors")
    d, n_latents = held["W_enc"].shape
    config = {"d_in": d, "d_sae": n_latents, "normalize_activations": "none", **settings}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def words_coder(folder, states, **settings):
    """An autoencoder with a latent for each word, which describes its states well."""
    words, at = states[f"{HOOKPOINT}:in"].unique(dim=0, return_inverse=True)
    means = torch.zeros_like(words).index_add_(0, at, states[HOOKPOINT])
    means /= torch.bincount(at)[:, None]
    bias = means.mean(0)
    sizes = (means - bias).norm(dim=1)
    rows = (means - bias) / sizes[:, None]
    tensors = {
        "W_enc": rows.T,
        "b_enc": -0.4 * sizes,  # what is left of a word's own state is 0.6 of its size
        "W_dec": rows / 0.6,
        "b_dec": bias,
    }
    metadata = {"hook_name": "blocks.0.hook_resid_post", **settings.pop("metadata", {})}
    return save_saelens(folder, tensors, architecture="standard", metadata=metadata, **settings)


def transcoder_weights(x, y):
    """A random encoder, and the skip and the decoder that make `y` of its latents best."""
    made = torch.Generator().manual_seed(0)
    encoder = torch.randn(L, x.shape[1], generator=made) / x.shape[1] ** 0.5
    bias = -(x @ encoder.T).quantile(0.9, dim=0)
    mean = y.mean(0)
    active = (x @ encoder.T + bias).clamp(min=0)
    inputs = torch.cat((active, x), dim=1)
    ridge = 1e-3 * len(x) * torch.eye(inputs.shape[1])
    found = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ (y - mean))
    return {
        "W_enc": encoder.T,
        "b_enc": bias,
        "W_dec": found[:L],
        "b_dec": mean,
        "W_skip": found[L:].T,
    }


def save_transcoder(folder, states, hook_out="blocks.0.hook_mlp_out"):
    hooks = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": hook_out}
    weights = transcoder_weights(states[f"{MLP}:in"], states[MLP])
    return save_saelens(
        folder,
        weights,
        architecture="skip_transcoder",
        d_out=WIDTH,
        apply_b_dec_to_input=False,
        metadata=hooks,
    )


def options(world, coder, out, *more, hookpoint=None):
    named = ["--hookpoint", hookpoint] if hookpoint else []
    data = ["--subject", world.subject, "--dtype", "float32", "--corpus", world.corpus]
    return [*data, "--coder", coder, *named, "--out", out, *more]


def harvested(world, coder, out, *more, hookpoint):
    return command("harvest", *options(world, coder, out, *more, hookpoint=hookpoint))


def gate_of(out):
    with Run.open(out) as run:
        return run.stages()["gate"]


def inspected(out):
    done = command("inspect", out, COLUMNS="400")
    assert done.code == 0, done.err
    return done.words


def test_a_transcoder_goes_through_a_whole_run_measured_against_what_it_writes(
    world, states, tmp_path
):
    folder = save_transcoder(tmp_path / "coder", states)
    out = tmp_path / "run"
    done = command("demo", *options(world, folder, out, hookpoint=f"{MLP}:in"))
    assert done.code == 0, done.err
    facts = gate_of(out)
    coder = load_coder(folder)
    x, y = states[f"{MLP}:in"], states[MLP]
    wanted = 1 - coder.quality(x, y).variance_explained
    assert facts["figures"]["unexplained"] == pytest.approx(wanted, rel=0.1)
    assert (facts["verdict"], facts["culprit"]) == ("passes", None)
    # Measured against what it reads, nothing would be left of that.
    assert coder.quality(x, x).variance_explained < 0.5
    with Run.open(out) as run:
        assert run.index.attributes["hookpoint"] == f"{MLP}:in"
        assert run.stages()["harvest"]["coder"]["hookpoint_out"] == "blocks.0.hook_mlp_out"
        assert run.table("explanations").num_rows > 20
        positions, _ = run.index.postings(5)
        assert len(positions) > 100
    assert (out / "atlas.html").is_file()
    assert (out / "neighbours.parquet").is_file()


def test_a_transcoder_compared_with_another_module_is_refused_naming_the_right_one(
    world, states, tmp_path
):
    folder = save_transcoder(tmp_path / "coder", states, "blocks.0.hook_resid_post")
    done = harvested(world, folder, tmp_path / "run", hookpoint=f"{MLP}:in")
    assert done.code == 2
    assert re.search(rf"its target is not .*; compare it with `{MLP}`, or go on", done.error)
    assert gate_of(tmp_path / "run")["culprit"] == "target"


def test_a_coder_read_before_the_norm_of_its_mlp_is_refused_naming_the_place(
    world, states, tmp_path
):
    folder = save_transcoder(tmp_path / "coder", states)
    done = harvested(world, folder, tmp_path / "run", hookpoint="blocks.0.hook_resid_mid")
    assert done.code == 2
    assert re.search(
        r"its input is not .*; give it `model\.layers\.0\.(mlp:in|post_attention_layernorm)`, or",
        done.error,
    )
    # The norm's gain is 1 in this model: before it and after it the states are the same.
    tried = {trial["reading"] for trial in gate_of(tmp_path / "run")["trials"]}
    assert f"`{HOOKPOINT}.post_attention_layernorm:normalized` as its input" in tried


def test_a_cross_layer_transcoder_is_harvested_by_the_encoder_of_the_layer_asked_for(
    world, states, tmp_path
):
    folder = tmp_path / "clt"
    folder.mkdir()
    subject = load_subject(world.subject, HOOKPOINT, dtype="float32")
    contexts = pack(open_corpus(str(world.corpus)), subject.tokenizer)
    places = ["blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid"]
    reads = live_states(subject, contexts, places, n=4_000)
    for layer, name in enumerate(places):
        weights = transcoder_weights(reads[name], states[MLP])
        decoder = torch.stack([weights["W_dec"]] * (2 - layer), dim=1)
        held = {f"W_enc_{layer}": weights["W_enc"].T, f"b_enc_{layer}": weights["b_enc"]}
        save_file(
            {name: each.contiguous() for name, each in held.items()}
            | {f"b_dec_{layer}": weights["b_dec"]},
            folder / f"W_enc_{layer}.safetensors",
        )
        save_file({f"W_dec_{layer}": decoder}, folder / f"W_dec_{layer}.safetensors")
    hooks = "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    (folder / "config.yaml").write_text(f"model_kind: cross_layer_transcoder\n{hooks}")
    out = tmp_path / "run"
    done = harvested(world, folder, out, hookpoint=places[0])
    assert done.code == 0, done.err
    with Run.open(out) as run:
        facts = run.stages()
        assert facts["harvest"]["coder"]["decoders"] == [f"blocks.{n}.hook_mlp_out" for n in (0, 1)]
        assert facts["gate"]["figures"]["unexplained"] is None
        assert 20 < facts["gate"]["figures"]["l0"] < 32
        assert run.index.nnz == pytest.approx(
            run.index.n_tokens * facts["gate"]["figures"]["l0"], rel=0.1
        )


def test_contexts_begin_with_a_bos_where_the_coder_was_trained_so_and_it_never_counts(
    world, states, tmp_path
):
    found = {}
    for prepended in (True, False):
        name = "with" if prepended else "without"
        coder = words_coder(tmp_path / name / "coder", states, metadata={"prepend_bos": prepended})
        out = tmp_path / name / "run"
        done = harvested(world, coder, out, hookpoint=HOOKPOINT)
        assert done.code == 0, done.err
        with Run.open(out) as run:
            index = run.index
            n_contexts = index.n_contexts
            length = index.context_length
            tokens, _, _ = index.contexts(np.arange(index.n_contexts, dtype=np.uint64))
            positions = np.concatenate(
                [index.postings(latent)[0] for latent in range(index.n_latents)]
            )
            found[prepended] = (
                (tokens[:, 0] == 1).mean(),
                int((positions % np.uint64(length) == 0).sum()),
                index.n_tokens,
            )
    bos, plain = found[True], found[False]
    # The subject's BOS is also a word of the corpus, for which a latent is active elsewhere.
    assert (bos[0], bos[1]) == (1, 0)
    assert plain[0] < 0.1
    assert bos[2] == DOCUMENTS * WORDS
    assert plain[2] == DOCUMENTS * WORDS - n_contexts


def test_a_misread_coder_is_refused_naming_the_culprit_and_no_gate_is_recorded_and_shown(
    world, states, tmp_path
):
    right = words_coder(tmp_path / "right", states)
    done = harvested(world, right, tmp_path / "fine", hookpoint=HOOKPOINT)
    assert done.code == 0, done.err
    assert gate_of(tmp_path / "fine")["verdict"] == "passes"
    assert "normal" not in inspected(tmp_path / "fine")
    wrong = words_coder(tmp_path / "wrong", states, normalize_activations="layer_norm")
    out = tmp_path / "run"
    done = harvested(world, wrong, out, hookpoint=HOOKPOINT)
    assert done.code == 2
    assert "its normalization is not as it was trained; set `normalization=" in done.error
    assert "--no-gate" in done.error
    assert gate_of(out)["culprit"] == "normalization"
    assert not (out / "index").exists()
    done = harvested(world, wrong, out, "--no-gate", hookpoint=HOOKPOINT)
    assert done.code == 0, done.err
    assert gate_of(out)["reason"] == "--no-gate"
    assert "the coder was not checked on real text: --no-gate" in inspected(out)


def test_a_coder_that_reads_elsewhere_than_asked_is_refused(world, states, tmp_path):
    other = f"{MLP}:in"
    done = harvested(world, world.coder, tmp_path / "ours", hookpoint=other)
    assert done.code == 2
    assert f"was trained at `{HOOKPOINT}` and does not read `{other}`" in done.error
    # SAELens's own name for the place may be another's; what the files say is tried there.
    coder = words_coder(tmp_path / "theirs", states)
    done = harvested(world, coder, tmp_path / "run", hookpoint=other)
    assert done.code == 2
    assert f"its input is not as it was trained; harvest at `{HOOKPOINT}`" in done.error


def test_a_coder_is_not_refused_on_a_corpus_that_repeats_two_words(world, states, tmp_path):
    coder = words_coder(tmp_path / "coder", states, normalize_activations="layer_norm")
    lines = [json.dumps({"text": "word3 hit4 " * 60}) for _ in range(60)]
    corpus = tmp_path / "two.jsonl"
    corpus.write_text("\n".join(lines))
    data = ["--subject", world.subject, "--dtype", "float32", "--corpus", corpus]
    out = tmp_path / "run"
    named = ["--hookpoint", HOOKPOINT, "--coder", coder, "--out", out]
    done = command("harvest", *data, *named)
    assert done.code == 0, done.err
    facts = gate_of(out)
    assert (facts["verdict"], facts["trials"]) == ("warns", [])
    assert facts["distinct"] < 24
    assert "the text is too uniform to tell" in inspected(out)
