"""An index of byte-level tokens, so that most characters are split over several of them."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from glossator.index import NO_DOCUMENT, Index, IndexWriter
from glossator.text import TokenText


def byte_index(path, texts, active, *, length=16, window=8):
    """Byte-level tokens, one byte each, a text a context; latent 0 is active at `active`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = np.zeros((len(texts), length), np.int64)
    documents = np.full((len(texts), length), NO_DOCUMENT, np.uint64)
    for row, text in enumerate(texts):
        ids = tokenizer.encode(text).ids
        assert len(ids) <= length
        tokens[row, : len(ids)] = ids
        documents[row, : len(ids)] = row
    rows, offsets = map(np.array, zip(*active, strict=True))
    with IndexWriter(path, n_latents=1, context_length=length, window=window) as writer:
        writer.add_coo(
            tokens,
            rows,
            offsets,
            np.zeros(len(rows), int),
            np.ones(len(rows), np.float32),
            documents,
            documents != np.uint64(NO_DOCUMENT),
        )
    return Index.open(path), TokenText(tokenizer)
