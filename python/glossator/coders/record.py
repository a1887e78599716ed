"""One record for every sparse coder: weights, the rule of activation, where it reads and writes.

latents, activations = coder.encode(x)           # uint32[N, k], float32[N, k]
y = coder.decode(latents, activations)           # float32[N, d_out]
coder.describe()
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from glossator._kernels.reference import NO_LATENT, topk_encode
from glossator.errors import InputError

__all__ = ["NO_LATENT", "Quality", "SparseCoder"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Quality:
    """How well a coder describes some hidden states.

    Attributes:
        rows: hidden states looked at.
        variance_explained: 1 − Σ‖y − ŷ‖² / Σ‖y − mean(y)‖².
        l0: mean number of active latents.
        dead: latents active on none of the rows.
        dense: latents active on more than one row in ten.
    """

    rows: int
    variance_explained: float
    l0: float
    dead: int
    dense: int


@dataclass(frozen=True, eq=False)
class SparseCoder:
    """A top-K sparse autoencoder or transcoder.

    It encodes `top_k(relu((x − b) @ encoder_weight.T + encoder_bias))`, where b is `decoder_bias`
    if `centred`, else 0; and decodes `Σ activation · decoder[latent] + decoder_bias`, plus
    `x @ skip.T` where it has a skip connection.

    Attributes:
        encoder_weight: float32[L, d].
        encoder_bias: float32[L].
        decoder: float32[L, d_out]: rows as stored.
        decoder_bias: float32[d_out].
        k: active latents per row, at most.
        centred: whether the decoder's bias is taken off before encoding (autoencoders).
        skip: float32[d_out, d], or None.
        hookpoint: the module whose output it reads; None where the files do not say.
        hookpoint_out: the module whose output it writes; the same for an autoencoder.
        source: where it came from: format and path.
    """

    encoder_weight: torch.Tensor
    encoder_bias: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor
    k: int
    centred: bool = True
    skip: torch.Tensor | None = None
    hookpoint: str | None = None
    hookpoint_out: str | None = None
    source: str = "memory"

    def __post_init__(self) -> None:
        n_latents, width = self.encoder_weight.shape
        out = self.decoder.shape[-1]
        wanted = {
            "encoder_bias": (self.encoder_bias, (n_latents,)),
            "decoder": (self.decoder, (n_latents, out)),
            "decoder_bias": (self.decoder_bias, (out,)),
            "skip": (self.skip, (out, width)),
        }
        for name, (tensor, shape) in wanted.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise InputError(
                    f"coder {self.source}: `{name}` has shape {list(tensor.shape)}, "
                    f"but the encoder's weight asks for {list(shape)}"
                )
        for name in ("encoder_weight", "encoder_bias", "decoder", "decoder_bias", "skip"):
            tensor = getattr(self, name)
            if tensor is not None and not bool(torch.isfinite(tensor).all()):
                raise InputError(f"coder {self.source}: `{name}` holds NaN or infinity")
        if not 1 <= self.k <= n_latents:
            raise InputError(f"coder {self.source}: k = {self.k} of {n_latents} latents")
        if self.centred and width != out:
            raise InputError(
                f"coder {self.source}: reads {width} numbers and writes {out}, so its input cannot "
                "be centred on its output's bias; a transcoder says `transcode`"
            )

    @property
    def n_latents(self) -> int:
        """L."""
        return self.encoder_weight.shape[0]

    @property
    def width(self) -> int:
        """d: numbers in what it reads."""
        return self.encoder_weight.shape[1]

    @property
    def width_out(self) -> int:
        """d_out: numbers in what it writes."""
        return self.decoder.shape[1]

    @cached_property
    def hash(self) -> str:
        """xxh3-128 of everything that decides the result: weights, k, centring."""
        digest = xxhash.xxh3_128(f"topk {self.k} {self.centred}".encode())
        for tensor in (
            *(self.encoder_weight, self.encoder_bias, self.decoder, self.decoder_bias),
            *(() if self.skip is None else (self.skip,)),
        ):
            digest.update(f"{list(tensor.shape)}".encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy(), "<f4").data)
        return digest.hexdigest()

    @overload
    def encode(self, x: torch.Tensor, *, dtype: str = ...) -> tuple[torch.Tensor, torch.Tensor]: ...

    @overload
    def encode(
        self, x: npt.NDArray[np.floating[Any]], *, dtype: str = ...
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]: ...

    @torch.no_grad()
    def encode(
        self, x: torch.Tensor | npt.NDArray[np.floating[Any]], *, dtype: str = "float32"
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
        """The active latents of each row, strongest first.

        Args:
            x: float[N, d].
            dtype: what both operands of the product are rounded to; the result is exact for them.

        Returns:
            latents uint32[N, k] and activations float32[N, k]; from a tensor, tensors on its
            device, the latents int64. A shorter row is filled with 0xFFFFFFFF and 0.

        Raises:
            InputError: `x` has another width than the coder, or holds NaN or infinity.
        """
        if dtype not in _DTYPES:
            raise InputError(f"dtype `{dtype}`: not one of {', '.join(map(repr, _DTYPES))}")
        given = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(x))
        if given.ndim != 2 or given.shape[1] != self.width:
            raise InputError(
                f"coder {self.source} reads rows of {self.width} numbers; "
                f"x has shape {list(given.shape)}"
            )
        if self.centred:
            given = given.float() - self.decoder_bias.to(given.device)
        activations, latents = topk_encode(
            given,
            self.encoder_weight.to(given.device),
            self.encoder_bias.to(given.device),
            self.k,
            dtype=_DTYPES[dtype],
        )
        if isinstance(x, torch.Tensor):
            return latents, activations
        return latents.numpy().astype(np.uint32), activations.numpy()

    @overload
    def decode(
        self, latents: torch.Tensor, activations: torch.Tensor, x: torch.Tensor | None = ...
    ) -> torch.Tensor: ...

    @overload
    def decode(
        self,
        latents: npt.NDArray[np.integer],
        activations: npt.NDArray[np.floating[Any]],
        x: npt.NDArray[np.floating[Any]] | None = ...,
    ) -> npt.NDArray[np.float32]: ...

    @torch.no_grad()
    def decode(
        self,
        latents: torch.Tensor | npt.NDArray[np.integer],
        activations: torch.Tensor | npt.NDArray[np.floating[Any]],
        x: torch.Tensor | npt.NDArray[np.floating[Any]] | None = None,
    ) -> torch.Tensor | npt.NDArray[np.float32]:
        """What the active latents stand for, float32[N, d_out], with every bias and the skip.

        Args:
            latents: integers[N, k] as `encode` gives them.
            activations: float[N, k].
            x: what was encoded; needed by a coder with a skip connection.

        Raises:
            InputError: the coder has a skip connection and `x` is None.
        """
        given = isinstance(latents, torch.Tensor)
        ids = latents if isinstance(latents, torch.Tensor) else torch.from_numpy(_signed(latents))
        values = torch.as_tensor(activations).float()
        empty = values == 0
        result = torch.nn.functional.embedding_bag(
            ids.long().masked_fill(empty, 0),
            self.decoder.to(values.device),
            per_sample_weights=values,
            mode="sum",
        ) + self.decoder_bias.to(values.device)
        if self.skip is not None:
            if x is None:
                raise InputError(f"coder {self.source} has a skip connection: decode needs `x`")
            result += torch.as_tensor(x).float() @ self.skip.to(values.device).T
        return result if given else result.numpy()

    def quality(self, x: torch.Tensor, target: torch.Tensor | None = None) -> Quality:
        """How well the coder describes hidden states.

        Args:
            x: float32[N, d].
            target: float32[N, d_out] for a transcoder; None for an autoencoder.
        """
        target = x if target is None else target
        mean = target.mean(0)
        error = variance = 0.0
        active = torch.zeros(self.n_latents, dtype=torch.int64)
        for begin in range(0, len(x), 4_096):
            rows = slice(begin, begin + 4_096)
            latents, activations = self.encode(x[rows])
            guess = self.decode(latents, activations, x[rows])
            error += float((target[rows] - guess).square().sum(dtype=torch.float64))
            variance += float((target[rows] - mean).square().sum(dtype=torch.float64))
            active += torch.bincount(latents[activations > 0].cpu(), minlength=self.n_latents)
        return Quality(
            rows=len(x),
            variance_explained=1.0 - error / variance if variance else float("nan"),
            l0=float(active.sum()) / max(len(x), 1),
            dead=int((active == 0).sum()),
            dense=int((active * 10 > len(x)).sum()),
        )

    def at(self, hookpoint: str) -> SparseCoder:
        """The same coder reading at a hookpoint."""
        return replace(self, hookpoint=hookpoint, hookpoint_out=self.hookpoint_out or hookpoint)

    def describe(self) -> dict[str, Any]:
        """What was understood of the files: rule, sizes, norms, biases, hookpoint, format."""
        norms = self.decoder.norm(dim=1)
        return {
            "source": self.source,
            "rule": f"topk({self.k}) of relu",
            "n_latents": self.n_latents,
            "width": self.width,
            "width_out": self.width_out,
            "input_centred_on_decoder_bias": self.centred,
            "skip": self.skip is not None,
            "decoder_norm_min": float(norms.min()),
            "decoder_norm_max": float(norms.max()),
            "hookpoint": self.hookpoint,
            "hookpoint_out": self.hookpoint_out,
            "hash": self.hash,
        }


def _signed(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    return np.asarray(ids, dtype=np.int64)
