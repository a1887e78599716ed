"""Explanations put to a judge: one queue for all latents and scorers, resumed where it stopped.

    scored = await ascore(index, explanations, judge=judge, text=text, sink=store_verdicts)
    scored.scores

A verdict is handed over as soon as its prompt is answered, so that a run that is killed loses only
the requests in flight; prompts whose ids are in `skip` are not asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from glossator.errors import InputError
from glossator.index import Index
from glossator.judges.base import Answer, Failure, Job, Judge, Usage, answer_all
from glossator.progress import SILENT, Bar, Progress
from glossator.records import TABLES, Explanation, LedgerEntry, Protocol, Score, Verdict
from glossator.sampling import Examples, NearestWindows, NeighbourTable, SamplingPlan
from glossator.score import detection, fuzzing
from glossator.score.classification import score_table, scores_from
from glossator.score.protocol import (
    SCORERS,
    SCORING_PLAN,
    ScoringOptions,
    check_plan,
    scoring_protocol,
)
from glossator.score.questions import (
    Item,
    Question,
    Window,
    answer_schema,
    answer_tokens,
    booleans,
    questions,
    verdicts_of,
)
from glossator.score.scored import Scored, firing_rates, settled
from glossator.shown import example_ids, example_rows, show
from glossator.text import TokenText

__all__ = ["ascore"]

_CHUNK = 16
_ASK_AGAIN = ("malformed", "truncated", "empty")
_TEMPLATES = {"detection": detection.TEMPLATE, "fuzzing": fuzzing.TEMPLATE}
_SHORTFALLS = pa.schema(
    [("latent", pa.int64()), ("what", pa.string()), ("wanted", pa.int64()), ("found", pa.int64())]
)

Sink = Callable[[list[Verdict]], None]


async def ascore(
    index: Index,
    explanations: Sequence[Explanation],
    *,
    judge: Judge,
    text: TokenText,
    scorers: Sequence[str] = SCORERS,
    hookpoint: str | None = None,
    plan: SamplingPlan = SCORING_PLAN,
    options: ScoringOptions = ScoringOptions(),  # noqa: B008 - frozen
    seed: int = 0,
    sink: Sink | None = None,
    skip: Collection[str] | None = None,
    stored: pa.Table | None = None,
    provenance: Mapping[str, str] | None = None,
    neighbours: NeighbourTable | None = None,
    nearest: NearestWindows | None = None,
    progress: Progress = SILENT,
) -> Scored:
    """Score explanations on the score side of the index.

    What is drawn, shown and marked depends on index, latent and seed, never on the explanation.

    Args:
        index: where the latents' activations are.
        explanations: what is scored; several of one latent are judged on the same prompts.
        judge: who judges.
        text: the tokenizer's texts.
        scorers: some of `SCORERS`.
        hookpoint: the latents' module path; the index's own by default.
        plan: what is drawn.
        options: what of it is shown, and how.
        seed: of the draw, the order and the wrong marks.
        sink: called with the verdicts of each prompt as it completes, so that they can be stored.
        skip: ids of prompts that are not asked; those `settled` in `stored` by default. An
            explanation of which prompts are skipped and not in `stored` gets no scores here: use
            `scores_from` on all its verdicts.
        stored: verdicts of earlier calls, which count as if they came now.
        provenance: `coder_hash`, `tokenizer_hash`, `corpus_hash` for the protocol.
        neighbours: for a plan with negatives of the decoder kinds.
        nearest: for one with negatives of kind `embedding`.
        progress: shows how many prompts are done.

    Raises:
        InputError: an unknown scorer, a plan that draws too little, another hookpoint's
            explanation.
        JudgeError: the judge cannot be used any more; what `sink` was given is done.
    """
    hookpoint = index.attributes.get("hookpoint", "") if hookpoint is None else hookpoint
    check_plan(plan, options, scorers)
    explanations = list({each.explanation_id: each for each in explanations}.values())
    for explanation in explanations:
        if explanation.hookpoint != hookpoint:
            raise InputError(
                f"explanation of latent {explanation.latent}: is of hookpoint "
                f"`{explanation.hookpoint}`, the index of `{hookpoint}`"
            )
    begun = time.perf_counter()
    await judge.check()
    protocol = scoring_protocol(
        index,
        judge.name,
        plan=plan,
        options=options,
        seed=seed,
        provenance=provenance,
        neighbours=neighbours,
        nearest=nearest,
    )
    stored = TABLES["verdicts"].empty_table() if stored is None else stored
    skip = settled(stored) if skip is None else frozenset(skip)
    per_scorer = {
        "detection": 10 * options.detection + sum(negative.n for negative in plan.negatives),
        "fuzzing": 10 * (options.right + options.wrong),
    }
    planned = {name: -(-per_scorer[name] // options.per_prompt) for name in scorers}
    total = len(explanations) * sum(planned.values())
    with progress.stage("score", total=total, unit="prompts") as bar:
        for note in judge.notes:
            bar.note(note)
        draw = partial(index.sample, plan=plan, seed=seed, neighbours=neighbours, nearest=nearest)
        asked = _Asked(index, explanations, text, hookpoint, draw, options, protocol, sink, bar)
        asked.skip, asked.planned = skip, planned
        await answer_all(judge, asked.jobs(), asked.handle)
    return asked.scored(stored, time.perf_counter() - begun)


class _Asked:
    """What a judge was asked so far, and what it said."""

    skip: Collection[str]
    planned: Mapping[str, int]

    def __init__(
        self,
        index: Index,
        explanations: Sequence[Explanation],
        text: TokenText,
        hookpoint: str,
        draw: Callable[[Sequence[int]], Examples],
        options: ScoringOptions,
        protocol: Protocol,
        sink: Sink | None,
        bar: Bar,
    ) -> None:
        self._index, self._text, self._hookpoint = index, text, hookpoint
        self._sample, self._options, self._protocol = draw, options, protocol
        self._sink, self._bar = sink, bar
        self._explanations = explanations
        self._verdicts: list[Verdict] = []
        self._examples: list[pa.Table] = []
        self._shortfalls: list[dict[str, int | str]] = []
        self._usage: dict[str, Usage] = defaultdict(Usage)
        self._requests: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._skipped: dict[str, set[str]] = defaultdict(set)

    async def jobs(self) -> AsyncIterator[Job]:
        """The prompts of all explanations, drawn some latents at a time."""
        by_latent: dict[int, list[Explanation]] = {}
        for explanation in self._explanations:
            by_latent.setdefault(explanation.latent, []).append(explanation)
        latents = list(by_latent)
        for first in range(0, len(latents), _CHUNK):
            chunk = latents[first : first + _CHUNK]
            # Drawing takes milliseconds a latent: the answers of others arrive meanwhile.
            windows = await asyncio.to_thread(self._draw, chunk)
            for latent in chunk:
                for scorer in self.planned:
                    items = self._items(scorer, latent, windows[latent])
                    for explanation in by_latent[latent]:
                        for job in self._jobs_of(scorer, explanation, items):
                            yield job

    def _draw(self, latents: Sequence[int]) -> dict[int, list[Window]]:
        examples = self._sample(latents)
        self._shortfalls += [
            row for row in examples.shortfalls.to_pylist() if row["what"] != "explain"
        ]
        examples = examples.take(examples.split == 1)
        shown = show(examples, self._index, self._text)
        rows = example_rows(examples, self._index, self._text, self._hookpoint, shown)
        self._examples.append(rows)
        return self._windows(examples, latents, shown)

    def _windows(
        self, examples: Examples, latents: Sequence[int], shown: Sequence[object]
    ) -> dict[int, list[Window]]:
        ids = example_ids(examples, self._index, self._hookpoint)
        windows: dict[int, list[Window]] = {latent: [] for latent in latents}
        rows = zip(
            examples.latent.tolist(),
            ids,
            examples.decile.tolist(),
            shown,
            examples.activations,
            strict=True,
        )
        for latent, *fields in rows:
            windows[latent].append(Window(*fields))
        return windows

    def _items(self, scorer: str, latent: int, windows: Sequence[Window]) -> list[Item]:
        options = self._options
        if scorer == "detection":
            return detection.detection_items(windows, per_decile=options.detection)
        items, left_out = fuzzing.fuzzing_items(
            windows,
            right=options.right,
            wrong=options.wrong,
            threshold=options.threshold,
            key=(self._protocol.seed, self._hookpoint, latent),
        )
        if left_out:
            wanted = left_out + sum(not item.truth for item in items)
            found = wanted - left_out
            self._shortfalls.append(
                {"latent": latent, "what": "wrong marks", "wanted": wanted, "found": found}
            )
        return items

    def _jobs_of(
        self, scorer: str, explanation: Explanation, items: Sequence[Item]
    ) -> Iterator[Job]:
        count = 0
        for question in questions(
            scorer,
            explanation,
            self._protocol.protocol_id,
            items,
            seed=self._protocol.seed,
            per_prompt=self._options.per_prompt,
        ):
            count += 1
            if question.prompt_id in self.skip:
                self._skipped[explanation.explanation_id].add(question.prompt_id)
                self._bar.advance(1)
                continue
            n = len(question.items)
            prompt = _TEMPLATES[scorer].prompt(
                explanation.text,
                [item.line for item in question.items],
                f"latent {explanation.latent}, {scorer}",
            )
            yield Job((question, 1), prompt, answer_tokens(n), answer_schema(n))
        # Latents with fewer examples than planned have fewer prompts.
        self._bar.advance(max(self.planned[scorer] - count, 0))

    async def handle(self, job: Job, answer: Answer) -> Job | None:
        """Keep the verdicts of a prompt, or ask once more where the answer was none."""
        question: Question
        question, attempt = job.key
        scorer = question.scorer
        self._usage[scorer] += answer.usage
        self._requests[scorer] += 1
        self._seconds[scorer] += answer.seconds
        answers = booleans(answer, len(question.items))
        failed = isinstance(answers, Failure)
        if isinstance(answers, Failure) and answers.kind in _ASK_AGAIN and attempt == 1:
            return replace(job, key=(question, 2))
        verdicts = verdicts_of(question, self._protocol.protocol_id, answers)
        self._verdicts += verdicts
        if self._sink is not None:
            self._sink(verdicts)
        tokens = answer.usage.prompt + answer.usage.completion
        self._bar.advance(1, tokens=tokens, failures=int(failed))
        return None

    def scored(self, stored: pa.Table, seconds: float) -> Scored:
        """Tables of it all, together with verdicts of earlier calls."""
        verdicts, complete = self._all_verdicts(stored)
        examples = pa.concat_tables([TABLES["examples"].empty_table(), *self._examples])
        rates = firing_rates(self._index, self._explanations)
        chosen = [key in complete for key in verdicts["explanation_id"].to_pylist()]
        scores = scores_from(
            verdicts.filter(pa.array(chosen, pa.bool_())), examples, firing_rates=rates
        )
        return Scored(
            verdicts=verdicts,
            scores=pa.concat_tables([scores, self._without_examples(scores, complete)]),
            examples=examples,
            protocol=self._protocol,
            usage=self._ledger(seconds),
            shortfalls=pa.Table.from_pylist(self._shortfalls, schema=_SHORTFALLS),
        )

    def _all_verdicts(self, stored: pa.Table) -> tuple[pa.Table, set[str]]:
        """Stored and new verdicts, and the explanations of which none is missing from both."""
        asked = {verdict.prompt_id for verdict in self._verdicts}
        wanted = {explanation.explanation_id for explanation in self._explanations}
        scorers = set(self.planned)
        keys = zip(
            *(
                stored[name].to_pylist()
                for name in ("explanation_id", "protocol_id", "scorer", "prompt_id")
            ),
            strict=True,
        )
        kept = stored.filter(
            pa.array(
                [
                    explanation in wanted
                    and protocol == self._protocol.protocol_id
                    and scorer in scorers
                    and prompt not in asked
                    for explanation, protocol, scorer, prompt in keys
                ],
                pa.bool_(),
            )
        )
        new = pa.Table.from_pylist(
            [verdict.model_dump() for verdict in self._verdicts], schema=TABLES["verdicts"]
        )
        known = set(kept["prompt_id"].to_pylist())
        complete = {key for key in wanted if self._skipped[key] <= known}
        return pa.concat_tables([kept.cast(TABLES["verdicts"]), new]), complete

    def _without_examples(self, scores: pa.Table, complete: set[str]) -> pa.Table:
        """A row with the reason for each explanation and scorer without a single verdict."""
        there = set(
            zip(scores["explanation_id"].to_pylist(), scores["scorer"].to_pylist(), strict=True)
        )
        return score_table(
            [
                Score(
                    explanation_id=explanation.explanation_id,
                    protocol_id=self._protocol.protocol_id,
                    scorer=scorer,
                    metric="balanced_accuracy",
                    reason="no examples on the score side",
                )
                for explanation in self._explanations
                for scorer in self.planned
                if explanation.explanation_id in complete
                and (explanation.explanation_id, scorer) not in there
            ]
        )

    def _ledger(self, seconds: float) -> tuple[LedgerEntry, ...]:
        """One line a scorer; the wall time is shared out by the time that their requests took."""
        spent = sum(self._seconds.values())
        return tuple(
            self._usage[scorer].entry(
                "score",
                scorer,
                self._requests[scorer],
                seconds * self._seconds[scorer] / spent if spent else 0.0,
            )
            for scorer in self.planned
        )
