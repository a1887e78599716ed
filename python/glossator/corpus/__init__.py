"""Text in: documents from anywhere, packed into contexts.

corpus = open_corpus("stdlib")
contexts = pack(corpus, tokenizer, context_length=128, tokens=300_000)
contexts = contexts.store("run/contexts")    # fixed on disk, for several passes
for batch in contexts.batches():
    batch.tokens, batch.document_ids, batch.mask
"""

from __future__ import annotations

from glossator.corpus.contexts import (
    Census,
    Contexts,
    ContextSource,
    StoredContexts,
    open_contexts,
)
from glossator.corpus.documents import NO_DOCUMENT, Corpus, Document, open_corpus
from glossator.corpus.packing import Packing, lone_contexts, pack
from glossator.corpus.tokens import TokenCorpus, open_tokens

__all__ = [
    "NO_DOCUMENT",
    "Census",
    "ContextSource",
    "Contexts",
    "Corpus",
    "Document",
    "Packing",
    "StoredContexts",
    "TokenCorpus",
    "lone_contexts",
    "open_contexts",
    "open_corpus",
    "open_tokens",
    "pack",
]
