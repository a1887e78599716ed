"""A reader of indices, written from docs/index-format.md alone: slow, and no part of glossator.

    parameters, segments = read_index(path)
    segments[0].tokens, segments[0].documents, segments[0].mask
    windows, maxima = segments[0].lists[17]    # of latent 17, the strongest window first

A window is its number and its hits, [(offset, code, low bits or None)]. `maxima` has by rank the
bf16 of the window's largest activation, where it is kept. What is not as the page says fails.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

PAGE, BLOCK = 65_536, 128


class Segment(NamedTuple):
    first_context: int
    tokens: np.ndarray  # of each position
    documents: np.ndarray
    mask: np.ndarray
    lists: list  # of each latent


def read_index(path):
    path = Path(path)
    manifest = json.loads((path / "manifest.json").read_bytes())
    assert (manifest["format"], manifest["version"]) == ("glossator-index", 1)
    body = manifest["index"]
    compact = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    assert manifest["xxh3"] == f"{xxhash.xxh3_64_intdigest(compact):016x}"
    parameters, following = body["parameters"], body["parameters"]["first_context"]
    for record in body["segments"]:
        assert record["first_context"] == following
        left = parameters["segment_contexts"] - following % parameters["segment_contexts"]
        assert 1 <= record["contexts"] <= left
        following += record["contexts"]
    return parameters, [read_segment(path, parameters, record) for record in body["segments"]]


def read_segment(path, parameters, record):
    text = read_folder(path, record["text"], record["files"])
    lists = read_folder(path, record["lists"], record["files"])
    n, window = record["contexts"] * parameters["context_length"], parameters["window"]
    kind = ".u32" if "tokens.u32" in text else ".u16"
    tokens = np.frombuffer(text["tokens" + kind], "<u4" if kind == ".u32" else "<u2")
    starts = np.frombuffer(text["document_starts.u32"], "<u4").tolist()
    ids = np.frombuffer(text["document_ids.u64"], "<u8")
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] < n == len(tokens)
    documents = np.repeat(ids, np.diff([*starts, n]))
    mask = np.unpackbits(np.frombuffer(text["mask.bits"], np.uint8), count=n, bitorder="little")
    assert mask.sum() == record["n_tokens"]
    offsets, data = np.frombuffer(lists["offsets.u64"], "<u8").tolist(), lists["lists.bin"]
    assert len(offsets) == parameters["n_latents"] + 1
    assert offsets == sorted(offsets)
    assert (offsets[0], offsets[-1]) == (0, len(data))
    read = [
        read_list(data[offsets[i] : offsets[i + 1]], n // window, window, parameters["lossless"])
        for i in range(parameters["n_latents"])
    ]
    assert sum(len(hits) for windows, _ in read for _, hits in windows) == record["nnz"]
    return Segment(record["first_context"], tokens, documents, mask.astype(bool), read)


def read_folder(path, folder, files):
    """The files of a folder by name, after comparing sizes, page hashes and roots."""
    names = sorted(name.rpartition("/")[2] for name in files if name.startswith(folder + "/"))
    found = {name: (path / folder / name).read_bytes() for name in names}
    kept = np.frombuffer(found["pages.u64"], "<u8").tolist()
    for name, data in found.items():
        pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
        hashes = [xxhash.xxh3_64_intdigest(page) for page in pages]
        root = xxhash.xxh3_64_intdigest(np.array(hashes, "<u8").tobytes())
        assert files[f"{folder}/{name}"] == {"bytes": len(data), "xxh3": f"{root:016x}"}
        if name != "pages.u64":
            assert kept[: len(hashes)] == hashes
            del kept[: len(hashes)]
    assert not kept
    return found


class Bits:
    """A stream of bits."""

    def __init__(self, data):
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").tolist()
        self.at = 0

    def u(self, k):
        self.at += k
        return sum(bit << i for i, bit in enumerate(self.bits[self.at - k : self.at]))

    def unary(self):
        begin, self.at = self.at, self.bits.index(1, self.at) + 1
        return self.at - begin - 1

    def gamma(self):
        e = self.unary()
        return (1 << e) + self.u(e)

    def rice(self, g):
        return (self.unary() << g) + self.u(g)

    def end(self):
        """Bytes that were read, the last one filled up."""
        n = -(-self.at // 8)
        assert n * 8 <= len(self.bits)
        assert not any(self.bits[self.at : n * 8])
        return n


def log2(x):
    return max(1, x).bit_length() - 1


def varints(data, n):
    """The first n numbers, and where they end."""
    values, at, shift = [0], 0, 0
    while True:
        values[-1] |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            if len(values) == n:
                return values, at
            values, shift = [*values, 0], 0


def join(code, low):
    """The bf16 with this code and these low bits."""
    if code >= 112:
        return code - 96 << 3 | low
    return (128 | (code % 16) << 3 | low) >> 7 - code // 16


def decode(code):
    """The activation that a code stands for."""
    if code >= 112:
        return np.uint32(code - 96 << 19 | 0x38000).view(np.float32)
    return np.float32((1 + code % 16 / 16 + (code >= 64) * 3.5 / 128) * 2.0 ** (code // 16 - 133))


def read_list(data, n_windows, window, lossless):
    if not data:
        return [], {}
    (n, more, hi, down, below), at = varints(data, 5)
    lo, floor = hi - down, hi - down - below
    assert 1 <= n <= n_windows
    assert 0 <= floor <= lo <= hi <= 4175
    dense, d, h = data[at] & 1, data[at] >> 1 & 3, data[at] >> 3
    (n_bytes,), used = varints(data[at + 1 :], 1)
    at += 1 + used + (n > BLOCK)
    s, head = data[at - 1], Bits(data[at:])
    counts = {code: (head.gamma() - 1 << h) + head.u(h) for code in range(hi, lo - 1, -1)}
    codes = [code for code, count in counts.items() for _ in range(count)]
    assert len(codes) == n
    k = {c: max(0, log2(n_windows * 31 // 32 // (counts[c] + 1)) - d) for c in counts}
    skips = [(head.u(s), head.u(n_windows.bit_length())) for _ in range((n - 1) // BLOCK)]
    at += head.end()
    stream, windows, maxima = Bits(data[at : at + n_bytes]), [], {}
    for first in range(0, n, BLOCK):
        ranks = range(first, min(n, first + BLOCK))
        begin, before, numbers = stream.at, 0, [number for number, _ in windows]
        low = [stream.u(k[codes[rank]]) for rank in ranks]
        for rank in ranks:
            gap = (stream.unary() << k[codes[rank]]) + low[rank - first]
            before = numbers[-1] if rank > 0 and codes[rank - 1] == codes[rank] else -1
            assert rank > first or rank == 0 or skips[first // BLOCK - 1] == (begin, max(0, before))
            numbers.append(before + 1 + gap)
        peaks, others = read_offsets(stream, len(ranks), window, dense)
        rests = []
        for rank, offsets in zip(ranks, others, strict=True):
            r = (codes[rank] - floor).bit_length()
            rests.append([codes[rank] - stream.u(r) for _ in offsets])
        for i, rank in enumerate(ranks):
            offsets, found = [peaks[i], *others[i]], [codes[rank], *rests[i]]
            lows = [stream.u(3) if lossless else None for _ in offsets]
            hits = sorted(zip(offsets, found, lows, strict=True))
            assert numbers[rank] < n_windows
            assert hits[-1][0] < window
            assert len(set(offsets)) == len(offsets)
            assert next(offset for offset, code, _ in hits if code == codes[rank]) == peaks[i]
            windows.append((numbers[rank], hits))
            if lossless:
                maxima[rank] = max(join(code, low) for _, code, low in hits)
    assert stream.end() == n_bytes
    assert sum(len(hits) for _, hits in windows) == n + more
    assert min(code for _, hits in windows for _, code, _ in hits) == floor
    if not lossless:
        maxima = {rank: join(codes[rank], b) for rank, b in read_exact(data[at + n_bytes :], n)}
    return windows, maxima


def read_offsets(stream, q, window, dense):
    """Of each of a block's q windows: the offset of its peak, and those of its other hits."""
    o, masks, others = (window - 1).bit_length(), [], [0] * q
    if dense:
        masks = [[i for i in range(window) if stream.u(1)] for _ in range(q)]
    elif stream.u(1):
        others = [stream.unary() for _ in range(q)]
    else:
        m, at = stream.gamma() - 1, 0
        for _ in range(m):
            at += 1 + stream.rice(log2(q * 31 // 32 // (m + 1)))
            others[at - 1] = 1 + stream.unary()
    peaks = [stream.u(o) for _ in range(q)]
    if dense:
        return peaks, [[i for i in masks[j] if i != peak] for j, peak in enumerate(peaks)]
    return peaks, [[stream.u(o) for _ in range(count)] for count in others]


def read_exact(data, n):
    """Ranks and low bits of the maxima that are kept."""
    stream = Bits(data)
    kept = [(rank, stream.u(3)) for rank in range(n if n <= 200 else stream.gamma() - 1)]
    for _ in range(stream.gamma() - 1 if n > 200 else 0):
        last = kept[-1][0] if kept else -1
        kept.append((last + stream.gamma(), stream.u(3)))
    assert stream.end() == len(data)
    assert kept[-1][0] < n
    return kept
