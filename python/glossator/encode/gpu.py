"""Encoding on a GPU: Triton kernels propose and decide; nothing dense is written.

    encoder = GpuEncoder(weight, bias, TopK(32), dtype="bfloat16", device="cuda")
    pending = encoder.begin(x)                   # launched; waits for nothing
    active = pending()                           # waits, and does the few tokens that need more

Where `TRITON_INTERPRET=1` the same kernels run on CPU tensors, slowly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from glossator._kernels.operands import Operands
from glossator._kernels.threshold_encode import threshold_encode
from glossator._kernels.topk_encode import topk_encode
from glossator.encode.active import Active
from glossator.encode.rules import ActivationRule, Gated, GroupMax, Threshold, TopK
from glossator.errors import InputError

__all__ = ["GpuEncoder"]


_ROOM = 256
"""Candidates of a token that there is room for on average; with more the lists are made anew."""


class GpuEncoder:
    """An encoder's weights, prepared once; any rule but `GroupMax`."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        rule: ActivationRule,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Prepare.

        Args:
            weight: float[L, d].
            bias: float32[L].
            rule: which pre-activations are active.
            dtype: what both operands are rounded to.
            device: where the rows will be.

        Raises:
            InputError: the weights are not finite, or too large for the dtype.
        """
        assert not isinstance(rule, GroupMax)
        self._operands = Operands.of(weight, bias, dtype=dtype, device=device)
        self._rule = rule
        self._magnitude = None
        if isinstance(rule, Gated):
            # Its gate is the pre-activation's sign.
            self._thresholds = torch.zeros(len(weight), device=device)
            self._magnitude = rule.scale.float().to(device), rule.bias.float().to(device)
        elif isinstance(rule, Threshold):
            self._thresholds = rule.values.float().to(device)

    @torch.no_grad()
    def begin(self, x: torch.Tensor) -> Callable[[], Active]:
        """Start on some rows; what is returned waits for them and gives their active latents.

        Args:
            x: float[N, d] of any strides, on the encoder's device.

        Raises:
            InputError: another width or device; from what is returned, that a row holds NaN or
                infinity, or leads to it.
        """
        if isinstance(self._rule, TopK):
            found = topk_encode(x, self._operands, self._rule.k)

            def of_rows() -> Active:
                settled = found.settle().refuse_bad()
                fallback = int(settled.fallback)
                return Active.of_rows(settled.latents, settled.activations, fallback)

            return of_rows
        above = threshold_encode(
            x,
            self._operands,
            self._thresholds,
            magnitude=self._magnitude,
            capacity=len(x) * min(_ROOM, self._operands.n_latents),
        )

        def of_lists() -> Active:
            settled = above.settle()
            if len(bad := settled.bad.nonzero()):
                raise InputError(
                    f"x holds NaN, infinity or too large a value in row {int(bad[0, 0])}"
                )
            return Active(settled.starts, settled.latents.long(), settled.activations).ordered()

        return of_lists
