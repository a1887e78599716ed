"""Coders that peers' libraries write afresh, and those made by hand in a peer's loaders."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from glossator.coders import load_coder
from golden_coders import GOLDEN, check, expected
from hub_server import HubServer, client_environment
from peer_runs import read_by, run_with

pytestmark = pytest.mark.peer
LIBRARIES = {
    "sae-lens": "saelens",
    "sparsify": "sparsify",
    "dictionary-learning": "dictionary_learning",
    "llamascopium": "llamascopium",
    "circuit-tracer": "circuit_tracer",
}


@pytest.mark.parametrize("peer", LIBRARIES)
@pytest.mark.parametrize("seed", [7, 8])
def test_what_a_library_writes_afresh_is_read_and_encoded_as_by_itself(peer, seed, tmp_path):
    make, name = GOLDEN / "make.py", LIBRARIES[peer]
    run_with(peer, make, name, "--out", tmp_path, "--seed", seed)
    folders = sorted(tmp_path.iterdir())
    assert [one.name for one in folders] == sorted(
        one.name for one in GOLDEN.iterdir() if one.name.startswith(name)
    )
    for folder in folders:
        x, activations, y = expected(folder)
        assert not np.array_equal(x, expected(GOLDEN / folder.name)[0])
        check(folder, x, activations, y)


# --- by hand, from the published layouts -------------------------------------------------------

_NARROW = {"d_in": 8, "d_sae": 24}
_GEMMA = "gemma-scope-2b-pt-res"
_QWEN = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_4"
_GOODFIRE = "Llama-3.1-8B-Instruct-SAE-l19"
# A coder, SAELens's loader for its format, the repository and the folder that this asks for, what
# it would take from the names of published ones, and the factor that its registry would know.
CASES = [
    ("gemma_scope", "gemma_2", f"google/{_GEMMA}", "layer_20/width_16k/average_l0_71", _NARROW, 0),
    (
        "gemma_scope_2",
        "gemma_3",
        "google/gemma-scope-2-1b-pt",
        "transcoder/layer_12_width_16k_l0_small_affine",
        {},
        0,
    ),
    ("llama_scope", "llama_scope", "fnlp/scope", "L15R", {"dtype": "float32"}, math.sqrt(8) / 9),
    ("llama_scope_r1", "llama_scope_r1_distill", "fnlp/distill", "L15R", {}, math.sqrt(8) / 7),
    ("qwen_scope", "qwen_scope", f"Qwen/{_QWEN}", "layer3.sae.pt", _NARROW, 0),
    ("goodfire", "goodfire", f"Goodfire/{_GOODFIRE}", f"{_GOODFIRE}.pth", _NARROW, 0),
]


def test_what_is_made_by_hand_is_read_alike_by_saelens(tmp_path):
    # SAELens leaves out the norms of the decoder's rows, so theirs are 1 here.
    scope = tmp_path / "scope" / "L15R"
    (scope / "checkpoints").mkdir(parents=True)
    settings = (GOLDEN / "llama_scope" / "hyperparams.json").read_text()
    (scope / "hyperparams.json").write_text(settings)
    tensors = load_file(GOLDEN / "llama_scope" / "checkpoints" / "final.safetensors")
    tensors["decoder.weight"] /= tensors["decoder.weight"].norm(dim=0)
    save_file(tensors, scope / "checkpoints" / "final.safetensors")
    shutil.copytree(GOLDEN / "llama_scope_r1", tmp_path / "distill" / "L15R")
    coders = {name: load_coder(GOLDEN / name) for name, *_ in CASES}
    coders["llama_scope"] = load_coder(scope)
    folders = {
        f"google/{_GEMMA}": GOLDEN / "gemma_scope" / _GEMMA,
        "google/gemma-scope-2-1b-pt": GOLDEN / "gemma_scope_2",
        "fnlp/scope": tmp_path / "scope",
        "fnlp/distill": tmp_path / "distill",
        f"Qwen/{_QWEN}": GOLDEN / "qwen_scope" / _QWEN,
        f"Goodfire/{_GOODFIRE}": GOLDEN / "goodfire",
    }
    inputs = {name: expected(GOLDEN / name)[0] for name in coders}
    np.savez(tmp_path / "inputs.npz", **inputs)
    (tmp_path / "cases.json").write_text(json.dumps(CASES))
    with HubServer(folders) as hub:
        said = read_by(
            "sae-lens",
            "read_saelens.py",
            tmp_path / "cases.json",
            tmp_path / "inputs.npz",
            **client_environment(hub.url, tmp_path / "home"),
        )
    for name, coder in coders.items():
        x, activations = inputs[name], np.array(said[name]["activations"])
        latents, values = coder.encode(x)
        found = np.zeros_like(activations)
        for row in range(len(x)):
            kept = values[row] > 0
            found[row, latents[row][kept]] = values[row][kept]
        assert (activations > 0).any(axis=1).all()
        np.testing.assert_allclose(found, activations, err_msg=name, atol=2e-5)
        y = coder.decode(latents, values, x)
        np.testing.assert_allclose(y, said[name]["y"], err_msg=name, atol=5e-5)
