"""The post's own example: a latent on `stop` after `don't` or `won't`, and on no other `stop`.

Every window begins with the name of its document (`doc17`), so that a prompt tells whose text it
shows. Latent 0 is the one above; 1 is active in few windows, 2 in all, 3 in none.
"""

from __future__ import annotations

import re

import numpy as np
from tokenizers import Tokenizer, models

from glossator.index import Index, IndexWriter, document_sides
from glossator.text import TokenText

WINDOW, LENGTH, DOCUMENTS, FILLER = 16, 64, 600, 300
HOOKPOINT = "model.layers.3"


def stop_index(path, *, seed=0) -> tuple[Index, TokenText]:
    rng = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(FILLER)] + ["stop", "don't", "won't", "rare"]
    words += [f"doc{i}" for i in range(DOCUMENTS)]
    ids = {word: i for i, word in enumerate(words)}
    tokens = rng.integers(0, FILLER, size=(DOCUMENTS, LENGTH))
    rows, offsets, latents, values = [], [], [], []

    def active(latent, document, offset):
        rows.append(document)
        offsets.append(offset)
        latents.append(latent)
        values.append(float(rng.uniform(0.5, 8.0)))

    for document in range(DOCUMENTS):
        for begin in range(0, LENGTH, WINDOW):
            tokens[document, begin] = ids[f"doc{document}"]
            at = begin + int(rng.integers(3, WINDOW - 3))
            kind = rng.random()
            if kind < 0.3:
                tokens[document, at] = ids["stop"]
                if kind < 0.15:
                    tokens[document, at - 1] = ids["don't" if kind < 0.075 else "won't"]
                    active(0, document, at)
            active(2, document, begin + 1)
            if document % 60 == 7 and begin == 0:
                tokens[document, begin + 2] = ids["rare"]
                active(1, document, begin + 2)
    with IndexWriter(
        path,
        n_latents=4,
        context_length=LENGTH,
        window=WINDOW,
        attributes={"hookpoint": HOOKPOINT},
    ) as writer:
        writer.add_coo(
            tokens,
            np.array(rows),
            np.array(offsets),
            np.array(latents),
            np.array(values, np.float32),
            np.arange(DOCUMENTS),
        )
    return Index.open(path), TokenText(Tokenizer(models.WordLevel(ids, unk_token="word0")))


def documents_in(text: str) -> set[int]:
    """The documents whose windows a prompt shows."""
    return {int(number) for number in re.findall(r"\bdoc(\d+)\b", text)}


def on_explain_side(documents) -> bool:
    return bool((document_sides(sorted(documents)) == 0).all())


FITS = {
    "stop": r"\bstop\b",
    "stop after don't": r"\bdon't stop\b",
    "stop after won't": r"\bwon't stop\b",
    "stop after don't or won't": r"\b(don't|won't) stop\b",
    "anything": "",
    "nothing": "(?!)",
}
"""Descriptions and what of a passage fits them."""


def fits(description: str, passage: str) -> bool:
    return re.search(FITS[description], passage.replace("<<", "").replace(">>", "")) is not None
