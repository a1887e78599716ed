"""Weights that lie: transposed, renamed, cut short, of other shapes, or with code in them."""

import json
import pickle
import shutil
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import coder_files
from coder_files import read, write
from glossator.coders import load_coder
from glossator.errors import InputError
from golden_coders import GOLDEN

# One coder a format.
WHOLE = (
    *("saelens_standard", "sparsify_topk", "dictionary_learning_topk"),
    *("dictionary_learning_jumprelu", "gemma_scope", "gemma_scope_2", "llama_scope"),
    *("llamascopium", "openai_v5", "qwen_scope", "goodfire", "circuit_tracer_jumprelu"),
)


@pytest.fixture
def copied(tmp_path):
    """A coder's folder to spoil, and its file of weights."""
    return lambda name: coder_files.copied(name, tmp_path)


def test_a_tied_coder_whose_decoder_is_not_its_encoder_is_refused(copied):
    folder, path = copied("openai_tied")
    held = read(path)
    held["decoder.linear.weight"] = held["encoder.weight"].clone()
    held["decoder.linear.weight"][3, 2] += 1
    write(path, held)
    with pytest.raises(InputError, match=r"8\.pt`: `decoder\.linear\.weight` is not `encoder"):
        load_coder(folder)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("kept", [0, 5, 0.3, 0.99])
def test_a_file_cut_short_is_refused_by_name(copied, name, kept):
    folder, path = copied(name)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(InputError, match=path.name):
        load_coder(folder)


class _Bomb:
    """A pickle that leaves a file behind where it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize(
    "name", ["dictionary_learning_topk", "openai_v5", "qwen_scope", "goodfire"]
)
@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_code_in_a_pickle_is_never_executed(copied, tmp_path, name, way):
    folder, path = copied(name)
    left = tmp_path / "executed"
    held = {**read(path), "more": _Bomb(left)}
    if way == "torch":
        torch.save(held, path)
    else:
        path.write_bytes(pickle.dumps(held))
    # The bomb is live: what loads pickles without care sets it off.
    torch.load(path, weights_only=False) if way == "torch" else pickle.loads(path.read_bytes())
    assert left.exists()
    left.unlink()
    with pytest.raises(InputError, match=path.name):
        load_coder(folder)
    assert not left.exists()


@pytest.mark.parametrize("name", ["saelens_standard", "gemma_scope"])
def test_a_pickle_under_another_name_is_never_executed(copied, tmp_path, name):
    folder, path = copied(name)
    left = tmp_path / "executed"
    path.write_bytes(pickle.dumps({**read(path), "more": _Bomb(left)}))
    with pytest.raises(InputError, match=f"{path.name}`: not readable as {path.suffix[1:]}"):
        load_coder(folder)
    assert not left.exists()


def test_arrays_of_pickled_objects_are_never_loaded(copied, tmp_path):
    folder, path = copied("gemma_scope")
    left = tmp_path / "executed"
    held = {name: value.numpy() for name, value in read(path).items()}
    np.savez(path, **held, more=np.array([_Bomb(left)], dtype=object))
    with pytest.raises(InputError, match="`more` holds pickled objects"):
        load_coder(folder)
    assert not left.exists()


def test_a_header_of_gigabytes_is_refused_before_it_isread(copied):
    folder, path = copied("saelens_standard")
    whole = path.read_bytes()
    for claimed in (2**33, 2**63, len(whole)):
        path.write_bytes(struct.pack("<Q", claimed) + whole[8:])
        with pytest.raises(InputError, match=f"its header claims {claimed:,} bytes"):
            load_coder(folder)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**30 + 8)
    with pytest.raises(InputError, match="a header of 1,073,741,824 bytes"):
        load_coder(folder)


def test_an_array_header_of_gigabytes_is_refused_before_it_is_read(copied):
    folder, path = copied("gemma_scope")
    with zipfile.ZipFile(path) as archive:
        entry = archive.read("W_enc.npy")
    for length in (2**20, 2**32 - 1):
        lying = entry[:6] + b"\x02\x00" + struct.pack("<I", length) + entry[10:]
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("W_enc.npy", lying)
        with pytest.raises(InputError, match=f"`W_enc` has a header of {length:,} bytes; 65,536"):
            load_coder(folder)


@pytest.mark.parametrize("name", ["gemma_scope", "dictionary_learning_topk", "goodfire"])
def test_an_archive_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(copied, name):
    folder, path = copied(name)
    with zipfile.ZipFile(path) as archive:
        entries = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, value in entries.items():
            archive.writestr(each, value)
        archive.writestr("archive/data/9", bytes(2**23))
    with pytest.raises(InputError, match=rf"{path.name}`: unpacks to 8,\d+,\d+ bytes, but has"):
        load_coder(folder)


class _Wide:
    """A tensor of another shape than its numbers have, as a pickle may say."""

    def __init__(self, shape, stride):
        self.shape, self.stride = shape, stride

    def __reduce__(self):
        storage = torch.ones(4).storage()
        arguments = (storage, 0, self.shape, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("stride", "said"),
    [((0, 0), r"claims the shape \[1000000, 1000000\]"), ((10**6, 1), "not readable as a torch")],
)
def test_a_torch_file_whose_shapes_lie_is_refused(copied, zipped, stride, said):
    folder, path = copied("dictionary_learning_topk")
    held = {**read(path), "encoder.weight": _Wide((10**6, 10**6), stride)}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=f"{path.name}`: .*{said}"):
        load_coder(folder)


def test_a_safetensors_header_whose_shapes_lie_is_refused(copied):
    folder, path = copied("saelens_standard")
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    header["W_enc"]["shape"] = [2**20, 2**20]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    with pytest.raises(InputError, match="not readable as safetensors"):
        load_coder(folder)


def test_an_npz_header_whose_shapes_lie_is_refused_before_memory_is_taken(copied):
    folder, path = copied("gemma_scope")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entry = entries["W_enc.npy"]
    shape = entry[entry.index(b"'shape'") : entry.index(b")", entry.index(b"'shape'")) + 1]
    lie = b"'shape': (1000000000, 24)"
    spoiled = entry.replace(shape, lie)
    # The header keeps its length: its padding gives way.
    spoiled = spoiled.replace(b" " * (len(lie) - len(shape)) + b"\n", b"\n", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in {**entries, "W_enc.npy": spoiled}.items():
            archive.writestr(name, value)
    with pytest.raises(InputError, match=r"`W_enc` claims the shape \[1000000000, 24\]"):
        load_coder(folder)


@pytest.mark.parametrize(
    ("name", "file", "change", "said"),
    [
        ("saelens_jumprelu", "cfg.json", {"architecture": "abstopk"}, "activations are signed"),
        ("saelens_jumprelu", "cfg.json", {"architecture": "matching_pursuit"}, "a search"),
        ("saelens_jumprelu", "cfg.json", {"architecture": "new"}, "`architecture` = `new` is not"),
        (
            "saelens_jumprelu",
            "cfg.json",
            {"apply_b_dec_to_input": "no"},
            "`apply_b_dec_to_input` = `'no'` is neither true nor false",
        ),
        ("sparsify_topk", "cfg.json", {"transcode": 1}, "`transcode` = `1` is neither"),
        ("saelens_jumprelu", "cfg.json", {"d_in": 9}, "`d_in` = 9, but the weights say 8"),
        ("saelens_topk_rescaled", "cfg.json", {"k": None}, "field `k` is missing"),
        (
            "saelens_jumprelu",
            "cfg.json",
            {"normalize_activations": "covariance_whitening"},
            "fold it into the weights",
        ),
        ("llama_scope", "hyperparams.json", {"act_fn": "batchtopk"}, "converted to jumprelu"),
        ("llama_scope", "hyperparams.json", {"norm_activation": "batch-wise"}, "on the batch"),
        ("llama_scope", "hyperparams.json", {"use_glu_encoder": True}, "`use_glu_encoder`"),
        (
            "llama_scope",
            "hyperparams.json",
            {"dataset_average_activation_norm": {"in": 0}},
            "no positive norm",
        ),
        ("gemma_scope_2", "config.json", {"architecture": "topk"}, "`jump_relu` is"),
        ("dictionary_learning_gated", "config.json", {"trainer": None}, "`trainer` is missing"),
        (
            "dictionary_learning_gated",
            "config.json",
            {"trainer": {"dict_class": "AutoEncoder"}},
            "the tensors are those of `GatedAutoEncoder`",
        ),
    ],
)
def test_settings_that_no_rule_says_are_refused_with_the_remedy(copied, name, file, change, said):
    folder, _ = copied(name)
    (path,) = folder.rglob(file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=said) as caught:
        load_coder(folder)
    assert file in str(caught.value) or "ae.pt" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["dictionary_learning_batchtopk", "dictionary_learning_matryoshka"]
)
def test_a_threshold_that_was_never_set_asks_for_k(copied, name):
    folder, path = copied(name)
    held = read(path)
    write(path, {**held, "threshold": torch.tensor(-1.0)})
    with pytest.raises(InputError, match="`threshold` = -1 was never estimated; give `k`"):
        load_coder(folder)
    coder = load_coder(folder, k=3)
    assert coder.k == 3
    assert any("as top-3 of each token" in line for line in coder.declared["warnings"])


@pytest.mark.parametrize("name", ["saelens_topk_rescaled", "openai_v5", "qwen_scope"])
def test_a_k_against_the_files_is_refused(name):
    with pytest.raises(InputError, match=r"and (k = )?5 was given"):
        load_coder(GOLDEN / name, k=5)


def test_topk_and_batchtopk_are_not_guessed_apart(copied):
    folder, _ = copied("dictionary_learning_topk")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"have the same tensors; put `config\.json`"):
        load_coder(folder)


def test_k_of_a_qwen_scope_file_out_of_its_repository_is_asked_for(tmp_path):
    (source,) = (GOLDEN / "qwen_scope").rglob("*.pt")
    shutil.copy(source, tmp_path / "layer3.sae.pt")
    with pytest.raises(InputError, match="give `k`"):
        load_coder(tmp_path)
    assert load_coder(tmp_path, k=4).hash == load_coder(GOLDEN / "qwen_scope").hash


def test_a_square_coder_is_read_as_its_format_stores_it_and_says_so(tmp_path):
    made = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, generator=made)
    held = {"W_enc": weight, "W_dec": weight.clone(), "b_enc": torch.ones(8)}
    save_file({**held, "b_dec": torch.zeros(8)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_in": 8}))
    coder = load_coder(tmp_path)
    assert torch.equal(coder.encoder_weight, weight.T)
    warnings = coder.declared["warnings"]
    assert [line.split("`")[1] for line in warnings] == ["W_enc", "W_dec"]
    assert all("is square" in line for line in warnings)


def test_a_temporal_coder_and_an_unknown_file_are_refused_in_one_line(tmp_path):
    (tmp_path / "conf.yaml").write_text("sae: {}\n")
    save_file({"D": torch.zeros(2, 2)}, tmp_path / "latest_ckpt.safetensors")
    with pytest.raises(InputError, match="depends on the tokens before it"):
        load_coder(tmp_path)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "mine.pt")
    with pytest.raises(InputError, match="no format is known with these tensors: `weights`"):
        load_coder(tmp_path / "mine.pt")
    torch.save([torch.zeros(2)], tmp_path / "mine.pt")
    with pytest.raises(InputError, match="holds no tensors by name"):
        load_coder(tmp_path / "mine.pt")


FILES = sorted(
    path
    for name in WHOLE
    for path in (GOLDEN / name).rglob("*")
    if path.is_file() and path.name not in ("expected.npz", "sparsity.safetensors")
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    file=st.sampled_from(FILES),
    at=st.floats(0, 1, exclude_max=True),
    put=st.binary(min_size=1, max_size=12),
    over=st.booleans(),
)
def test_damage_anywhere_is_refused_in_one_line_or_still_a_coder(
    tmp_path_factory, file, at, put, over
):
    name = file.relative_to(GOLDEN).parts[0]
    folder = tmp_path_factory.mktemp("damaged") / name
    shutil.copytree(GOLDEN / name, folder)
    damaged = folder / file.relative_to(GOLDEN / name)
    whole = damaged.read_bytes()
    begin = int(at * len(whole))
    damaged.write_bytes(whole[:begin] + put + whole[begin + (len(put) if over else 0) :])
    said, coder = "", None
    try:
        coder = load_coder(folder)
    except InputError as error:
        said = str(error)
    assert coder is None or coder.n_latents == 24
    assert "\n" not in said
