"""The small indices whose exact bytes are kept in tests/golden/v1, one folder each.

    python tests/golden/make.py    # writes those that are not there yet

The bytes of a format version never change: a change of the format is a new version, and gets a
folder of its own beside this one. Beside each index stands what must be read from it, as JSON: it
is computed here from what is added, not read from the index. No number comes from a random
generator whose stream could change.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import glossator as gl
from glossator.index import NO_DOCUMENT

FOLDER = Path(__file__).parent / "v1"
SMALLEST, LARGEST = 1e-45, 3.4028234663852886e38


@dataclass(frozen=True)
class Golden:
    """What an index is made of."""

    contexts: int
    context_length: int
    window: int
    latents: dict[str, int]  # by hookpoint; "" has no folder of its own
    shares: tuple[int, ...]  # of 1,000 positions, at how many each latent is active
    lossless: bool = False
    wide: bool = False  # whether some token does not fit 16 bits
    more: dict = field(default_factory=dict)

    def draw(self, purpose, *shape):
        """uint64[shape]: numbers that look random, the same for ever."""
        numbers = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(purpose << 32)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
        return numbers.reshape(shape)

    @property
    def base(self):
        return self.more.get("first_context", 0) * self.context_length

    def text(self):
        """Tokens, documents and mask, each [C, S]."""
        shape = (self.contexts, self.context_length)
        tokens = self.draw(1, *shape) % np.uint64(100_000 if self.wide else 5_000)
        # Documents of three contexts, and some that begin within one.
        documents = np.arange(np.prod(shape), dtype=np.uint64) // np.uint64(shape[1] * 3)
        documents = documents.reshape(shape) * np.uint64(1_000_003)
        documents[::5, shape[1] // 2 :] += np.uint64(7)
        mask = np.ones(shape, bool)
        mask[:, 0] = False
        mask[1::7, -5:] = False
        documents[1::7, -5:] = NO_DOCUMENT
        return tokens, documents, mask

    def dense(self, hookpoint):
        """float32[C·S, L]: the activations, 0 where there is none."""
        n, latents = self.contexts * self.context_length, self.latents[hookpoint]
        purpose = 2 + 10 * list(self.latents).index(hookpoint)
        strength, where = self.draw(purpose, n, latents), self.draw(purpose + 1, n, latents)
        octaves = (strength >> np.uint64(61)).astype(np.int32)
        values = np.ldexp(1 + (strength % np.uint64(997)).astype(np.float64) / 997, octaves)
        shares = np.array(self.shares[:latents], np.uint64)
        dense = np.where(where % np.uint64(1_000) < shares, values, 0)
        dense[: n // 3, -1] *= 1e-30
        edges = dense[5 * self.context_length + 1 :, -1]
        edges[:4] = [SMALLEST, LARGEST, 3e-39, 1.0]
        _, _, mask = self.text()
        return (dense * mask.reshape(-1, 1)).astype(np.float32)

    def build(self, path):
        """Write it, in three batches."""
        tokens, documents, mask = self.text()
        many = list(self.latents) != [""]
        writer = gl.IndexWriter(
            path,
            n_latents=self.latents if many else self.latents[""],
            context_length=self.context_length,
            window=self.window,
            lossless=self.lossless,
            attributes={"corpus": 'golden, "naïve" ☕\n'},
            **self.more,
        )
        with writer:
            for rows in np.array_split(np.arange(self.contexts), 3):
                entries = {}
                for hookpoint, n_latents in self.latents.items():
                    shape = (self.contexts, self.context_length, n_latents)
                    dense = self.dense(hookpoint).reshape(shape)[rows]
                    ids = np.broadcast_to(np.arange(n_latents), dense.shape)
                    entries[hookpoint] = (ids, dense)
                given = zip(*entries.values(), strict=True)
                named = [dict(zip(entries, each, strict=True)) for each in given]
                latents, values = named if many else [each[""] for each in named]
                writer.add(tokens[rows], latents, values, documents[rows], mask[rows])

    def expected(self, hookpoint):
        """What must be read: of each latent, positions and activations."""
        dense = self.dense(hookpoint)
        postings = []
        for column in dense.T:
            (places,) = np.nonzero(column)
            values = as_stored(column[places], self.lossless)
            found = {"positions": places + self.base, "activations": values}
            postings.append({name: array.tolist() for name, array in found.items()})
        return {"tokens_sum": int(self.text()[0].sum()), "postings": postings}


def as_stored(values, lossless):
    """float32: rounded to bf16, and without `lossless` to the middle of eight bf16."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    bf16 = np.clip((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 1, 0x7F7F).astype(np.uint32)
    if lossless:
        return (bf16 << 16).view(np.float32)
    middle = ((bf16 & 0xFFF8) << 16 | 0x38000).view(np.float32)
    octave = np.floor(np.log2(bf16.astype(np.float64)))
    step = 2.0 ** np.maximum(octave - 4, 0)
    low = np.floor(bf16 / step) * step + np.where(octave >= 4, 2**octave * 3.5 / 128, 0)
    return np.where(bf16 < 128, (low * 2.0**-133).astype(np.float32), middle)


GOLDEN = {
    "default": Golden(64, 16, 2, {"": 4}, (0, 30, 750, 8)),
    "lossless": Golden(12, 40, 20, {"": 5}, (0, 30, 220, 900, 8), lossless=True, wide=True),
    "two_segments": Golden(
        40,
        12,
        1,
        {"": 4},
        (0, 30, 400, 8),
        more={"first_context": 10, "segment_contexts": 32, "split_seed": 3},
    ),
    "two_hookpoints": Golden(
        6, 64, 32, {"layers.0": 3, "layers.1": 4}, (30, 900, 100, 8), more={"split_seed": 1}
    ),
}
"""By the name of the folder."""


def main():
    for name, golden in GOLDEN.items():
        if (FOLDER / name).exists():
            continue
        golden.build(FOLDER / name)
        for lock in (FOLDER / name).rglob("lock"):
            lock.unlink()
        expected = {hookpoint: golden.expected(hookpoint) for hookpoint in golden.latents}
        text = json.dumps(expected, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"{FOLDER / name}")


if __name__ == "__main__":
    main()
