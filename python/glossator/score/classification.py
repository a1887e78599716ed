"""Scores from verdicts: what a judge's yes and no say of an explanation, with intervals.

    scores = scores_from(verdicts, examples)               # Arrow in, Arrow out
    scores_from(verdicts, examples, firing_rates={...})    # precision and F1 as in the wild, too
    specificity_by_rank(verdicts, examples)                # against the distance of neighbours

Balanced accuracy is (mean of the deciles' recalls + specificity) / 2. Each part has Wilson's
interval on n ÷ design effect with Student's t on clusters − 1, the clusters being prompts, and the
two are joined by MOVER (Newcombe 1998; Zou and Donner 2008). Verdicts that are missing count as
missing: never as right, never as wrong.

Where the negatives are of several kinds, the figures that depend on them are given for each kind,
too, beside those of `kind` all. Precision and F1 at a firing rate stand on random negatives alone:
the harder kinds are not met as often in the wild as they were drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glossator.errors import InputError
from glossator.records import TABLES, Score
from glossator.score.others import OTHERS, scores_of_others
from glossator.score.shares import Figure, joined, natural, ratio_figure, share_figure

__all__ = [
    "MAX_MISSING",
    "MIN_NEGATIVE",
    "MIN_POSITIVE",
    "Judged",
    "scores_from",
    "scores_of",
    "specificity_by_rank",
]

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
    kind: npt.NDArray[np.object_] | None = None
    """[n] kind of negative; empty for what is none, or where it is not known. None: of no row."""
    missing_of: Mapping[str, int] = field(default_factory=dict)
    """Those of `n_missing` that are on negatives, by kind."""

    @property
    def correct(self) -> Bools:
        """[n] whether the judge was right."""
        return np.equal(self.truth, self.answer)

    def where(self, rows: Bools) -> Judged:
        """Some of the verdicts."""
        kind = None if self.kind is None else self.kind[rows]
        return Judged(
            self.truth[rows], self.answer[rows], self.decile[rows], self.prompt[rows], 0, kind
        )

    @property
    def kinds(self) -> list[str]:
        """The kinds of negatives that were asked about, where they are known."""
        answered = set() if self.kind is None else set(self.kind[~self.truth].tolist())
        return sorted((answered | self.missing_of.keys()) - {""})

    def against(self, *kinds: str) -> Judged:
        """The activating examples, and of the negatives those of some kinds."""
        if self.kind is None:
            return self
        others = sum(n for kind, n in self.missing_of.items() if kind not in kinds)
        part = self.where(self.truth | np.isin(self.kind.astype(np.str_), kinds))
        return replace(part, n_missing=self.n_missing - others)

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

_OF_NEGATIVES = ("balanced_accuracy", "specificity", "accuracy", "sampled_precision", "sampled_f1")
"""The figures that depend on the negatives."""


def scores_of(
    judged: Judged,
    *,
    explanation_id: str,
    protocol_id: str,
    scorer: str,
    firing_rate: float | None = None,
) -> list[Score]:
    """All figures of one explanation by one scorer.

    Those that depend on negatives are given for each kind of them, too, if there are several. Then
    precision and F1 at the firing rate are those against random ones.

    Args:
        judged: its verdicts.
        explanation_id: for the rows.
        protocol_id: for the rows.
        scorer: for the rows.
        firing_rate: share of the windows in which the latent is active. With it come precision and
            F1 at that rate; None leaves them out.
    """

    def row(metric: str, figure: Figure, part: Judged, decile: int = 0, kind: str = "all") -> Score:
        return Score(
            explanation_id=explanation_id,
            protocol_id=protocol_id,
            scorer=scorer,
            metric=metric,
            kind=kind,
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
        wild = judged.against("random", "")
        precision, f1 = (
            natural(wild.truth, wild.answer, firing_rate, seed)
            if refusal is None
            else (Figure(reason=refusal),) * 2
        )
        rows += [row("precision", precision, wild), row("f1", f1, wild)]
    for kind in judged.kinds if len(judged.kinds) > 1 else ():
        part = judged.against(kind)
        reason = part.refusal()
        for metric in _OF_NEGATIVES:
            figure = Figure(reason=reason) if reason else _METRICS[metric](part)
            rows.append(row(metric, figure, part, kind=kind))
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
        examples: columns `example_id` and `decile`, and `kind`, if the kinds of negatives are to be
            told apart.
        firing_rates: for each explanation id the share of the scorer's windows in which its latent
            is active; gives precision and F1 at that rate, for detection. They stand on random
            negatives alone (and those of unknown kind): no other kind is drawn at a natural rate.

    Returns:
        Rows of the run's table `scores`, by explanation, protocol and scorer.

    Raises:
        InputError: a column is missing, or a verdict is on an example that is not there.
    """
    needed = ("explanation_id", "protocol_id", "scorer", "truth", "answer")
    _need("verdicts", verdicts, (*needed, "example_id", "prompt_id"))
    _need("examples", examples, ("example_id", "decile"))
    rows = scores_of_others(verdicts, examples)
    verdicts = verdicts.filter(pc.invert(pc.is_in(verdicts["scorer"], pa.array([*OTHERS]))))
    # Answers arrive in any order; sums of floats are the same in one order alone.
    verdicts = verdicts.sort_by([("prompt_id", "ascending"), ("example_id", "ascending")])
    decile = np.array(_of_examples(verdicts, examples, "decile"), np.int64)
    truth = np.array(verdicts["truth"].to_pylist(), dtype=np.bool_)
    kind = None
    if "kind" in examples.column_names:
        kind = np.array([k or "" for k in _of_examples(verdicts, examples, "kind")], np.object_)
    given = verdicts["answer"].to_pylist()
    answered = np.array([value is not None for value in given], dtype=np.bool_)
    answer = np.array([bool(value) for value in given], dtype=np.bool_)
    prompt = _codes(verdicts["prompt_id"])
    for key, chosen in _groups(verdicts):
        explanation_id, protocol_id, scorer = key
        live, lost = chosen[answered[chosen]], chosen[~answered[chosen]]
        judged = Judged(
            truth[live],
            answer[live],
            decile[live],
            prompt[live],
            len(lost),
            None if kind is None else kind[live],
            {} if kind is None else Counter(kind[lost[~truth[lost]]].tolist()),
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


def specificity_by_rank(verdicts: pa.Table, examples: pa.Table) -> pa.Table:
    """How many negatives were denied, by the rank at which they were drawn.

    Of the decoder kinds the rank is the neighbour's, so that this is accuracy against neighbour
    distance; of `embedding` it is the window's place in order of nearness.

    Args:
        verdicts: columns `example_id`, `prompt_id`, `truth` and `answer` of the run's table: of one
            explanation, or of many together. Those without an answer are left out.
        examples: columns `example_id`, `kind` and `source_rank`.

    Returns:
        `kind`, `source_rank`, `value` (the share), `low` and `high` (its 95 % interval on prompts;
        null where all stood in one prompt), and `n` verdicts; by kind and rank.

    Raises:
        InputError: a column is missing, or a verdict is on an example that is not there.
    """
    _need("verdicts", verdicts, ("example_id", "prompt_id", "truth", "answer"))
    _need("examples", examples, ("example_id", "kind", "source_rank"))
    verdicts = verdicts.sort_by([("prompt_id", "ascending"), ("example_id", "ascending")])
    prompt = _codes(verdicts["prompt_id"])
    rows: dict[tuple[str, int], list[int]] = {}
    columns = (
        _of_examples(verdicts, examples, "kind"),
        _of_examples(verdicts, examples, "source_rank"),
        verdicts["truth"].to_pylist(),
        verdicts["answer"].to_pylist(),
    )
    denied = np.array([answer is False for answer in columns[3]], dtype=np.bool_)
    for number, (kind, rank, truth, answer) in enumerate(zip(*columns, strict=True)):
        if kind is not None and rank is not None and not truth and answer is not None:
            rows.setdefault((kind, rank), []).append(number)
    found = []
    for (kind, rank), chosen in sorted(rows.items()):
        figure = share_figure(denied[chosen], prompt[chosen])
        found.append(
            {
                "kind": kind,
                "source_rank": rank,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "n": len(chosen),
            }
        )
    return pa.Table.from_pylist(found, schema=_BY_RANK)


_BY_RANK = pa.schema(
    [
        ("kind", pa.string()),
        ("source_rank", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)


def _need(name: str, table: pa.Table, columns: tuple[str, ...]) -> None:
    for column in columns:
        if column not in table.column_names:
            raise InputError(f"table `{name}`: column `{column}` is missing")


def _of_examples(verdicts: pa.Table, examples: pa.Table, name: str) -> list[Any]:
    """A column of the examples, one entry a verdict."""
    known = dict(zip(examples["example_id"].to_pylist(), examples[name].to_pylist(), strict=True))
    try:
        return [known[key] for key in verdicts["example_id"].to_pylist()]
    except KeyError as error:
        raise InputError(f"table `examples`: `{error.args[0]}` is judged but not there") from error


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
