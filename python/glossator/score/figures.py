"""Scores from verdicts, wherever they come from: Arrow in, Arrow out.

    scores = scores_from(verdicts, examples)
    scores_from(verdicts, examples, firing_rates={...})                  # as in the wild, too
    scores_from(verdicts, examples, protocols={protocol_id: parameters}) # by quintile, if so drawn

Verdicts of yes and no have the figures of `glossator.score.classification`, the others those of
`glossator.score.others`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glossator.score.classification import scores_of
from glossator.score.columns import codes, need, of_examples, score_table
from glossator.score.judged import Judged
from glossator.score.natural import Strata, Wild
from glossator.score.others import OTHERS, scores_of_others
from glossator.score.permutation import with_q_values

__all__ = ["scores_from"]


def scores_from(
    verdicts: pa.Table,
    examples: pa.Table,
    *,
    firing_rates: Mapping[str, float] | None = None,
    strata: Mapping[str, Strata] | None = None,
    protocols: Mapping[str, Mapping[str, Any]] | None = None,
) -> pa.Table:
    """The scores that verdicts amount to, wherever they come from.

    `q_value` is corrected over the explanations in `verdicts`; where they are a part of what a
    protocol scored, `with_q_values` on the scores of all makes it right.

    Args:
        verdicts: columns `explanation_id`, `protocol_id`, `scorer`, `example_id`, `prompt_id`,
            `truth` and `answer` (null: missing) of the run's table; and `p_yes` and `failure`, if
            they are known.
        examples: columns `example_id` and `decile`; `kind`, if the kinds of negatives are to be
            told apart; and `document`, by which examples are clustered that stood each in a prompt
            of its own.
        firing_rates: for each explanation id the share of the scorer's windows in which its latent
            is active; gives precision, F1 and AUPRC at that rate, for detection. They stand on
            negatives that are fair draws: random ones (and those of unknown kind), or those of
            `strata`.
        strata: for each explanation id the strata of its latent's silent windows; see `strata_of`.
        protocols: the parameters of each protocol. Where `strata` is `quintile`, recalls are those
            of pairs of deciles, and a row's `decile` is the upper one.

    Returns:
        Rows of the run's table `scores`, by explanation, protocol and scorer.

    Raises:
        InputError: a column is missing, or a verdict is on an example that is not there.
    """
    needed = ("explanation_id", "protocol_id", "scorer", "truth", "answer")
    need("verdicts", verdicts, (*needed, "example_id", "prompt_id"))
    need("examples", examples, ("example_id", "decile"))
    rows = scores_of_others(verdicts, examples)
    verdicts = verdicts.filter(pc.invert(pc.is_in(verdicts["scorer"], pa.array([*OTHERS]))))
    # Answers arrive in any order; sums of floats are the same in one order alone.
    verdicts = verdicts.sort_by([("prompt_id", "ascending"), ("example_id", "ascending")])
    columns = _Columns.of(verdicts, examples)
    for (explanation_id, protocol_id, scorer), chosen in _groups(verdicts):
        drawn = (strata or {}).get(explanation_id)
        quintiles = (protocols or {}).get(protocol_id, {}).get("strata") == "quintile"
        rate = (firing_rates or {}).get(explanation_id) if scorer == "detection" else None
        wild = None
        if rate is not None:
            wild = Wild(rate) if drawn is None else Wild(rate, drawn.sizes)
        rows += scores_of(
            columns.judged(chosen, drawn, quintiles=quintiles),
            explanation_id=explanation_id,
            protocol_id=protocol_id,
            scorer=scorer,
            wild=wild,
        )
    return with_q_values(score_table(rows))


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The columns of all verdicts, [n] each."""

    example: Sequence[str]
    truth: npt.NDArray[np.bool_]
    answered: npt.NDArray[np.bool_]
    answer: npt.NDArray[np.bool_]
    failure: Sequence[str | None]
    p_yes: npt.NDArray[np.float64]
    prompt: npt.NDArray[np.int64]
    decile: npt.NDArray[np.int64]
    kind: npt.NDArray[np.object_] | None
    document: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, verdicts: pa.Table, examples: pa.Table) -> _Columns:
        there = set(verdicts.column_names)
        answers = verdicts["answer"].to_pylist()
        none = [None] * len(answers)
        kind = document = None
        if "kind" in examples.column_names:
            names = [name or "" for name in of_examples(verdicts, examples, "kind")]
            kind = np.array(names, np.object_)
        if "document" in examples.column_names:
            document = _documents(of_examples(verdicts, examples, "document"))
        return cls(
            example=verdicts["example_id"].to_pylist(),
            truth=np.array(verdicts["truth"].to_pylist(), np.bool_),
            answered=np.array([value is not None for value in answers], np.bool_),
            answer=np.array([bool(value) for value in answers], np.bool_),
            failure=verdicts["failure"].to_pylist()
            if "failure" in there
            else [None] * len(answers),
            p_yes=np.array(verdicts["p_yes"].to_pylist() if "p_yes" in there else none, np.float64),
            prompt=codes(verdicts["prompt_id"]),
            decile=np.array(of_examples(verdicts, examples, "decile"), np.int64),
            kind=kind,
            document=document,
        )

    def judged(
        self, chosen: npt.NDArray[np.int64], drawn: Strata | None, *, quintiles: bool
    ) -> Judged:
        """Those of one explanation, protocol and scorer."""
        live, lost = chosen[self.answered[chosen]], chosen[~self.answered[chosen]]
        alone = len(np.unique(self.prompt[chosen])) == len(chosen)
        stratum = None
        if drawn is not None:
            ids = [self.example[row] for row in live.tolist()]
            stratum = np.array([drawn.of.get(name, -1) for name in ids], np.int64)
        failures = [self.failure[row] for row in lost.tolist()]
        return Judged(
            self.truth[live],
            self.answer[live],
            self.decile[live],
            self.prompt[live],
            len(lost),
            None if self.kind is None else self.kind[live],
            {} if self.kind is None else Counter(self.kind[lost[~self.truth[lost]]].tolist()),
            document=self.document[live] if alone and self.document is not None else None,
            p_yes=self.p_yes[live],
            stratum=stratum,
            quintiles=quintiles,
            failures=Counter(name.split(":")[0] for name in failures if name is not None),
        )


def _documents(documents: Sequence[int | None]) -> npt.NDArray[np.int64]:
    """A number for each document; a window of none stands for itself."""
    names = [f"w{at}" if name is None else f"d{name}" for at, name in enumerate(documents)]
    found: npt.NDArray[np.int64] = np.unique(names, return_inverse=True)[1]
    return found


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
