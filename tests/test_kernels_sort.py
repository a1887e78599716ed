"""Sorting by latent: the kernel, the twin, and the bytes of the index that is made of it."""

import filecmp

import numpy as np
import pytest
import torch

import glossator as gl
from glossator._kernels import reference_statistics
from glossator._kernels.sort_by_latent import sort_by_latent
from glossator.errors import InputError


def _batch(n_rows, k, n_latents, seed=0):
    """Distinct latents in each row, some of them left out; latent 0 on every row."""
    made = np.random.default_rng(seed)
    latents = np.stack([1 + made.permutation(n_latents - 1)[:k] for _ in range(n_rows)])
    latents[:, 0] = 0
    activations = made.exponential(size=latents.shape).astype(np.float32) + 0.01
    short = made.random(latents.shape) < 0.2
    short[:, 0] = False
    latents[short], activations[short] = -1, 0
    return torch.from_numpy(latents.astype(np.int32)), torch.from_numpy(activations)


@pytest.mark.parametrize("n_latents", [5, 32_768, 65_536])
@pytest.mark.parametrize(("n_rows", "k"), [(1, 1), (37, 4), (700, 3)])
def test_kernel_and_twin_give_the_same_runs(n_rows, k, n_latents):
    latents, activations = _batch(n_rows, k, n_latents)
    rows = torch.arange(n_rows).repeat_interleave(k)
    twin = reference_statistics.sort_by_latent(
        latents.flatten(), rows, activations.flatten(), n_latents
    )
    runs = sort_by_latent(latents, activations, n_latents).to_host().wait()
    kept = (latents >= 0).flatten()
    starts = torch.nn.functional.pad((latents >= 0).sum(1).cumsum(0), (1, 0))
    ragged = sort_by_latent(
        latents.flatten()[kept], activations.flatten()[kept], n_latents, starts=starts
    ).wait()
    for ours in (runs, ragged):
        assert all(torch.equal(a, b) for a, b in zip(ours, twin, strict=True))
    for latent in range(min(n_latents, 5)):
        own = slice(runs[0][latent], runs[0][latent + 1])
        assert runs[1][own].tolist() == (latents == latent).any(1).nonzero()[:, 0].tolist()


def test_nothing_active_gives_empty_runs():
    for n_rows in (0, 3):
        latents = torch.full((n_rows, 2), -1, dtype=torch.int32)
        starts, positions, values = sort_by_latent(latents, torch.zeros(n_rows, 2), 4).wait()
        assert starts.tolist() == [0] * 5
        assert len(positions) == len(values) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sorted_runs_make_the_bytes_of_the_index_of_rows(tmp_path, dtype):
    contexts, length, k, n_latents = 4, 64, 3, 50
    latents, activations = _batch(contexts * length, k, n_latents)
    tokens = np.arange(contexts * length).reshape(contexts, length) % 90
    documents = np.arange(contexts)
    given = {"n_latents": n_latents, "context_length": length}
    with gl.IndexWriter(tmp_path / "rows", **given) as writer:
        unsigned = latents.numpy().view(np.uint32).reshape(contexts, length, k)
        writer.add(tokens, unsigned, activations.view(contexts, length, k), documents)
    with gl.IndexWriter(tmp_path / "runs", **given) as writer:
        runs = sort_by_latent(latents, activations, n_latents, dtype=dtype).to_host().wait()
        writer.add_sorted(tokens, *runs, documents)
    files = [path.relative_to(tmp_path / "rows") for path in (tmp_path / "rows").rglob("*")]
    names = [str(path) for path in files if (tmp_path / "rows" / path).is_file()]
    assert len(names) > 1
    same, different, missing = filecmp.cmpfiles(
        tmp_path / "rows", tmp_path / "runs", names, shallow=False
    )
    assert (sorted(same), different, missing) == (sorted(names), [], [])


def test_shapes_that_disagree_are_refused():
    with pytest.raises(InputError, match="must be"):
        sort_by_latent(torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 2), 4)


@pytest.mark.gpu
@pytest.mark.parametrize("n_latents", [300, 40_000])
def test_the_gpu_gives_the_runs_of_the_twin(n_latents):
    latents, activations = _batch(5_000, 8, n_latents)
    rows = torch.arange(5_000).repeat_interleave(8)
    twin = reference_statistics.sort_by_latent(
        latents.flatten(), rows, activations.flatten(), n_latents
    )
    first = sort_by_latent(latents.cuda(), activations.cuda(), n_latents).to_host()
    again = sort_by_latent(latents.cuda(), activations.cuda(), n_latents).to_host(first)
    assert all(torch.equal(a, b) for a, b in zip(again.wait(), twin, strict=True))
