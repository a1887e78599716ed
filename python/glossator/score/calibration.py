"""What a share would be without the judge's own errors, where its errors are known.

    calibration = Calibration.of(table)              # columns `gold` and `answer`
    corrected_share(41, 50, calibration, seed=0)     # a share of yes
    corrected_balanced_accuracy(mean, draws_of_the_mean, calibration)

A calibration set are answers of the judge to questions of which the right answer is known: whether
a window fits an explanation, as people say. With q1 the share of right yes among its yes-questions
and q0 that of right no, a share p of yes stands for (p + q0 − 1) / (q0 + q1 − 1) (Rogan and Gladen,
American Journal of Epidemiology 107 (1978) 71). The interval carries the errors of both the share
and the calibration set (Lee et al., arXiv 2511.21140): all three rates are drawn from their
Jeffreys posteriors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glossator.errors import InputError
from glossator.score.shares import CONFIDENCE, Figure

__all__ = ["Calibration", "corrected_balanced_accuracy", "corrected_share"]

Floats = npt.NDArray[np.float64]

_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Calibration:
    """A judge's confusion matrix on questions of which the right answer is known."""

    right_yes: int
    """Questions whose answer is yes, answered yes."""
    yes: int
    """Questions whose answer is yes."""
    right_no: int
    """Questions whose answer is no, answered no."""
    no: int
    """Questions whose answer is no."""

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Count a calibration set.

        Args:
            table: columns `gold`, the right answer, and `answer`, the judge's; rows where it is
                null are left out.

        Raises:
            InputError: a column is missing, or there is no question of one kind.
        """
        for column in ("gold", "answer"):
            if column not in table.column_names:
                raise InputError(f"calibration set: column `{column}` is missing")
        columns = (table["gold"].to_pylist(), table["answer"].to_pylist())
        answered = [pair for pair in zip(*columns, strict=True) if pair[1] is not None]
        pairs = [(bool(gold), bool(said)) for gold, said in answered]
        yes, no = (sum(gold == side for gold, _ in pairs) for side in (True, False))
        if not yes or not no:
            raise InputError(
                f"calibration set: {yes} answers where yes is right and {no} where no is; some of "
                "both are needed"
            )
        right = [gold for gold, said in pairs if gold == said]
        return cls(sum(right), yes, len(right) - sum(right), no)

    def draws(self, n: int, seed: int) -> tuple[Floats, Floats]:
        """`n` draws of q1 and of q0."""
        generator = np.random.default_rng([seed, 1])
        return (
            generator.beta(self.right_yes + 0.5, self.yes - self.right_yes + 0.5, n),
            generator.beta(self.right_no + 0.5, self.no - self.right_no + 0.5, n),
        )

    @property
    def skill(self) -> float:
        """Q0 + q1 − 1: 0 for a judge that guesses."""
        return self.right_yes / self.yes + self.right_no / self.no - 1

    def refusal(self) -> str | None:
        """Why nothing can be corrected by it; None where something can."""
        q1, q0 = self.draws(_DRAWS, 0)
        if np.quantile(q1 + q0 - 1, 0.5 - CONFIDENCE / 2) > 0:
            return None
        return "the judge cannot be told from one that guesses, on the calibration set"


def corrected_share(yes: int, n: int, calibration: Calibration, *, seed: int = 0) -> Figure:
    """A share of yes without the judge's errors.

    Args:
        yes: answers yes.
        n: answers.
        calibration: of the judge.
        seed: of the draws.
    """
    refusal = calibration.refusal() or (None if n else "nothing was judged")
    if refusal is not None:
        return Figure(reason=refusal)
    q0 = calibration.right_no / calibration.no
    value = (yes / n + q0 - 1) / calibration.skill
    share = np.random.default_rng([seed, 0]).beta(yes + 0.5, n - yes + 0.5, _DRAWS)
    sensitivity, specificity = calibration.draws(_DRAWS, seed)
    drawn = (share + specificity - 1) / (sensitivity + specificity - 1)
    return _figure(value, drawn)


def corrected_balanced_accuracy(
    value: float, draws: Floats, calibration: Calibration, *, seed: int = 0
) -> Figure:
    """Balanced accuracy without the judge's errors: 0.5 + (value − 0.5) / (q0 + q1 − 1).

    Correcting recall and false positive rate each as a share comes to this.

    Args:
        value: the balanced accuracy, or its mean over latents.
        draws: [any] of its distribution, a bootstrap's say.
        calibration: of the judge.
        seed: of the draws of the calibration.
    """
    refusal = calibration.refusal()
    if refusal is not None:
        return Figure(reason=refusal)
    sensitivity, specificity = calibration.draws(len(draws), seed)
    drawn = 0.5 + (draws - 0.5) / (sensitivity + specificity - 1)
    return _figure(0.5 + (value - 0.5) / calibration.skill, drawn)


def _figure(value: float, draws: Floats) -> Figure:
    low, high = np.quantile(draws, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    ends = (min(value, float(low)), max(value, float(high)))
    found = np.clip([value, *ends], 0.0, 1.0).tolist()
    return Figure(found[0], found[1], found[2])
