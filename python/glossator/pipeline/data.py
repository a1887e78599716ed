"""From corpus to index: subject model, sparse coder, every activation, neighbours, triage.

index = harvest_stage(run)      # of one hookpoint
harvest_set(runs)               # of several, in one pass
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glossator.config import CorpusConfig, only
from glossator.errors import InputError
from glossator.folders import new_file
from glossator.index import Index
from glossator.neighbours import refuse_other_coder
from glossator.pipeline.gate import gate_stage
from glossator.pipeline.latents import neighbours_stage, triage_stage, types_of_set
from glossator.progress import SILENT, Progress
from glossator.run_set import RunSet
from glossator.runs import Run
from glossator.shards import Shard

if TYPE_CHECKING:
    from glossator.coders import SparseCoder
    from glossator.corpus import Corpus, StoredContexts, TokenCorpus
    from glossator.subjects import Subject

__all__ = ["harvest_set", "harvest_stage", "subject_and_coder"]

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
    harvest_set(RunSet(run.path, [run]), shard=shard, progress=progress)
    return run.index if shard is None else None


def harvest_set(
    runs: RunSet, *, shard: tuple[int, int] | None = None, progress: Progress = SILENT
) -> None:
    """The same for several hookpoints: the model reads the corpus once for all of them.

    Raises:
        InputError: as `harvest_stage`, or the coders want other contexts.
    """
    if not runs.done("triage"):
        _harvest(runs, shard, progress)
    if len(runs) > 1 and shard is None and not (runs.path / "types.svg").is_file():
        types_of_set(runs)


def _harvest(runs: RunSet, shard: tuple[int, int] | None, progress: Progress) -> None:
    try:
        import glossator.subjects  # noqa: F401 - to say in one line what is missing
    except ModuleNotFoundError as error:
        raise InputError(
            f"harvest: the package `{error.name}` is not installed; "
            "run `pip install 'glossator[models]'`"
        ) from error

    if shard is not None and not runs.config.coder.path:
        raise InputError("--shard: needs --coder, so that all shards have the same one")
    corpus = None if (runs.path / "contexts").is_dir() else _opened(runs.config.corpus)
    subject, subjects, given = _loaded(runs, progress)
    contexts = _contexts(runs, corpus, subject, given, progress)
    coders: list[SparseCoder] = []
    hidden: dict[str, npt.NDArray[np.float32]] = {}
    for name, run, read, coder in zip(runs.names, runs, subjects, given, strict=True):
        if coder is None:
            trained, states = _trained(run, read, contexts, progress)
            coders.append(trained)
            hidden |= {} if states is None else {name: states}
        else:
            gate_stage(run, read, coder, contexts)
            coders.append(coder)
    part = None
    if shard is not None:
        part = Shard.of(contexts.census(), number=shard[0], shards=shard[1])
        part.write(runs.path)
        if not part.n_contexts:
            return
    with runs.stage("harvest" if part is None else "shard") as facts:
        indices = _indices(runs, subject, subjects, coders, contexts, hidden, part, progress)
        if part is not None:
            return
        for each, run, index, coder in zip(facts, runs, indices, coders, strict=True):
            each |= {
                "precision": index.precision,
                "n_latents": index.n_latents,
                "n_tokens": index.n_tokens,
                "nnz": index.nnz,
                "overlap_share": index.overlap_share(),
                "coder_hash": coder.hash,
                "coder": coder.describe(),
                "coder_source": only(run.config.coder.path) or "trained on this corpus",
            }
    for run, read, coder, index in zip(runs, subjects, coders, indices, strict=True):
        if run.done("triage"):
            continue
        neighbours_stage(run, index, coder, progress)
        # The last: its end is that of the whole.
        triage_stage(run, index, read, coder, progress)
        for left in run.path.glob("hidden.f32*"):
            left.unlink()


def _loaded(
    runs: RunSet, progress: Progress
) -> tuple[Subject, list[Subject], list[SparseCoder | None]]:
    """The subject with all hookpoints, and with that of each run; the coders that were given."""
    from glossator.coders import load_coder
    from glossator.harvest import refuse_misfit
    from glossator.subjects import load_subject

    config = runs.config
    known = runs.runs[0].stages().get("subject", {})
    with runs.stage("subject") as facts:
        coders = [
            load_coder(path, only(run.config.subject.hookpoint))
            if (path := only(run.config.coder.path))
            else None
            for run in runs
        ]
        places = [
            (coder.hookpoint if coder else None) or only(run.config.subject.hookpoint)
            for run, coder in zip(runs, coders, strict=True)
        ]
        for coder, place in zip(coders, places, strict=True):
            if len(runs) > 1 and coder is not None and place is None:
                raise InputError(
                    f"coder {coder.source} does not say where it reads; give --hookpoint for each"
                )
        subject = load_subject(
            config.subject.name,
            [place for place in places if place] or None,
            dtype=config.subject.dtype,
            progress=progress,
            **config.subject.spread(),
        )
        reason = known.get("dtype_reason")
        settled = known.get("dtype") == config.subject.dtype and reason is not None
        if config.subject.dtype != subject.dtype:
            # A trial may find another one on another day.
            runs.settle_dtype(subject.dtype)
        subjects = [subject.at(place or subject.hookpoint) for place in places]
        for each, run, read, coder in zip(facts, runs, subjects, coders, strict=True):
            if coder is not None:
                refuse_misfit(read, coder)
            with new_file(run.path / "tokenizer.json") as file:
                file.write(subject.tokenizer_json.encode())
            each |= {
                "name": subject.name,
                "hookpoint": read.hookpoint,
                "dtype": subject.dtype,
                "dtype_reason": reason if settled else subject.dtype_reason,
                "causal": subject.causal,
            }
    return subject, subjects, coders


def _indices(
    runs: RunSet,
    subject: Subject,
    subjects: list[Subject],
    coders: list[SparseCoder],
    contexts: StoredContexts,
    hidden: dict[str, npt.NDArray[np.float32]],
    shard: Shard | None,
    progress: Progress,
) -> list[Index]:
    from glossator.harvest import harvest, harvest_each

    common: dict[str, Any] = {
        "split_seed": runs.config.seed,
        "lossless": runs.config.index.lossless,
        "shard": shard,
        "progress": progress,
    }
    out = runs.path / "index"
    if len(runs) == 1:
        states = next(iter(hidden.values()), None)
        return [harvest(subject, coders[0], contexts, out, hidden=states, **common)]
    found = harvest_each(
        subject,
        dict(zip(runs.names, coders, strict=True)),
        contexts,
        out,
        hookpoints={name: read.hookpoint for name, read in zip(runs.names, subjects, strict=True)},
        hidden=hidden,
        **common,
    )
    return [found[name] for name in runs.names]


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
    if path := only(config.coder.path):
        coder = load_coder(path, only(config.subject.hookpoint))
    else:
        coder, _ = _trained(run, subject, open_contexts(run.path / "contexts"), progress)
    refuse_other_coder(run.index, coder.hash, coder.n_latents)
    return subject, coder


def _opened(config: CorpusConfig) -> Corpus | TokenCorpus:
    """The corpus, before the subject is loaded: a file that is not there is named at once."""
    from glossator.corpus import open_corpus, open_tokens

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
    runs: RunSet,
    corpus: Corpus | TokenCorpus | None,
    subject: Subject,
    coders: list[SparseCoder | None],
    progress: Progress,
) -> StoredContexts:
    from glossator.corpus import open_contexts, pack

    folder, config = runs.path / "contexts", runs.config.corpus
    bos = _bos(subject, coders)
    with runs.stage("corpus") as facts:
        if corpus is None:
            contexts = open_contexts(folder)
        else:
            contexts = pack(
                corpus,
                subject.tokenizer,
                context_length=config.context_length,
                tokens=config.tokens or None,
                split_seed=runs.config.seed,
                bos=bos,
            ).store(folder, progress)
        census = contexts.census()
        for each in facts:
            each |= {
                "source": list(config.source),
                "tokens": census.tokens,
                "documents": census.documents,
                "contexts": census.contexts,
                "hash": census.hash,
                "notes": list(census.notes),
            }
    return contexts


def _bos(subject: Subject, coders: list[SparseCoder | None]) -> int | None:
    """What every context begins with.

    Raises:
        InputError: some coders were trained with such a token and others without.
    """
    from glossator.harvest import bos_for

    wanted = {bos_for(subject, coder): coder for coder in coders}
    if len(wanted) > 1:
        sources = " and ".join(str(coder.source) for coder in wanted.values() if coder)
        raise InputError(
            f"coders {sources}: one was trained with a token before each text (`prepend_bos`) and "
            "another without; harvest them apart"
        )
    return next(iter(wanted))


def _trained(
    run: Run, subject: Subject, contexts: StoredContexts, progress: Progress
) -> tuple[SparseCoder, npt.NDArray[np.float32] | None]:
    """The coder that this run trains, or trained before, and the hidden states if it had to."""
    from glossator.coders import TrainConfig
    from glossator.hidden import collect_hidden, train_coder

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
