"""Scores from verdicts: what a judge's yes and no say of an explanation, with intervals.

    scores = scores_from(verdicts, examples)               # Arrow in, Arrow out
    scores_from(verdicts, examples, firing_rates={...})    # precision and F1 as in the wild, too

Balanced accuracy is (mean of the deciles' recalls + specificity) / 2. Each part has Wilson's
interval on n ÷ design effect with Student's t on clusters − 1, the clusters being prompts, and the
two are joined by MOVER (Newcombe 1998; Zou and Donner 2008). Verdicts that are missing count as
missing: never as right, never as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator.errors import InputError
from glossator.records import TABLES, Score
from glossator.score.shares import Figure, joined, natural, ratio_figure, share_figure

__all__ = ["MAX_MISSING", "MIN_NEGATIVE", "MIN_POSITIVE", "Judged", "scores_from", "scores_of"]

MAX_MISSING = 0.2
"""With a larger share of the verdicts missing there is no score."""
MIN_POSITIVE = 20
"""With fewer answered activating examples there is no score."""
MIN_NEGATIVE = 10
"""With fewer answered examples on which the right answer is no there is no score."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The answered verdicts of one explanation, protocol and scorer, and how many are missing."""

    truth: Bools
    """[n] the right answer."""
    answer: Bools
    """[n] the judge's."""
    decile: npt.NDArray[np.int64]
    """[n] decile of the example; 0 where the latent is silent."""
    prompt: npt.NDArray[np.int64]
    """[n] number of the prompt."""
    n_missing: int = 0
    """Verdicts without an answer."""

    @property
    def correct(self) -> Bools:
        """[n] whether the judge was right."""
        return np.equal(self.truth, self.answer)

    def where(self, rows: Bools) -> Judged:
        """Some of the verdicts."""
        return Judged(self.truth[rows], self.answer[rows], self.decile[rows], self.prompt[rows], 0)

    def refusal(self) -> str | None:
        """Why these verdicts carry no score; None where they do."""
        asked = len(self.truth) + self.n_missing
        if self.n_missing > MAX_MISSING * asked:
            return f"{self.n_missing} of {asked} verdicts are missing, more than {MAX_MISSING:.0%}"
        positive, negative = int(self.truth.sum()), int((~self.truth).sum())
        if positive < MIN_POSITIVE:
            return f"{positive} activating examples were judged; {MIN_POSITIVE} are needed"
        if negative < MIN_NEGATIVE:
            return f"{negative} examples to be denied were judged; {MIN_NEGATIVE} are needed"
        judged = set(self.decile[self.truth].tolist())
        empty = [decile for decile in range(1, 11) if decile not in judged]
        if empty:
            return f"no activating example of decile {', '.join(map(str, empty))} was judged"
        return None


def recall_of(judged: Judged) -> Figure:
    """Mean of the deciles' recalls: every decile counts the same."""
    rows = judged.truth
    return share_figure(judged.answer[rows], judged.prompt[rows], judged.decile[rows])


def specificity_of(judged: Judged) -> Figure:
    """Share of the examples to be denied that were."""
    rows = ~judged.truth
    return share_figure(~judged.answer[rows], judged.prompt[rows])


def _sampled_precision(judged: Judged) -> Figure:
    return ratio_figure(judged.truth & judged.answer, judged.answer, judged.prompt, "yes")


def _sampled_recall(judged: Judged) -> Figure:
    return ratio_figure(judged.truth & judged.answer, judged.truth, judged.prompt, "examples")


def _sampled_f1(judged: Judged) -> Figure:
    both = 2 * (judged.truth & judged.answer)
    either = judged.truth.astype(np.int64) + judged.answer
    return ratio_figure(both, either, judged.prompt, "yes")


_METRICS: Mapping[str, Callable[[Judged], Figure]] = {
    "balanced_accuracy": lambda judged: joined(recall_of(judged), specificity_of(judged)),
    "recall": recall_of,
    "specificity": specificity_of,
    "accuracy": lambda judged: share_figure(judged.correct, judged.prompt),
    "sampled_precision": _sampled_precision,
    "sampled_recall": _sampled_recall,
    "sampled_f1": _sampled_f1,
}


def scores_of(
    judged: Judged,
    *,
    explanation_id: str,
    protocol_id: str,
    scorer: str,
    firing_rate: float | None = None,
) -> list[Score]:
    """All figures of one explanation by one scorer.

    Args:
        judged: its verdicts.
        explanation_id: for the rows.
        protocol_id: for the rows.
        scorer: for the rows.
        firing_rate: share of the windows in which the latent is active. With it come precision and
            F1 at that rate; None leaves them out.
    """

    def row(metric: str, figure: Figure, part: Judged, decile: int = 0) -> Score:
        return Score(
            explanation_id=explanation_id,
            protocol_id=protocol_id,
            scorer=scorer,
            metric=metric,
            decile=decile,
            value=figure.value,
            low=figure.low,
            high=figure.high,
            n=len(part.truth),
            n_positive=int(part.truth.sum()),
            n_negative=int((~part.truth).sum()),
            n_missing=part.n_missing,
            reason=figure.reason,
        )

    refusal = judged.refusal()

    def figure_of(compute: Callable[[], Figure]) -> Figure:
        return Figure(reason=refusal) if refusal else compute()

    rows = [
        row(metric, figure_of(lambda compute=compute: compute(judged)), judged)  # type: ignore[misc]
        for metric, compute in _METRICS.items()
    ]
    if firing_rate is not None:
        seed = int(explanation_id[:15], 16) if _is_hex(explanation_id) else 0
        precision, f1 = (
            natural(judged.truth, judged.answer, firing_rate, seed)
            if refusal is None
            else (Figure(reason=refusal),) * 2
        )
        rows += [row("precision", precision, judged), row("f1", f1, judged)]
    for decile in range(1, 11):
        part = judged.where(judged.decile == decile)
        if len(part.truth):
            # A few verdicts of as many prompts: their design effect cannot be estimated.
            rows.append(
                row("accuracy", figure_of(lambda p=part: share_figure(p.correct)), part, decile)  # type: ignore[misc]
            )
            right = part.where(part.truth)
            if len(right.truth):
                rows.append(
                    row("recall", figure_of(lambda p=right: share_figure(p.answer)), right, decile)  # type: ignore[misc]
                )
    return rows


def _is_hex(text: str) -> bool:
    return len(text) >= 15 and all(character in "0123456789abcdef" for character in text)


def scores_from(
    verdicts: pa.Table,
    examples: pa.Table,
    *,
    firing_rates: Mapping[str, float] | None = None,
) -> pa.Table:
    """The scores that verdicts amount to, wherever they come from.

    Args:
        verdicts: columns `explanation_id`, `protocol_id`, `scorer`, `example_id`, `prompt_id`,
            `truth` and `answer` (null: missing) of the run's table; others are not looked at.
        examples: columns `example_id` and `decile`.
        firing_rates: for each explanation id the share of the scorer's windows in which its latent
            is active; gives precision and F1 at that rate, for detection.

    Returns:
        Rows of the run's table `scores`, by explanation, protocol and scorer.

    Raises:
        InputError: a column is missing, or a verdict is on an example that is not there.
    """
    for name, table, needed in (
        ("verdicts", verdicts, ("explanation_id", "protocol_id", "scorer", "truth", "answer")),
        ("verdicts", verdicts, ("example_id", "prompt_id")),
        ("examples", examples, ("example_id", "decile")),
    ):
        for column in needed:
            if column not in table.column_names:
                raise InputError(f"table `{name}`: column `{column}` is missing")
    # Answers arrive in any order; sums of floats are the same in one order alone.
    verdicts = verdicts.sort_by([("prompt_id", "ascending"), ("example_id", "ascending")])
    deciles = dict(
        zip(examples["example_id"].to_pylist(), examples["decile"].to_pylist(), strict=True)
    )
    try:
        decile = np.array([deciles[key] for key in verdicts["example_id"].to_pylist()], np.int64)
    except KeyError as error:
        raise InputError(f"table `examples`: `{error.args[0]}` is judged but not there") from error
    truth = np.array(verdicts["truth"].to_pylist(), dtype=np.bool_)
    given = verdicts["answer"].to_pylist()
    answered = np.array([value is not None for value in given], dtype=np.bool_)
    answer = np.array([bool(value) for value in given], dtype=np.bool_)
    prompt = _codes(verdicts["prompt_id"])
    rows: list[Score] = []
    for key, chosen in _groups(verdicts):
        explanation_id, protocol_id, scorer = key
        live = chosen[answered[chosen]]
        judged = Judged(
            truth[live], answer[live], decile[live], prompt[live], len(chosen) - len(live)
        )
        rate = (firing_rates or {}).get(explanation_id) if scorer == "detection" else None
        rows += scores_of(
            judged,
            explanation_id=explanation_id,
            protocol_id=protocol_id,
            scorer=scorer,
            firing_rate=rate,
        )
    return score_table(rows)


def score_table(rows: list[Score]) -> pa.Table:
    """Records as the run's table `scores`."""
    return pa.Table.from_pylist([row.model_dump() for row in rows], schema=TABLES["scores"])


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A number for each distinct value."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _groups(verdicts: pa.Table) -> list[tuple[tuple[str, str, str], npt.NDArray[Any]]]:
    """Row numbers of each explanation, protocol and scorer, in the order of the keys."""
    keys = list(
        zip(
            *(verdicts[name].to_pylist() for name in ("explanation_id", "protocol_id", "scorer")),
            strict=True,
        )
    )
    rows: dict[tuple[str, str, str], list[int]] = {}
    for number, key in enumerate(keys):
        rows.setdefault(key, []).append(number)
    return [(key, np.array(rows[key], dtype=np.int64)) for key in sorted(rows)]
