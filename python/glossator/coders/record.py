"""One record for every sparse coder: weights, the rule of activation, where it reads and writes.

latents, activations = coder.encode(x)           # uint32[N, k], float32[N, k]
y = coder.decode(latents, activations)           # float32[N, d_out]
coder.describe()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from glossator._kernels.reference import NO_LATENT
from glossator.coders.normalize import NORMALIZATIONS, normalized, restored
from glossator.encode import ActivationRule, Active, Encoder
from glossator.errors import InputError

__all__ = ["NO_LATENT", "Quality", "SparseCoder"]


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
    """A sparse autoencoder or transcoder: whatever the file, these are its conventions.

    It encodes, with `rule` over the L pre-activations of a token,

        pre = (norm(x · input_scale) − input_bias) @ encoder_weight.T + encoder_bias

    and decodes `Σ activation · decoder_scale[latent] · decoder[latent] + decoder_bias`, then times
    `output_scale`, then with `norm` undone, plus `x @ skip.T` where it has a skip connection.

    Attributes:
        encoder_weight: float32[L, d].
        encoder_bias: float32[L].
        decoder: float32[L, d_out]: rows as stored, no norm folded in.
        decoder_bias: float32[d_out].
        rule: which latents are active, and how strongly.
        input_bias: float32[d], taken off what is encoded: an autoencoder's decoder bias, where it
            does so; or None.
        normalization: what is done to each row before that: `none`, `layer_norm` (its mean off,
            divided by its standard deviation) or `unit_norm` (to a norm of √d).
        input_scale: a constant factor on the way in.
        output_scale: a constant factor on the way out.
        decoder_scale: float32[L], or None: for activations that carry the decoder's norm, its
            inverse.
        skip: float32[d_out, d], or None.
        decoders: of a cross-layer coder, float32[L, d_out] by hookpoint; `decoder` is the first.
        hookpoint: the module whose output it reads; None where the files do not say.
        hookpoint_out: the module whose output it writes; the same for an autoencoder.
        source: where it came from: format and path.
        declared: what the files claim of it, for the check against real hidden states.
    """

    encoder_weight: torch.Tensor
    encoder_bias: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor
    rule: ActivationRule
    input_bias: torch.Tensor | None = None
    normalization: str = "none"
    input_scale: float = 1.0
    output_scale: float = 1.0
    decoder_scale: torch.Tensor | None = None
    skip: torch.Tensor | None = None
    decoders: Mapping[str, torch.Tensor] = field(default_factory=dict)
    hookpoint: str | None = None
    hookpoint_out: str | None = None
    source: str = "memory"
    declared: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_latents, width = self.encoder_weight.shape
        out = self.decoder.shape[-1]
        wanted = {
            "encoder_weight": (n_latents, width),
            "encoder_bias": (n_latents,),
            "decoder": (n_latents, out),
            "decoder_bias": (out,),
            "input_bias": (width,),
            "decoder_scale": (n_latents,),
            "skip": (out, width),
        }
        for name, tensor in self._weights().items():
            shape = wanted.get(name)
            if shape is not None and tuple(tensor.shape) != shape:
                raise InputError(
                    f"coder {self.source}: `{name}` has shape {list(tensor.shape)}, "
                    f"but the encoder's weight asks for {list(shape)}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"coder {self.source}: `{name}` holds NaN or infinity")
        try:
            self.rule.check(n_latents)
        except InputError as error:
            raise InputError(f"coder {self.source}: {error}") from error
        if self.normalization not in NORMALIZATIONS:
            known = ", ".join(f"`{name}`" for name in NORMALIZATIONS)
            raise InputError(
                f"coder {self.source}: normalization `{self.normalization}`: not one of {known}"
            )

    def _weights(self) -> dict[str, torch.Tensor]:
        """Every tensor that is there, by name."""
        names = ("encoder_weight", "encoder_bias", "decoder", "decoder_bias")
        optional = ("input_bias", "decoder_scale", "skip")
        found = {name: getattr(self, name) for name in names}
        found |= {n: tensor for n in optional if (tensor := getattr(self, n)) is not None}
        found |= self.rule.tensors()
        return found | {f"decoder of {name}": rows for name, rows in self.decoders.items()}

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

    @property
    def k(self) -> int | None:
        """Active latents of a token, at most; None where a threshold decides."""
        return getattr(self.rule, "k", None)

    @cached_property
    def hash(self) -> str:
        """xxh3-128 of everything that decides the result: weights, rule and conventions."""
        said = (
            type(self.rule).__name__,
            self.k,
            self.normalization,
            self.input_scale,
            self.output_scale,
        )
        digest = xxhash.xxh3_128(repr(said).encode())
        for name, tensor in self._weights().items():
            digest.update(f"{name} {list(tensor.shape)}".encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy(), "<f4").data)
        return digest.hexdigest()

    @cached_property
    def _encoders(self) -> dict[tuple[torch.device, str], Encoder]:
        return {}

    def encoder_input(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder multiplies: `norm(x · input_scale) − input_bias`, float32[N, d].

        Raises:
            InputError: `x` has another width than the coder.
        """
        if x.ndim != 2 or x.shape[1] != self.width:
            raise InputError(
                f"coder {self.source} reads rows of {self.width} numbers; "
                f"x has shape {list(x.shape)}"
            )
        given = x.float() if self.input_scale == 1.0 else x.float() * self.input_scale
        given, _ = normalized(given, self.normalization)
        return given if self.input_bias is None else given - self.input_bias.to(x.device)

    def active(self, x: torch.Tensor, *, dtype: str = "float32") -> Active:
        """The active latents of each row, as sparse rows on its device.

        Args:
            x: float[N, d].
            dtype: what both operands of the product are rounded to; the result is exact for them.

        Raises:
            InputError: `x` has another width than the coder, or holds NaN or infinity.
        """
        return self.begin(x, dtype=dtype)()

    @torch.no_grad()
    def begin(self, x: torch.Tensor, *, dtype: str = "float32") -> Callable[[], Active]:
        """As `active`, started; on a GPU nothing waits until what is returned is called."""
        given = self.encoder_input(x)
        key = (given.device, dtype)
        if key not in self._encoders:
            self._encoders[key] = Encoder(
                self.encoder_weight, self.encoder_bias, self.rule, dtype=dtype, device=given.device
            )
        return self._encoders[key].begin(given)

    @overload
    def encode(self, x: torch.Tensor, *, dtype: str = ...) -> tuple[torch.Tensor, torch.Tensor]: ...

    @overload
    def encode(
        self, x: npt.NDArray[np.floating[Any]], *, dtype: str = ...
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]: ...

    def encode(
        self, x: torch.Tensor | npt.NDArray[np.floating[Any]], *, dtype: str = "float32"
    ) -> tuple[torch.Tensor, torch.Tensor] | tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
        """The active latents of each row, strongest first, in rows of one length.

        Args:
            x: float[N, d].
            dtype: what both operands of the product are rounded to; the result is exact for them.

        Returns:
            latents uint32[N, k] and activations float32[N, k]; from a tensor, tensors on its
            device, the latents int64. A shorter row is filled with 0xFFFFFFFF and 0. Where a
            threshold decides, k is the longest row's.

        Raises:
            InputError: `x` has another width than the coder, or holds NaN or infinity.
        """
        given = x if isinstance(x, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(x))
        latents, activations = self.active(given, dtype=dtype).rows(self.k)
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
            x: what was encoded; needed where there is a skip connection or a norm to undo.

        Raises:
            InputError: the coder needs `x`, and it is None.
        """
        given = isinstance(latents, torch.Tensor)
        ids = latents if isinstance(latents, torch.Tensor) else torch.from_numpy(_signed(latents))
        values = torch.as_tensor(activations).float()
        ids = ids.long().masked_fill(values == 0, 0)
        if self.decoder_scale is not None:
            values = values * self.decoder_scale.to(values.device)[ids]
        if not ids.shape[1]:  # no latent is active on any row
            ids, values = (torch.nn.functional.pad(tensor, (0, 1)) for tensor in (ids, values))
        result = torch.nn.functional.embedding_bag(
            ids, self.decoder.to(values.device), per_sample_weights=values, mode="sum"
        )
        result = (result + self.decoder_bias.to(values.device)) * self.output_scale
        for needs, what in (
            (self.skip is not None, "a skip connection"),
            (self.normalization != "none", f"`{self.normalization}` to undo"),
        ):
            if needs and x is None:
                raise InputError(f"coder {self.source} has {what}: decode needs `x`")
        if x is not None:
            rows = torch.as_tensor(x).float()
            _, undo = normalized(rows * self.input_scale, self.normalization)
            result = restored(result, undo)
            if self.skip is not None:
                result += rows @ self.skip.to(values.device).T
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
            "rule": self.rule.describe(),
            "n_latents": self.n_latents,
            "width": self.width,
            "width_out": self.width_out,
            "normalization": self.normalization,
            "input_scale": self.input_scale,
            "output_scale": self.output_scale,
            "input_bias": self.input_bias is not None,
            "decoder_scale": self.decoder_scale is not None,
            "skip": self.skip is not None,
            "decoders": list(self.decoders),
            "declared": dict(self.declared),
            "decoder_norm_min": float(norms.min()),
            "decoder_norm_max": float(norms.max()),
            "hookpoint": self.hookpoint,
            "hookpoint_out": self.hookpoint_out,
            "hash": self.hash,
        }


def _signed(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    return np.asarray(ids, dtype=np.int64)
