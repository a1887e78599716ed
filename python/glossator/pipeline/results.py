"""What a run amounts to: means, shares and what is missing, each with its denominators.

rule_summary(run).f1.value
lines = judged_summary(run)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glossator.records import LedgerEntry
from glossator.runs import Run
from glossator.score import Summary, summary
from glossator.score.corpus import Mean, Share, mean_f1, share_above

__all__ = [
    "RuleSummary",
    "book",
    "is_complete",
    "judge_notes",
    "judged_summary",
    "missing",
    "missing_share",
    "rounds",
    "rule_summary",
]


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
    explained = run.store.table("explanations", "explainer = 'rules'").num_rows
    return RuleSummary(explained, mean_f1(scores), share_above(scores, 0.8))


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
    scores = run.store.table("scores", "scorer <> 'corpus'")
    return summary(scores, names, latents=run.table("latents"))


def missing(run: Run, stage: str) -> float:
    """The share of what was asked for in vain: explanations of `explain`, verdicts of `score`."""
    facts = run.stages().get(stage, {})
    share: float = facts.get("missing", 0) / max(facts.get("asked", 0), 1)
    return share


def missing_share(run: Run) -> float:
    """The larger of the shares of explanations and of verdicts that were asked for in vain."""
    return max(missing(run, "explain"), missing(run, "score"))


def rounds(run: Run, stage: str) -> int:
    """How often a stage came to its end with too much missing: what failed is asked anew."""
    before: int = run.stages().get(stage, {}).get("rounds", 0)
    return before + (missing(run, stage) > run.config.max_failed)


def book(run: Run, entries: Iterable[LedgerEntry]) -> None:
    """Add what was used to what earlier attempts used."""
    kept = {
        (row["stage"], row["scorer"], row["latent"]): row for row in run.table("ledger").to_pylist()
    }
    totals = []
    for entry in entries:
        total = entry.model_dump()
        for name, value in kept.get((entry.stage, entry.scorer, entry.latent), {}).items():
            if name not in ("stage", "scorer", "latent"):
                total[name] += value
        totals.append(total)
    run.store.add("ledger", totals)


def is_complete(run: Run, stage: str) -> bool:
    """Whether a stage is done and no more is missing than the settings allow."""
    return run.done(stage) and missing(run, stage) <= run.config.max_failed


def judge_notes(run: Run) -> list[str]:
    """Cautions about the judge: which scores cannot be told from chance, or from the null."""
    return [
        f"a judge near chance: {line}"
        for line in judged_summary(run)
        if line.value is not None and line.above_chance is False
    ]
