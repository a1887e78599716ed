"""The verdicts of one explanation by one scorer that asks for yes or no, ready to be counted.

judged = Judged(truth, answer, decile, prompt, n_missing)
judged.refusal()                # why there is no score, or None
judged.against("random")        # with the negatives of one kind
judged.clusters                 # prompts, or documents
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_MISSING", "MIN_NEGATIVE", "MIN_POSITIVE", "Judged"]

MAX_MISSING = 0.2
"""With a larger share of the verdicts missing there is no score."""
MIN_POSITIVE = 20
"""With fewer answered activating examples there is no score."""
MIN_NEGATIVE = 10
"""With fewer answered examples on which the right answer is no there is no score."""

Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The answered verdicts of one explanation, protocol and scorer, and how many are missing."""

    truth: Bools
    """[n] the right answer."""
    answer: Bools
    """[n] the judge's: whether P(yes) is above 0.5, where that is known."""
    decile: Codes
    """[n] decile of the example; 0 where the latent is silent."""
    prompt: Codes
    """[n] number of the prompt."""
    n_missing: int = 0
    """Verdicts without an answer."""
    kind: npt.NDArray[np.object_] | None = None
    """[n] kind of negative; empty for what is none, or where it is not known. None: of no row."""
    missing_of: Mapping[str, int] = field(default_factory=dict)
    """Those of `n_missing` that are on negatives, by kind."""
    document: Codes | None = None
    """[n] number of the document, where one example stood in each prompt: what clusters then."""
    p_yes: npt.NDArray[np.float64] | None = None
    """[n] P(yes); NaN where it is not known. None: of no row."""
    stratum: Codes | None = None
    """[n] which stratum of the silent windows it was fairly drawn from; -1: none."""
    quintiles: bool = False
    """Whether examples were drawn by pairs of deciles."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Those of `n_missing`, by what was wrong, where it is known."""

    @property
    def correct(self) -> Bools:
        """[n] whether the judge was right."""
        return np.equal(self.truth, self.answer)

    @property
    def clusters(self) -> Codes:
        """[n] what may err together: the prompt, or the document of an example alone in one."""
        return self.prompt if self.document is None else self.document

    @property
    def strata(self) -> Codes:
        """[n] decile, or the upper decile of the quintile."""
        return self.decile + self.decile % 2 if self.quintiles else self.decile

    def where(self, rows: Bools) -> Judged:
        """Some of the verdicts."""

        def of(column: npt.NDArray[np.generic] | None) -> npt.NDArray[np.generic] | None:
            return None if column is None else column[rows]

        names = ("truth", "answer", "decile", "prompt", "kind", "document", "p_yes", "stratum")
        columns = {name: of(getattr(self, name)) for name in names}
        return Judged(**columns, quintiles=self.quintiles)  # type: ignore[arg-type]

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
            most = max(self.failures, key=lambda name: self.failures[name], default=None)
            why = "" if most is None else f" ({most}: {self.failures[most]})"
            return (
                f"{self.n_missing} of {asked} verdicts are missing{why}, more than "
                f"{MAX_MISSING:.0%}"
            )
        positive, negative = int(self.truth.sum()), int((~self.truth).sum())
        if positive < MIN_POSITIVE:
            return f"{positive} activating examples were judged; {MIN_POSITIVE} are needed"
        if negative < MIN_NEGATIVE:
            return f"{negative} examples to be denied were judged; {MIN_NEGATIVE} are needed"
        judged = set(self.strata[self.truth].tolist())
        step = 2 if self.quintiles else 1
        empty = [upper for upper in range(step, 11, step) if upper not in judged]
        if empty:
            names = [f"{upper - 1}-{upper}" if self.quintiles else str(upper) for upper in empty]
            return f"no activating example of decile {', '.join(names)} was judged"
        return None
