"""Which model, in which number format, on which device.

subject = load_subject("smollm2")
subject = load_subject("google-bert/bert-base-uncased", "encoder.layer.5", dtype="float32")
subject = load_subject("google/gemma-2-9b", ["blocks.9.ln2.hook_normalized", "layers.9"],
device_map="auto", max_memory={0: "20GiB", "cpu": "60GiB"})
print(subject.dtype, subject.dtype_reason)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer

from glossator.errors import InputError
from glossator.progress import SILENT, Progress
from glossator.subjects.smollm2 import smollm2_path
from glossator.subjects.subject import Subject

__all__ = ["load_subject"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WORTH_IT = 1.5
"""How many times faster bfloat16 must be: a small lead is noise, and costs digits."""


def load_subject(
    name: str | Path = "smollm2",
    hookpoint: str | Sequence[str] | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | Mapping[str, int | str] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress = SILENT,
) -> Subject:
    """Load a subject model.

    Args:
        name: `smollm2`, or the name or path of any Hugging Face model, causal or encoder.
        hookpoint: the path of a module, as in `model.named_modules()`; the name of the inner model
            may be left out (`layers.5`). `:in` behind it reads what the module is given. Or a name
            of TransformerLens (`blocks.5.hook_mlp_out`). Or several, read in one pass. None:
            `model.layers.5` of smollm2, of others the layer that ends the first half.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 on a GPU, on a CPU the faster
            of float32 and bfloat16 by a short trial.
        device: `cpu`, `cuda`, …, or `auto`: the first GPU if there is one.
        device_map: how the layers are spread over devices, as `from_pretrained` takes it: `auto`,
            `balanced`, …, or a device for each module.
        max_memory: what each device may hold, `{0: "20GiB", "cpu": "60GiB"}`; without a
            `device_map`, layers are spread automatically.
        cache_dir: where the converted smollm2 is kept.
        progress: shows that conversion.

    Raises:
        InputError: no such model, tokenizer, hookpoint, dtype or device; or a device and a map.
    """
    spread: dict[str, Any] = {}
    if device_map is not None or max_memory is not None:
        if device != "auto":
            raise InputError(
                f"device `{device}`: stands beside `device_map` or `max_memory`; give one of them"
            )
        spread["device_map"] = "auto" if device_map is None else device_map
        if max_memory is not None:
            spread["max_memory"] = dict(max_memory)
    place = _device(device)
    kind, reason = _dtype(dtype, place)
    if str(name) == "smollm2":
        path = smollm2_path(cache_dir, progress)
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        hookpoint = hookpoint or "model.layers.5"
        model, causal = _model(str(path), kind, spread)
    else:
        model, causal = _model(str(name), kind, spread)
        tokenizer = _tokenizer(str(name))
    return Subject(
        str(name),
        model if spread else model.to(place),
        tokenizer,
        hookpoint or _middle(model),
        causal=causal,
        dtype_reason=reason,
    )


def _model(
    name: str, dtype: torch.dtype, spread: Mapping[str, Any]
) -> tuple[torch.nn.Module, bool]:
    import transformers
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity(CRITICAL)  # What matters in its reports is refused below.
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        causal = _causal(config)
        auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        loaded: Any = auto.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **spread,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"subject `{name}`: {_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    model: torch.nn.Module
    model, report = loaded
    _refuse_random(name, report)
    model.requires_grad_(False)
    return model, causal


def _refuse_random(name: str, report: Mapping[str, Any]) -> None:
    """Weights that the files lack are drawn at random: no subject to explain."""
    for what, keys in (
        ("not of the shape that its `config.json` says", report["mismatched_keys"]),
        ("missing from its files", report["missing_keys"]),
    ):
        # An encoder's pooler stands above all hidden states, and many are kept without one.
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)
        names = [key for key in names if "pooler" not in key.split(".")]
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"subject `{name}`: weight `{names[0]}`{more} is {what}")


def _causal(config: Any) -> bool:  # noqa: ANN401 - one of some hundred classes of configuration
    architectures = config.architectures or []
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)


def _tokenizer(name: str) -> Tokenizer:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError) as error:
        raise InputError(f"subject `{name}`: no tokenizer ({_line(error)})") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(f"subject `{name}`: its tokenizer has no fast form (`tokenizer.json`)")
    return backend


def _middle(model: torch.nn.Module) -> str:
    """The last layer of the first half of the longest stack of layers."""
    stacks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module)
    }
    if not stacks:
        raise InputError(f"{type(model).__name__} has no stack of layers; name a hookpoint")
    name, layers = max(stacks.items(), key=lambda stack: len(stack[1]))
    return f"{name}.{max(len(layers) // 2 - 1, 0)}"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device `{name}`: {_line(error)}") from error
    return device


def _dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    if name in _DTYPES:
        return _DTYPES[name], "as asked"
    if name != "auto":
        raise InputError(f"dtype `{name}`: not one of `auto`, {', '.join(map(repr, _DTYPES))}")
    if device.type != "cpu":
        return torch.bfloat16, f"the fast type on {device.type}"
    plain, short = _speed(torch.float32), _speed(torch.bfloat16)
    chosen = torch.bfloat16 if short > _WORTH_IT * plain else torch.float32
    return chosen, (
        f"a trial on this CPU: float32 {plain:,.0f} GFLOP/s, bfloat16 {short:,.0f} GFLOP/s"
    )


def _speed(dtype: torch.dtype) -> float:
    """GFLOP/s of one product of about 20 ms; the better of two after a warm-up."""
    rows, inner, columns = 512, 768, 1_024
    left = torch.ones(rows, inner, dtype=dtype)
    right = torch.ones(inner, columns, dtype=dtype)
    (left @ right).sum().item()
    best = float("inf")
    for _ in range(2):
        begun = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - begun)
    return 2e-9 * rows * inner * columns / best


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
