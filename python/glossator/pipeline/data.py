"""From corpus to index: subject model, sparse coder, every activation, neighbours, triage.

with Run.create(RunConfig(), "run") as run:
index = harvest_stage(run)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glossator.errors import InputError
from glossator.folders import new_file
from glossator.index import Index
from glossator.neighbours import refuse_other_coder
from glossator.pipeline.gate import gate_stage
from glossator.pipeline.latents import neighbours_stage, triage_stage
from glossator.progress import SILENT, Progress
from glossator.runs import Run
from glossator.shards import Shard

if TYPE_CHECKING:
    from glossator.coders import SparseCoder
    from glossator.corpus import Corpus, StoredContexts, TokenCorpus
    from glossator.subjects import Subject

__all__ = ["harvest_stage", "subject_and_coder"]

_TOKENS = "tokens:"


def harvest_stage(
    run: Run, *, shard: tuple[int, int] | None = None, progress: Progress = SILENT
) -> Index | None:
    """Corpus to index: subject model, sparse coder, every activation, neighbours, triage.

    Args:
        run: open for writing.
        shard: its number, from 0, and how many there are: that part of the index alone.
        progress: shows the steps.

    Returns:
        The index; of a shard None, as it is for `glossator.shards.join_shards`.

    Raises:
        InputError: a corpus, subject, hookpoint or coder that is not there or does not fit.
    """
    if run.done("triage"):
        return run.index
    try:
        from glossator.coders import load_coder
        from glossator.harvest import harvest, refuse_misfit
        from glossator.subjects import load_subject
    except ModuleNotFoundError as error:
        raise InputError(
            f"harvest: the package `{error.name}` is not installed; "
            "run `pip install 'glossator[models]'`"
        ) from error

    config = run.config
    if shard is not None and config.coder.path is None:
        raise InputError("--shard: needs --coder, so that all shards have the same one")
    corpus = None if (run.path / "contexts").is_dir() else _opened(run)
    known = run.stages().get("subject", {})
    reason = known.get("dtype_reason")
    with run.stage("subject") as facts:
        coder = None
        if config.coder.path is not None:
            coder = load_coder(config.coder.path, config.subject.hookpoint)
        subject = load_subject(
            config.subject.name,
            (coder.hookpoint if coder else None) or config.subject.hookpoint,
            dtype=config.subject.dtype,
            progress=progress,
            **config.subject.spread(),
        )
        settled = known.get("dtype") == config.subject.dtype and reason is not None
        if config.subject.dtype != subject.dtype:
            # A trial may find another one on another day.
            run.settle_dtype(subject.dtype)
        if coder is not None:
            refuse_misfit(subject, coder)
        with new_file(run.path / "tokenizer.json") as file:
            file.write(subject.tokenizer_json.encode())
        facts |= {
            "name": subject.name,
            "hookpoint": subject.hookpoint,
            "dtype": subject.dtype,
            "dtype_reason": reason if settled else subject.dtype_reason,
            "causal": subject.causal,
        }
    contexts = _contexts(run, corpus, subject, coder, progress)
    hidden = None
    if coder is None:
        coder, hidden = _trained(run, subject, contexts, progress)
    else:
        gate_stage(run, subject, coder, contexts)
    if shard is not None:
        part = Shard.of(contexts.census(), number=shard[0], shards=shard[1])
        part.write(run.path)
        if part.n_contexts:
            with run.stage("shard"):
                harvest(
                    subject,
                    coder,
                    contexts,
                    run.path / "index",
                    split_seed=config.seed,
                    lossless=config.index.lossless,
                    shard=part,
                    progress=progress,
                )
        return None
    with run.stage("harvest") as facts:
        index = harvest(
            subject,
            coder,
            contexts,
            run.path / "index",
            hidden=hidden,
            split_seed=config.seed,
            lossless=config.index.lossless,
            progress=progress,
        )
        facts |= {
            "precision": index.precision,
            "n_latents": index.n_latents,
            "n_tokens": index.n_tokens,
            "nnz": index.nnz,
            "overlap_share": index.overlap_share(),
            "coder_hash": coder.hash,
            "coder": coder.describe(),
            "coder_source": config.coder.path or "trained on this corpus",
        }
    neighbours_stage(run, index, coder, progress)
    # The last: its end is that of the whole.
    triage_stage(run, index, subject, coder, progress)
    for left in run.path.glob("hidden.f32*"):
        left.unlink()
    return run.index


def subject_and_coder(run: Run, progress: Progress) -> tuple[Subject, SparseCoder]:
    """The subject and the coder of a run that was harvested, loaded again.

    Raises:
        InputError: they are not there any more, or the coder is another.
    """
    from glossator.coders import load_coder
    from glossator.corpus import open_contexts
    from glossator.subjects import load_subject

    facts, config = run.stages()["subject"], run.config
    subject = load_subject(
        config.subject.name,
        facts["hookpoint"],
        dtype=facts["dtype"],
        progress=progress,
        **config.subject.spread(),
    )
    if config.coder.path is not None:
        coder = load_coder(config.coder.path, config.subject.hookpoint)
    else:
        coder, _ = _trained(run, subject, open_contexts(run.path / "contexts"), progress)
    refuse_other_coder(run.index, coder.hash, coder.n_latents)
    return subject, coder


def _opened(run: Run) -> Corpus | TokenCorpus:
    """The corpus, before the subject is loaded: a file that is not there is named at once."""
    from glossator.corpus import open_corpus, open_tokens

    config = run.config.corpus
    source = config.source
    if any(map(_holds_tokens, source)):
        if len(source) > 1:
            raise InputError(f"--corpus `{source[0]}`, …: of tokens there can be one source alone")
        return open_tokens(
            source[0].removeprefix(_TOKENS),
            column=config.column or "input_ids",
            separator=config.separator,
            special=config.special,
        )
    column = config.column or "text"
    return open_corpus(source[0] if len(source) == 1 else source, column=column)


def _holds_tokens(source: str) -> bool:
    return source.startswith(_TOKENS) or source.endswith((".npy", ".npz"))


def _contexts(
    run: Run,
    corpus: Corpus | TokenCorpus | None,
    subject: Subject,
    coder: SparseCoder | None,
    progress: Progress,
) -> StoredContexts:
    from glossator.corpus import open_contexts, pack
    from glossator.harvest import bos_for

    folder, config = run.path / "contexts", run.config.corpus
    with run.stage("corpus") as facts:
        if corpus is None:
            contexts = open_contexts(folder)
        else:
            contexts = pack(
                corpus,
                subject.tokenizer,
                context_length=config.context_length,
                tokens=config.tokens or None,
                split_seed=run.config.seed,
                bos=bos_for(subject, coder),
            ).store(folder, progress)
        census = contexts.census()
        facts |= {
            "source": list(config.source),
            "tokens": census.tokens,
            "documents": census.documents,
            "contexts": census.contexts,
            "hash": census.hash,
            "notes": list(census.notes),
        }
    return contexts


def _trained(
    run: Run, subject: Subject, contexts: StoredContexts, progress: Progress
) -> tuple[SparseCoder, npt.NDArray[np.float32] | None]:
    """The coder that this run trains, or trained before, and the hidden states if it had to."""
    from glossator.coders import TrainConfig
    from glossator.harvest import collect_hidden, train_coder

    hidden: npt.NDArray[np.float32] | None = None

    def collected() -> npt.NDArray[np.float32]:
        nonlocal hidden
        with run.stage("forward"):
            hidden = collect_hidden(subject, contexts, run.path / "hidden.f32", progress)
        return hidden

    settings = run.config.coder
    steps = {} if settings.steps is None else {"steps": settings.steps}
    training = TrainConfig(n_latents=settings.latents, k=settings.k, seed=run.config.seed, **steps)
    with run.stage("coder"):
        coder = train_coder(subject, contexts, collected, training, progress=progress)
    if hidden is None and (run.path / "hidden.f32").is_file():
        collected()  # An attempt that was broken off after training has left them.
    return coder, hidden
