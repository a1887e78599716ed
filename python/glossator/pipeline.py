"""The stages of a run in order: each resumes, each says what it cost.

    with run(RunConfig(), "run") as done:
        done.table("scores")

    with Run.create(RunConfig(), "run") as opened:  # or stage by stage
        harvest_stage(opened)
        explain_stage(opened)
        score_stage(opened)
        atlas_stage(opened)

What a stage has done is not done again; a run that was killed goes on where it was when the same
command is given again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from glossator.atlas import build_atlas
from glossator.config import RunConfig
from glossator.errors import InputError
from glossator.explain import Explained, explain
from glossator.explain.rules import RuleOptions, learn_rules
from glossator.index import Index
from glossator.progress import SILENT, Progress
from glossator.records import Explanation, LedgerEntry, Protocol, Rule, content_id
from glossator.runs import Run
from glossator.score import Summary, score, summary
from glossator.score.corpus import Mean, Share, mean_f1, score_rules, share_above
from glossator.triage import triage

if TYPE_CHECKING:
    from glossator.coders import SparseCoder
    from glossator.corpus import StoredContexts
    from glossator.judges import Judge
    from glossator.subjects import Subject

__all__ = [
    "RuleSummary",
    "atlas_stage",
    "explain_stage",
    "harvest_stage",
    "judged_summary",
    "missing_share",
    "rule_summary",
    "run",
    "score_stage",
]

RULES = "rules"
"""The explainer that needs no language model."""
MIN_WINDOWS, MIN_DOCUMENTS = 50, 20
"""What each side of a live latent has: the windows of the default plan, and the documents without
which no lower bound is claimed."""

_STORED_AT_ONCE = 256


def run(config: RunConfig, path: str | Path, *, progress: Progress = SILENT) -> Run:
    """All stages of a run, each from where it was.

    Args:
        config: what to do.
        path: the run directory.
        progress: shows the stages.

    Returns:
        The run, open for writing; close it, or use it in a `with` block.

    Raises:
        GlossatorError: what the user can mend; what was done is kept.
    """
    opened = Run.create(config, path)
    try:
        harvest_stage(opened, progress=progress)
        with _Judging(opened, progress) as judging:
            explain_stage(opened, judging=judging, progress=progress)
            score_stage(opened, judging=judging, progress=progress)
        atlas_stage(opened, progress=progress)
    except BaseException:
        opened.close()
        raise
    return opened


def harvest_stage(run: Run, *, progress: Progress = SILENT) -> Index:
    """Corpus to index: subject model, sparse coder, every activation, triage.

    Raises:
        InputError: a corpus, subject, hookpoint or coder that is not there or does not fit.
    """
    if run.done("triage"):
        return run.index
    from glossator.coders import load_coder
    from glossator.harvest import harvest
    from glossator.subjects import load_subject

    config = run.config
    with run.stage("subject") as facts:
        coder = None
        if config.coder.path is not None:
            coder = load_coder(config.coder.path, config.subject.hookpoint)
        subject = load_subject(
            config.subject.name,
            config.subject.hookpoint or (coder.hookpoint if coder else None),
            dtype=config.subject.dtype,
            progress=progress,
        )
        _write_text(run.path / "tokenizer.json", subject.tokenizer_json)
        facts |= {
            "name": subject.name,
            "hookpoint": subject.hookpoint,
            "dtype": subject.dtype,
            "dtype_reason": subject.dtype_reason,
            "causal": subject.causal,
        }
    contexts = _corpus(run, subject, progress)
    hidden = None
    if coder is None:
        coder, hidden = _trained(run, subject, contexts, progress)
    with run.stage("harvest") as facts:
        index = harvest(
            subject,
            coder,
            contexts,
            run.path / "index",
            hidden=hidden,
            split_seed=config.seed,
            progress=progress,
        )
        facts |= {
            "n_latents": index.n_latents,
            "n_tokens": index.n_tokens,
            "nnz": index.nnz,
            "overlap_share": index.overlap_share(),
            "coder_hash": coder.hash,
            "coder": coder.describe(),
        }
    with run.stage("triage"):
        _triage(run, index, subject, coder)
    for left in run.path.glob("hidden.f32*"):
        left.unlink()
    return run.index


def _corpus(run: Run, subject: Subject, progress: Progress) -> StoredContexts:
    from glossator.corpus import open_contexts, open_corpus, pack

    folder, config = run.path / "contexts", run.config.corpus
    with run.stage("corpus") as facts:
        if folder.is_dir():
            contexts = open_contexts(folder)
        else:
            source = config.source
            corpus = open_corpus(source[0] if len(source) == 1 else source, column=config.column)
            contexts = pack(
                corpus,
                subject.tokenizer,
                context_length=config.context_length,
                tokens=config.tokens,
                split_seed=run.config.seed,
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
    return coder, hidden


def _triage(run: Run, index: Index, subject: Subject, coder: SparseCoder) -> None:
    kinds = triage(index, min_windows=MIN_WINDOWS, min_documents=MIN_DOCUMENTS)
    L = index.n_latents
    columns: dict[str, Any] = {name: values.tolist() for name, values in kinds.items()}
    columns["hookpoint"] = [index.attributes["hookpoint"]] * L
    columns["latent"] = list(range(L))
    columns["type"] = [None] * L
    columns["reason"] = [reason or None for reason in columns["reason"]]
    logits = subject.logits(coder.decoder)
    for name in ("top", "bottom"):
        column: list[str | None] = [None] * L
        if logits is not None:
            tokens, values = (getattr(logits, f"{name}_{part}") for part in ("tokens", "values"))
            column = [
                json.dumps([[int(t), round(float(v), 4)] for t, v in zip(*row, strict=True)])
                for row in zip(tokens, values, strict=True)
            ]
        columns[f"{name}_logits"] = column
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    run.store.add("latents", rows, replace=True)


# ------------------------------------------------------------------------------ explain, score


class _Judging:
    """The run's judge, started when it is first asked for and ended with the block."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self._stack = ExitStack()
        self._judge: Judge | None = None

    def __enter__(self) -> _Judging:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def judge(self) -> Judge:
        if self._judge is None:
            from glossator.judges import open_judge

            settings = self._run.config.judge
            if settings.url is None:
                raise InputError("judge: none is named; give --judge URL or --judge local")
            if settings.url == "local":
                from glossator.judges.local import local_judge
                from glossator.subjects import smollm2_path

                self._judge = self._stack.enter_context(
                    local_judge(
                        smollm2_path(progress=self._progress),
                        log=self._run.path / "judge.log",
                        progress=self._progress,
                    )
                )
            else:
                self._judge = open_judge(
                    settings.url,
                    settings.model,
                    concurrency=settings.concurrency,
                    timeout=settings.timeout,
                )
        return self._judge


def explain_stage(
    run: Run, *, judging: _Judging | None = None, progress: Progress = SILENT
) -> None:
    """Explain live latents by rules, and by the judge where one is configured.

    Raises:
        InputError: nothing was harvested, or a latent of `explain.latents` is not in the index.
        JudgeError: the judge cannot be used; the explanations that it gave are kept.
    """
    run.require("harvest")
    if run.done("explain"):
        return
    with run.stage("explain") as facts:
        _explain_by_rules(run, progress)
        if run.config.judge.url is not None:
            with _own_or(judging, run, progress) as door:
                explained = _explain_by_judge(run, door.judge, progress)
            facts["unexplained"] = [[one.latent, one.reason] for one in explained.failures]
            facts["asked"] = len(explained.failures) + len(explained.explanations)
            facts["again"] = any(one.transient for one in explained.failures)


def _explain_by_rules(run: Run, progress: Progress) -> None:
    index = run.index
    have = set(_explained(run, RULES))
    wanted = [latent for latent in _chosen_latents(run) if latent not in have]
    if not wanted:
        return
    waiting: list[Explanation] = []

    def keep(explanation: Explanation) -> None:
        waiting.append(explanation)
        if len(waiting) >= _STORED_AT_ONCE:
            flush()

    def flush() -> None:
        run.store.add("explanations", waiting)
        waiting.clear()

    causal = run.stages()["subject"].get("causal", True)
    options = RuleOptions(look_ahead=not causal)
    try:
        learn_rules(index, wanted, names=run.text, options=options, sink=keep, progress=progress)
    finally:
        flush()


def _explain_by_judge(run: Run, judge: Judge, progress: Progress) -> Explained:
    explainer = "delimited"
    latents = _judged_latents(run)
    have = {
        latent
        for row in run.table("explanations").select(["latent", "explainer"]).to_pylist()
        if row["explainer"] != RULES
        for latent in [row["latent"]]
    }
    explained = explain(
        run.index,
        [latent for latent in latents if latent not in have],
        explainer=explainer,
        judge=judge,
        text=run.text,
        seed=run.config.seed,
        sink=lambda explanation: run.store.add("explanations", [explanation]),
        progress=progress,
    )
    _book(run, explained.usage)
    return explained


def score_stage(run: Run, *, judging: _Judging | None = None, progress: Progress = SILENT) -> None:
    """Check rules on every held-out document; ask the judge about all explanations it is shown.

    Raises:
        InputError: nothing was harvested.
        JudgeError: the judge cannot be used; the verdicts that it gave are kept.
    """
    run.require("harvest")
    if run.done("score"):
        return
    with run.stage("score") as facts:
        _score_rules(run, progress)
        if run.config.judge.url is not None:
            with _own_or(judging, run, progress) as door:
                facts |= _score_by_judge(run, door.judge, progress)


def _score_rules(run: Run, progress: Progress) -> None:
    index = run.index
    explanations = [one for one in _explanations(run) if one.rule is not None]
    protocol = Protocol.of(
        preset="corpus",
        parameters={"window": index.window, "units": ["window", "token"], "confidence": 0.95},
        prompt_hash="",
        judge="",
        seed=run.config.seed,
        index_hash=index.hash,
        **_provenance(run),
        versions={name: version(name) for name in ("glossator", "numpy", "scipy")},
    )
    scored = set(
        run.store.table("scores", "protocol_id = ?", (protocol.protocol_id,))[
            "explanation_id"
        ].to_pylist()
    )
    if all(one.explanation_id in scored for one in explanations):
        return
    table = score_rules(
        index,
        explanations,
        protocol_id=protocol.protocol_id,
        seed=run.config.seed,
        progress=progress,
    )
    run.store.add("protocols", [protocol])
    run.store.add("scores", table)


def _score_by_judge(run: Run, judge: Judge, progress: Progress) -> dict[str, Any]:
    latents = set(_judged_latents(run))
    explanations = [one for one in _explanations(run) if one.latent in latents]
    scored = score(
        run.index,
        explanations,
        judge=judge,
        text=run.text,
        seed=run.config.seed,
        sink=lambda verdicts: run.store.add("verdicts", verdicts),
        stored=run.table("verdicts"),
        provenance=_provenance(run),
        progress=progress,
    )
    run.store.add("protocols", [scored.protocol])
    run.store.add("examples", scored.examples)
    run.store.add("scores", scored.scores)
    for entry in scored.usage:
        _book(run, entry)
    return {"asked": scored.verdicts.num_rows, "missing": scored.missing}


def _book(run: Run, entry: LedgerEntry) -> None:
    """Add what was used to what earlier attempts used."""
    rows = run.store.table("ledger", "stage = ? AND scorer = ?", (entry.stage, entry.scorer))
    totals = entry.model_dump()
    for before in rows.to_pylist():
        for name, value in before.items():
            if name not in ("stage", "scorer"):
                totals[name] += value
    run.store.add("ledger", [totals])


@contextmanager
def _own_or(judging: _Judging | None, run: Run, progress: Progress) -> Iterator[_Judging]:
    if judging is not None:
        yield judging
        return
    with _Judging(run, progress) as own:
        yield own


def _explanations(run: Run) -> list[Explanation]:
    chosen = set(_chosen_latents(run))
    return [
        Explanation(**row | {"rule": row["rule"] and Rule.model_validate_json(row["rule"])})
        for row in run.table("explanations").to_pylist()
        if row["latent"] in chosen
    ]


def _explained(run: Run, explainer: str) -> list[int]:
    table = run.store.table("explanations", "explainer = ?", (explainer,))
    latents: list[int] = table["latent"].to_pylist()
    return latents


def _live(run: Run) -> list[int]:
    latents: list[int] = run.store.table("latents", "status = 'live'")["latent"].to_pylist()
    return latents


def _chosen_latents(run: Run) -> list[int]:
    """The latents that are explained: those named, or all live ones."""
    named = run.config.explain.latents
    if named is None:
        return _live(run)
    if outside := [latent for latent in named if latent >= run.index.n_latents]:
        raise InputError(
            f"--latents: {outside[0]} is not in the index; "
            f"its latents are 0 to {run.index.n_latents - 1}"
        )
    return list(named)


def _judged_latents(run: Run) -> list[int]:
    """At most so many live latents as the judge is asked about, drawn by seed."""
    live = set(_live(run))
    candidates = sorted(latent for latent in _chosen_latents(run) if latent in live)
    order = np.random.default_rng(run.config.seed).permutation(len(candidates))
    return [candidates[place] for place in order[: run.config.judge.bound].tolist()]


def _provenance(run: Run) -> dict[str, str]:
    names = ("coder_hash", "tokenizer_hash", "corpus_hash")
    return {name: run.index.attributes.get(name, "") for name in names}


# ------------------------------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class RuleSummary:
    """What the rules of a run amount to."""

    explained: int
    """Latents with a rule."""
    f1: Mean
    """Mean F1 per window, and that of other latents' rules."""
    above: Share
    """Latents whose lower bound of F1 passes 0.8."""


def rule_summary(run: Run) -> RuleSummary:
    """Mean F1 and the share of latents whose lower bound passes 0.8."""
    scores = run.store.table("scores", "scorer = 'corpus' AND metric = 'f1'")
    return RuleSummary(len(_explained(run, RULES)), mean_f1(scores), share_above(scores, 0.8))


def judged_summary(run: Run) -> list[Summary]:
    """Mean balanced accuracy of each explainer by each scorer that a judge took part in."""
    explainers = run.table("explanations")
    names = dict(
        zip(
            explainers["explanation_id"].to_pylist(),
            explainers["explainer"].to_pylist(),
            strict=True,
        )
    )
    return summary(run.store.table("scores", "scorer <> 'corpus'"), names)


def missing_share(run: Run) -> float:
    """The larger of the shares of explanations and of verdicts that were asked for in vain."""
    stages = run.stages()
    explained, scored = stages.get("explain", {}), stages.get("score", {})
    shares = [
        len(explained.get("unexplained", [])) / max(explained.get("asked", 0), 1),
        scored.get("missing", 0) / max(scored.get("asked", 0), 1),
    ]
    return max(shares)


def atlas_stage(
    run: Run, *, pages: Sequence[int] | None = None, progress: Progress = SILENT
) -> Path:
    """Write `atlas.html`, unless what it shows has not changed.

    Args:
        run: a run that was harvested, open for writing.
        pages: latents whose pages the file holds; all, or a draw by seed, if None.
        progress: shows the latents done.

    Raises:
        InputError: nothing was harvested, or the page cannot be written.
    """
    run.require("harvest")
    out = run.path / "atlas.html"
    tables = {name: run.table(name) for name in ("latents", "explanations", "scores", "protocols")}
    shown = content_id(
        pages and list(pages),
        run.config.atlas.model_dump(),
        {name: _hash(table) for name, table in tables.items()},
    )
    if out.is_file() and run.store.fact("atlas") == shown:
        return out
    with run.stage("atlas"):
        build_atlas(
            out,
            index=run.index,
            text=run.text,
            hookpoint=run.hookpoint,
            run_info={**run.description(), "notes": run.notes() + judge_notes(run)},
            seed=run.config.seed,
            pages=pages,
            max_pages=run.config.atlas.max_pages,
            progress=progress,
            **tables,
        )
    run.store.set_fact("atlas", shown)
    return out


def judge_notes(run: Run) -> list[str]:
    """Cautions about the judge: which scores cannot be told from chance."""
    return [f"a judge near chance: {line}" for line in judged_summary(run) if not line.above_chance]


def _hash(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return xxhash.xxh3_128_hexdigest(memoryview(sink.getvalue()))


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
