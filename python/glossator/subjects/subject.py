"""A model, one of its modules, and what comes out of that module.

subject = Subject("gpt2", model, tokenizer, hookpoint="transformer.h.6")
subject.hidden(tokens)                           # float32[B, S, d]
subject.width, subject.hash
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from tokenizers import Tokenizer

from glossator.errors import InputError

__all__ = ["Logits", "Subject"]

_HASHED_VALUES = 4_096
_DIRECTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Logits:
    """The tokens that some directions promote and suppress most, strongest first.

    Attributes:
        top_tokens: uint32[n, m].
        top_values: float32[n, m], descending.
        bottom_tokens: uint32[n, m].
        bottom_values: float32[n, m], ascending.
    """

    top_tokens: npt.NDArray[np.uint32]
    top_values: npt.NDArray[np.float32]
    bottom_tokens: npt.NDArray[np.uint32]
    bottom_values: npt.NDArray[np.float32]


class _ReachedError(Exception):
    """Ends a forward pass at the hookpoint: the layers above have no say in the result."""


class Subject:
    """A language model up to one hookpoint.

    Attributes:
        name: the model's name or path.
        model: the torch module.
        tokenizer: its fast tokenizer.
        hookpoint: the module whose output is read.
        device: where the model is.
        dtype: what it computes in, `float32`, `bfloat16` or `float16`.
        dtype_reason: why that one.
        causal: whether a token sees only those before it.
        width: numbers in a hidden state at the hookpoint.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        hookpoint: str,
        *,
        causal: bool = True,
        dtype_reason: str = "as given",
    ) -> None:
        self.name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.causal = causal
        self.dtype_reason = dtype_reason
        self.hookpoint = _resolve(model, hookpoint)
        self._module = model.get_submodule(self.hookpoint)
        parameter = next(model.parameters())
        self.device = parameter.device
        self.dtype = str(parameter.dtype).removeprefix("torch.")
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
        self._n_tokens: int | None = None if embeddings is None else len(embeddings.weight)
        self.width = self.hidden(np.zeros((1, 2), np.uint32)).shape[-1]

    @property
    def tokenizer_json(self) -> str:
        """The content of the tokenizer's `tokenizer.json`."""
        text: str = self.tokenizer.to_str(pretty=False)
        return text

    @property
    def tokenizer_hash(self) -> str:
        """xxh3-128 of `tokenizer_json`."""
        return xxhash.xxh3_128_hexdigest(self.tokenizer_json.encode())

    @property
    def hash(self) -> str:
        """Tells subjects apart whose hidden states differ: weights, hookpoint, dtype, tokenizer.

        Of each weight only the first 4,096 values are read, which a different training run changes.
        """
        digest = xxhash.xxh3_128()
        for part in (type(self.model).__name__, self.hookpoint, self.dtype, self.tokenizer_hash):
            digest.update(part.encode() + b"\0")
        for name, weight in self.model.state_dict().items():
            digest.update(f"{name} {list(weight.shape)}\0".encode())
            values = weight.flatten()[:_HASHED_VALUES].float().cpu().numpy()
            digest.update(np.ascontiguousarray(values, "<f4").tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def hidden(
        self,
        tokens: npt.NDArray[np.integer] | torch.Tensor,
        attended: npt.NDArray[np.bool_] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The output of the hookpoint's module on every token; nothing above it runs.

        Args:
            tokens: integers[B, S].
            attended: bool[B, S], the attention mask: False at padding. None where there is none.

        Returns:
            float32[B, S, d], on the model's device. Where the module gives a tuple, its first.

        Raises:
            InputError: a token outside the vocabulary, or a hookpoint that gives no [B, S, d].
        """
        ids = _tensor(tokens, self.device).long()
        if self._n_tokens is not None and ids.numel() and int(ids.max()) >= self._n_tokens:
            raise InputError(
                f"subject `{self.name}`: token {int(ids.max())} is outside its vocabulary of "
                f"{self._n_tokens:,}; the contexts were made with another tokenizer"
            )
        extra = {}
        if attended is not None:
            mask = _tensor(attended, self.device).bool()
            if not bool(mask.all()):
                # Without a mask torch takes its faster path, with the same result.
                extra["attention_mask"] = mask.long()
        caught: list[object] = []

        def catch(_module: torch.nn.Module, _inputs: object, output: object) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)
            raise _ReachedError

        handle = self._module.register_forward_hook(catch)
        try:
            self.model(input_ids=ids, **extra)
        except _ReachedError:
            pass
        finally:
            handle.remove()
        output = caught[0] if caught else None
        if not isinstance(output, torch.Tensor) or output.shape[:-1] != ids.shape:
            what = list(output.shape) if isinstance(output, torch.Tensor) else "nothing"
            raise InputError(
                f"hookpoint `{self.hookpoint}` of `{self.name}` gives {what} for tokens "
                f"{list(ids.shape)}; name a module with one hidden state per token"
            )
        return output.float()

    def unembedding(self) -> torch.Tensor | None:
        """W_U, float32[V, d]: the weight of the output layer; None where the model has none."""
        layer = getattr(self.model, "get_output_embeddings", lambda: None)()
        return None if layer is None else layer.weight.detach().float()

    @torch.no_grad()
    def logits(
        self, directions: npt.NDArray[np.float32] | torch.Tensor, n: int = 10
    ) -> Logits | None:
        """The n tokens that each direction promotes and suppresses most: W_U W_D[f] of the post.

        Args:
            directions: float[m, d], decoder rows.
            n: tokens on each end.

        Returns:
            None where the model has no output layer of the directions' width.
        """
        unembedding = self.unembedding()
        rows = _tensor(directions, self.device).float()
        if unembedding is None or unembedding.shape[1] != rows.shape[1]:
            return None
        n = min(n, len(unembedding))
        found: list[list[torch.Tensor]] = [[], [], [], []]
        for begin in range(0, len(rows), _DIRECTIONS_AT_ONCE):
            scores = rows[begin : begin + _DIRECTIONS_AT_ONCE] @ unembedding.T
            for place, largest in ((0, True), (2, False)):
                values, tokens = scores.topk(n, dim=1, largest=largest)
                found[place].append(tokens.cpu())
                found[place + 1].append(values.cpu())
        arrays = [
            torch.cat(parts).numpy() if parts else np.zeros((0, n), np.float32) for parts in found
        ]
        return Logits(
            arrays[0].astype(np.uint32),
            arrays[1].astype(np.float32),
            arrays[2].astype(np.uint32),
            arrays[3].astype(np.float32),
        )


def _tensor(
    values: npt.NDArray[np.integer | np.bool_ | np.floating] | torch.Tensor, device: torch.device
) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        if values.dtype in (np.uint32, np.uint64, np.uint16):
            values = values.astype(np.int64)
        values = torch.from_numpy(np.ascontiguousarray(values))
    return values.to(device)


def _resolve(model: torch.nn.Module, hookpoint: str) -> str:
    names = [name for name, _ in model.named_modules() if name]
    prefix = getattr(model, "base_model_prefix", "")
    for name in (hookpoint, f"{prefix}.{hookpoint}"):
        if name in names:
            return name
    near = difflib.get_close_matches(hookpoint, names, n=3, cutoff=0.4)
    offered = ", ".join(f"`{name}`" for name in near) or "no name is near"
    raise InputError(
        f"hookpoint `{hookpoint}`: {type(model).__name__} has no such module; nearest: {offered}"
    )
