"""Sparse coders: autoencoders and transcoders, from disk, from a hub, or trained here.

coder = load_coder("saes", hookpoint="layers.10")
coder = trained_coder(subject_hash, hookpoint, contexts_hash, hidden)
latents, activations = coder.encode(x)
"""

from __future__ import annotations

from glossator.coders.load import load_coder
from glossator.coders.record import NO_LATENT, Quality, SparseCoder
from glossator.coders.train import TrainConfig, train, trained_coder

__all__ = [
    "NO_LATENT",
    "Quality",
    "SparseCoder",
    "TrainConfig",
    "load_coder",
    "train",
    "trained_coder",
]
