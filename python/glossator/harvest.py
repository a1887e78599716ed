"""Corpus to index: one pass of the subject model, every latent of every token kept.

    subject = load_subject("smollm2")
    contexts = pack(open_corpus("stdlib"), subject.tokenizer, tokens=300_000).store("contexts")
    hidden = collect_hidden(subject, contexts, "hidden.f32")     # once, for training and harvest
    coder = train_coder(subject, contexts, lambda: hidden)
    index = harvest(subject, coder, contexts, "index", hidden=hidden)

Every step can be killed and run again: it goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glossator.corpus import Contexts, ContextSource, lone_contexts
from glossator.corpus.contexts import BATCH_ROWS
from glossator.errors import InputError
from glossator.feeding import Feeder, active_latents
from glossator.folders import new_file
from glossator.index import Index, IndexWriter
from glossator.progress import SILENT, Progress
from glossator.records import content_id

if TYPE_CHECKING:
    # Functions below import what needs torch when they are called: `import glossator` must not.
    import torch

    from glossator.coders import SparseCoder, TrainConfig
    from glossator.shards import Shard
    from glossator.statistics import ActivationStatistics
    from glossator.subjects import Subject

__all__ = [
    "bos_for",
    "collect_hidden",
    "harvest",
    "live_states",
    "refuse_misfit",
    "subject_activations",
    "train_coder",
]

_FEW_ROWS = 8
"""Contexts in a batch where some thousand tokens are wanted of them."""
_KEPT_EVERY = 16
"""Batches between two points from which a killed pass goes on."""


def collect_hidden(
    subject: Subject, contexts: ContextSource, path: str | Path, progress: Progress = SILENT
) -> npt.NDArray[np.float32]:
    """The hidden states of all contexts, computed once and kept in one file.

    Args:
        subject: the model and its hookpoint.
        contexts: what it reads.
        path: a file of float32[n, S, d], little-endian, `4 · n · S · d` bytes; while it is being
            made it is called `path.partial`, with `path.json` beside it saying how far it is.
        progress: counts tokens.

    Returns:
        A read-only memory map, float32[n, S, d].

    Raises:
        InputError: the file is of another subject or corpus, or the disk is full.
    """
    path = Path(path)
    census = contexts.census()
    shape = (census.contexts, census.context_length, subject.width)
    identity = content_id(subject.hash, census.hash, shape)
    marker = path.with_name(f"{path.name}.json")
    partial = path.with_name(f"{path.name}.partial")
    done = _progress_of(marker, identity, whole=path.is_file())
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append_hidden(subject, contexts, partial, marker, identity, done, progress)
            partial.rename(path)
        except OSError as error:
            raise InputError(f"hidden states `{path}`: {error.strerror or error}") from error
    if path.stat().st_size != 4 * int(np.prod(shape)):
        raise InputError(f"hidden states `{path}`: not of the size of {shape}; remove the file")
    return np.memmap(path, dtype="<f4", mode="r", shape=shape)


def train_coder(
    subject: Subject,
    contexts: ContextSource,
    hidden: npt.NDArray[np.float32] | Callable[[], npt.NDArray[np.float32]],
    config: TrainConfig | None = None,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress = SILENT,
) -> SparseCoder:
    """The autoencoder that this training gives at the subject's hookpoint: cached, or trained now.

    Args:
        subject: the model and its hookpoint.
        contexts: the corpus.
        hidden: the hidden states, as `collect_hidden` gives them, or a function that gives them and
            is called only to train.
        config: sizes, steps, rates, seed; `TrainConfig()` if None.
        cache_dir: where trained coders are kept; see `glossator.folders.cache_folder`.
        progress: counts steps.
    """
    from glossator.coders import TrainConfig, trained_coder

    census = contexts.census()

    def data() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        states = hidden() if callable(hidden) else hidden
        return states, np.concatenate([batch.mask for batch in contexts.batches()])

    return trained_coder(
        data,
        {"subject": subject.name, "subject_hash": subject.hash, "contexts_hash": census.hash},
        config or TrainConfig(),
        hookpoint=subject.hookpoint,
        cache_dir=cache_dir,
        progress=progress,
    )


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
    import torch

    census = contexts.census()
    _refuse_mismatch(subject, coder, hidden, census.contexts)
    first = 0 if shard is None else shard.first_context
    writer = IndexWriter(
        index_path,
        n_latents=coder.n_latents,
        context_length=census.context_length,
        first_context=first,
        window=window,
        split_seed=split_seed,
        lossless=lossless,
        attributes={
            "hookpoint": hookpoint or subject.hookpoint,
            "subject": subject.name,
            "subject_hash": subject.hash,
            "subject_dtype": subject.dtype,
            "coder_hash": coder.hash,
            "coder_dtype": dtype,
            "tokenizer_hash": subject.tokenizer_hash,
            "corpus_hash": census.hash,
        },
    )
    total = (census.contexts if shard is None else shard.n_contexts) * census.context_length
    with (
        writer,
        progress.stage("harvest", total, "tokens") as bar,
        Feeder(writer, coder, dtype=dtype, statistics=statistics) as feeder,
    ):
        at = writer.next_context
        bar.advance((at - first) * census.context_length)
        rows = contexts.batches(start=at) if shard is None else shard.batches(contexts, at)
        for batch in rows:
            if hidden is None:
                states = subject.hidden(batch.tokens, batch.attended)
            else:
                states = torch.from_numpy(np.array(hidden[at : at + len(batch)]))
            feeder.add(states, batch, at)
            at += len(batch)
            bar.advance(batch.tokens.size)
    index = Index.open(index_path)
    if not index.nnz and shard is None:
        raise InputError(
            f"no latent of coder {coder.source} is active on this corpus; "
            "was it trained on another module, or on another scale?"
        )
    return index


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


def _append_hidden(
    subject: Subject,
    contexts: ContextSource,
    partial: Path,
    marker: Path,
    identity: str,
    done: int,
    progress: Progress,
) -> None:
    census = contexts.census()
    total = census.contexts * census.context_length
    row_bytes = 4 * census.context_length * subject.width
    with (
        partial.open("r+b" if done else "wb") as file,
        progress.stage("forward", total, "tokens") as bar,
    ):
        file.truncate(done * row_bytes)
        file.seek(0, os.SEEK_END)
        bar.advance(done * census.context_length)
        bar.note(f"{subject.name} in {subject.dtype}: {subject.dtype_reason}")
        for number, batch in enumerate(contexts.batches(start=done), start=1):
            states = subject.hidden(batch.tokens, batch.attended).cpu().numpy()
            file.write(np.ascontiguousarray(states, "<f4").data)
            done += len(batch)
            bar.advance(batch.tokens.size)
            if number % _KEPT_EVERY == 0 or done == census.contexts:
                file.flush()
                os.fsync(file.fileno())
                _keep(marker, identity, done)


def _progress_of(marker: Path, identity: str, *, whole: bool) -> int:
    """Contexts done, as the marker has it."""
    try:
        kept = json.loads(marker.read_text())
        known, done = kept["identity"], int(kept["contexts"])
    except FileNotFoundError:
        known, done = None, 0
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"hidden states `{marker}`: not readable ({error}); remove it") from error
    if known != identity and (whole or known is not None):
        raise InputError(
            f"hidden states `{marker}`: of another subject, hookpoint, dtype or corpus; "
            "remove them, or name another file"
        )
    return done


def _keep(marker: Path, identity: str, done: int) -> None:
    with new_file(marker) as file:
        file.write(json.dumps({"identity": identity, "contexts": done}).encode())
