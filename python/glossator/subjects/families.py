"""Which module holds what TransformerLens calls `hook_mlp_out`, for each family of architectures?

    family = family_of(model)
    family.blocks["hook_mlp_out"]      # "mlp" in Llama, "post_feedforward_layernorm" in Gemma 2

The same words name different tensors: what a block adds to the residual stream stands behind one
more norm in Gemma 2 and 3, an encoder's norms come after the sums and not before them, and
`post_attention_layernorm` is read by the MLP in Llama and written by the attention in Gemma 2. So a
family is entered here only after its sums have been checked: `hook_resid_pre + hook_attn_out` is
`hook_resid_mid`, and so on (`tests/test_subjects_names.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

__all__ = ["FAMILIES", "Family", "family_of"]


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps what has a name elsewhere.

    A place is a module's path, `:in` behind it for what the module is given, `:normalized` for what
    a norm has made of it before its gain.

    Attributes:
        name: for people.
        types: the `model_type` of the configurations that belong here.
        stack: the path of the list of blocks within the inner model.
        blocks: places within a block by the name behind `blocks.N.`; the empty path is the block.
        others: places within the inner model by their whole name.
        absent: why a name of others' has no place here.
    """

    name: str
    types: tuple[str, ...]
    stack: str
    blocks: Mapping[str, str]
    others: Mapping[str, str]
    absent: Mapping[str, str]


def _family(
    name: str,
    types: tuple[str, ...],
    stack: str,
    *,
    attention: tuple[str, str, str],
    mlp: tuple[str, str, str],
    norms: tuple[str, str],
    others: Mapping[str, str],
) -> Family:
    """A family whose norms come before attention and MLP.

    Args:
        name: for people.
        types: of configurations.
        stack: the list of blocks.
        attention: the module, the one that gives what is added, its output projection.
        mlp: the module, the one that gives what is added, its last product's input.
        norms: before attention, before the MLP.
        others: outside the blocks.
    """
    blocks = {
        "hook_resid_pre": ":in",
        "hook_resid_mid": f"{norms[1]}:in",
        "hook_resid_post": "",
        "hook_mlp_in": f"{norms[1]}:in",
        "hook_attn_out": attention[1],
        "hook_mlp_out": mlp[1],
        "attn.hook_z": f"{attention[2]}:in",
        "mlp.hook_in": f"{mlp[0]}:in",
        "mlp.hook_out": mlp[0],
        "mlp.hook_post": f"{mlp[2]}:in",
        "ln1.hook_normalized": f"{norms[0]}:normalized",
        "ln2.hook_normalized": f"{norms[1]}:normalized",
    }
    return Family(name, types, stack, blocks, others, {})


_GPT2 = _family(
    "GPT-2",
    ("gpt2",),
    "h",
    attention=("attn", "attn", "attn.c_proj"),
    mlp=("mlp", "mlp", "mlp.c_proj"),
    norms=("ln_1", "ln_2"),
    others={
        "hook_embed": "wte",
        "hook_pos_embed": "wpe",
        "ln_final.hook_normalized": "ln_f:normalized",
    },
)
_GPT_NEO = _family(
    "GPT-Neo",
    ("gpt_neo",),
    "h",
    attention=("attn", "attn", "attn.attention.out_proj"),
    mlp=("mlp", "mlp", "mlp.c_proj"),
    norms=("ln_1", "ln_2"),
    others=_GPT2.others,
)
_NEOX = _family(
    "GPT-NeoX",
    ("gpt_neox",),
    "layers",
    attention=("attention", "attention", "attention.dense"),
    mlp=("mlp", "mlp", "mlp.dense_4h_to_h"),
    norms=("input_layernorm", "post_attention_layernorm"),
    others={
        "hook_embed": "embed_in",
        "ln_final.hook_normalized": "final_layer_norm:normalized",
    },
)
_LLAMA = _family(
    "Llama",
    (
        *("llama", "mistral", "ministral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
        *("smollm3", "phi3"),
    ),
    "layers",
    attention=("self_attn", "self_attn", "self_attn.o_proj"),
    mlp=("mlp", "mlp", "mlp.down_proj"),
    norms=("input_layernorm", "post_attention_layernorm"),
    others={"hook_embed": "embed_tokens", "ln_final.hook_normalized": "norm:normalized"},
)
# What the first block is given: times the root of the width, wherever the release multiplies.
_SCALED = {**_LLAMA.others, "hook_embed": "layers.0:in"}
_GEMMA = replace(_LLAMA, name="Gemma", types=("gemma",), others=_SCALED)
_GEMMA2 = _family(
    "Gemma 2 and 3",
    ("gemma2", "gemma3_text"),
    "layers",
    attention=("self_attn", "post_attention_layernorm", "self_attn.o_proj"),
    mlp=("mlp", "post_feedforward_layernorm", "mlp.down_proj"),
    norms=("input_layernorm", "pre_feedforward_layernorm"),
    others=_SCALED,
)
_BERT = Family(
    "BERT",
    ("bert", "roberta", "xlm-roberta", "electra"),
    "encoder.layer",
    {
        "hook_resid_pre": ":in",
        "hook_resid_mid": "attention.output.LayerNorm:in",
        "hook_normalized_resid_mid": "attention.output.LayerNorm",
        "hook_resid_post": "output.LayerNorm:in",
        "hook_normalized_resid_post": "",
        "hook_attn_out": "attention.output.dense",
        "hook_mlp_out": "output.dense",
        "attn.hook_z": "attention.output.dense:in",
        "mlp.hook_post": "output.dense:in",
        "ln1.hook_normalized": "attention.output.LayerNorm:normalized",
        "ln2.hook_normalized": "output.LayerNorm:normalized",
    },
    {
        "embed.hook_embed": "embeddings.word_embeddings",
        "hook_embed": "embeddings.word_embeddings",
        "hook_full_embed": "embeddings",
    },
    {},
)
FAMILIES = (_GPT2, _GPT_NEO, _NEOX, _LLAMA, _GEMMA, _GEMMA2, _BERT)


def family_of(model: torch.nn.Module) -> Family | None:
    """The family of a model by its configuration; None where it is not among those known."""
    config = getattr(model, "config", None)
    if config is None:
        return None
    kind = config.get_text_config().model_type
    family = next((family for family in FAMILIES if kind in family.types), None)
    if family is _NEOX and config.use_parallel_residual:
        # Attention and MLP read the same stream and are added together: there is nothing between.
        why = "its attention and MLP run side by side, with nothing between them"
        absent = {"hook_resid_mid": why}
        blocks = {name: place for name, place in family.blocks.items() if name not in absent}
        return replace(family, blocks=blocks, absent=absent)
    return family
