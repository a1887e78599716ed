"""Read the files of strangers: tensors and settings, no code, no more memory than the file is long.

    stored = Stored.of(Path("sae_weights.safetensors"))
    weight = stored.matrix("W_enc", (n_latents, width), transposed=True)
    config = settings(Path("cfg.json"))

Safetensors, npz (no pickled arrays) and torch's own format (weights only: a pickle with code in it
is refused before any of it runs). What a header says is checked against the length of the file.
"""

from __future__ import annotations

import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from glossator.errors import InputError

__all__ = ["Stored", "contents", "flag", "names_in", "settings", "word"]

_LONGEST_HEADER = 32 * 2**20
_LONGEST_ARRAY_HEADER = 2**16
_UNPACKED = 100
"""Times its length that an archive may unpack to: weights shrink little, bombs a thousandfold."""


def settings(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping.

    Raises:
        InputError: not readable, or something else than a mapping; names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "not text"
        raise InputError(f"coder `{path}`: {said}") from error
    try:
        held = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        line = " ".join(str(error).split())[:160]
        raise InputError(f"coder `{path}`: not {kind} ({line})") from error
    if not isinstance(held, dict):
        raise InputError(f"coder `{path}`: holds no mapping of settings")
    return held


def flag(path: Path, config: Mapping[str, Any], name: str, default: bool) -> bool:
    """A setting that is true or false; null is as good as nothing.

    Raises:
        InputError: anything else, which would be a guess.
    """
    said = config.get(name)
    if said is not None and not isinstance(said, bool):
        raise InputError(f"coder `{path}`: `{name}` = `{said!r}` is neither true nor false")
    return default if said is None else said


def word(config: Mapping[str, Any], name: str) -> str | None:
    """A setting that is a name; None where it is something else."""
    said = config.get(name)
    return said if isinstance(said, str) and said else None


def _yaml(text: str) -> object:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, by name; where torch's format holds more, that is left out."""
    return {name: held for name, held in contents(path).items() if isinstance(held, torch.Tensor)}


def contents(path: Path) -> dict[str, Any]:
    """Everything that a file of weights holds.

    Raises:
        InputError: no such file, cut short, a header that lies, or a pickle with code in it.
    """
    if not path.is_file():
        raise InputError(f"coder `{path}`: no such file")
    if path.suffix == ".safetensors":
        _check_header(path)
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise _unreadable(path, "safetensors", error) from error
    if path.suffix == ".npz":
        return _npz(path)
    return _torch(path)


def names_in(path: Path) -> set[str]:
    """The names of the tensors in a file.

    Raises:
        InputError: as for reading it.
    """
    if path.suffix != ".safetensors":
        return set(contents(path))
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as opened:
            return set(opened.keys())
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, "safetensors", error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    line = " ".join(str(error).split())[:160]
    return InputError(f"coder `{path}`: not readable as {kind} ({line}); fetch the file again")


def _check_header(path: Path) -> None:
    """A safetensors header as long as it says, and not longer than the file or 32 MiB."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise _unreadable(path, "safetensors", error) from error
    if size < 8 or length > size - 8:
        raise InputError(
            f"coder `{path}`: not readable as safetensors (its header claims {length:,} bytes, "
            f"the file has {size:,}); fetch the file again"
        )
    if length > _LONGEST_HEADER:
        raise InputError(
            f"coder `{path}`: a header of {length:,} bytes; {_LONGEST_HEADER:,} are the limit"
        )


def _npz(path: Path) -> dict[str, Any]:
    """The arrays of an npz file; each is as long as its own header says, before it is read."""
    held: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            _check_unpacked(path, archive)
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as file:
                    first = np.lib.format.read_magic(file) == (1, 0)
                    at = file.tell()
                    length = int.from_bytes(file.read(2 if first else 4), "little")
                    file.seek(at)
                    if length > _LONGEST_ARRAY_HEADER:
                        raise InputError(
                            f"coder `{path}`: array `{name}` has a header of {length:,} bytes; "
                            f"{_LONGEST_ARRAY_HEADER:,} are the limit"
                        )
                    reader = (
                        np.lib.format.read_array_header_1_0
                        if first
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = reader(file)
                    if dtype.hasobject:
                        raise InputError(
                            f"coder `{path}`: array `{name}` holds pickled objects, which are "
                            "never loaded; save plain numbers"
                        )
                    claimed = math.prod(shape) * dtype.itemsize + file.tell()
                    if claimed != entry.file_size:
                        raise InputError(
                            f"coder `{path}`: array `{name}` claims the shape {list(shape)}, "
                            f"{claimed:,} bytes, but has {entry.file_size:,}"
                        )
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                held[name] = torch.from_numpy(np.ascontiguousarray(arrays[name]))
    except InputError:
        raise
    except Exception as error:
        # On a damaged file zipfile, zlib and the header's parser raise each its own.
        raise _unreadable(path, "npz", error) from error
    return held


def _check_unpacked(path: Path, archive: zipfile.ZipFile) -> None:
    """An archive that does not unpack to far more than it is long."""
    unpacked, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if unpacked > _UNPACKED * size:
        raise InputError(
            f"coder `{path}`: unpacks to {unpacked:,} bytes, but has {size:,}; {_UNPACKED} times "
            "as many are the limit"
        )


def _torch(path: Path) -> dict[str, Any]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_unpacked(path, archive)
        with warnings.catch_warnings():
            # Of other pickle protocols, which are read or refused all the same.
            warnings.simplefilter("ignore", UserWarning)
            held = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        line = " ".join(str(error).split())[:120]
        raise InputError(
            f"coder `{path}`: holds more than tensors, which is never executed ({line}); "
            "save its `state_dict` alone"
        ) from error
    except Exception as error:
        # On a damaged file the unpickler raises whatever it stumbles over.
        raise _unreadable(path, "a torch file", error) from error
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise InputError(f"coder `{path}`: holds no tensors by name; save its `state_dict`")
    for name, tensor in held.items():
        # A stride of 0 makes terabytes of one number.
        if isinstance(tensor, torch.Tensor) and tensor.nbytes > _UNPACKED * path.stat().st_size:
            raise InputError(
                f"coder `{path}`: tensor `{name}` claims the shape {list(tensor.shape)}, "
                f"{tensor.nbytes:,} bytes, but the file has {path.stat().st_size:,}"
            )
    return held


@dataclass
class Stored:
    """The tensors of one coder as its file has them, to be taken by name and shape.

    Attributes:
        path: the file.
        tensors: by name.
        warnings: what was settled without proof, one sentence each.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    warnings: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, path: Path) -> Stored:
        """Read a file."""
        return cls(path, _tensors(path))

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def any(self, name: str) -> torch.Tensor:
        """A tensor in float32.

        Raises:
            InputError: it is missing, or not of numbers.
        """
        if name not in self.tensors:
            held = ", ".join(f"`{other}`" for other in sorted(self.tensors)[:12]) or "nothing"
            raise InputError(
                f"coder `{self.path}`: tensor `{name}` is missing; the file holds {held}"
            )
        self._taken.add(name)
        tensor = self.tensors[name]
        if tensor.is_complex() or tensor.layout != torch.strided:
            raise InputError(f"coder `{self.path}`: tensor `{name}` is not of plain real numbers")
        tensor = tensor.float()
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"coder `{self.path}`: tensor `{name}` holds NaN or infinity")
        return tensor

    def vector(self, name: str, length: int | None = None) -> torch.Tensor:
        """A tensor of one dimension, and of `length` where that is known.

        Raises:
            InputError: missing, or of another shape.
        """
        tensor = self.any(name)
        if tensor.ndim != 1 or not tensor.numel() or length not in (None, len(tensor)):
            wanted = "one dimension" if length is None else f"[{length}]"
            raise InputError(
                f"coder `{self.path}`: tensor `{name}` has shape {list(tensor.shape)}, but the "
                f"others ask for {wanted}"
            )
        return tensor

    def matrix(self, name: str, shape: tuple[int, int], *, transposed: bool) -> torch.Tensor:
        """A matrix in the record's orientation.

        Args:
            name: the tensor.
            shape: what it has in the record.
            transposed: whether the format stores its transpose.

        Raises:
            InputError: missing, of another shape, or stored the other way round.
        """
        tensor = self.any(name)
        stored = shape[::-1] if transposed else shape
        if tuple(tensor.shape) != stored:
            turned = tuple(tensor.shape) == stored[::-1]
            hint = "; it is transposed, and this format is not" if turned else ""
            raise InputError(
                f"coder `{self.path}`: tensor `{name}` has shape {list(tensor.shape)}, but the "
                f"biases ask for {list(stored)}{hint}"
            )
        if shape[0] == shape[1]:
            self.warnings.append(
                f"`{name}` is square, so that its shape does not show its orientation; taken as "
                f"this format stores it"
            )
        return tensor.T.contiguous() if transposed else tensor.contiguous()

    def threshold(self, name: str, n_latents: int) -> torch.Tensor:
        """Thresholds float32[L] from one number or L; below zero they are as good as zero.

        Raises:
            InputError: missing, or of another shape.
        """
        tensor = self.any(name)
        if tensor.numel() == 1 and n_latents != 1:
            tensor = tensor.reshape(1).expand(n_latents)
        if tuple(tensor.shape) != (n_latents,):
            raise InputError(
                f"coder `{self.path}`: tensor `{name}` has shape {list(tensor.shape)}, but there "
                f"are {n_latents} latents"
            )
        return tensor.clamp(min=0).contiguous()

    def leftover(self, *known: str) -> list[str]:
        """The warnings, with one for every tensor that was neither read nor is `known`."""
        unread = sorted(set(self.tensors) - self._taken - set(known))
        unused = [
            f"tensor `{name}` is not known to this format and was not used" for name in unread
        ]
        return [*dict.fromkeys(self.warnings), *unused]
