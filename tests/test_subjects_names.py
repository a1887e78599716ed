"""A name of TransformerLens leads to the tensor that it means, in every family of architectures."""

import functools

import numpy as np
import pytest
import torch
import transformers

from glossator.errors import InputError
from glossator.subjects import Subject
from glossator.subjects.hookpoints import Point, places, resolve
from tiny_models import tokenizer

SIZES = {
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
WIDE = {**GROUPED, "head_dim": 12}  # heads that are wider together than the model
EXPERTS = {**GROUPED, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "gpt2": (
        transformers.GPT2Config,
        {**ENDS, "vocab_size": 400, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    ),
    "gpt_neo": (
        transformers.GPTNeoConfig,
        {**ENDS, "vocab_size": 400, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
         "max_position_embeddings": 32, "attention_types": [[["global", "local"], 1]]},
    ),
    "gpt_neox": (transformers.GPTNeoXConfig, SIZES),
    "gpt_neox in turn": (transformers.GPTNeoXConfig, {**SIZES, "use_parallel_residual": False}),
    "llama": (transformers.LlamaConfig, WIDE),
    "mistral": (transformers.MistralConfig, WIDE),
    "mixtral": (transformers.MixtralConfig, {**GROUPED, "num_local_experts": 2}),
    "qwen2": (transformers.Qwen2Config, GROUPED),
    "qwen2_moe": (transformers.Qwen2MoeConfig, EXPERTS),
    "qwen3": (transformers.Qwen3Config, WIDE),
    "qwen3_moe": (transformers.Qwen3MoeConfig, EXPERTS),
    "smollm3": (transformers.SmolLM3Config, GROUPED),
    "phi3": (transformers.Phi3Config, GROUPED),
    "gemma": (transformers.GemmaConfig, WIDE),
    "gemma2": (transformers.Gemma2Config, WIDE),
    "gemma3": (transformers.Gemma3TextConfig, WIDE),
    "bert": (transformers.BertConfig, SIZES),
    "roberta": (transformers.RobertaConfig, SIZES),
}  # fmt: skip
ENCODERS = ("bert", "roberta")
TOKENS = np.random.default_rng(0).integers(5, 400, (3, 10))


@functools.cache
def made(kind):
    """A random model with gains and biases that are not 1 and 0."""
    torch.manual_seed(0)
    config, settings = CONFIGS[kind]
    auto = transformers.AutoModel if kind in ENCODERS else transformers.AutoModelForCausalLM
    model = auto.from_config(config(**settings)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower() or ".ln_" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.3)
    return model


@functools.cache
def states(kind):
    """What stands at every place that has a name, from one pass."""
    model = made(kind)
    named = {name: point for name, point in places(model).items() if name != "hook_pos_embed"}
    subject = Subject(kind, model, tokenizer("byte-level"), list(named))
    found = subject.states(TOKENS)
    return {name: found[point.name] for name, point in named.items()}


def hooked(model, path, *, inputs=False):
    """What a plain hook on the module sees in a whole pass."""
    seen = []

    def keep(_, given, named, output):
        value = (given[0] if given else named["hidden_states"]) if inputs else output
        seen.append(value[0] if isinstance(value, tuple) else value)

    handle = model.get_submodule(path).register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=torch.from_numpy(TOKENS))
    handle.remove()
    return seen[0]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_parts_of_a_block_add_up_to_its_residual_stream(kind):
    at = states(kind)
    hidden = made(kind)(input_ids=torch.from_numpy(TOKENS), output_hidden_states=True).hidden_states
    for layer in (0, 1):
        block = {
            name.split(".", 2)[2]: x
            for name, x in at.items()
            if name.startswith(f"blocks.{layer}.")
        }
        before, added = block["hook_resid_pre"], block["hook_attn_out"]
        close(before, hidden[layer])
        if kind in ENCODERS:
            close(block["hook_resid_mid"], before + added)
            close(
                block["hook_resid_post"], block["hook_normalized_resid_mid"] + block["hook_mlp_out"]
            )
            close(block["hook_normalized_resid_post"], hidden[layer + 1])
            continue
        if kind == "gpt_neox":
            assert "hook_resid_mid" not in block
            middle = before + added
        else:
            middle = block["hook_resid_mid"]
            close(middle, before + added)
            close(block["hook_mlp_in"], middle)
        close(block["hook_resid_post"], middle + block["hook_mlp_out"])
        if layer == 0:
            close(block["hook_resid_post"], hidden[1])
    if kind not in ENCODERS:
        close(at["blocks.0.hook_resid_post"], at["blocks.1.hook_resid_pre"])  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_z_and_the_neurons_are_what_the_last_products_read(kind):
    model, at = made(kind), states(kind)
    for name in ("attn.hook_z", "mlp.hook_post"):
        point = places(model).get(f"blocks.1.{name}")
        if point is None:
            assert name == "mlp.hook_post"
            assert kind in {
                "mixtral",
                "qwen2_moe",
                "qwen3_moe",
            }  # each expert has neurons of its own
            continue
        product = model.get_submodule(point.path)
        with torch.no_grad():
            close(product(at[f"blocks.1.{name}"]), hooked(model, point.path))


def test_z_of_wide_heads_is_as_wide_as_the_heads():
    assert states("llama")["blocks.0.attn.hook_z"].shape == (3, 10, 24)


@pytest.mark.parametrize("kind", CONFIGS)
def test_normalized_is_the_norm_before_its_gain(kind):
    model, at = made(kind), states(kind)
    checked = 0
    for name, point in places(model).items():
        if point.part != "normalized":
            continue
        norm = model.get_submodule(point.path)
        gain = 1 + norm.weight if kind.startswith("gemma") else norm.weight
        bias = getattr(norm, "bias", None)
        close(at[name] * gain + (0 if bias is None else bias), hooked(model, point.path))
        assert not torch.allclose(at[name], hooked(model, point.path), atol=1e-2)
        checked += 1
    assert checked == (4 if kind in ENCODERS else 5)


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3"])
def test_gemmas_embeddings_are_scaled_by_the_root_of_the_width(kind):
    rows = made(kind).get_input_embeddings().weight[TOKENS]
    torch.testing.assert_close(states(kind)["hook_embed"], rows * 16**0.5)


def test_embeddings_of_the_others_are_rows_of_their_table():
    for kind in ("gpt2", "gpt_neox", "llama", "qwen3"):
        close(states(kind)["hook_embed"], made(kind).get_input_embeddings().weight[TOKENS])
    bert = made("bert")
    close(states("bert")["hook_embed"], bert.embeddings.word_embeddings.weight[TOKENS])
    close(states("bert")["hook_full_embed"], states("bert")["blocks.0.hook_resid_pre"])


def test_gemmas_mlp_out_stands_behind_its_norm_and_a_circuit_transcoders_before():
    at, model = states("gemma2"), made("gemma2")
    close(at["blocks.0.mlp.hook_out"], hooked(model, "model.layers.0.mlp"))
    close(at["blocks.0.hook_mlp_out"], hooked(model, "model.layers.0.post_feedforward_layernorm"))
    close(at["blocks.0.mlp.hook_in"], hooked(model, "model.layers.0.pre_feedforward_layernorm"))


@pytest.mark.parametrize(
    ("kind", "name", "point"),
    [
        ("gpt2", "blocks.1.hook_resid_post", Point("transformer.h.1")),
        ("gpt2", "h.1", Point("transformer.h.1")),
        ("gpt2", "h.1:out", Point("transformer.h.1")),
        ("gpt2", "h.1.mlp:in", Point("transformer.h.1.mlp", "in")),
        ("gpt2", "h.1.ln_2:normalized", Point("transformer.h.1.ln_2", "normalized")),
        ("gpt_neox", "resid_post_layer_1", Point("gpt_neox.layers.1")),
        ("llama", "embed_tokens", Point("model.embed_tokens")),
        ("gemma3", "model.layers.1.output", Point("model.layers.1")),
        ("gemma3", "model.layers.1.mlp.input", Point("model.layers.1.mlp", "in")),
        ("bert", "encoder.layer.1.output", Point("encoder.layer.1.output")),
        ("bert", "bert.encoder.layer.1", Point("encoder.layer.1")),
    ],
)  # fmt: skip
def test_a_path_may_be_short_and_may_name_its_side(kind, name, point):
    assert resolve(made(kind), name) == point
    assert resolve(made(kind), point.name) == point


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("gpt2", "blocks.7.hook_resid_post", r"nearest: `blocks\.\d\.hook_resid_post`"),
        ("gpt2", "blocks.1.hook_resid_pots", r"`blocks\.1\.hook_resid_post`"),
        ("gpt_neox", "blocks.1.hook_resid_mid", "side by side, with nothing between"),
        ("mixtral", "blocks.1.mlp.hook_post", r"nearest: .*blocks\.1\.mlp\.hook_out"),
        ("llama", "model.layers.1.mlp.down:in", r"`model\.layers\.1\.mlp\.down_proj`"),
        ("llama", "layers.1.mlp:normalized", "LlamaMLP is no LayerNorm or RMSNorm"),
        ("llama", "", "no such module"),
        ("llama", "mlp", "no such module"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_refused_with_the_nearest(kind, name, said):
    with pytest.raises(InputError, match=said) as caught:
        resolve(made(kind), name)
    assert f"{name}`" in str(caught.value)


def test_a_family_that_is_not_known_says_so_and_offers_a_module():
    config = transformers.OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.OPTForCausalLM(config)
    with pytest.raises(
        InputError, match=r"OPTForCausalLM is of no family.*`model\.decoder\.layers"
    ):
        resolve(model, "blocks.1.hook_resid_post")
    assert resolve(model, "decoder.layers.1").path == "model.decoder.layers.1"


# --- one pass ----------------------------------------------------------------------------------


def test_many_hookpoints_cost_one_pass_that_ends_at_the_last():
    model = made("llama")
    asked = ["layers.0.mlp:in", "blocks.0.hook_mlp_out", "layers.0.mlp", "layers.0.self_attn"]
    subject = Subject("llama", model, tokenizer("byte-level"), asked)
    ran = []
    watched = ("model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.1.input_layernorm")
    handles = [
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        for path in watched
    ]
    found = subject.states(TOKENS)
    for handle in handles:
        handle.remove()
    # The one place that two names mean is read once, and nothing of the next layer runs.
    assert list(found) == [
        "model.layers.0.mlp:in",
        "model.layers.0.mlp",
        "model.layers.0.self_attn",
    ]
    assert "model.layers.1.input_layernorm" not in ran
    assert ran.count("model.layers.0.self_attn") == 1
    close(found["model.layers.0.mlp:in"], hooked(model, "model.layers.0.mlp", inputs=True))
    close(found["model.layers.0.mlp"], hooked(model, "model.layers.0.mlp"))
    close(found["model.layers.0.self_attn"], hooked(model, "model.layers.0.self_attn"))
    assert subject.widths == dict.fromkeys(found, 16)
    assert subject.resolve("blocks.0.hook_mlp_out") in subject.hookpoints
    assert subject.bos == 1


def test_a_state_that_a_later_layer_writes_over_is_kept_as_it_was():
    class Adds(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Embedding(400, 4), torch.nn.Linear(4, 4)

        def forward(self, input_ids):
            x = self.first(input_ids)
            x += 1
            return self.second(x)

    model = Adds()
    subject = Subject("adds", model, tokenizer("byte-level"), ["first", "second:in"])
    found = subject.states(TOKENS)
    torch.testing.assert_close(found["first"], model.first.weight[TOKENS])
    torch.testing.assert_close(found["second:in"], model.first.weight[TOKENS] + 1)


def test_states_keep_the_models_dtype_and_hidden_is_float32():
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)).bfloat16()
    subject = Subject("llama", model, tokenizer("byte-level"), ["layers.0", "layers.0.mlp:in"])
    assert {state.dtype for state in subject.states(TOKENS).values()} == {torch.bfloat16}
    assert subject.hidden(TOKENS).dtype == torch.float32
    with pytest.raises(InputError, match="no hookpoint is named"):
        Subject("llama", model, tokenizer("byte-level"), [])
