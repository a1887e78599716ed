"""A top-K sparse autoencoder trained on a CPU in about a minute.

    coder, facts = train(hidden, mask, TrainConfig(), hookpoint="model.layers.5")
    facts["variance_explained"], facts["dead"]

Only k of L latents are active on a token, so the backward pass is written by hand with sparse
products: of its two dense forms, the gradient of the decoder and that of the encoder, each is the
transposed sparse matrix of one batch times a dense one. Latents that have not fired for a while
learn to describe what the others leave over (AuxK of Gao et al., 2024, "Scaling and evaluating
sparse autoencoders").
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from glossator.coders import sparsify
from glossator.coders.record import SparseCoder
from glossator.encode import TopK
from glossator.errors import InputError
from glossator.folders import cache_folder, new_folder
from glossator.progress import SILENT, Progress
from glossator.records import Record, content_id

__all__ = ["TrainConfig", "train", "trained_coder"]

_RECIPE = 1
"""Changes whenever the same settings come to give other weights."""

_AUXILIARY_WEIGHT = 1 / 8

_SAMPLE = 32_768
"""Tokens from which mean and scale are taken."""


class TrainConfig(Record):
    """What decides a training run, save the data."""

    n_latents: int = Field(default=4_096, gt=0)
    """Size of the dictionary, L."""
    k: int = Field(default=32, gt=0)
    """Latents active on a token."""
    steps: int = Field(default=800, ge=0)
    """Optimiser steps: a number, not a time, so that the result does not depend on the machine.
    0 leaves the directions random: what a coder that learned nothing scores."""
    batch: int = Field(default=1_024, gt=0)
    """Tokens in a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of Adam's rate; it warms up over 50 steps, or a tenth, and falls over the last 40 %."""
    dead_after: int = Field(default=40, gt=0)
    """Steps without firing after which a latent counts as dead, and AuxK sees to it."""
    held_out: float = Field(default=0.05, gt=0, lt=1)
    """Share of contexts kept for the report."""
    seed: int = Field(default=0, ge=0)
    """Seed of the first weights, the order of tokens and the contexts held out."""


def trained_coder(
    data: Callable[[], tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]],
    made_from: Mapping[str, str],
    config: TrainConfig,
    *,
    hookpoint: str,
    cache_dir: str | Path | None = None,
    progress: Progress = SILENT,
) -> SparseCoder:
    """The coder that this training gives: from the cache, or trained now and kept.

    Args:
        data: gives hidden states and mask as `train` takes them; called only to train.
        made_from: what determines the data: hashes of subject and contexts, names for people.
        config: what determines the rest.
        hookpoint: the module that the hidden states come from.
        cache_dir: where trained coders are kept.
        progress: shows the training.
    """
    key = content_id(_RECIPE, hookpoint, dict(made_from), config.model_dump())
    folder = cache_folder(cache_dir) / "coders" / key
    if not folder.is_dir():
        hidden, mask = data()
        coder, facts = train(hidden, mask, config, hookpoint=hookpoint, progress=progress)
        with new_folder(folder) as scratch:
            sparsify.write(coder, scratch, {**made_from, **facts})
    return sparsify.read(folder, hookpoint)


def training_facts(coder_folder: Path) -> dict[str, Any]:
    """What was measured when a coder was trained: its `glossator.json`; empty without one."""
    path = coder_folder / "glossator.json"
    facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return facts


@torch.no_grad()
def train(
    hidden: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    config: TrainConfig,
    *,
    hookpoint: str | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = SILENT,
) -> tuple[SparseCoder, dict[str, Any]]:
    """Train an autoencoder of hidden states.

    Args:
        hidden: float32[n, S, d], may be a memory map.
        mask: bool[n, S]: which of them count.
        config: sizes, steps, rates, seed.
        hookpoint: written into the coder.
        device: where to train.
        progress: one unit a step.

    Returns:
        The coder in raw units, with decoder rows of norm 1, and what was measured on the contexts
        held out: `variance_explained`, `dead`, `dense`, `l0`, `held_out_tokens`, and the settings.

    Raises:
        InputError: fewer than two contexts, or hidden states that are not finite.
    """
    order = np.random.default_rng(config.seed)
    training, held_out = _split(mask, config.held_out, order)
    flat = hidden.reshape(-1, hidden.shape[-1])
    place = torch.device(device)

    def rows(positions: npt.NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(flat[np.sort(positions)], np.float32)).to(place)

    mean, scale = _location(rows(training[order.permutation(len(training))[:_SAMPLE]]))
    trainer = _Trainer(flat.shape[1], config, place)
    with progress.stage("train", config.steps, "steps") as bar:
        positions = np.empty(0, np.int64)
        for step in range(config.steps):
            while len(positions) < config.batch:
                positions = np.concatenate((positions, order.permutation(training)))
            x = (rows(positions[: config.batch]) - mean) / scale
            positions = positions[config.batch :]
            trainer.step(x, _rate(step, config))
            bar.advance()
        coder = trainer.coder(mean, scale, config.k, hookpoint)
        quality = coder.quality(rows(held_out))
        bar.note(
            f"{quality.variance_explained:.1%} of variance explained on {quality.rows:,} tokens "
            f"held out, {quality.dead:,} of {config.n_latents:,} latents dead there"
        )
    facts = {
        "variance_explained": quality.variance_explained,
        "dead": quality.dead,
        "dense": quality.dense,
        "l0": quality.l0,
        "held_out_tokens": quality.rows,
        "training_tokens": len(training),
        "training": config.model_dump(),
    }
    return coder, facts


class _Trainer:
    """Weights, optimiser and the step."""

    def __init__(self, width: int, config: TrainConfig, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(config.seed)
        directions = torch.randn(config.n_latents, width, generator=generator)
        self.decoder = torch.nn.functional.normalize(directions, dim=1).to(device)
        self.encoder = self.decoder.clone()
        self.encoder_bias = torch.zeros(config.n_latents, device=device)
        self.decoder_bias = torch.zeros(width, device=device)
        weights = [self.encoder, self.decoder, self.encoder_bias, self.decoder_bias]
        for weight in weights:
            weight.requires_grad_()
        self._k = config.k
        self._dead_after = config.dead_after
        self._idle = torch.zeros(config.n_latents, dtype=torch.int64, device=device)
        self._adam = torch.optim.Adam(
            weights, lr=config.learning_rate, betas=(0.9, 0.99), fused=True
        )

    def step(self, x: torch.Tensor, rate: float) -> None:
        """One step on a batch x[B, d] of mean 0 and norm about √d."""
        batch, width = x.shape
        centred = x - self.decoder_bias
        scores = torch.addmm(self.encoder_bias, centred, self.encoder.T)
        values, latents = scores.topk(self._k, dim=1, sorted=False)
        active = values > 0
        values = values.relu_()
        left = _decode(latents, values, self.decoder) - centred
        gradient = left * (2 / (batch * width))
        slopes = _sampled(gradient, self.decoder, latents).masked_fill_(~active, 0.0)
        self.decoder.grad = _transposed(latents, values, len(self.decoder)) @ gradient
        self.encoder.grad = _transposed(latents, slopes, len(self.decoder)) @ centred
        self.encoder_bias.grad = torch.zeros_like(self.encoder_bias).index_add_(
            0, latents.flatten(), slopes.flatten()
        )
        self.decoder_bias.grad = gradient.sum(0) - self.encoder_bias.grad @ self.encoder
        self._revive(centred, scores, left)
        along = torch.linalg.vecdot(self.decoder.grad, self.decoder)
        self.decoder.grad.addcmul_(along[:, None], self.decoder, value=-1)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        self.decoder.div_(torch.linalg.vector_norm(self.decoder, dim=1, keepdim=True))
        self._idle += 1
        self._idle[latents[active]] = 0

    def _revive(self, centred: torch.Tensor, scores: torch.Tensor, left: torch.Tensor) -> None:
        """Add AuxK's gradient: idle latents describe what the active ones left over."""
        idle = (self._idle > self._dead_after).nonzero()[:, 0]
        if len(idle) < self._k:
            return
        batch, width = centred.shape
        decoder = self.decoder[idle]
        values, chosen = scores[:, idle].topk(self._k, dim=1, sorted=False)
        active = values > 0
        values = values.relu_()
        error = _decode(chosen, values, decoder) + left
        gradient = error * (2 * _AUXILIARY_WEIGHT / (batch * width))
        slopes = _sampled(gradient, decoder, chosen).masked_fill_(~active, 0.0)
        assert self.decoder.grad is not None
        assert self.encoder.grad is not None
        assert self.encoder_bias.grad is not None
        self.decoder.grad[idle] += _transposed(chosen, values, len(idle)) @ gradient
        self.encoder.grad[idle] += _transposed(chosen, slopes, len(idle)) @ centred
        self.encoder_bias.grad.index_add_(0, idle[chosen.flatten()], slopes.flatten())

    def coder(
        self, mean: torch.Tensor, scale: torch.Tensor, k: int, hookpoint: str | None
    ) -> SparseCoder:
        """The weights for hidden states as the model gives them."""
        bias = mean + self.decoder_bias.detach() * scale
        return SparseCoder(
            encoder_weight=self.encoder.detach().clone(),
            encoder_bias=self.encoder_bias.detach() * scale,
            decoder=self.decoder.detach().clone(),
            decoder_bias=bias,
            rule=TopK(k),
            input_bias=bias,
            hookpoint=hookpoint,
            hookpoint_out=hookpoint,
            source="trained",
        )


def _split(
    mask: npt.NDArray[np.bool_], share: float, order: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Flat positions that count, for training and held out, by whole contexts."""
    contexts = len(mask)
    if contexts < 2 or not mask.any():
        raise InputError(f"training needs two contexts with text; there are {contexts}")
    chosen = np.zeros(contexts, np.bool_)
    chosen[order.permutation(contexts)[: max(round(share * contexts), 1)]] = True
    parts = (
        np.flatnonzero(mask & ~chosen[:, None]).astype(np.int64),
        np.flatnonzero(mask & chosen[:, None]).astype(np.int64),
    )
    if not len(parts[0]) or not len(parts[1]):
        raise InputError("training needs two contexts with text; take more of the corpus")
    return parts


def _location(sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean, and the scale at which the mean norm about it is √d."""
    mean = sample.double().mean(0).float()
    scale = (sample - mean).norm(dim=1).double().mean().float() / sample.shape[1] ** 0.5
    if not torch.isfinite(scale) or scale == 0:
        raise InputError("the hidden states are all the same or not finite; nothing to train on")
    return mean, scale


def _rate(step: int, config: TrainConfig) -> float:
    warm = min(50, max(config.steps // 10, 1))
    left = (config.steps - step) / config.steps
    return config.learning_rate * min((step + 1) / warm, 1.0, max(left / 0.4, 0.02))


def _decode(latents: torch.Tensor, values: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(
        latents, decoder.detach(), per_sample_weights=values, mode="sum"
    )


def _csr(
    starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def _transposed(latents: torch.Tensor, values: torch.Tensor, n_latents: int) -> torch.Tensor:
    """The sparse [L, B] matrix whose column b holds `values[b]` in the rows `latents[b]`."""
    batch, k = latents.shape
    flat = latents.flatten()
    order = flat.argsort(stable=True)
    starts = torch.zeros(n_latents + 1, dtype=torch.int64, device=flat.device)
    starts[1:] = torch.bincount(flat, minlength=n_latents).cumsum(0)
    return _csr(starts, order // k, values.flatten()[order], (n_latents, batch))


def _sampled(left: torch.Tensor, right: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The entries `left @ right.T` at `columns` [B, k] of each row, and no others."""
    batch, k = columns.shape
    ordered, order = columns.sort(dim=1)
    pattern = _csr(
        torch.arange(0, batch * k + 1, k, device=left.device),
        ordered.flatten(),
        torch.zeros(batch * k, device=left.device),
        (batch, len(right)),
    )
    product = torch.sparse.sampled_addmm(pattern, left, right.detach().T, beta=0.0)
    result = torch.empty((batch, k), device=left.device)
    return result.scatter_(1, order, product.values().view(batch, k))
