"""From index to words: by rules, and by whatever other explainers the settings name.

explain_stage(Run.open("run", write=True))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glossator.explain import Explainer, RuleOptions, explain, explainer_of, logits_of
from glossator.judges.base import Judge
from glossator.pipeline.chosen import chosen_latents, judged_latents
from glossator.pipeline.judging import ATTEMPTS, Judging, own_or
from glossator.pipeline.results import book, is_complete, rounds
from glossator.progress import SILENT, Progress
from glossator.records import Explanation
from glossator.runs import Run
from glossator.score import PRESETS

__all__ = ["explain_stage", "explainers_of"]

_STORED_AT_ONCE = 256


def explain_stage(run: Run, *, judging: Judging | None = None, progress: Progress = SILENT) -> None:
    """Explain live latents by rules, and by the judge where one is configured.

    Raises:
        InputError: nothing was harvested, a latent of `explain.latents` is not in the index, or an
            explainer is unknown or needs what is not there.
        JudgeError: the judge cannot be used; the explanations that it gave are kept.
    """
    run.require("harvest")
    if is_complete(run, "explain"):
        return
    explainers = explainers_of(run)
    with run.stage("explain") as facts:
        facts |= {"asked": 0, "missing": 0, "unexplained": [], "again": False}
        facts["rounds"] = rounds(run, "explain")
        for explainer in explainers:
            if not explainer.asks:
                _explain(run, explainer, None, progress)
        asking = [explainer for explainer in explainers if explainer.asks]
        if not asking:
            return
        with run.stage("explain-judge"), own_or(judging, run, progress) as door:
            door.explainer.asked_before = ATTEMPTS * facts["rounds"]
            for explainer in asking:
                found = _explain(run, explainer, door.explainer, progress)
                facts["asked"] += found["asked"]
                facts["missing"] += found["missing"]
                facts["unexplained"] += found["unexplained"]
                facts["again"] |= found["again"]


def explainers_of(run: Run) -> list[Explainer]:
    """The explainers that the settings name: rules, and the preset's with a judge, if none.

    Raises:
        InputError: an unknown explainer, or a setting that it does not have.
    """
    settings, score = run.config.explain, run.config.score
    if settings.explainers is not None:
        return [
            _causal(run, explainer_of(name, **settings.settings.get(name, {})))
            for name in settings.explainers
        ]
    found = [_causal(run, explainer_of("rules", **settings.settings.get("rules", {})))]
    if run.config.judge.asks:
        preset = PRESETS[score.preset]
        own = settings.settings.get(preset.explainer, {})
        found.append(explainer_of(preset.explainer, **{**preset.explainer_settings, **own}))
    return found


def _causal(run: Run, explainer: Explainer) -> Explainer:
    """Rules may look ahead where the latents can."""
    if not isinstance(explainer, RuleOptions):
        return explainer
    causal = run.stages().get("subject", {}).get("causal", True)
    return explainer.model_copy(update={"look_ahead": not causal})


def _explain(
    run: Run, explainer: Explainer, judge: Judge | None, progress: Progress
) -> dict[str, Any]:
    """The latents that have no explanation by it yet; those that a judge is asked about, if any."""
    latents: Sequence[int] = chosen_latents(run) if judge is None else judged_latents(run)
    name = explainer.name(judge.name if judge else "")
    table = run.store.table("explanations", "explainer = ?", (name,))
    have = set(table["latent"].to_pylist())
    wanted = [latent for latent in latents if latent not in have]
    if not wanted:
        return {"asked": len(latents), "missing": 0, "unexplained": [], "again": False}
    waiting: list[Explanation] = []

    def flush() -> None:
        run.store.add("explanations", waiting)
        waiting.clear()

    def keep(explanation: Explanation) -> None:
        waiting.append(explanation)
        # What was paid for is stored at once; rules come by the thousand a second.
        if judge is not None or len(waiting) >= _STORED_AT_ONCE:
            flush()

    try:
        explained = explain(
            run.index,
            wanted,
            explainer=explainer,
            judge=judge,
            text=run.text,
            seed=run.config.seed,
            logits=logits_of(run.table("latents")) if explainer.sees_logits else None,
            neighbours=run.neighbours,
            sink=keep,
            progress=progress,
        )
    finally:
        flush()
    book(run, explained.ledger)
    return {
        "asked": len(latents),
        "missing": len(explained.failures),
        "unexplained": [[one.latent, one.reason] for one in explained.failures],
        "again": any(one.transient for one in explained.failures),
    }
