"""A model, some places in it, and what stands there on every token.

subject = Subject("gpt2", model, tokenizer, "transformer.h.6")
subject.hidden(tokens)                           # float32[B, S, d]
subject = Subject("gpt2", model, tokenizer, ["blocks.6.ln2.hook_normalized", "h.6.mlp"])
subject.states(tokens)                           # {"transformer.h.6.ln_2:normalized": …, …}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from tokenizers import Tokenizer

from glossator.errors import InputError
from glossator.subjects.hookpoints import Point, resolve
from glossator.subjects.reading import read_points

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


class Subject:
    """A language model up to its hookpoints.

    Attributes:
        name: the model's name or path.
        model: the torch module.
        tokenizer: its fast tokenizer.
        hookpoints: the places that are read, each by its one name: a module's path, with `:in` or
            `:normalized` behind it where that is read; see `glossator.subjects.hookpoints`.
        device: where tokens go in.
        dtype: what it computes in, `float32`, `bfloat16` or `float16`.
        dtype_reason: why that one.
        causal: whether a token sees only those before it.
        widths: numbers in a state, by hookpoint.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        hookpoint: str | Sequence[str],
        *,
        causal: bool = True,
        dtype_reason: str = "as given",
    ) -> None:
        self.name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.causal = causal
        self.dtype_reason = dtype_reason
        names = [hookpoint] if isinstance(hookpoint, str) else list(hookpoint)
        if not names:
            raise InputError(f"subject `{name}`: no hookpoint is named; give at least one")
        self._points: dict[str, Point] = {}
        for point in (resolve(model, given) for given in names):
            self._points[point.name] = point
        self.hookpoints = tuple(self._points)
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
        self._n_tokens: int | None = None if embeddings is None else len(embeddings.weight)
        self.device = _entrance(model, embeddings)
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        states = self.states(np.zeros((1, 2), np.uint32))
        self.widths = {point: state.shape[-1] for point, state in states.items()}

    @property
    def hookpoint(self) -> str:
        """The first hookpoint, which is the only one of most subjects."""
        return self.hookpoints[0]

    @property
    def width(self) -> int:
        """Numbers in a state at the first hookpoint."""
        return self.widths[self.hookpoint]

    @property
    def bos(self) -> int | None:
        """The token that the model's configuration says a text begins with; see `pack`."""
        config = getattr(self.model, "config", None)
        token = None if config is None else config.get_text_config().bos_token_id
        return token if isinstance(token, int) else None

    def at(self, hookpoint: str) -> Subject:
        """The same model, read at one place.

        Raises:
            InputError: the model has no such place, or no state for each token there.
        """
        if self.hookpoints == (self.resolve(hookpoint),):
            return self
        return Subject(
            self.name,
            self.model,
            self.tokenizer,
            hookpoint,
            causal=self.causal,
            dtype_reason=self.dtype_reason,
        )

    def resolve(self, name: str) -> str:
        """The one name of a place that is named in any way, as it stands in `hookpoints`.

        Raises:
            InputError: the model has no such place.
        """
        return resolve(self.model, name).name

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
        """Tells subjects apart whose hidden states differ: weights, hookpoints, dtype, tokenizer.

        Of each weight only the first 4,096 values are read, which a different training run changes.
        """
        digest = xxhash.xxh3_128()
        places = "\n".join(self.hookpoints)
        for part in (type(self.model).__name__, places, self.dtype, self.tokenizer_hash):
            digest.update(part.encode() + b"\0")
        for name, weight in self.model.state_dict().items():
            digest.update(f"{name} {list(weight.shape)}\0".encode())
            if weight.is_meta:
                # Kept on disk for want of memory, and read when its layer runs.
                continue
            values = weight.flatten()[:_HASHED_VALUES].float().cpu().numpy()
            digest.update(np.ascontiguousarray(values, "<f4").tobytes())
        return digest.hexdigest()

    def hidden(
        self,
        tokens: npt.NDArray[np.integer] | torch.Tensor,
        attended: npt.NDArray[np.bool_] | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The state at the first hookpoint on every token, float32[B, S, d]; see `states`."""
        return self.states(tokens, attended)[self.hookpoint].float()

    @torch.no_grad()
    def states(
        self,
        tokens: npt.NDArray[np.integer] | torch.Tensor,
        attended: npt.NDArray[np.bool_] | torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """The states at all hookpoints from one pass; nothing above the last of them runs.

        Args:
            tokens: integers[B, S].
            attended: bool[B, S], the attention mask: False at padding. None where there is none.

        Returns:
            [B, S, d] by hookpoint, each in the model's dtype and on the device on which it arose.
            Where a module gives a tuple, its first.

        Raises:
            InputError: a token outside the vocabulary, or a hookpoint that gives no [B, S, d].
        """
        # Looked at where they were given: to ask a GPU would be to wait for it.
        if self._n_tokens is not None and 0 not in tokens.shape:
            largest = int(tokens.max())
            if largest >= self._n_tokens:
                raise InputError(
                    f"subject `{self.name}`: token {largest} is outside its vocabulary of "
                    f"{self._n_tokens:,}; the contexts were made with another tokenizer"
                )
        ids = _tensor(tokens, self.device).long()
        extra = {}
        # Without a mask torch takes its faster path, with the same result.
        if attended is not None and not bool(attended.all()):
            extra["attention_mask"] = _tensor(attended, self.device).bool().long()
        found = read_points(self.model, self._points, input_ids=ids, **extra)
        for name in self.hookpoints:
            state = found.get(name)
            if not isinstance(state, torch.Tensor) or state.shape[:-1] != ids.shape:
                what = list(state.shape) if isinstance(state, torch.Tensor) else "nothing"
                raise InputError(
                    f"hookpoint `{name}` of `{self.name}` gives {what} for tokens "
                    f"{list(ids.shape)}; name a module with one hidden state per token"
                )
        return found

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


def _entrance(model: torch.nn.Module, embeddings: torch.nn.Module | None) -> torch.device:
    """Where tokens go in: with the embeddings, or where the model's first weights are."""
    weights = [*(embeddings.parameters() if embeddings else ()), *model.parameters()]
    # Weights that are kept in memory or on disk for want of room are brought to this device.
    hook = getattr(embeddings, "_hf_hook", None)
    place = getattr(hook, "execution_device", None)
    return weights[0].device if place is None else torch.device(place)
