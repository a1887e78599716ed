"""Arrays and JSON in one gzip blob that a browser reads without a library.

    blob = pack({"n": 3}, {"value": np.array([1.0, 2.0, 3.0], np.float32)})
    text = encode(blob)          # base64, for a <script> element
    meta, arrays = unpack(blob)  # the same again

A blob is gzip over: the header's length (u32, little-endian), the header (JSON: `meta`, and for
each array its name, type, offset and length in elements), then the arrays, each at a multiple of 8
bytes. The same input gives the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["encode", "pack", "planes", "shorten", "unpack"]

Array = npt.NDArray[Any]

_TYPES = {"u1": "Uint8", "u2": "Uint16", "u4": "Uint32", "u8": "BigUint64", "f4": "Float32"}
_ALIGN = 8


def _padded(data: bytes, fill: bytes = b"\0") -> bytes:
    return data + fill * (-len(data) % _ALIGN)


def pack(meta: Mapping[str, object], arrays: Mapping[str, Array], *, level: int = 6) -> bytes:
    """Pack JSON and arrays into one gzip blob.

    Args:
        meta: anything that JSON holds; NaN and infinity are refused.
        arrays: arrays of u8, u16, u32, u64 or float32, flattened in C order.
        level: gzip level.

    Raises:
        ValueError: an array has another type, or `meta` holds NaN.
    """
    directory, body, offset = [], [], 0
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array).reshape(-1)
        code = flat.dtype.str[1:]
        if code not in _TYPES:
            raise ValueError(f"array `{name}` is {flat.dtype}: not one of {', '.join(_TYPES)}")
        data = _padded(flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes())
        entry = {"name": name, "type": _TYPES[code], "offset": offset, "length": int(flat.size)}
        directory.append(entry)
        body.append(data)
        offset += len(data)
    # ASCII escapes keep lone surrogates, which UTF-8 cannot hold.
    header = json.dumps(
        {"meta": meta, "arrays": directory}, allow_nan=False, separators=(",", ":")
    ).encode("ascii")
    # The length's four bytes count too, so that the arrays begin at a multiple of 8.
    header += b" " * (-(len(header) + 4) % _ALIGN)
    return gzip.compress(
        b"".join([len(header).to_bytes(4, "little"), header, *body]), level, mtime=0
    )


def unpack(blob: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a blob of `pack`: its JSON and its arrays, flat."""
    data = gzip.decompress(blob)
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    codes = {name: code for code, name in _TYPES.items()}
    arrays = {
        entry["name"]: np.frombuffer(
            data, "<" + codes[entry["type"]], entry["length"], 4 + length + entry["offset"]
        )
        for entry in header["arrays"]
    }
    return header["meta"], arrays


def encode(blob: bytes) -> str:
    """Base64: an alphabet without `<`, so that nothing in it can end a `<script>` element."""
    return base64.b64encode(blob).decode("ascii")


def planes(values: Array, top: int) -> Array:
    """Split non-negative integers below `top` into planes of bytes, lowest byte first.

    Frequent tokens have small numbers, so that the higher planes are nearly empty and gzip finds
    the repetitions of each plane by itself.

    Returns:
        u8[n_planes, values.size].
    """
    n = max(1, math.ceil(max(top - 1, 1).bit_length() / 8))
    flat = values.reshape(-1).astype("<u8", copy=False)
    shifts = np.arange(n, dtype=np.uint64)[:, None] * np.uint64(8)
    split: Array = (flat[None] >> shifts).astype(np.uint8)
    return split


def shorten(values: Array) -> Array:
    """Round float32 values within [−1, 1] to 12 bits of mantissa (2⁻¹³ relative), others unchanged.

    The zeros at the end of each value are what gzip saves; counts stay exact.
    """
    exact = np.ascontiguousarray(values, np.float32)
    bits = exact.view(np.uint32)
    short = ((bits + np.uint32(0x400)) & np.uint32(0xFFFFF800)).view(np.float32)
    return np.where(np.abs(exact) <= 1, short, exact).astype(np.float32)
