"""What a scoring gives, and what of an earlier one still holds.

    skip = settled(stored_verdicts)       # prompts that need not be asked again
    rates = firing_rates(index, explanations)
    asked.add(17, verdicts)               # while it is being asked
    scored_of(asked, index, stored, examples, shortfalls)

Verdicts are kept as columns as they come: there may be a hundred million of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glossator.index import Index
from glossator.judges.base import TRANSIENT, Answer, Reading
from glossator.records import TABLES, Explanation, LedgerEntry, Protocol, Score, Verdict
from glossator.score.columns import score_table
from glossator.score.figures import scores_from
from glossator.score.natural import strata_of
from glossator.score.scorers import Shortfall
from glossator.score.summary import main_metric

__all__ = ["Asked", "Scored", "firing_rates", "scored_of", "settled"]

_AT_ONCE = 4_096
_SHORTFALLS = pa.schema(
    [("latent", pa.int64()), ("what", pa.string()), ("wanted", pa.int64()), ("found", pa.int64())]
)


@dataclass(frozen=True, slots=True)
class Scored:
    """Verdicts and what they amount to."""

    verdicts: pa.Table
    """The run's table `verdicts`: those of this call and those that were `stored`."""
    scores: pa.Table
    """The run's table `scores`."""
    examples: pa.Table
    """The run's table `examples`: what was drawn for the scorers."""
    protocol: Protocol
    """How it was asked."""
    usage: tuple[LedgerEntry, ...]
    """Requests, tokens and seconds of this call, one line a latent and scorer. What a store of
    answers had is not in it."""
    shortfalls: pa.Table
    """Latents with fewer examples than planned: latent, what (`score`: activating windows, a kind
    of negatives, or `wrong marks`: windows with enough silent tokens), wanted, found."""
    explanations: tuple[Explanation, ...] = ()
    """Those without words that were made here, for scorers that need none."""

    @property
    def missing(self) -> int:
        """Verdicts asked for and not obtained."""
        return len(self.verdicts) - int(self.verdicts["failure"].null_count)


@dataclass(eq=False, slots=True)
class Asked:
    """What was asked so far, and what came back."""

    protocol: Protocol
    """How it is asked."""
    pairs: Sequence[tuple[Explanation, str]]
    """Each explanation with each scorer that is asked about it."""
    made: Sequence[Explanation] = ()
    """Those of them that were made here."""
    seconds: float = 0.0
    """Wall time of it all."""
    skipped: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """For each explanation the prompts that were not asked."""
    _fresh: list[Verdict] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)
    _spent: dict[tuple[int, str], list[float]] = field(default_factory=dict)

    def add(self, latent: int, verdicts: Sequence[Verdict]) -> None:
        """Keep the verdicts of a request."""
        self._fresh += verdicts
        if verdicts:
            self._of(latent, verdicts[0].scorer)[1] += len(verdicts)
        if len(self._fresh) >= _AT_ONCE:
            self._settle()

    def book(self, latent: int, scorer: str, answer: Answer | Reading) -> None:
        """Count what a question took; what was paid for before costs nothing again."""
        spent = self._of(latent, scorer)
        if answer.replayed:
            return
        usage = answer.usage
        spent[0] += 1
        spent[2] += usage.prompt
        spent[3] += usage.cached
        spent[4] += usage.completion
        spent[5] += answer.seconds

    def verdicts(self) -> pa.Table:
        """All verdicts as the run's table."""
        self._settle()
        return pa.concat_tables([TABLES["verdicts"].empty_table(), *self._tables])

    def ledger(self) -> tuple[LedgerEntry, ...]:
        """One line a latent and scorer; the wall time is shared out by that of their requests."""
        whole = sum(spent[5] for spent in self._spent.values())
        share = self.seconds / whole if whole else 0.0
        return tuple(
            LedgerEntry(
                stage="score",
                scorer=scorer,
                latent=latent,
                requests=int(requests),
                verdicts=int(verdicts),
                prompt_tokens=int(prompt),
                unique_prompt_tokens=int(prompt - cached),
                cached_tokens=int(cached),
                completion_tokens=int(completion),
                seconds=seconds * share,
            )
            for (latent, scorer), (
                requests,
                verdicts,
                prompt,
                cached,
                completion,
                seconds,
            ) in self._spent.items()
        )

    def _of(self, latent: int, scorer: str) -> list[float]:
        spent = self._spent.get((latent, scorer))
        if spent is None:
            spent = self._spent[latent, scorer] = [0, 0, 0, 0, 0, 0.0]
        return spent

    def _settle(self) -> None:
        """As columns verdicts take a tenth of the room."""
        fresh, schema = self._fresh, TABLES["verdicts"]
        if fresh:
            columns = [
                pa.array([getattr(verdict, one.name) for verdict in fresh], one.type)
                for one in schema
            ]
            self._tables.append(pa.Table.from_arrays(columns, schema=schema))
            self._fresh = []


def settled(verdicts: pa.Table) -> set[str]:
    """Ids of the prompts that need not be asked again.

    A prompt is settled if it was answered, or failed by the model's fault, which at temperature 0
    would be the same again; one that failed by the server's fault is not.
    """
    failed = {
        prompt
        for prompt, failure in zip(
            verdicts["prompt_id"].to_pylist(), verdicts["failure"].to_pylist(), strict=True
        )
        if failure is not None and failure.split(":")[0] in TRANSIENT
    }
    return set(verdicts["prompt_id"].to_pylist()) - failed


def firing_rates(index: Index, explanations: Sequence[Explanation]) -> dict[str, float]:
    """For each explanation the share of the scorer's windows in which its latent is active."""
    scoring = int(np.count_nonzero(index.eligible() & (index.sides() == 1)))
    active = index.summary()["windows_scoring"]
    return {
        explanation.explanation_id: int(active[explanation.latent]) / max(scoring, 1)
        for explanation in explanations
    }


def scored_of(
    asked: Asked,
    index: Index,
    stored: pa.Table | None,
    examples: Sequence[pa.Table],
    shortfalls: Sequence[Shortfall],
) -> Scored:
    """Tables of all that was asked, together with verdicts of earlier calls.

    Args:
        asked: what was asked in this call.
        index: what was drawn from.
        stored: verdicts of earlier calls.
        examples: rows of the run's table.
        shortfalls: what the latents had too little of.
    """
    verdicts, complete = _with_stored(asked, stored)
    table = pa.concat_tables([TABLES["examples"].empty_table(), *examples])
    judged = list({one.explanation_id: one for one, _ in asked.pairs}.values())
    protocol = asked.protocol
    chosen = pc.is_in(verdicts["explanation_id"], value_set=pa.array(complete, pa.string()))
    scores = scores_from(
        verdicts.filter(chosen),
        table,
        firing_rates=firing_rates(index, judged),
        strata=strata_of(index, judged, table, protocol.parameters, seed=protocol.seed),
        protocols={protocol.protocol_id: protocol.parameters},
    )
    rows = [row._asdict() for row in shortfalls]
    return Scored(
        verdicts=verdicts,
        scores=pa.concat_tables([scores, _without_examples(asked, scores, set(complete))]),
        examples=table,
        protocol=asked.protocol,
        usage=asked.ledger(),
        shortfalls=pa.Table.from_pylist(rows, schema=_SHORTFALLS),
        explanations=tuple(asked.made),
    )


def _with_stored(asked: Asked, stored: pa.Table | None) -> tuple[pa.Table, list[str]]:
    """New and stored verdicts, and the explanations of which none is missing from both."""
    new = asked.verdicts()
    wanted = list({one.explanation_id: None for one, _ in asked.pairs})
    kept = TABLES["verdicts"].empty_table()
    if stored is not None and len(stored):
        names = pa.array(sorted({scorer for _, scorer in asked.pairs}), pa.string())
        kept = stored.filter(
            pc.is_in(pc.field("explanation_id"), pa.array(wanted, pa.string()))
            & (pc.field("protocol_id") == asked.protocol.protocol_id)
            & pc.is_in(pc.field("scorer"), names)
            & ~pc.is_in(pc.field("prompt_id"), _flat(new["prompt_id"]))
        ).cast(TABLES["verdicts"])
    known = set(kept["prompt_id"].to_pylist())
    complete = [key for key in wanted if asked.skipped.get(key, set()) <= known]
    return pa.concat_tables([kept, new]), complete


def _flat(column: pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks()
    return pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat


def _without_examples(asked: Asked, scores: pa.Table, complete: set[str]) -> pa.Table:
    """A row with the reason for each explanation and scorer without a single verdict."""
    there = set(
        zip(scores["explanation_id"].to_pylist(), scores["scorer"].to_pylist(), strict=True)
    )
    return score_table(
        [
            Score(
                explanation_id=explanation.explanation_id,
                protocol_id=asked.protocol.protocol_id,
                scorer=scorer,
                metric=main_metric(scorer),
                reason="no examples on the score side",
            )
            for explanation, scorer in asked.pairs
            if explanation.explanation_id in complete
            and (explanation.explanation_id, scorer) not in there
        ]
    )
