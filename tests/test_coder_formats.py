"""Every format of the field: read, encoded and decoded as its own library does.

The files under `golden/coders` come from those libraries, or by hand from the published layout
(`golden/coders/make.py`), each with the numbers that it encodes to.
"""

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from glossator.cli import app
from glossator.coders import load_coder
from glossator.encode import Gated, GroupMax, Threshold, TopK
from glossator.errors import InputError
from golden_coders import GOLDEN, MEANT, NAMES, check, expected

RULES = {
    "circuit_tracer_clt": Threshold,
    "circuit_tracer_jumprelu": Threshold,
    "circuit_tracer_relu_skip": Threshold,
    "circuit_tracer_topk": TopK,
    "dictionary_learning_batchtopk": Threshold,
    "dictionary_learning_gated": Gated,
    "dictionary_learning_topk": TopK,
    "gemma_scope": Threshold,
    "llamascopium": TopK,
    "openai_v1": Threshold,
    "openai_v5": TopK,
    "qwen_scope": TopK,
    "saelens_5_topk": TopK,
    "saelens_gated": Gated,
    "saelens_jumprelu": Threshold,
    "sparsify_groupmax": GroupMax,
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", NAMES)
def test_a_coder_of_each_format_encodes_and_decodes_as_its_own_library(name):
    check(GOLDEN / name, *expected(GOLDEN / name))


@pytest.mark.parametrize(("name", "rule"), RULES.items())
def test_a_rule_is_the_one_that_the_files_say(name, rule):
    assert type(load_coder(GOLDEN / name, MEANT.get(name)).rule) is rule


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("saelens_standard", "blocks.5.hook_resid_post", "blocks.5.hook_resid_post"),
        ("saelens_transcoder", "blocks.5.hook_resid_post", "blocks.5.hook_mlp_out"),
        ("sparsify_topk", "layers.5.mlp", "layers.5.mlp"),
        ("sparsify_transcoder", "layers.5.mlp:in", "layers.5.mlp"),
        ("dictionary_learning_topk", "blocks.5.hook_resid_post", "blocks.5.hook_resid_post"),
        ("gemma_scope", "layers.20", "layers.20"),
        (
            "gemma_scope_2",
            "model.layers.12.pre_feedforward_layernorm",
            "model.layers.12.post_feedforward_layernorm",
        ),
        ("llama_scope", "blocks.15.hook_resid_post", "blocks.15.hook_resid_post"),
        ("llamascopium", "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"),
        ("openai_v5", "blocks.8.hook_mlp_out", "blocks.8.hook_mlp_out"),
        ("qwen_scope", "blocks.3.hook_resid_post", "blocks.3.hook_resid_post"),
        ("goodfire", "blocks.19.hook_resid_post", "blocks.19.hook_resid_post"),
        ("circuit_tracer_topk", "blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out"),
        ("circuit_tracer_clt", "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"),
    ],
)
def test_where_a_coder_reads_and_writes_is_in_its_files(name, reads, writes):
    coder = load_coder(GOLDEN / name, MEANT.get(name))
    assert (coder.hookpoint, coder.hookpoint_out) == (reads, writes)


def test_what_the_files_claim_is_kept_for_the_check():
    declared = load_coder(GOLDEN / "saelens_standard").declared
    densities = 10.0 ** np.linspace(-4, -1, 24)
    assert declared["model_name"] == "gpt2-small"
    assert (declared["context_size"], declared["prepend_bos"]) == (128, True)
    assert declared["dataset"] == "a/corpus"
    assert declared["l0"] == pytest.approx(densities.sum(), rel=1e-4)
    assert declared["density"] == pytest.approx(densities.mean(), rel=1e-4)
    assert load_coder(GOLDEN / "gemma_scope").declared["l0"] == 71
    assert load_coder(GOLDEN / "dictionary_learning_batchtopk").declared["l0"] == 4
    assert "l0" not in load_coder(GOLDEN / "dictionary_learning_jumprelu").declared
    assert load_coder(GOLDEN / "gemma_scope").declared["model_name"] == "google/gemma-2-2b"
    assert load_coder(GOLDEN / "gemma_scope_2").declared["l0_range"] == [10, 20]
    assert load_coder(GOLDEN / "sparsify_topk").declared["context_size"] == 2048
    assert load_coder(GOLDEN / "dictionary_learning_topk").declared["context_size"] == 1024


def test_a_cross_layer_transcoder_has_a_decoder_for_each_layer_it_writes_to():
    coder = load_coder(GOLDEN / "circuit_tracer_clt", "W_enc_0")
    assert list(coder.decoders) == [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    assert torch.equal(coder.decoder, coder.decoders["blocks.0.hook_mlp_out"])
    assert not torch.equal(coder.decoder, coder.decoders["blocks.1.hook_mlp_out"])
    clt = load_coder(GOLDEN / "gemma_scope_2_clt")
    assert list(clt.decoders) == [f"layers.{layer}.post_feedforward_layernorm" for layer in (1, 2)]


def test_a_folder_of_several_coders_lists_them_and_a_name_or_a_layer_chooses():
    folder = GOLDEN / "circuit_tracer_clt"
    with pytest.raises(InputError, match=r"several coders.*`W_enc_0`, `W_enc_1`, `W_enc_2`"):
        load_coder(folder)
    by_name, by_layer = load_coder(folder, "W_enc_2"), load_coder(folder, "blocks.2.hook_resid_mid")
    by_file = load_coder(folder / "W_enc_2.safetensors")
    assert by_name.hash == by_layer.hash == by_file.hash
    with pytest.raises(InputError, match=r"none for `layers\.7`; name one with `hookpoint`: `W_"):
        load_coder(folder, "layers.7")
    with pytest.raises(InputError, match=r"none for `saelens`; .*`llama_scope`.* and \d+ more$"):
        load_coder(GOLDEN, "saelens")
    layer = (
        r"several coders for `layers\.2`; .*: `circuit_tracer_clt/W_enc_2`, `circuit_tracer_jump"
    )
    with pytest.raises(InputError, match=layer):
        load_coder(GOLDEN, "layers.2")
    assert load_coder(GOLDEN, "saelens_gated").hash == load_coder(GOLDEN / "saelens_gated").hash


def test_a_set_may_list_its_files():
    listed = GOLDEN / "circuit_tracer_topk"
    assert load_coder(listed, "layer_2").rule.k == 4
    with pytest.raises(InputError, match="none for"):
        load_coder(listed, "layer_3")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_alone_is_recognised_by_its_own_tensors_and_neighbours(name):
    files = [
        path
        for path in (GOLDEN / name).rglob("*")
        if path.suffix in (".pt", ".pth", ".npz", ".safetensors")
        and path.name not in ("expected.npz", "sparsity.safetensors")
        and not path.name.startswith("W_dec")
    ]
    by_folder = load_coder(GOLDEN / name, MEANT.get(name))
    hashes = {load_coder(file).hash for file in files}
    assert by_folder.hash in hashes


def test_the_hookpoint_that_is_asked_for_is_read_and_the_files_word_kept():
    coder = load_coder(GOLDEN / "saelens_jumprelu", "transformer.h.5")
    assert coder.hookpoint == coder.hookpoint_out == "transformer.h.5"
    assert coder.declared["hook_name"] == "blocks.5.hook_resid_post"


@pytest.mark.parametrize("name", NAMES)
def test_inspect_says_rule_place_and_format(name):
    hook = ["--hookpoint", MEANT[name]] if name in MEANT else []
    done = CliRunner().invoke(app, ["coder", "inspect", str(GOLDEN / name), *hook, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    coder = load_coder(GOLDEN / name, MEANT.get(name))
    assert said["rule"] == coder.rule.describe()
    assert said["declared"]["format"] == coder.declared["format"]
    assert said["n_latents"] == 24
    assert said["hookpoint"] == coder.hookpoint is not None


def test_inspect_prints_a_table_with_warnings():
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["coder", "inspect", str(GOLDEN / "circuit_tracer_clt"), "--hookpoint", "W_enc_0"]
    )
    lines = {
        line.split("  ")[0].strip(): re.sub(r"^.*?  +", "", line).strip()
        for line in done.output.splitlines()
    }
    assert lines["format"] == "circuit-tracer"
    assert lines["reads"] == "blocks.0.hook_resid_mid, 8 numbers"
    assert lines["writes also to"] == "blocks.1.hook_mlp_out, blocks.2.hook_mlp_out"
    assert lines["declared model name"] == "google/gemma-2-2b"
    assert "other layers write" in lines["warning"]
