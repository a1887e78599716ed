"""Every activation of every latent on a corpus: built by streaming, read by latent.

    with IndexWriter(path, n_latents=4096, context_length=256) as writer:
        writer.add(tokens, latents, activations, document_ids)
    index = Index.open(path)
    positions, activations = index.postings(17)
    examples = index.sample([17], SamplingPlan(), seed=0)

An index is a folder: segments (ranges of contexts) that never change, and a manifest that is
replaced atomically. A build that was killed is run again from the start: what is there already is
compared and skipped, and the result has the same bytes.
"""

from glossator.index.answers import Histogram, Top
from glossator.index.files import Segment
from glossator.index.parts import compact, join
from glossator.index.reader import Index, document_sides
from glossator.index.strata import SilentStrata, silent_strata
from glossator.index.writer import NO_DOCUMENT, NO_LATENT, IndexWriter

__all__ = [
    "NO_DOCUMENT",
    "NO_LATENT",
    "Histogram",
    "Index",
    "IndexWriter",
    "Segment",
    "SilentStrata",
    "Top",
    "compact",
    "document_sides",
    "join",
    "silent_strata",
]
