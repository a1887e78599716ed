"""From index to words and their scores: by rules, and by a judge where one is named.

with Run.open("run", write=True) as run:
explain_stage(run)
score_stage(run)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow.compute as pc

from glossator import embeddings
from glossator.errors import InputError
from glossator.explain import Delimited, explain
from glossator.explain.rules import RuleOptions, learn_rules
from glossator.judges.base import TRANSIENT, Judge
from glossator.pipeline.judging import Judging
from glossator.pipeline.results import is_complete, missing
from glossator.progress import SILENT, Progress
from glossator.records import Explanation, LedgerEntry, Protocol
from glossator.runs import Run
from glossator.sampling import NegativePlan, SamplingPlan
from glossator.score import SCORING_PLAN, score, scoring_protocol, settled
from glossator.score.corpus import score_rules

__all__ = ["explain_stage", "score_stage"]

_STORED_AT_ONCE = 256


def explain_stage(run: Run, *, judging: Judging | None = None, progress: Progress = SILENT) -> None:
    """Explain live latents by rules, and by the judge where one is configured.

    Raises:
        InputError: nothing was harvested, or a latent of `explain.latents` is not in the index.
        JudgeError: the judge cannot be used; the explanations that it gave are kept.
    """
    run.require("harvest")
    if is_complete(run, "explain"):
        return
    with run.stage("explain") as facts:
        _explain_by_rules(run, progress)
        facts |= {"asked": 0, "missing": 0, "unexplained": [], "again": False}
        if run.config.judge.asks:
            with run.stage("explain-judge"), _own_or(judging, run, progress) as door:
                facts |= _explain_by_judge(run, door.judge, progress)


def _explain_by_rules(run: Run, progress: Progress) -> None:
    index = run.index
    have = set(_explained(run, "rules"))
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


def _explain_by_judge(run: Run, judge: Judge, progress: Progress) -> dict[str, Any]:
    explainer = Delimited()
    latents = _judged_latents(run)
    have = set(_explained(run, explainer.name(judge.name)))
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
    return {
        "asked": len(latents),
        "missing": len(explained.failures),
        "unexplained": [[one.latent, one.reason] for one in explained.failures],
        "again": any(one.transient for one in explained.failures),
    }


def score_stage(run: Run, *, judging: Judging | None = None, progress: Progress = SILENT) -> None:
    """Check rules on every held-out document; ask the judge about all explanations it is shown.

    Raises:
        InputError: nothing was harvested.
        JudgeError: the judge cannot be used; the verdicts that it gave are kept.
    """
    run.require("harvest")
    if is_complete(run, "score"):
        return
    with run.stage("score") as facts:
        _score_rules(run, progress)
        facts |= {"asked": 0, "missing": 0, "again": False}
        if run.config.judge.asks:
            with run.stage("score-judge"), _own_or(judging, run, progress) as door:
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
    stored = run.table("verdicts")
    skip = settled(stored)
    if missing(run, "score") > run.config.max_failed:
        # Too much is missing: what failed by the model's fault gets another chance, too.
        failed = stored.filter(pc.is_valid(stored["failure"]))["prompt_id"].to_pylist()
        skip -= set(failed)
    plan = _scoring_plan(run)
    sources = _sources(run, sorted({one.latent for one in explanations}), progress)
    # Before the first verdict, which names it.
    protocol = scoring_protocol(
        run.index,
        judge.name,
        plan=plan,
        seed=run.config.seed,
        provenance=_provenance(run),
        **sources,
    )
    run.store.add("protocols", [protocol])
    scored = score(
        run.index,
        explanations,
        judge=judge,
        text=run.text,
        plan=plan,
        **sources,
        seed=run.config.seed,
        sink=lambda verdicts: run.store.add("verdicts", verdicts),
        skip=skip,
        stored=stored,
        provenance=_provenance(run),
        progress=progress,
    )
    run.store.add("examples", scored.examples)
    run.store.add("scores", scored.scores)
    for entry in scored.usage:
        _book(run, entry)
    failures = scored.verdicts["failure"].drop_null().to_pylist()
    return {
        "asked": scored.verdicts.num_rows,
        "missing": scored.missing,
        "again": any(failure.split(":")[0] in TRANSIENT for failure in failures),
    }


def _scoring_plan(run: Run) -> SamplingPlan:
    """The judge's examples, with the negatives that the settings name."""
    if run.config.score.negatives is None:
        return SCORING_PLAN
    negatives = tuple(NegativePlan(**one.model_dump()) for one in run.config.score.negatives)
    return SCORING_PLAN.model_copy(update={"negatives": negatives})


def _sources(run: Run, latents: list[int], progress: Progress) -> dict[str, Any]:
    """What some kinds of negatives are drawn from: `neighbours`, `nearest`.

    Raises:
        InputError: the run has no neighbours, or what embeds is not installed.
    """
    settings, sources = run.config.score, dict[str, Any]()
    if settings.kinds() & {"decoder", "decoder_unfiltered"}:
        sources["neighbours"] = run.neighbours
        if sources["neighbours"] is None:
            raise InputError(
                f"{run.path}: `neighbours.parquet` is missing; run `glossator neighbours {run.path}"
                f" -k 32 --index {run.path}/index --out {run.path}/neighbours.parquet`"
            )
    if "embedding" in settings.kinds():
        with run.stage("embeddings"):
            sources["nearest"] = embeddings.nearest_windows(
                run.index,
                latents,
                run.text,
                model=settings.embedding_model,
                max_windows=settings.embedding_windows,
                seed=run.config.seed,
                progress=progress,
            )
    return sources


def _book(run: Run, entry: LedgerEntry) -> None:
    """Add what was used to what earlier attempts used."""
    where, key = "stage = ? AND scorer = ? AND latent = ?", ("stage", "scorer", "latent")
    rows = run.store.table("ledger", where, (entry.stage, entry.scorer, entry.latent))
    totals = entry.model_dump()
    for before in rows.to_pylist():
        for name, value in before.items():
            if name not in key:
                totals[name] += value
    run.store.add("ledger", [totals])


@contextmanager
def _own_or(judging: Judging | None, run: Run, progress: Progress) -> Iterator[Judging]:
    if judging is not None:
        yield judging
        return
    with Judging(run, progress) as own:
        yield own


def _explanations(run: Run) -> list[Explanation]:
    chosen = set(_chosen_latents(run))
    return [
        Explanation.from_row(row)
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
