"""Corpus to index: one pass of the subject model, every latent of every token kept.

    subject = load_subject("smollm2")
    contexts = pack(open_corpus("stdlib"), subject.tokenizer, tokens=300_000).store("contexts")
    index = harvest(subject, coder, contexts, "index")
    indices = harvest_each(subject, {"layers.3": one, "layers.4": other}, contexts, "indices")

Killed, it goes on where it was when it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glossator.corpus import Census, Contexts, ContextSource, lone_contexts
from glossator.corpus.contexts import BATCH_ROWS
from glossator.errors import InputError
from glossator.feeding import Feeder, active_latents
from glossator.index import Index, IndexWriter
from glossator.progress import SILENT, Progress

if TYPE_CHECKING:
    # Functions below import what needs torch when they are called: `import glossator` must not.
    import torch

    from glossator.coders import SparseCoder
    from glossator.shards import Shard
    from glossator.statistics import ActivationStatistics
    from glossator.subjects import Subject

__all__ = [
    "bos_for",
    "harvest",
    "harvest_each",
    "live_states",
    "refuse_misfit",
    "subject_activations",
]

_FEW_ROWS = 8
"""Contexts in a batch where some thousand tokens are wanted of them."""


def harvest(
    subject: Subject,
    coder: SparseCoder,
    contexts: ContextSource,
    index_path: str | Path,
    *,
    hookpoint: str | None = None,
    hidden: npt.NDArray[np.float32] | None = None,
    split_seed: int = 0,
    window: int = 32,
    lossless: bool = False,
    dtype: str = "float32",
    statistics: ActivationStatistics | None = None,
    shard: Shard | None = None,
    progress: Progress = SILENT,
) -> Index:
    """Encode every token of a corpus, or of a shard of it, into an index.

    Args:
        subject: the model; it runs only where `hidden` is None.
        coder: encodes what the hookpoint's module gives.
        contexts: the corpus, packed.
        index_path: the index's folder; one that holds a part of this index is gone on with.
        hookpoint: the name under which the latents are known; the subject's if None.
        hidden: float32[n, S, d] of all contexts, from `collect_hidden`.
        split_seed: the seed of the documents' sides; the packing must have had the same.
        window: tokens in a window of the index.
        lossless: keep every activation as bfloat16; see `IndexWriter`.
        dtype: what the encoder's operands are rounded to; the index says so.
        statistics: counts the activations of the batches that this call encodes, where they are.
        shard: the contexts to encode; all if None.
        progress: counts tokens.

    Raises:
        InputError: the subject's width or hookpoint is not the coder's, no latent is active on the
            corpus, or the folder holds another index.
    """
    census = contexts.census()
    _refuse_mismatch(subject, coder, hidden, census.contexts)
    known_as = {} if hookpoint is None else {"hookpoint": hookpoint}
    writer = IndexWriter(
        index_path,
        n_latents=coder.n_latents,
        context_length=census.context_length,
        first_context=0 if shard is None else shard.first_context,
        window=window,
        split_seed=split_seed,
        lossless=lossless,
        attributes=_attributes(subject, coder, census, dtype) | known_as,
    )

    def states(batch: Contexts, at: int) -> torch.Tensor:
        if hidden is None:
            return subject.hidden(batch.tokens, batch.attended)
        return _kept(hidden, batch, at)

    feeder = Feeder(writer, coder, dtype=dtype, statistics=statistics)
    _encode(writer, feeder, contexts, shard, states, progress)
    index = Index.open(index_path)
    if shard is None:
        _refuse_silent(index, coder)
    return index


def harvest_each(
    subject: Subject,
    coders: Mapping[str, SparseCoder],
    contexts: ContextSource,
    index_path: str | Path,
    *,
    hookpoints: Mapping[str, str] | None = None,
    hidden: Mapping[str, npt.NDArray[np.float32]] | None = None,
    split_seed: int = 0,
    window: int = 32,
    lossless: bool = False,
    dtype: str = "float32",
    statistics: Mapping[str, ActivationStatistics] | None = None,
    shard: Shard | None = None,
    progress: Progress = SILENT,
) -> dict[str, Index]:
    """Encode every token of a corpus at several places, in one pass of the subject.

    Args:
        subject: the model, with all of the hookpoints.
        coders: what encodes, by the name of its index.
        contexts: the corpus, packed.
        index_path: the folder; each coder has the index `index_path/<name>`, and all share the
            text.
        hookpoints: what each reads, by the same names; the names themselves if None.
        hidden: as in `harvest`, by the same names; where all are there the model does not run.
        split_seed: as in `harvest`, and so are all that follow; statistics by name.
        window: tokens in a window of the index.
        lossless: keep every activation as bfloat16.
        dtype: what the encoder's operands are rounded to.
        statistics: counts the activations of the batches that this call encodes.
        shard: the contexts to encode; all if None.
        progress: counts tokens.

    Returns:
        The indices by name, each with the postings that `harvest` gives of that coder alone.

    Raises:
        InputError: as in `harvest`; or a place is not among the subject's.
    """
    census = contexts.census()
    kept = hidden or {}
    reads: dict[str, Subject] = {}
    for name, coder in coders.items():
        place = subject.resolve((hookpoints or {}).get(name, name))
        if place not in subject.hookpoints:
            raise InputError(f"hookpoint `{place}` of `{name}` is not among the subject's")
        reads[name] = subject.at(place)
        _refuse_mismatch(reads[name], coder, kept.get(name), census.contexts)
    writer = IndexWriter(
        index_path,
        n_latents={name: coder.n_latents for name, coder in coders.items()},
        context_length=census.context_length,
        first_context=0 if shard is None else shard.first_context,
        window=window,
        split_seed=split_seed,
        lossless=lossless,
        attributes={
            name: _attributes(reads[name], coder, census, dtype) for name, coder in coders.items()
        },
    )

    def states(batch: Contexts, at: int) -> dict[str, torch.Tensor]:
        found = {name: _kept(one, batch, at) for name, one in kept.items()}
        if len(found) < len(coders):
            read = subject.states(batch.tokens, batch.attended)
            found = {name: read[one.hookpoint].float() for name, one in reads.items()} | found
        return found

    feeder = Feeder(writer, coders, dtype=dtype, statistics=statistics)
    _encode(writer, feeder, contexts, shard, states, progress)
    indices = {name: Index.open(Path(index_path) / name) for name in coders}
    if shard is None:
        for name, index in indices.items():
            _refuse_silent(index, coders[name])
    return indices


def _attributes(subject: Subject, coder: SparseCoder, census: Census, dtype: str) -> dict[str, str]:
    """What an index says of where its latents come from."""
    return {
        "hookpoint": subject.hookpoint,
        "subject": subject.name,
        "subject_hash": subject.hash,
        "subject_dtype": subject.dtype,
        "coder_hash": coder.hash,
        "coder_dtype": dtype,
        "tokenizer_hash": subject.tokenizer_hash,
        "corpus_hash": census.hash,
    }


def _kept(hidden: npt.NDArray[np.float32], batch: Contexts, at: int) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(hidden[at : at + len(batch)]))


def _encode(
    writer: IndexWriter,
    feeder: Feeder,
    contexts: ContextSource,
    shard: Shard | None,
    states: Callable[[Contexts, int], Any],
    progress: Progress,
) -> None:
    """Every context that the writer does not have yet."""
    census = contexts.census()
    first = 0 if shard is None else shard.first_context
    total = (census.contexts if shard is None else shard.n_contexts) * census.context_length
    with writer, progress.stage("harvest", total, "tokens") as bar, feeder:
        at = writer.next_context
        bar.advance((at - first) * census.context_length)
        rows = contexts.batches(start=at) if shard is None else shard.batches(contexts, at)
        for batch in rows:
            feeder.add(states(batch, at), batch, at)
            at += len(batch)
            bar.advance(batch.tokens.size)


def _refuse_silent(index: Index, coder: SparseCoder) -> None:
    if not index.nnz:
        raise InputError(
            f"no latent of coder {coder.source} is active on this corpus; "
            "was it trained on another module, or on another scale?"
        )


def live_states(
    subject: Subject, contexts: ContextSource, hookpoints: Sequence[str], n: int = 4_096
) -> dict[str, torch.Tensor]:
    """What stands at some places of the subject on the first tokens that count.

    Args:
        subject: the model; its own hookpoints need not be among those asked for.
        contexts: the corpus, packed.
        hookpoints: names of places, as `Subject.resolve` knows them.
        n: tokens at most.

    Returns:
        [n, d] by hookpoint, its name as asked for, on the device on which it arose; shorter where
        the corpus is.

    Raises:
        InputError: a hookpoint that the model has not, or that has no state for each token.
    """
    import torch

    from glossator.subjects import Subject

    reader = Subject(
        subject.name, subject.model, subject.tokenizer, hookpoints, causal=subject.causal
    )
    found: dict[str, list[torch.Tensor]] = {name: [] for name in hookpoints}
    left = n
    for batch in contexts.batches(size=_FEW_ROWS):
        live = torch.from_numpy(np.flatnonzero(batch.mask)[:left])
        states = reader.states(batch.tokens, batch.attended)
        for name, parts in found.items():
            state = states[reader.resolve(name)].flatten(0, 1)
            parts.append(state[live.to(state.device)])
        left -= len(live)
        if not left:
            break
    return {name: torch.cat(parts) for name, parts in found.items()}


def subject_activations(
    subject: Subject, coder: SparseCoder, *, context_length: int = 128
) -> Callable[[Sequence[str], int], list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]]]:
    """The subject and its coder as a function of texts and a latent, for texts of no corpus.

    Args:
        subject: the model and its hookpoint.
        coder: encodes what the hookpoint's module gives.
        context_length: tokens of a text that are read, those of the tokenizer's own included.

    Returns:
        A function that gives for each text its tokens, uint32[n], and the latent's activation on
        each, float32[n]. A text's first token counts, as it does where a document begins in the
        midst of a context.

    Raises:
        InputError: the subject's width or hookpoint is not the coder's.
    """
    refuse_misfit(subject, coder)
    bos = bos_for(subject, coder)

    def activations(
        texts: Sequence[str], latent: int
    ) -> list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]]:
        rows = lone_contexts(texts, subject.tokenizer, context_length, bos)
        found = []
        for first in range(0, len(rows), BATCH_ROWS):
            some = slice(first, first + BATCH_ROWS)
            batch = Contexts(rows.tokens[some], rows.document_ids[some], rows.mask[some])
            states = subject.hidden(batch.tokens, batch.attended)
            active, positions = active_latents(coder, states, batch)
            own = np.zeros(batch.mask.shape, np.float32)
            chosen = active.latents == latent
            places = positions[active.tokens()[chosen]].cpu().numpy()
            own.flat[places] = active.activations[chosen].cpu().numpy()
            found += [
                (batch.tokens[row][live], own[row][live]) for row, live in enumerate(batch.mask)
            ]
        return found

    return activations


def refuse_misfit(subject: Subject, coder: SparseCoder) -> None:
    """Refuse a coder that does not read what the subject gives; costs nothing.

    Raises:
        InputError: another width, or another hookpoint.
    """
    if subject.width != coder.width:
        raise InputError(
            f"subject `{subject.name}` has width {subject.width} at `{subject.hookpoint}`, but "
            f"coder {coder.source} reads {coder.width}; they belong to different models or modules"
        )
    reads = coder.hookpoint
    if reads and not _is_read(subject, reads):
        raise InputError(
            f"coder {coder.source} reads at `{reads}`, the subject is read at "
            f"`{subject.hookpoint}`; give both the same hookpoint"
        )


def bos_for(subject: Subject, coder: SparseCoder | None) -> int | None:
    """The token that a context begins with where the coder was trained with one; see `pack`."""
    wanted = coder is not None and bool(coder.declared.get("prepend_bos"))
    return subject.bos if wanted else None


def _is_read(subject: Subject, hookpoint: str) -> bool:
    """Whether the subject is read where a coder says, by whichever name it says so."""
    try:
        return subject.resolve(hookpoint) == subject.hookpoint
    except InputError:
        return False


def _refuse_mismatch(
    subject: Subject,
    coder: SparseCoder,
    hidden: npt.NDArray[np.float32] | None,
    n_contexts: int,
) -> None:
    refuse_misfit(subject, coder)
    if hidden is not None and (len(hidden) != n_contexts or hidden.shape[-1] != coder.width):
        raise InputError(
            f"hidden states of shape {list(hidden.shape)} are not those of {n_contexts:,} contexts "
            f"of width {coder.width}"
        )
