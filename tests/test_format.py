"""What lies on disk is what docs/index-format.md says, in the exact bytes that were kept."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xxhash

import glossator as gl
from format_reader import decode, join, read_index
from glossator.index import NO_DOCUMENT
from golden.make import FOLDER, GOLDEN

PAGE = Path(__file__).parents[1] / "docs" / "index-format.md"


@dataclass(frozen=True)
class Case:
    """A random index."""

    window: int = 32
    windows: int = 2  # of a context
    contexts: int = 60
    shares: tuple = (0.0, 0.001, 0.02, 0.3)  # of positions at which each latent is active
    spread: float = 1.0  # of the logarithm of its activations
    documents: int = 9
    masked: float = 0.1
    largest_token: int = 60_000
    more: tuple = ()

    @property
    def options(self):
        return dict(self.more)

    @property
    def context_length(self):
        return self.window * self.windows

    def arrays(self):
        rng = np.random.default_rng(len(repr(self)))
        shape = (self.contexts, self.context_length)
        tokens = rng.integers(0, self.largest_token, shape)
        documents = np.sort(rng.integers(0, self.documents, shape).reshape(-1)).reshape(shape)
        mask = rng.random(shape) >= self.masked
        documents = np.where(mask | (rng.random(shape) < 0.5), documents.astype("u8"), NO_DOCUMENT)
        values = np.exp(self.spread * rng.normal(size=(*shape, len(self.shares))))
        dense = np.where(rng.random(values.shape) < self.shares, values, 0).astype(np.float32)
        return tokens, documents, mask, dense

    def build(self, path):
        tokens, documents, mask, dense = self.arrays()
        ids = np.broadcast_to(np.arange(len(self.shares)), dense.shape)
        shape = {"n_latents": len(self.shares), "context_length": self.context_length}
        with gl.IndexWriter(path, **shape, window=self.window, **self.options) as writer:
            for rows in np.array_split(np.arange(self.contexts), 3):
                writer.add(tokens[rows], ids[rows], dense[rows], documents[rows], mask[rows])


CASES = {
    "plain": Case(),
    "lossless": Case(more=(("lossless", True),)),
    "several segments": Case(more=(("segment_contexts", 17), ("first_context", 40))),
    "lossless segments": Case(20, more=(("segment_contexts", 25), ("lossless", True))),
    "windows of one token": Case(1, 12, 90, (0.01, 0.1, 0.6, 1.0)),
    "windows of 20": Case(20, 3, 200),
    "a whole context a window": Case(100, 1, shares=(0.01, 0.05, 0.2)),
    "long lists": Case(4, 16, 150, (0.02, 0.1, 0.25, 0.05), spread=0.2),
    "long lossless lists": Case(4, 16, 100, (0.02, 0.3), spread=0.2, more=(("lossless", True),)),
    "dense": Case(shares=(0.9, 1.0, 0.5)),
    "all codes": Case(4, 16, 40, (0.2, 0.05), spread=20.0),
    "one code": Case(4, 16, 120, (0.2, 0.6, 0.01), spread=0.0),
    "one document": Case(4, 16, 60, documents=1, masked=0.0),
    "hardly a token counts": Case(masked=0.97),
    "large tokens": Case(largest_token=2**32),
}


def bf16_of(values):
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return np.clip((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 1, 0x7F7F).astype(np.uint32)


def postings(parameters, segments, latent):
    """Positions, ascending, and activations, from what the reader gives."""
    found = []
    for segment in segments:
        base = segment.first_context * parameters["context_length"]
        for window, hits in segment.lists[latent][0]:
            for offset, code, low in hits:
                bf16 = None if low is None else np.uint32(join(code, low) << 16)
                value = decode(code) if bf16 is None else bf16.view(np.float32)
                found.append((base + window * parameters["window"] + offset, value))
    found.sort()
    return [position for position, _ in found], [float(value) for _, value in found]


def windows(parameters, segments, latent):
    """First positions and codes of the windows in the order of the whole index."""
    found = []
    for segment in segments:
        base = segment.first_context * parameters["context_length"]
        own = [
            (-max(code for _, code, _ in hits), base + window * parameters["window"])
            for window, hits in segment.lists[latent][0]
        ]
        assert own == sorted(own)
        found.extend(own)
    return [(start, -code) for code, start in sorted(found)]


@pytest.mark.parametrize("name", CASES)
def test_the_reader_finds_what_was_added_and_what_the_index_finds(name, tmp_path):
    case = CASES[name]
    case.build(tmp_path / "index")
    index = gl.Index.open(tmp_path / "index")
    parameters, segments = read_index(tmp_path / "index")
    tokens, documents, mask, dense = case.arrays()
    for part, given in (("tokens", tokens), ("documents", documents), ("mask", mask)):
        read = np.concatenate([getattr(segment, part) for segment in segments])
        np.testing.assert_array_equal(read, given.reshape(-1))
    base = index.first_context * case.context_length
    for latent in range(parameters["n_latents"]):
        positions, activations = postings(parameters, segments, latent)
        known = index.postings(latent)
        np.testing.assert_array_equal(positions, known[0])
        np.testing.assert_array_equal(np.float32(activations), known[1])
        column = np.where(mask, dense[..., latent], 0).reshape(-1)
        np.testing.assert_array_equal(positions, np.flatnonzero(column) + base)
        given = column[np.flatnonzero(column)]
        if parameters["lossless"]:
            given = (bf16_of(given) << 16).view(np.float32)
        tolerance = 0 if parameters["lossless"] else 1 / 32
        np.testing.assert_allclose(activations, given, rtol=tolerance, atol=0)
        ranked = windows(parameters, segments, latent)
        n = len(ranked)
        by_rank = {start: 1 + 10 * (n - 1 - rank) // n for rank, (start, _) in enumerate(ranked)}
        starts, _, deciles = index.windows(latent)
        assert dict(zip(starts.tolist(), deciles.tolist(), strict=True)) == by_rank
        check_maxima(parameters, segments, latent, column, base)


def check_maxima(parameters, segments, latent, column, base):
    """Those that are kept are right, and are those that the page says."""
    width = parameters["window"]
    for segment in segments:
        ranked, maxima = segment.lists[latent]
        first = segment.first_context * parameters["context_length"] - base
        bf16 = []
        for window, _ in ranked:
            stretch = column[first + window * width : first + (window + 1) * width]
            bf16.append(int(bf16_of(stretch.max())))
        assert all(maxima[rank] == bf16[rank] for rank in maxima)
        kept = set(range(len(ranked)))
        if not parameters["lossless"] and len(ranked) > 200:
            sides = [window_side(parameters, segment, window) for window, _ in ranked]
            order = sorted(kept, key=lambda rank: (-bf16[rank], ranked[rank][0]))
            kept = {r for side in (0, 1) for r in [r for r in order if sides[r] == side][:200]}
        assert set(maxima) == kept


def window_side(parameters, segment, window):
    span = slice(window * parameters["window"], (window + 1) * parameters["window"])
    documents = set(segment.documents[span][segment.mask[span]].tolist())
    sides = {document_side(document, parameters["split_seed"]) for document in documents}
    return sides.pop() if len(sides) == 1 else None


def document_side(document, seed):
    return xxhash.xxh3_64_intdigest(document.to_bytes(8, "little"), seed) >> 63


@pytest.mark.parametrize(
    "case",
    [CASES["lossless segments"], Case(2**15, 5, 2, (0.001,), more=(("lossless", True),))],
    ids=["short contexts", "contexts of several parts"],
)
def test_the_hashes_of_contexts_are_as_the_page_says(case, tmp_path):
    case.build(tmp_path)
    tokens, documents, mask, dense = case.arrays()
    body = json.loads((tmp_path / "manifest.json").read_text())["index"]

    def stored(kind):
        files = [tmp_path / segment[kind] / "hashes.u64" for segment in body["segments"]]
        return np.concatenate([np.fromfile(file, "<u8") for file in files]).tolist()

    assert stored("text") == [text_hash(*row) for row in zip(tokens, documents, mask, strict=True)]
    live = np.where(mask[..., None], dense, 0)
    assert stored("lists") == [postings_hash(row) for row in live]


def text_hash(tokens, documents, mask):
    total = 0
    for offset in range(0, len(tokens), 65_536):
        part = slice(offset, offset + 65_536)
        ids = documents[part]
        starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
        pairs = np.stack([starts.astype("<u8"), ids[starts]], axis=1)
        three = [tokens[part].astype("<u4"), pairs.astype("<u8"), mask[part].astype("u1")]
        hashes = [xxhash.xxh3_64_intdigest(array.tobytes()) for array in three]
        total += xxhash.xxh3_64_intdigest(np.array(hashes, "<u8").tobytes(), offset)
    return total % 2**64


def postings_hash(dense):
    total = 0
    for offset, latent in zip(*(axis.tolist() for axis in np.nonzero(dense)), strict=True):
        x = (latent << 32 | offset) + int(bf16_of(dense[offset, latent])) * 0x9E3779B97F4A7C15
        for _ in range(2):
            x %= 2**64
            x = (x ^ x >> 32) * 0xD6E8FEB86659FD93
        x %= 2**64
        total += x ^ x >> 32
    return total % 2**64


def test_codes_keep_the_order_and_are_undone_by_what_the_page_says():
    before = 0
    for bf16 in range(1, 0x7F80):
        if bf16 >= 128:
            code, low = (bf16 >> 3) + 96, bf16 & 7
        else:
            octave = bf16.bit_length() - 1
            mantissa = (bf16 << 7 - octave) & 127
            code, low = 16 * octave + (mantissa >> 3), mantissa & 7
        assert before <= code <= 4175
        assert join(code, low) == bf16
        value = np.uint32(bf16 << 16).view(np.float32)
        assert abs(float(decode(code)) / float(value) - 1) < 1 / 32
        before = code


def folders(name):
    """The index folders of a golden index, by hookpoint."""
    return {hookpoint: Path(name, hookpoint) for hookpoint in GOLDEN[name].latents}


def bytes_of(folder):
    """Every file but the locks, which hold nothing."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_writer_still_makes_the_kept_bytes(name, tmp_path):
    GOLDEN[name].build(tmp_path / name)
    made, kept = bytes_of(tmp_path / name), bytes_of(FOLDER / name)
    assert sorted(made) == sorted(kept)
    assert [file for file in kept if made[file] != kept[file]] == []


@pytest.mark.parametrize("name", GOLDEN)
def test_the_kept_indices_are_still_read(name, tmp_path):
    # A copy: an index is read without writing to its folder, and this would not show otherwise.
    shutil.copytree(FOLDER / name, tmp_path / name)
    before = bytes_of(tmp_path)
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    for hookpoint, folder in folders(name).items():
        index = gl.Index.open(tmp_path / folder)
        index.verify()
        parameters, segments = read_index(FOLDER / folder)
        tokens = sum(int(segment.tokens.sum()) for segment in segments)
        assert tokens == expected[hookpoint]["tokens_sum"]
        for latent, known in enumerate(expected[hookpoint]["postings"]):
            read = postings(parameters, segments, latent)
            found = [array.tolist() for array in index.postings(latent)]
            assert found == list(read) == [known["positions"], known["activations"]]
    assert bytes_of(tmp_path) == before


def test_what_is_kept_has_not_changed():
    """A new version of the format gets a folder of its own; this one stays."""
    digest = xxhash.xxh3_64()
    for file, data in sorted(bytes_of(FOLDER).items()):
        digest.update(f"{file} {len(data)}\n".encode() + data)
    assert digest.hexdigest() == "0a6d8ca5b1ac7c20"


def test_the_page_names_every_file_and_every_field_of_the_manifest():
    page = PAGE.read_text(encoding="utf-8")
    for file in bytes_of(FOLDER):
        if not file.endswith(".json") or file.endswith("manifest.json"):
            assert Path(file).name in page, file
    names = set()

    def walk(value):
        if isinstance(value, dict):
            names.update(name for name in value if re.fullmatch(r"\w+", name))
            [walk(inner) for inner in value.values()]
        elif isinstance(value, list):
            [walk(inner) for inner in value]

    walk(json.loads((FOLDER / "two_segments" / "manifest.json").read_text(encoding="utf-8")))
    for name in names - {"corpus"}:
        assert f'"{name}"' in page, name
