"""Explanations put to a judge: one queue for all latents and scorers, resumed where it stopped.

    scored = await ascore(index, explanations, judge=judge, text=text, sink=store_verdicts)
    scored.scores

A request is done with when its verdicts were handed over, so that a run that is killed loses only
the requests in flight; those whose ids are in `skip` are not asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from glossator.errors import InputError
from glossator.index import Index
from glossator.judges.base import (
    Answer,
    Capabilities,
    Job,
    Judge,
    Reading,
    answer_all,
    together,
)
from glossator.progress import SILENT, Progress
from glossator.records import Explanation, Verdict
from glossator.sampling import NearestWindows, NeighbourTable, SamplingPlan
from glossator.score.handing import Handing, Sink
from glossator.score.material import Drawing
from glossator.score.options import ScoringOptions, scorer_of
from glossator.score.presets import Preset, settle
from glossator.score.protocol import scoring_protocol
from glossator.score.scored import Asked, Scored, scored_of, settled
from glossator.score.scorers import Request, Scorer, Writing
from glossator.text import TokenText

__all__ = ["NO_EXPLANATION", "Sink", "ascore"]

NO_EXPLANATION = "none"
"""The explainer's name of what is scored where no explanation is needed."""

_CHUNK = 16
_WAITING_HERE = 64
_ASK_AGAIN = ("malformed", "truncated", "empty")


async def ascore(
    index: Index,
    explanations: Sequence[Explanation],
    *,
    judge: Judge | None,
    text: TokenText,
    preset: str | Preset = "glossator",
    scorers: Sequence[str | Scorer] | None = None,
    hookpoint: str | None = None,
    plan: SamplingPlan | None = None,
    options: ScoringOptions | None = None,
    needs: Mapping[str, Any] | None = None,
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
        explanations: what is scored; several of one latent are judged on the same prompts. A
            scorer that needs none asks once about each of their latents, and its verdicts are those
            of an explanation by `none`, without words (`Scored.explanations`).
        judge: who judges; None where no scorer asks a judge.
        text: the tokenizer's texts.
        preset: one of `PRESETS`, or another: every parameter.
        scorers: names of `SCORERS`, or scorers; the preset's by default.
        hookpoint: the latents' module path; the index's own by default.
        plan: what is drawn, in place of the preset's.
        options: what of it is shown, and how, in place of the preset's.
        needs: what some scorers need beside their options, by name: see `scorer_of`.
        seed: of the draw, the order and the wrong marks.
        sink: called with the verdicts of one or more requests soon after they are answered, so that
            they can be stored.
        skip: ids of prompts that are not asked; those `settled` in `stored` by default. An
            explanation of which prompts are skipped and not in `stored` gets no scores here: use
            `scores_from` on all its verdicts.
        stored: verdicts of earlier calls, which count as if they came now.
        provenance: `coder_hash`, `tokenizer_hash`, `corpus_hash` for the protocol.
        neighbours: for a plan with negatives of the decoder kinds.
        nearest: for one with negatives of kind `embedding`.
        progress: shows how many prompts are done.

    Raises:
        InputError: an unknown scorer, a plan that draws too little, a judge that is missing or
            cannot answer, another hookpoint's explanation.
        JudgeError: the judge cannot be used any more; what `sink` was given is done.
    """
    hookpoint = index.attributes.get("hookpoint", "") if hookpoint is None else hookpoint
    _, plan, options, scorers = settle(preset, plan, options, scorers)
    asking = [
        scorer_of(one, options, **(needs or {})) if isinstance(one, str) else one for one in scorers
    ]
    said, made = _by_latent(explanations, asking, hookpoint)
    if judge is None:
        _refuse(asking, plan, None)
    else:
        # What a plan lacks needs no server to be told.
        _refuse(asking, plan, _ANY)
    begun = time.perf_counter()
    if judge is not None:
        await judge.check()
        _refuse(asking, plan, judge.capabilities)
    protocol = scoring_protocol(
        index,
        "" if judge is None else judge.name,
        preset=preset,
        plan=plan,
        options=options,
        scorers=scorers,
        seed=seed,
        provenance=provenance,
        neighbours=neighbours,
        nearest=nearest,
    )
    if skip is None:
        skip = set() if stored is None else settled(stored)
    draw = partial(index.sample, plan=plan, seed=seed, neighbours=neighbours, nearest=nearest)
    drawing = Drawing(index, text, hookpoint, draw, seed)
    pairs = [(one, scorer.name) for few in said.values() for scorer, one in _pairs(asking, few)]
    asked = Asked(protocol, pairs, made)
    queue = _Queue(asking, said, drawing, frozenset(skip), asked, Handing(sink))
    await queue.run(judge, progress)
    asked.seconds = time.perf_counter() - begun
    # Texts that were written or altered for a latent are examples, too.
    written = [scorer.made for scorer in asking if isinstance(scorer, Writing)]
    return scored_of(asked, index, stored, [*drawing.examples, *written], drawing.shortfalls)


_ANY = Capabilities(choices=True, schemas=True, logprobs=True, readings=True, cached_tokens=True)


def _refuse(scorers: Sequence[Scorer], plan: SamplingPlan, known: Capabilities | None) -> None:
    for scorer in scorers:
        scorer.refuse(plan, known)


def _by_latent(
    explanations: Sequence[Explanation], scorers: Sequence[Scorer], hookpoint: str
) -> tuple[dict[int, list[Explanation]], list[Explanation]]:
    """What is scored of each latent, and what of it was made here.

    Raises:
        InputError: an explanation is of another hookpoint.
    """
    said: dict[int, dict[str, Explanation]] = {}
    for one in explanations:
        if one.hookpoint != hookpoint:
            raise InputError(
                f"explanation of latent {one.latent}: is of hookpoint `{one.hookpoint}`, the index "
                f"of `{hookpoint}`"
            )
        said.setdefault(one.latent, {})[one.explanation_id] = one
    made = []
    if not all(scorer.needs_explanation for scorer in scorers):
        for latent, those in said.items():
            none = Explanation.of(hookpoint, latent, NO_EXPLANATION, "")
            if those.setdefault(none.explanation_id, none) is none:
                made.append(none)
    return {latent: list(those.values()) for latent, those in said.items()}, made


def _pairs(
    scorers: Sequence[Scorer], explanations: Sequence[Explanation]
) -> Iterator[tuple[Scorer, Explanation]]:
    """Which scorer is asked about which of a latent's explanations."""
    for scorer in scorers:
        for one in explanations:
            if scorer.needs_explanation == (one.explainer != NO_EXPLANATION):
                yield scorer, one


@dataclass(eq=False, slots=True)
class _Open:
    """A request under way."""

    scorer: Scorer
    request: Request
    answers: list[Answer | Reading | None]
    """To each of its questions, as they come."""
    waiting: int
    """Questions without one."""
    again: list[Job] = field(default_factory=list)
    """Those that are still to be asked once more."""
    attempt: int = 1
    """Which asking this is."""
    tokens: int = 0
    """Of all questions and answers so far."""


class _Queue:
    """Puts the questions of all latents and scorers, and reads the answers."""

    def __init__(
        self,
        scorers: Sequence[Scorer],
        said: Mapping[int, Sequence[Explanation]],
        drawing: Drawing,
        skip: frozenset[str],
        asked: Asked,
        handing: Handing,
    ) -> None:
        self._scorers, self._said, self._drawing = scorers, said, drawing
        self._skip, self._asked, self._handing = skip, asked, handing
        self._protocol_id = asked.protocol.protocol_id
        # Models that run here take all there is of the machine: one after another.
        self._here = asyncio.Lock()
        self._without: asyncio.Queue[_Open | None] = asyncio.Queue(_WAITING_HERE)

    async def run(self, judge: Judge | None, progress: Progress) -> None:
        """Ask everything.

        Raises:
            JudgeError: the judge cannot be used any more; what was answered is handed over.
        """
        latents = list(self._said)
        chunks = [latents[first : first + _CHUNK] for first in range(0, len(latents), _CHUNK)]
        begun = await asyncio.to_thread(self._prepare, chunks[0]) if chunks else []
        # Most latents have as many examples as the first ones.
        total = round(len(begun) * len(latents) / len(chunks[0])) if chunks else 0
        with progress.stage("score", total=total, unit="prompts") as self._bar:
            for note in () if judge is None else judge.notes:
                self._bar.note(note)
            jobs = self._jobs(begun, chunks[1:])
            try:
                await together([self._judged(judge, jobs), self._done_here()])
            finally:
                await jobs.aclose()
                self._handing.close()

    async def _judged(self, judge: Judge | None, jobs: AsyncGenerator[Job]) -> None:
        if judge is None:
            async for job in jobs:
                raise InputError(f"{job.prompt.label}: asks a judge; name one")
        else:
            await answer_all(judge, jobs, self._handle)
        await self._without.put(None)

    def _prepare(self, latents: Sequence[int]) -> list[tuple[Scorer, Request]]:
        """The requests about some latents, one latent's together; in a thread."""
        materials = self._drawing.of({latent: self._said[latent] for latent in latents})
        for scorer in self._scorers:
            self._drawing.shortfalls += scorer.prepare(materials) or ()
        return [
            (scorer, request)
            for material in materials
            for scorer, explanation in _pairs(self._scorers, material.explanations)
            for request in scorer.requests(material, explanation, self._protocol_id)
        ]

    async def _jobs(
        self, begun: list[tuple[Scorer, Request]], chunks: Sequence[Sequence[int]]
    ) -> AsyncGenerator[Job]:
        """All questions; while those of some latents are asked, the next are made ready."""
        ready = begun
        for latents in (*chunks, None):
            ahead = latents and asyncio.ensure_future(asyncio.to_thread(self._prepare, latents))
            try:
                for scorer, request in ready:
                    if request.prompt_id in self._skip:
                        self._asked.skipped[request.explanation.explanation_id].add(
                            request.prompt_id
                        )
                        self._bar.advance(1)
                        continue
                    n = len(request.jobs)
                    opened = _Open(scorer, request, [None] * n, n)
                    if not n:
                        await self._without.put(opened)
                    for place, job in enumerate(request.jobs):
                        yield replace(job, key=(opened, place))
                ready = await ahead if ahead else []
            finally:
                if ahead:
                    ahead.cancel()

    async def _done_here(self) -> None:
        """Read the requests that ask no judge, one after another."""
        while (opened := await self._without.get()) is not None:
            await self._read(opened)

    async def _handle(self, job: Job, answer: Answer | Reading) -> Job | None:
        """Take an answer; the last one of a request makes its verdicts."""
        opened: _Open
        opened, place = job.key
        request = opened.request
        opened.answers[place] = answer
        opened.tokens += answer.usage.prompt + answer.usage.completion
        opened.waiting -= 1
        self._asked.book(request.explanation.latent, request.scorer, answer)
        if not opened.waiting:
            await self._read(opened)
        return opened.again.pop(0) if opened.again else None

    async def _read(self, opened: _Open) -> None:
        """Hand over the verdicts of a request, or ask once more where all answers were none."""
        scorer, request = opened.scorer, opened.request
        answers = [answer for answer in opened.answers if answer is not None]
        if scorer.slow or not answers:
            async with self._here:
                verdicts = await asyncio.to_thread(
                    scorer.verdicts, request, self._protocol_id, answers
                )
        else:
            verdicts = scorer.verdicts(request, self._protocol_id, answers)
        failed = bool(verdicts) and all(verdict.failure for verdict in verdicts)
        if failed and opened.attempt == 1 and answers and _by_the_model(verdicts):
            opened.attempt, opened.waiting = 2, len(request.jobs)
            opened.again = [
                replace(job, key=(opened, place), prompt=replace(job.prompt, attempt=2))
                for place, job in enumerate(request.jobs)
            ]
            return
        self._asked.add(request.explanation.latent, verdicts)
        await self._handing.give(verdicts)
        self._bar.advance(1, tokens=opened.tokens, failures=int(failed))


def _by_the_model(verdicts: Sequence[Verdict]) -> bool:
    """Whether all are missing for what another attempt may mend."""
    return all((verdict.failure or "").split(":")[0] in _ASK_AGAIN for verdict in verdicts)
