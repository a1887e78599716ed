"""The questions of all latents in one queue, whatever the steps of the explainer.

    asked = Asking(explainer, drawing, latents, judge, name="cot:llama", sink=store)
    await asked.run()
    asked.explained(seconds)

A latent that is begun goes before one that is not, so that few are under way at once and a killed
process loses little.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from glossator.explain.drawing import Drawing, Unexplained
from glossator.explain.explainers import Ask, Attempt, Explainer, Steps, Told
from glossator.explain.views import View
from glossator.judges.base import (
    TRANSIENT,
    Answer,
    Failure,
    Job,
    Judge,
    Reading,
    Usage,
    answer_all,
)
from glossator.progress import Bar
from glossator.records import Explanation, LedgerEntry

__all__ = ["Asking", "Explained"]

# Latents whose examples are drawn at once: enough to share a context's decoding, small in memory.
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Explained:
    """What an explainer made of some latents."""

    explanations: tuple[Explanation, ...]
    """In the order of the latents asked for."""
    failures: tuple[Unexplained, ...]
    """The latents without one."""
    usage: LedgerEntry
    """Requests, tokens and seconds. What a store of answers had is not in it."""
    attempts: tuple[Attempt, ...] = ()
    """The texts among which `refine` and `debate` chose, the kept ones with them."""
    ledger: tuple[LedgerEntry, ...] = ()
    """`usage` by latent; the wall time is shared out by that of their requests."""


@dataclass(slots=True)
class _Course:
    """One latent's way through its steps."""

    view: View
    steps: Steps
    answers: list[Answer] = field(default_factory=list)
    missing: int = 0


@dataclass(frozen=True, slots=True)
class _Asked(Job):
    """A job that may go to another judge than the queue's."""

    judge: Judge | None = None

    async def put(self, judge: Judge) -> Answer | Reading:
        # `super()` knows no class with slots that a decorator made again.
        return await Job.put(self, self.judge or judge)


class Asking:
    """One explainer at work on some latents.

    Args:
        explainer: whose steps are gone.
        drawing: makes the views.
        latents: their ids, each once.
        name: the explainer's, for the explanations.
        judge: who explains; None where nobody is asked.
        chooser: who chooses and checks, where that is another.
        hookpoint: the latents' module path.
        sink: called with each explanation as it is made.
        bar: shows how many latents are done.
    """

    def __init__(
        self,
        explainer: Explainer,
        drawing: Drawing,
        latents: Sequence[int],
        *,
        name: str,
        judge: Judge | None,
        chooser: Judge | None,
        hookpoint: str,
        sink: Callable[[Explanation], None] | None,
        bar: Bar,
    ) -> None:
        self._explainer, self._drawing, self._latents = explainer, drawing, latents
        self._name, self._judge, self._chooser = name, judge, chooser
        self._hookpoint, self._sink, self._bar = hookpoint, sink, bar
        self._explanations: dict[int, Explanation] = {}
        self._failures: dict[int, Unexplained] = {}
        self._attempts: dict[int, tuple[Attempt, ...]] = {}
        self._spent: dict[int, tuple[Usage, int, float]] = {}
        self._waiting: deque[Job] = deque()
        self._open = 0
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Go all steps of all latents.

        Raises:
            JudgeError: the judge cannot be used any more; what the sink was given is done.
        """
        if self._judge is not None:
            await answer_all(self._judge, self._jobs(), self._handle)
            return
        for first in range(0, len(self._latents), _CHUNK):
            chunk = self._latents[first : first + _CHUNK]
            self._begin(await asyncio.to_thread(self._drawing.views, chunk))

    def explained(self, seconds: float) -> Explained:
        """All of it, in the order asked for."""
        order = self._latents
        spent = self._spent.values()
        usage = sum((own for own, _, _ in spent), Usage())
        requests = sum(n for _, n, _ in spent)
        whole = sum(took for _, _, took in spent)
        return Explained(
            tuple(self._explanations[latent] for latent in order if latent in self._explanations),
            tuple(self._failures[latent] for latent in order if latent in self._failures),
            usage.entry("explain", self._name, requests, seconds),
            tuple(one for latent in order for one in self._attempts.get(latent, ())),
            tuple(
                own.entry(
                    "explain", self._name, n, seconds * took / whole if whole else 0.0
                ).model_copy(
                    update={"latent": latent, "verdicts": int(latent in self._explanations)}
                )
                for latent, (own, n, took) in self._spent.items()
            ),
        )

    async def _jobs(self) -> AsyncIterator[Job]:
        """Questions as they come up, those of latents under way first."""
        for first in range(0, len(self._latents), _CHUNK):
            chunk = self._latents[first : first + _CHUNK]
            # Drawing takes milliseconds a latent: the answers of others arrive meanwhile.
            for view in await asyncio.to_thread(self._drawing.views, chunk):
                self._begin([view])
                while self._waiting:
                    yield self._waiting.popleft()
        while self._open:
            # Answers that are still out may bring further questions.
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                yield self._waiting.popleft()

    def _begin(self, views: Sequence[View | Unexplained]) -> None:
        for view in views:
            if isinstance(view, Unexplained):
                self._failures[view.latent] = view
                self._bar.advance(1, failures=1)
            else:
                self._open += 1
                course = _Course(view, self._explainer.steps(view))
                self._waiting.extend(self._go_on(course, None))

    async def _handle(self, job: Job, answer: Answer) -> Job | None:
        """Keep an answer; with the last of a step's, ask the next step's questions."""
        course, place = job.key
        if not answer.replayed:
            own, n, took = self._spent.get(course.view.latent, (Usage(), 0, 0.0))
            self._spent[course.view.latent] = own + answer.usage, n + 1, took + answer.seconds
        course.answers[place] = answer
        course.missing -= 1
        further = deque(self._go_on(course, course.answers) if not course.missing else ())
        following = further.popleft() if further else None
        self._waiting.extendleft(reversed(further))
        self._news.set()
        self._bar.advance(0, tokens=answer.usage.prompt + answer.usage.completion)
        return following

    def _go_on(self, course: _Course, answers: Sequence[Answer] | None) -> list[Job]:
        """The questions of the next step; none where it was the last."""
        try:
            asks = next(course.steps) if answers is None else course.steps.send(answers)
        except StopIteration as over:
            self._keep(course.view.latent, over.value)
            return []
        course.answers = [_NONE] * len(asks)
        course.missing = len(asks)
        return [self._job(course, place, ask) for place, ask in enumerate(asks)]

    def _job(self, course: _Course, place: int, ask: Ask) -> Job:
        return _Asked(
            (course, place),
            ask.prompt,
            ask.max_tokens,
            ask.schema,
            ask.choices,
            judge=self._chooser if ask.to_chooser else None,
        )

    def _keep(self, latent: int, said: Told | Failure) -> None:
        self._open -= 1
        if isinstance(said, Failure):
            self._failures[latent] = Unexplained(latent, str(said), said.kind in TRANSIENT)
        else:
            explanation = Explanation.of(self._hookpoint, latent, self._name, said.text)
            self._explanations[latent] = explanation
            self._attempts[latent] = said.attempts
            if self._sink is not None:
                self._sink(explanation)
        self._bar.advance(1, failures=int(isinstance(said, Failure)))


_NONE = Answer(failure=Failure("empty", "not asked yet"))
