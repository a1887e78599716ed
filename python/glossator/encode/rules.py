"""When is a latent active, and how strongly? The rules of the field's sparse coders.

    TopK(32).describe()                       # "topk(32) of relu"
    Threshold(torch.zeros(4096))              # ReLU; or JumpReLU, BatchTopK

A rule turns the pre-activations of one token, `pre[L]`, into activations; none is ever negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from glossator.errors import InputError

__all__ = ["ActivationRule", "Gated", "GroupMax", "Threshold", "TopK"]


@dataclass(frozen=True)
class TopK:
    """The k largest positive pre-activations; equal ones go to the smaller latent.

    Attributes:
        k: latents active on a token, at most.
    """

    k: int

    def check(self, n_latents: int) -> None:
        """Refuse a k that L latents do not have."""
        if not 1 <= self.k <= n_latents:
            raise InputError(f"k = {self.k} of {n_latents} latents")

    def describe(self) -> str:
        """In the field's words."""
        return f"topk({self.k}) of relu"

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights that belong to the rule."""
        return {}


@dataclass(frozen=True)
class GroupMax:
    """The largest pre-activation of each of k groups of neighbouring latents, where positive.

    Attributes:
        k: groups; L is a multiple of it.
    """

    k: int

    def check(self, n_latents: int) -> None:
        """Refuse a k that does not divide L."""
        if self.k < 1 or n_latents % self.k:
            raise InputError(f"{n_latents} latents do not fall into k = {self.k} equal groups")

    def describe(self) -> str:
        """In the field's words."""
        return f"groupmax({self.k}) of relu"

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights that belong to the rule."""
        return {}


@dataclass(frozen=True, eq=False)
class Threshold:
    """Every pre-activation above its latent's threshold; the activation is the pre-activation.

    With thresholds of zero this is ReLU, with a latent's own JumpReLU (Rajamanoharan et al., 2024),
    with one for all BatchTopK at inference (Bussmann et al., 2024).

    Attributes:
        values: float32[L], not negative.
    """

    values: torch.Tensor

    def check(self, n_latents: int) -> None:
        """Refuse thresholds of another number, negative ones and NaN."""
        if tuple(self.values.shape) != (n_latents,):
            raise InputError(
                f"`threshold` has shape {list(self.values.shape)}, but there are {n_latents} "
                "latents"
            )
        if not bool((self.values >= 0).all() & torch.isfinite(self.values).all()):
            raise InputError("`threshold` holds a negative number, NaN or infinity")

    def describe(self) -> str:
        """In the field's words."""
        low, high = float(self.values.min()), float(self.values.max())
        if high == 0:
            return "relu"
        return f"jumprelu({low:.4g} to {high:.4g})" if low < high else f"jumprelu({low:.4g})"

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights that belong to the rule."""
        return {"threshold": self.values}


@dataclass(frozen=True, eq=False)
class Gated:
    """A gate says which latents are active, a scaled copy of it how strongly.

    The gate is open where `pre > 0`; the activation is `relu(scale · (pre − encoder_bias) + bias)`
    (Rajamanoharan et al., 2024, "Improving dictionary learning with gated sparse autoencoders",
    where scale is `exp(r_mag)`, bias `b_mag`, and the encoder's bias `b_gate`).

    Attributes:
        scale: float32[L], positive.
        bias: float32[L].
    """

    scale: torch.Tensor
    bias: torch.Tensor

    def check(self, n_latents: int) -> None:
        """Refuse tensors of another length, scales that are not positive and NaN."""
        for name, tensor in self.tensors().items():
            if tuple(tensor.shape) != (n_latents,):
                raise InputError(
                    f"`{name}` has shape {list(tensor.shape)}, but there are {n_latents} latents"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"`{name}` holds NaN or infinity")
        if not bool((self.scale > 0).all()):
            raise InputError("`magnitude_scale` holds a number that is not positive")

    def describe(self) -> str:
        """In the field's words."""
        return "gated relu"

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights that belong to the rule."""
        return {"magnitude_scale": self.scale, "magnitude_bias": self.bias}


ActivationRule = TopK | GroupMax | Threshold | Gated
"""Any of them."""
