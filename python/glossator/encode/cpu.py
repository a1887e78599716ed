"""Encoding on a CPU: a fast matrix product proposes, the Rust core decides.

    encoder = CpuEncoder(weight, bias, TopK(32), dtype="float32")
    active = encoder.encode(x)
    encoder.product                              # "bfloat16", where this processor has it

Rows are taken in blocks whose products stay in the cache; nothing dense is written beyond them.
Each core multiplies and selects blocks of its own: while one waits for memory, the other
multiplies, and no two pools of threads stand in each other's way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from glossator import _core
from glossator._kernels.reference import DTYPES
from glossator.encode.active import Active
from glossator.encode.rules import ActivationRule, Gated, GroupMax, Threshold, TopK
from glossator.errors import InputError

__all__ = ["CpuEncoder", "fastest_product"]

_BLOCK_BYTES = 1 << 24
"""Products of a block of rows: the more, the faster the product; two still fit the last cache."""
_MOST_ROWS, _FEWEST_ROWS = 256, 32


@cache
def fastest_product() -> str:
    """The faster type of a matrix product here: "bfloat16" or "float32"; tried once, in some 50 ms.

    bf16 also has to be right: on some build or processor that sums it in less than float32 it is
    not taken.
    """
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn((n, 512), generator=generator) for n in (2_048, 128))
    best = {}
    for name in ("float32", "bfloat16"):
        left, right = x.to(DTYPES[name]), weight.to(DTYPES[name])
        out = torch.empty((128, 2_048), dtype=DTYPES[name])
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            torch.mm(left, right.T, out=out)
            times.append(time.perf_counter() - begun)
        best[name] = min(times[1:])
    # `out` is of bf16 here: half a step of its own, and sums in float32.
    exact = left.double() @ right.double().T
    room = 2.0**-8 * exact.abs() + 2 * 512 * 2.0**-24 * left.double().norm(dim=1)[
        :, None
    ] * right.double().norm(dim=1)
    is_right = bool(((out.double() - exact).abs() <= room).all())
    return "bfloat16" if is_right and best["bfloat16"] < best["float32"] else "float32"


class CpuEncoder:
    """An encoder's weights, prepared once; results are the same whatever the product's type.

    Attributes:
        product: the type in which the matrix product proposes.
        rescored: pre-activations computed again so far.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        rule: ActivationRule,
        *,
        dtype: str = "float32",
        product: str | None = None,
        portable: bool = False,
        workers: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            weight: float[L, d].
            bias: float32[L].
            rule: which pre-activations are active; any but `GroupMax`.
            dtype: what both operands are rounded to.
            product: "bfloat16" or "float32"; None for the faster one.
            portable: keep to instructions that every processor has.
            workers: threads; as many as torch has if None.

        Raises:
            InputError: shapes disagree.
        """
        self.product = product or fastest_product()
        self.rescored = 0
        self._dtype = DTYPES[dtype]
        rounded = weight.detach().to(self._dtype)
        if self._dtype != torch.bfloat16:
            rounded = rounded.float()
        exact = _room(rounded.shape, rounded.dtype).copy_(rounded)
        product_type = DTYPES[self.product]
        self._weight = exact
        if product_type != exact.dtype:
            self._weight = _room(exact.shape, product_type).copy_(exact)
        self._selector = _core.Selector(
            _array(exact),
            _array(bias.detach().float().contiguous()),
            rounded=self.product == "bfloat16",
            portable=portable,
            **_arguments(rule),
        )
        self._workers = workers or torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._of_thread = threading.local()

    @property
    def width(self) -> int:
        """D."""
        return self._weight.shape[1]

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> Active:
        """The active latents of each row.

        Args:
            x: float[N, d], of any strides.

        Raises:
            InputError: another width; or NaN or infinity in `x` or in its pre-activations, naming
                the row.
        """
        if x.ndim != 2 or x.shape[1] != self.width:
            raise InputError(f"x has shape {list(x.shape)}; the weight asks for [N, {self.width}]")
        size = self._rows_of_a_block(len(x))
        firsts = range(0, len(x), size)
        with _full_precision():
            if self._workers == 1 or len(firsts) < 2:
                parts = [self._block(x[first : first + size], first) for first in firsts]
            else:
                run = self._threads().map
                parts = list(run(lambda first: self._block(x[first : first + size], first), firsts))
        starts = [torch.zeros(1, dtype=torch.int64)]
        total = 0
        for part in parts:
            starts.append(torch.from_numpy(part[0][1:]) + total)
            total += len(part[1])
        latents = np.concatenate([part[1] for part in parts] or [np.empty(0, np.uint32)])
        values = np.concatenate([part[2] for part in parts] or [np.empty(0, np.float32)])
        return Active(
            torch.cat(starts), torch.from_numpy(latents.astype(np.int64)), torch.from_numpy(values)
        )

    def _rows_of_a_block(self, n: int) -> int:
        room = _BLOCK_BYTES // (len(self._weight) * self._weight.element_size())
        share = -(-n // self._workers)
        return max(min(room, _MOST_ROWS, share), _FEWEST_ROWS)

    def _block(self, x: torch.Tensor, first: int) -> tuple[Any, ...]:
        exact = x.to(self._dtype)
        operand = exact.to(self._weight.dtype)
        out = self._buffer(len(x))
        torch.mm(operand, self._weight.T, out=out)
        found = self._selector.select(_array(exact.float().contiguous()), _array(out))
        if len(found[3]):
            row = int(found[3][0])
            where = "" if torch.isfinite(x[row]).all() else "x holds NaN or infinity in "
            raise InputError(
                f"{where}row {first + row}" + ("" if where else ": a pre-activation is too large")
            )
        self.rescored += found[4]
        return found

    def _buffer(self, rows: int) -> torch.Tensor:
        """A thread's room for products, kept: fresh memory costs more than the selection."""
        held: torch.Tensor | None = getattr(self._of_thread, "held", None)
        if held is None or len(held) < rows:
            held = _room((rows, len(self._weight)), self._weight.dtype)
            self._of_thread.held = held
        return held[:rows]

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            before = torch.get_num_threads()
            ready = threading.Barrier(self._workers + 1)

            def alone() -> None:
                torch.set_num_threads(1)  # of this thread
                ready.wait()

            self._pool = ThreadPoolExecutor(self._workers, "encode", initializer=alone)
            for _ in range(self._workers):
                self._pool.submit(time.sleep, 0.01)
            ready.wait()
            torch.set_num_threads(before)  # of this one, and of those to come
        return self._pool


def _room(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Memory by numpy, which asks for large pages: rows of weights are read here and there."""
    like = np.uint16 if dtype == torch.bfloat16 else np.float32
    return torch.from_numpy(np.empty(tuple(shape), like)).view(dtype)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 in float32: a setting of torch lets them be rounded to less."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _arguments(rule: ActivationRule) -> dict[str, Any]:
    if isinstance(rule, TopK):
        return {"k": rule.k}
    if isinstance(rule, Threshold):
        return {"threshold": _array(rule.values.float().contiguous())}
    if isinstance(rule, Gated):
        return {
            "scale": _array(rule.scale.float().contiguous()),
            "magnitude": _array(rule.bias.float().contiguous()),
        }
    assert isinstance(rule, GroupMax)
    raise InputError("groupmax is encoded by `encode_plain`")


def _array(tensor: torch.Tensor) -> npt.NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy()
    return tensor.numpy()
