"""Make the coders of `tests/test_coder_formats.py`, with their peers' own encodings beside them.

    python tests/golden/coders/make.py openai llama_scope       # these; committed once made
    python tests/golden/coders/make.py saelens --out made --seed 7   # others like them, elsewhere

`saelens`, `sparsify`, `dictionary_learning`, `llamascopium` and `circuit_tracer` need the library
of that name: sae-lens 6.54.12, eai-sparsify 1.3.3, dictionary-learning 0.1.0, llamascopium
2.0.0b34, circuit-tracer 0.5.0. `make test-peers` has each in a folder of its own, and makes such
coders anew. The others are written by hand from their published layout, and their rule is spelled
out here in float64.

Each folder holds the coder as it is published, and `expected.npz`: `x` float32[6, d], the dense
`activations` [6, L] and the reconstruction `y` [6, d_out].
"""

import argparse
import json
import shutil
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent
D, OUT, L, K, ROWS = 8, 10, 24, 4, 6
made = torch.Generator()


def random(*shape, scale=1.0):
    return torch.randn(*shape, generator=made) * scale


def fill(module):
    """Every floating parameter at random: a fresh module is half zeros."""
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            positive = "threshold" in name
            value = random(*tensor.shape, scale=0.5)
            tensor.copy_(value.abs() if positive else value)


def expected(folder, x, activations, y):
    np.savez_compressed(
        folder / "expected.npz",
        x=x.float().numpy(),
        activations=activations.detach().float().numpy(),
        y=y.detach().float().numpy(),
    )


def fresh(name):
    folder = ROOT / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


# --- SAELens -----------------------------------------------------------------------------------


def saelens():
    from sae_lens.saes import gated_sae, jumprelu_sae, sae, standard_sae, topk_sae, transcoder

    meta = {
        "model_name": "gpt2-small",
        "hook_name": "blocks.5.hook_resid_post",
        "context_size": 128,
        "prepend_bos": True,
        "dataset_path": "a/corpus",
    }
    common = {"d_in": D, "d_sae": L}
    kinds = {
        "standard": (standard_sae.StandardSAE, standard_sae.StandardSAEConfig, {}),
        "standard_unnormed": (
            standard_sae.StandardSAE,
            standard_sae.StandardSAEConfig,
            {"apply_b_dec_to_input": False, "normalize_activations": "layer_norm"},
        ),
        "topk_constant_norm": (
            topk_sae.TopKSAE,
            topk_sae.TopKSAEConfig,
            {"k": K, "normalize_activations": "constant_norm_rescale"},
        ),
        "topk_rescaled": (
            topk_sae.TopKSAE,
            topk_sae.TopKSAEConfig,
            {"k": K, "rescale_acts_by_decoder_norm": True},
        ),
        "gated": (gated_sae.GatedSAE, gated_sae.GatedSAEConfig, {}),
        "jumprelu": (jumprelu_sae.JumpReLUSAE, jumprelu_sae.JumpReLUSAEConfig, {}),
        "transcoder": (transcoder.Transcoder, transcoder.TranscoderConfig, {"d_out": OUT}),
        "skip_transcoder": (
            transcoder.SkipTranscoder,
            transcoder.SkipTranscoderConfig,
            {"d_out": OUT},
        ),
        "jumprelu_skip_transcoder": (
            transcoder.JumpReLUSkipTranscoder,
            transcoder.JumpReLUSkipTranscoderConfig,
            {"d_out": OUT},
        ),
    }
    for name, (model, config, given) in kinds.items():
        hooks = {"hook_name_out": "blocks.5.hook_mlp_out"} if "transcoder" in name else {}
        if hooks:
            given = {**given, "apply_b_dec_to_input": False}
        metadata = sae.SAEMetadata(**meta, **hooks)
        module = model(config(**common, **given, metadata=metadata))
        fill(module)
        folder = fresh(f"saelens_{name}")
        module.save_model(folder)
        if name == "standard":
            save_file({"sparsity": torch.linspace(-4, -1, L)}, folder / "sparsity.safetensors")
        x = random(ROWS, D)
        activations = module.encode(x)
        expected(folder, x, activations, module(x))
    # Before version 6 the settings were flat, with other names.
    module = topk_sae.TopKSAE(topk_sae.TopKSAEConfig(**common, k=K))
    fill(module)
    folder = fresh("saelens_5_topk")
    module.save_model(folder)
    flat = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": L,
        "dtype": "float32",
        "device": "cpu",
        "model_name": "gpt2-small",
        "hook_point": "blocks.5.hook_resid_post",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": False,
        "context_size": 128,
        "sae_lens_training_version": None,
    }
    (folder / "cfg.json").write_text(json.dumps(flat, indent=1))
    again = sae.SAE.load_from_disk(str(folder))
    x = random(ROWS, D)
    expected(folder, x, again.encode(x), again(x))


# --- sparsify ----------------------------------------------------------------------------------


def sparsify():
    from sparsify import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    for name, given in {
        "topk": {},
        "groupmax": {"activation": "groupmax"},
        "transcoder": {"transcode": True, "skip_connection": True},
    }.items():
        module = SparseCoder(D, SparseCoderConfig(num_latents=L, k=K, **given))
        fill(module)
        folder = fresh(f"sparsify_{name}") / "layers.5.mlp"
        module.save_to_disk(folder)
        x = random(ROWS, D)
        values, latents, _ = module.encode(x)
        # Its decoder is a GPU kernel: the same sum, written out.
        activations = torch.zeros(ROWS, L).scatter_(1, latents, values)
        y = activations @ module.W_dec + module.b_dec
        if module.W_skip is not None:
            y = y + x @ module.W_skip.mT
        expected(folder.parent, x, activations, y)
        run = {"model": "EleutherAI/pythia-70m", "dataset": "a/corpus", "ctx_len": 2048}
        (folder.parent / "config.json").write_text(json.dumps(run))


# --- dictionary_learning -----------------------------------------------------------------------


def dictionary_learning():
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    for name, module, trainer in (
        ("standard", dictionary.AutoEncoder(D, L), {}),
        ("new", dictionary.AutoEncoderNew(D, L), {}),
        ("gated", dictionary.GatedAutoEncoder(D, L), {}),
        ("jumprelu", dictionary.JumpReluAutoEncoder(D, L), {}),
        ("topk", top_k.AutoEncoderTopK(D, L, K), {"k": K}),
        ("batchtopk", batch_top_k.BatchTopKSAE(D, L, K), {"k": K}),
        (
            "matryoshka",
            matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(D, L, K, [L // 3, L - L // 3]),
            {"k": K},
        ),
    ):
        fill(module)
        if "k" in trainer:
            module.threshold.fill_(0.6)
        folder = fresh(f"dictionary_learning_{name}")
        torch.save(module.state_dict(), folder / "ae.pt")
        config = {
            "trainer": {
                "dict_class": type(module).__name__,
                "activation_dim": D,
                "dict_size": L,
                "layer": 5,
                "lm_name": "EleutherAI/pythia-70m-deduped",
                "submodule_name": "resid_post_layer_5",
                **trainer,
            },
            "buffer": {"ctx_len": 1024, "d_submodule": D},
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        x = random(ROWS, D)
        activations = module.encode(x)
        expected(folder, x, activations, module.decode(activations))


# --- Llamascopium ------------------------------------------------------------------------------


def llamascopium():
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder

    hooks = ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")
    for name, given in (
        ("llamascopium", {"act_fn": "topk", "top_k": K}),
        ("llamascopium_jumprelu", {"act_fn": "jumprelu"}),
        ("llamascopium_plain", {"act_fn": "relu", "sparsity_include_decoder_norm": False}),
    ):
        config = SAEConfig(
            hook_point_in=hooks[0],
            hook_point_out=hooks[1],
            d_model=D,
            expansion_factor=L / D,
            norm_activation="dataset-wise",
            **given,
        )
        module = SparseAutoEncoder(config)
        fill(module)
        module.set_dataset_average_activation_norm({hooks[0]: 6.0, hooks[1]: 2.5})
        folder = fresh(name)
        module.save_pretrained(folder)
        config.save_hyperparameters(folder)
        x = random(ROWS, D, scale=3.0)
        scaled = module.normalize_activations({hooks[0]: x, hooks[1]: torch.zeros(ROWS, D)})
        activations = module.encode(scaled[hooks[0]])
        y = module.decode(activations) / module.compute_norm_factor(x, hooks[1])
        if given["act_fn"] == "topk":
            # The record's activations carry the norm by which latents are ranked.
            activations = activations * module.decoder_norm()
        expected(folder, x, activations, y)


# --- circuit-tracer ----------------------------------------------------------------------------


def circuit_tracer():
    from circuit_tracer.transcoder.activation_functions import JumpReLU, TopK
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder

    device = torch.device("cpu")
    for name, activation, rule in (
        ("relu_skip", "relu", torch.relu),
        ("jumprelu", "jump_relu", JumpReLU(torch.zeros(L))),
        ("topk", "topk", TopK(K)),
    ):
        module = SingleLayerTranscoder(
            D, L, rule, 2, name == "relu_skip", device=device, dtype=torch.float32
        )
        fill(module)
        folder = fresh(f"circuit_tracer_{name}")
        module.to_safetensors(folder / "layer_2.safetensors")
        lines = [
            "model_kind: transcoder_set",
            "model_name: Qwen/Qwen3-0.6B",
            "feature_input_hook: mlp.hook_in",
            "feature_output_hook: hook_mlp_out",
            "scan: a/scan",
            f"activation: {activation}",
            *([f"k: {K}"] if activation == "topk" else []),
        ]
        (folder / "config.yaml").write_text("\n".join(lines) + "\n")
        x = random(ROWS, D)
        activations = module.encode(x)
        if activation == "topk":
            # Its rule may keep what is below zero; ours never does.
            assert (activations >= 0).all(), "of the largest some are negative: take another seed"
        expected(folder, x, activations, module(x))
    module = CrossLayerTranscoder(
        3, L, D, "jump_relu", lazy_decoder=False, device=device, dtype=torch.float32
    )
    fill(module)
    folder = fresh("circuit_tracer_clt")
    module.to_safetensors(folder)
    lines = (
        "model_kind: cross_layer_transcoder",
        "model_name: google/gemma-2-2b",
        f"feature_input_hook: {module.feature_input_hook}",
        f"feature_output_hook: {module.feature_output_hook}",
        "scan: a/scan",
    )
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    x = random(ROWS, D)
    # Layer 1 alone, as it reads and as it writes to its own layer.
    activations = module.encode_layer(x, 1)
    here = torch.zeros(3, ROWS, L)
    here[1] = activations
    expected(folder, x, activations, module.decode(here)[1])


# --- by hand, from the published layouts -------------------------------------------------------


def parts(d=D, out=D):
    """Encoder [L, d], its bias, decoder [L, out], its bias, thresholds."""
    return (
        random(L, d, scale=0.5),
        random(L, scale=0.5),
        random(L, out, scale=0.5),
        random(out, scale=0.5),
        random(L, scale=0.5).abs(),
    )


def jump(pre, threshold):
    return pre * (pre > threshold) * (pre > 0)


def largest(pre, k):
    values, at = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter_(1, at, values.clamp(min=0))


def double(*tensors):
    return [tensor.double() for tensor in tensors]


def gemma_scope():
    w, b, dec, b_dec, t = parts()
    x = random(ROWS, D)
    folder = fresh("gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    np.savez(
        folder / "params.npz",
        W_enc=w.T.numpy(),
        W_dec=dec.numpy(),
        b_enc=b.numpy(),
        b_dec=b_dec.numpy(),
        threshold=t.numpy(),
    )
    W, B, DEC, BD, T, X = double(w, b, dec, b_dec, t, x)
    acts = jump(X @ W.T + B, T)
    expected(ROOT / "gemma_scope", x, acts, acts @ DEC + BD)

    w, b, dec, b_dec, t = parts(D, OUT)
    skip = random(D, OUT, scale=0.5)
    x = random(ROWS, D)
    folder = fresh("gemma_scope_2/transcoder/layer_12_width_16k_l0_small_affine")
    save_file(
        {
            "w_enc": w.T.contiguous(),
            "w_dec": dec,
            "b_enc": b,
            "b_dec": b_dec,
            "threshold": t,
            "affine_skip_connection": skip,
        },
        folder / "params.safetensors",
    )
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.12.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.12.post_feedforward_layernorm.output",
        "affine_connection": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    W, B, DEC, BD, T, X, S = double(w, b, dec, b_dec, t, x, skip)
    acts = jump(X @ W.T + B, T)
    expected(ROOT / "gemma_scope_2", x, acts, acts @ DEC + BD + X @ S)

    layers, layer = 3, 1
    w, b, _, b_dec, t = parts()
    dec = random(L, layers, D, scale=0.5)
    x = random(ROWS, D)
    folder = fresh("gemma_scope_2_clt/clt/width_16k_l0_medium")
    save_file(
        {"w_enc": w.T.contiguous(), "w_dec": dec, "b_enc": b, "b_dec": b_dec, "threshold": t},
        folder / f"layer_{layer}.safetensors",
    )
    W, B, DEC, BD, T, X = double(w, b, dec, b_dec, t, x)
    acts = jump(X @ W.T + B, T)
    expected(ROOT / "gemma_scope_2_clt", x, acts, acts @ DEC[:, layer] + BD)


def llama_scope_2024(name, hooks, norms, by_decoder):
    """One threshold, on the scale to which its library of October 2024 takes pre-activations.

    That library (`lm_saes/sae.py` of OpenMOSS/Language-Model-SAEs at 4ec6f0aa) folds the norms of
    the data into the weights, then, where told so, makes the decoder's rows of norm 1.
    """
    w, b, dec, b_dec, _ = parts()
    x = random(ROWS, D, scale=3.0)
    folder = fresh(name)
    (folder / "checkpoints").mkdir(exist_ok=True)
    save_file(
        {
            "encoder.weight": w,
            "encoder.bias": b,
            "decoder.weight": dec.T.contiguous(),
            "decoder.bias": b_dec,
        },
        folder / "checkpoints" / "final.safetensors",
    )
    config = {
        "hook_point_in": hooks[0],
        "hook_point_out": hooks[1],
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.5,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norms[0], "out": norms[1]},
        "sparsity_include_decoder_norm": by_decoder,
        "apply_decoder_bias_to_pre_encoder": False,
        "use_decoder_bias": True,
        "d_model": D,
        "d_sae": L,
        "top_k": 50,
    }
    (folder / "hyperparams.json").write_text(json.dumps(config, indent=1))
    W, B, DEC, BD, X = double(w, b, dec, b_dec, x)
    factor_in, factor_out = (D**0.5 / norm for norm in norms)
    folded, folded_bias, rows = W, B / factor_in, DEC * factor_in / factor_out
    if by_decoder:
        lengths = rows.norm(dim=1, keepdim=True)
        folded, folded_bias, rows = W * lengths, folded_bias * lengths[:, 0], rows / lengths
    theirs = X @ folded.T + folded_bias
    kept = theirs > 0.5
    acts = ((X * factor_in) @ W.T + B) * kept
    expected(folder, x, acts, (theirs * kept) @ rows + BD / factor_out)


def llama_scope():
    site = ("blocks.15.hook_resid_post", "blocks.15.hook_resid_post")
    llama_scope_2024("llama_scope", site, (9.0, 9.0), by_decoder=True)
    site = ("blocks.15.ln2.hook_normalized", "blocks.15.hook_mlp_out")
    llama_scope_2024("llama_scope_transcoder", site, (9.0, 4.0), by_decoder=True)
    llama_scope_2024("llama_scope_as_stored", site, (9.0, 4.0), by_decoder=False)

    # R1-Distill: a threshold for each latent, with settings in config.json.
    w, b, dec, b_dec, t = parts()
    dec = dec / dec.norm(dim=1, keepdim=True)
    x = random(ROWS, D, scale=3.0)
    folder = fresh("llama_scope_r1")
    save_file(
        {
            "encoder.weight": w,
            "encoder.bias": b,
            "decoder.weight": dec.T.contiguous(),
            "decoder.bias": b_dec,
            "log_jumprelu_threshold": t.log(),
            "dataset_average_activation_norm.in": torch.tensor(7.0),
        },
        folder / "sae_weights.safetensors",
    )
    config = {
        "sae_type": "sae",
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 7.0, "out": 7.0},
        "sparsity_include_decoder_norm": True,
        "d_model": D,
        "expansion_factor": L // D,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    W, B, DEC, BD, T, X = double(w, b, dec, b_dec, t, x)
    factor = D**0.5 / 7.0
    acts = jump((X * factor) @ W.T + B, T / DEC.norm(dim=1))
    expected(folder, x, acts, (acts @ DEC + BD) / factor)


def openai():
    for name, activation, tied in (
        ("v5", "TopK", False),
        ("v1", "ReLU", False),
        ("tied", "ReLU", True),
    ):
        w, b, dec, b_dec, _ = parts()
        x = random(ROWS, D) + 0.5
        normalize = activation == "TopK"
        folder = fresh(f"openai_{name}")
        site = f"resid_delta_mlp{'_v5_32k' if normalize else ''}"
        file = folder / site / "autoencoders" / "8.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        # A tied coder's decoder holds the encoder itself, under a name of its own.
        own = {"decoder.linear.weight": w} if tied else {"decoder.weight": dec.T.contiguous()}
        held = {
            "pre_bias": b_dec,
            "encoder.weight": w,
            "latent_bias": b,
            **own,
            "stats_last_nonzero": torch.zeros(L, dtype=torch.long),
            "latents_activation_frequency": torch.ones(L),
            "latents_mean_square": torch.zeros(L),
            "activation": activation,
            "activation_state_dict": {"k": K, "postact_fn": "ReLU"} if normalize else {},
        }
        torch.save(held, file)
        W, B, DEC, BD, X = double(w, b, w if tied else dec, b_dec, x)
        mean = X.mean(1, keepdim=True)
        deviation = (X - mean).std(1, keepdim=True)
        given = (X - mean) / (deviation + 1e-5) if normalize else X
        pre = (given - BD) @ W.T + B
        acts = largest(pre, K) if normalize else pre.clamp(min=0)
        y = acts @ DEC + BD
        expected(folder, x, acts, y * deviation + mean if normalize else y)


def qwen_scope():
    w, b, dec, b_dec, _ = parts()
    x = random(ROWS, D)
    folder = fresh(f"qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}")
    torch.save(
        {"W_enc": w, "W_dec": dec.T.contiguous(), "b_enc": b, "b_dec": b_dec},
        folder / "layer3.sae.pt",
    )
    W, B, DEC, BD, X = double(w, b, dec, b_dec, x)
    acts = largest(X @ W.T + B, K)
    expected(ROOT / "qwen_scope", x, acts, acts @ DEC + BD)


def goodfire():
    w, b, dec, b_dec, _ = parts()
    x = random(ROWS, D)
    torch.save(
        {
            "encoder_linear.weight": w,
            "encoder_linear.bias": b,
            "decoder_linear.weight": dec.T.contiguous(),
            "decoder_linear.bias": b_dec,
        },
        fresh("goodfire") / "Llama-3.1-8B-Instruct-SAE-l19.pth",
    )
    W, B, DEC, BD, X = double(w, b, dec, b_dec, x)
    acts = (X @ W.T + B).clamp(min=0)
    expected(ROOT / "goodfire", x, acts, acts @ DEC + BD)


MAKERS = (
    *(saelens, sparsify, dictionary_learning, llamascopium, circuit_tracer),
    *(gemma_scope, llama_scope, openai, qwen_scope, goodfire),
)

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    known = {make.__name__: make for make in MAKERS}
    parser = argparse.ArgumentParser(description="Make coders and what they encode to.")
    parser.add_argument("formats", nargs="+", choices=known)
    parser.add_argument("--out", type=Path, default=ROOT)
    parser.add_argument("--seed", type=int, default=20260501)
    given = parser.parse_args()
    ROOT = given.out
    for name in given.formats:
        made.manual_seed(given.seed + zlib.crc32(name.encode()))
        known[name]()
