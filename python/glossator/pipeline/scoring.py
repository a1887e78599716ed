"""From words to scores: rules on the whole corpus, and all explanations by asking a judge.

score_stage(Run.open("run", write=True))
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from glossator import embeddings
from glossator.errors import InputError
from glossator.explain import EXPLAINERS, null_explanations, saw_logits
from glossator.judges.base import TRANSIENT
from glossator.pipeline.chosen import chosen_explanations, judged_latents
from glossator.pipeline.data import subject_and_coder
from glossator.pipeline.judging import ATTEMPTS, Judging, own_or
from glossator.pipeline.results import book, is_complete, missing, rounds
from glossator.progress import SILENT, Progress
from glossator.records import Explanation, Protocol
from glossator.runs import Run
from glossator.sampling import NegativePlan, SamplingPlan
from glossator.score import score, scoring_protocol, settled
from glossator.score.asking import NO_EXPLANATION
from glossator.score.corpus import score_rules
from glossator.score.nulls import NULL, with_null_values
from glossator.score.permutation import with_q_values
from glossator.score.presets import settle

if TYPE_CHECKING:
    from glossator.judges import Judge

__all__ = ["score_stage"]


def score_stage(run: Run, *, judging: Judging | None = None, progress: Progress = SILENT) -> None:
    """Check rules on every held-out document; ask the judge about all explanations it is shown.

    Raises:
        InputError: nothing was harvested, or a scorer needs what is not there.
        JudgeError: the judge cannot be used; the verdicts that it gave are kept.
    """
    run.require("harvest")
    if is_complete(run, "score"):
        return
    with run.stage("score") as facts:
        _score_rules(run, progress)
        facts |= {"asked": 0, "missing": 0, "again": False}
        facts["rounds"] = rounds(run, "score")
        if run.config.judge.asks:
            with run.stage("score-judge"), own_or(judging, run, progress) as door:
                door.judge.asked_before = ATTEMPTS * facts["rounds"]
                facts |= _score_words(run, door.judge, progress)
        elif run.config.score.scorers == ("embedding",):
            facts |= _score_words(run, None, progress)


def _score_rules(run: Run, progress: Progress) -> None:
    index = run.index
    explanations = [one for one in chosen_explanations(run) if one.rule is not None]
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


def _score_words(run: Run, judge: Judge | None, progress: Progress) -> dict[str, Any]:
    explanations = _judged_explanations(run)
    stored = run.table("verdicts")
    skip = settled(stored)
    if missing(run, "score") > run.config.max_failed:
        # Too much is missing: what failed by the model's fault gets another chance, too.
        failed = stored.filter(pc.is_valid(stored["failure"]))["prompt_id"].to_pylist()
        skip -= set(failed)
    settings = run.config.score
    plan, scorers = _plan(run), settings.scorers
    sources = _sources(run, plan, sorted({one.latent for one in explanations}), progress)
    common = {"preset": settings.preset, "plan": plan, "scorers": scorers, **sources}
    needs = _needs(run, scorers, progress)
    # Before the first verdict, which names it.
    run.store.add(
        "protocols",
        [
            scoring_protocol(
                run.index,
                judge.name if judge else "",
                seed=run.config.seed,
                provenance=_provenance(run),
                **common,
            )
        ],
    )
    scored = score(
        run.index,
        explanations,
        judge=judge,
        text=run.text,
        needs=needs,
        seed=run.config.seed,
        sink=lambda verdicts: run.store.add("verdicts", verdicts),
        skip=skip,
        stored=stored,
        provenance=_provenance(run),
        progress=progress,
        **common,
    )
    run.store.add("explanations", scored.explanations)
    run.store.add("examples", scored.examples)
    run.store.add("scores", scored.scores)
    _set_beside(run)
    book(run, scored.usage)
    failures = scored.verdicts["failure"].drop_null().to_pylist()
    return {
        "asked": scored.verdicts.num_rows,
        "missing": scored.missing,
        "again": any(failure.split(":")[0] in TRANSIENT for failure in failures),
    }


def _set_beside(run: Run) -> None:
    """Nulls and corrections for many latents: of all that the run's protocols have scored."""
    scores, explanations = (
        run.store.table("scores", "scorer <> 'corpus'"),
        run.table("explanations"),
    )
    ids, names = (explanations[name].to_pylist() for name in ("explanation_id", "explainer"))
    scores = with_null_values(scores, explanations)
    run.store.add("scores", with_q_values(scores, dict(zip(ids, names, strict=True))))


def _judged_explanations(run: Run) -> list[Explanation]:
    """Those of the latents that the judge is asked about, and for some of these another's.

    Where the settings name explainers, theirs alone.
    """
    latents, named = set(judged_latents(run)), run.config.explain.explainers
    own = [
        one
        for one in chosen_explanations(run)
        if one.latent in latents
        and one.explainer != NO_EXPLANATION
        and not one.explainer.startswith(NULL)
        and (named is None or _label(one.explainer) in named)
    ]
    others = {one.explainer for one in own if one.rule is None}
    # Rules have their null on the whole corpus.
    shuffled = [one for one in own if one.explainer in others] or own
    nulls = (
        null_explanations(shuffled, latents=run.config.score.null, seed=run.config.seed)
        if run.config.score.null
        else []
    )
    run.store.add("explanations", nulls)
    return own + nulls


def _label(explainer: str) -> str:
    """The explainer's own name; what is none of ours was read from a file."""
    label = re.match(r"\w*", explainer)
    return label[0] if label and label[0] in EXPLAINERS else "file"


def _plan(run: Run) -> SamplingPlan | None:
    """The preset's plan with the negatives that the settings name; None leaves it as it is."""
    settings = run.config.score
    if settings.negatives is None:
        return None
    drawn = settle(settings.preset, None, None, settings.scorers).plan
    negatives = tuple(NegativePlan(**one.model_dump()) for one in settings.negatives)
    return drawn.model_copy(update={"negatives": negatives})


def _sources(
    run: Run, plan: SamplingPlan | None, latents: list[int], progress: Progress
) -> dict[str, Any]:
    """What some kinds of negatives are drawn from: `neighbours`, `nearest`.

    Raises:
        InputError: the run has no neighbours, or what embeds is not installed.
    """
    settings, sources = run.config.score, dict[str, Any]()
    drawn = settle(settings.preset, plan, None, settings.scorers).plan
    kinds = {one.kind for one in drawn.negatives if one.n}
    if kinds & {"decoder", "decoder_unfiltered"}:
        sources["neighbours"] = run.neighbours
        if sources["neighbours"] is None:
            raise InputError(
                f"{run.path}: `neighbours.parquet` is missing; run `glossator neighbours {run.path}"
                f" -k 32 --index {run.path}/index --out {run.path}/neighbours.parquet`"
            )
    if "embedding" in kinds:
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


def _needs(run: Run, scorers: tuple[str, ...] | None, progress: Progress) -> dict[str, Any]:
    """What some scorers need beside their options."""
    needs: dict[str, Any] = {"saw_logits": saw_logits, "token_name": run.text.name}
    scorers = scorers or ()
    if "output" in scorers:
        live = run.store.table("latents", "status <> 'dead'").select(["latent", "top_logits"])
        needs["promoted"] = {
            row["latent"]: [token for token, _ in json.loads(row["top_logits"])]
            for row in live.to_pylist()
            if row["top_logits"]
        }
    if "generation" in scorers:
        from glossator.harvest import subject_activations

        subject, coder = subject_and_coder(run, progress)
        length = run.config.corpus.context_length
        needs["activations"] = subject_activations(subject, coder, context_length=length)
        needs["keep"] = lambda rows: run.store.add("examples", rows)
    if "embedding" in scorers:
        embeddings.refuse_missing(run.config.score.embedding_model)
        needs["model"] = run.config.score.embedding_model
    return needs


def _provenance(run: Run) -> dict[str, str]:
    names = ("coder_hash", "tokenizer_hash", "corpus_hash")
    return {name: run.index.attributes.get(name, "") for name in names}
