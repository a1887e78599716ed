"""What callers hand over, as the arrays that the core takes; what it cannot be is refused by name.

    ids = to_ids("tokens", to_numpy("tokens", tokens), np.uint32, first)
    whole("seed", seed, 2**64)

NumPy arrays, torch tensors of any device and nested lists are taken. Torch is never imported here.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from glossator.errors import InputError

__all__ = [
    "Array",
    "flat_ids",
    "matrix_ids",
    "to_activations",
    "to_ids",
    "to_numpy",
    "to_values",
    "whole",
]

Array = npt.NDArray[Any]
_FEW = 16


def whole(name: str, value: int, limit: int) -> int:
    """A number from 0 to `limit` - 1."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InputError(f"`{name}` is {value!r}; it must be a whole number") from error
    if not 0 <= number < limit:
        raise InputError(f"`{name}` is {number}; it must be between 0 and {limit - 1}")
    return number


def to_numpy(name: str, value: Any) -> Array:  # noqa: ANN401 - whatever the caller has
    """An array of what the caller gave; torch is looked at only when it is torch's."""
    if any(base.__module__.partition(".")[0] == "torch" for base in type(value).__mro__):
        tensor = value.detach().cpu()
        value = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"`{name}` is no array: {error}") from error


def flat_ids(name: str, value: npt.ArrayLike, dtype: type[np.unsignedinteger[Any]]) -> Array:
    """A list of ids."""
    if type(value) is np.ndarray and value.dtype == dtype and value.ndim == 1:
        return np.ascontiguousarray(value)
    # A few latents are asked for so often that their checks would take as long as the answer.
    if (
        isinstance(value, list)
        and len(value) <= _FEW
        and all(type(number) is int and 0 <= number < 2**32 for number in value)
    ):
        return np.array(value, dtype)
    array = to_numpy(name, value)
    if array.ndim != 1:
        raise InputError(f"`{name}` has shape {array.shape}; it must have one dimension")
    return to_ids(name, array, dtype, None)


def matrix_ids(name: str, value: npt.ArrayLike, dtype: type[np.unsignedinteger[Any]]) -> Array:
    """A table of ids, row by row."""
    array = to_numpy(name, value)
    if array.ndim != 2:
        raise InputError(f"`{name}` has shape {array.shape}; it must have two dimensions")
    return to_ids(name, array, dtype, None)


def to_ids(
    name: str,
    array: Array,
    dtype: type[np.unsignedinteger[Any]],
    first: int | None,
    live: Array | None = None,
) -> Array:
    """Ids in the core's dtype.

    Args:
        name: The argument, for the text of an error.
        array: Ids of any integer dtype.
        dtype: The dtype asked for.
        first: Number of the context of the first row; None where rows are no contexts.
        live: Broadcasts to `array`; where it is False, ids are not looked at.

    Raises:
        InputError: An id is negative or too large, or the dtype is not of integers.
    """
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"`{name}` has dtype {array.dtype}; it must be of integers")
    limit = np.iinfo(dtype).max
    if array.size and (int(array.min()) < 0 or int(array.max()) > limit):
        bad = (array < 0) | (array > limit)
        if live is not None:
            bad &= live
        if bad.any():
            at = [int(i) for i in np.argwhere(bad)[0]]
            place = f"entry {at[0]}" if first is None else f"context {first + at[0]}"
            offset = f", offset {at[1]}" if len(at) > 1 else ""
            raise InputError(
                f"{place}{offset}: `{name}` is {array[tuple(at)]}; it must be between 0 and {limit}"
            )
    return np.ascontiguousarray(array.astype(dtype, copy=False))


def to_activations(array: Array) -> Array:
    """Activations as float32, which holds the three dtypes exactly."""
    if array.size and str(array.dtype) not in ("float16", "bfloat16", "float32"):
        raise InputError(
            f"`activations` has dtype {array.dtype}; it must be float16, bfloat16 or float32"
        )
    return np.ascontiguousarray(array.astype(np.float32, copy=False))


def to_values(value: Any) -> Array:  # noqa: ANN401 - whatever the caller has
    """Activations as the core takes them: float32, or the bits of bfloat16 as uint16.

    bfloat16 and float32 are not copied if they lie row by row.
    """
    dtype = str(getattr(value, "dtype", ""))
    if dtype == "torch.bfloat16":
        bits = value.detach().cpu().contiguous().view(sys.modules["torch"].int16)
        return np.ascontiguousarray(bits.numpy().view(np.uint16))
    array = to_numpy("activations", value)
    if str(array.dtype) == "bfloat16":
        return np.ascontiguousarray(array).view(np.uint16)
    return to_activations(array)
