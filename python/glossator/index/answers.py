"""The rows that an index answers with.

top = index.top([17, 42], n=5)
top.start[top.latent == 17]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Histogram", "Top"]


class Top(NamedTuple):
    """The strongest windows of some latents: m rows, by latent, the strongest first."""

    latent: npt.NDArray[np.uint32]
    """[m] latent."""
    start: npt.NDArray[np.uint64]
    """[m] position of the window's first token."""
    activation: npt.NDArray[np.float32]
    """[m] the window's largest activation."""
    exact: npt.NDArray[np.bool_]
    """[m] True: exact in bf16, and ordered by it; else within 1/32, ordered by its 8-bit code, and
    of equal codes by position."""


class Histogram(NamedTuple):
    """How strong the windows of some latents are: m rows, by latent, the strongest first."""

    latent: npt.NDArray[np.uint32]
    """[m] latent."""
    code: npt.NDArray[np.uint16]
    """[m] 8-bit code of the windows' largest activations, 16 to an octave."""
    activation: npt.NDArray[np.float32]
    """[m] the activation that stands for the code, within 1/32."""
    windows: npt.NDArray[np.uint64]
    """[m] how many windows."""
