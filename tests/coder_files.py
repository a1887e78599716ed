"""The coders of `golden/coders`: copies of their files to spoil.

folder, path = copied("gemma_scope", tmp_path)
held = read(path)
write(path, {**held, "W_enc": held["W_enc"].T})
"""

import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from golden_coders import GOLDEN

_WEIGHTS = (".pt", ".pth", ".npz", ".safetensors")
_OTHERS = ("expected.npz", "sparsity.safetensors")


def weights_of(folder, meant=None):
    """The files that hold the weights of the coder that is meant."""
    last = "" if meant is None else meant.rpartition("_")[2]
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _WEIGHTS and path.name not in _OTHERS and path.stem.endswith(last)
    )


def copied(name, into):
    """A coder's folder to spoil, and its one file of weights."""
    shutil.copytree(GOLDEN / name, into / name)
    (only,) = weights_of(into / name)
    return into / name, only


def read(path):
    """All that a file of weights holds, by name."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch.load(path, weights_only=True)


def write(path, held):
    """Write a file as `read` gives it."""
    held = {
        name: value.contiguous() if isinstance(value, torch.Tensor) else value
        for name, value in held.items()
    }
    if path.suffix == ".safetensors":
        save_file(held, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in held.items()})
    else:
        torch.save(held, path)


def spoiled(tensor, way):
    """A tensor `transposed` (a vector becomes a column), `truncated` or `re-scaled`."""
    if way == "transposed":
        return tensor[:, None] if tensor.ndim == 1 else tensor.transpose(0, 1)
    if way == "truncated":
        return tensor[:-1]
    return tensor * 4
