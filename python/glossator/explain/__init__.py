"""Explanations of latents: rules learned without a model, or a language model's words.

    explained = explain(index, [3, 17], explainer="delimited", judge=judge, text=text)
    explained.explanations[0].text
    explained.failures                 # latents without one, with the reason

`aexplain` is the same for use inside an event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from glossator.errors import InputError
from glossator.explain.delimited import SCHEMA, Delimited, explanation_text
from glossator.explain.rules import learn_rules
from glossator.index import Index
from glossator.judges.base import (
    TRANSIENT,
    Answer,
    Failure,
    Job,
    Judge,
    Usage,
    answer_all,
    run_sync,
)
from glossator.progress import SILENT, Bar, Progress
from glossator.records import Explanation, LedgerEntry
from glossator.sampling import SamplingPlan
from glossator.shown import show
from glossator.text import TokenText

__all__ = ["Delimited", "Explained", "Unexplained", "aexplain", "explain"]

# Latents whose examples are drawn at once: enough to share a context's decoding, small in memory.
_CHUNK = 32
_SILENT = "no examples on the explain side"


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A latent that got no explanation."""

    latent: int
    """The latent."""
    reason: str
    """Why."""
    transient: bool = False
    """Whether asking again may help: the server was at fault, not the model."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What an explainer made of some latents."""

    explanations: tuple[Explanation, ...]
    """In the order of the latents asked for."""
    failures: tuple[Unexplained, ...]
    """The latents without one."""
    usage: LedgerEntry
    """Requests, tokens and seconds."""


def explain(
    index: Index,
    latents: Sequence[int],
    *,
    explainer: str | Delimited = "rules",
    judge: Judge | None = None,
    text: TokenText | None = None,
    hookpoint: str | None = None,
    plan: SamplingPlan | None = None,
    seed: int = 0,
    sink: Callable[[Explanation], None] | None = None,
    progress: Progress = SILENT,
) -> Explained:
    """Explain latents; see `aexplain`."""
    if explainer == "rules":
        # Learning needs no event loop, and without one Ctrl-C stops it at once.
        return _learned(index, latents, text, hookpoint, sink, progress)
    work = aexplain(
        index,
        latents,
        explainer=explainer,
        judge=judge,
        text=text,
        hookpoint=hookpoint,
        plan=plan,
        seed=seed,
        sink=sink,
        progress=progress,
    )
    return run_sync(work, judge, "aexplain")


async def aexplain(
    index: Index,
    latents: Sequence[int],
    *,
    explainer: str | Delimited = "rules",
    judge: Judge | None = None,
    text: TokenText | None = None,
    hookpoint: str | None = None,
    plan: SamplingPlan | None = None,
    seed: int = 0,
    sink: Callable[[Explanation], None] | None = None,
    progress: Progress = SILENT,
) -> Explained:
    """Explain latents from the explain side of the index.

    Args:
        index: where their activations are.
        latents: their ids; one asked for twice is explained once.
        explainer: `rules`, `delimited`, or a `Delimited` with settings of its own.
        judge: the language model, for `delimited`.
        text: the tokenizer's texts.
        hookpoint: the latents' module path; the index's own by default.
        plan: what to draw; 40 uniform examples by default.
        seed: seed of the draw.
        sink: called with each explanation as it arrives, so that it can be stored.
        progress: shows how many are done.

    Returns:
        The explanations, the latents without one, and the cost.

    Raises:
        InputError: an unknown explainer, or a judge or text that is missing.
        JudgeError: the judge cannot be used any more; what `sink` was given is done.
    """
    if explainer == "rules":
        return await _learned_beside(index, latents, text, hookpoint, sink, progress)
    if explainer == "delimited":
        explainer = Delimited()
    if not isinstance(explainer, Delimited):
        raise InputError(f"explainer `{explainer}`: unknown; known are rules, delimited")
    if judge is None:
        raise InputError("explainer `delimited`: needs a judge; name one with --judge")
    if text is None:
        raise _no_text()
    hookpoint = index.attributes.get("hookpoint", "") if hookpoint is None else hookpoint
    latents = list(dict.fromkeys(int(latent) for latent in latents))
    begun = time.perf_counter()
    await judge.check()
    with progress.stage("explain", total=len(latents), unit="latents") as bar:
        for note in judge.notes:
            bar.note(note)
        asked = _Asked(index, latents, explainer, judge, text, hookpoint, plan, seed, sink, bar)
        await answer_all(judge, asked.jobs(), asked.handle)
    return asked.explained(time.perf_counter() - begun)


def _learned(
    index: Index,
    latents: Sequence[int],
    text: TokenText | None,
    hookpoint: str | None,
    sink: Callable[[Explanation], None] | None,
    progress: Progress,
) -> Explained:
    """Rules, in the shape of any other explainer's work."""
    if text is None:
        raise _no_text()
    begun = time.perf_counter()
    found = learn_rules(
        index, latents, names=text, hookpoint=hookpoint, sink=sink, progress=progress
    )
    there = {explanation.latent for explanation in found}
    silent = dict.fromkeys(int(latent) for latent in latents if int(latent) not in there)
    return Explained(
        tuple(found),
        tuple(Unexplained(latent, _SILENT) for latent in silent),
        Usage().entry("explain", "rules", 0, time.perf_counter() - begun),
    )


async def _learned_beside(
    index: Index,
    latents: Sequence[int],
    text: TokenText | None,
    hookpoint: str | None,
    sink: Callable[[Explanation], None] | None,
    progress: Progress,
) -> Explained:
    """Rules learned in a thread of their own; `sink` is called in the event loop's."""
    loop = asyncio.get_running_loop()
    cancelled = threading.Event()

    async def keep(explanation: Explanation) -> None:
        if sink is not None:
            sink(explanation)

    def hand_over(explanation: Explanation) -> None:
        if cancelled.is_set():
            raise asyncio.CancelledError
        asyncio.run_coroutine_threadsafe(keep(explanation), loop).result()

    try:
        return await asyncio.to_thread(
            _learned, index, latents, text, hookpoint, hand_over, progress
        )
    finally:
        cancelled.set()


def _no_text() -> InputError:
    return InputError("explain: `text` is missing; give TokenText.open(the tokenizer's file)")


class _Asked:
    """The explanations that a judge was asked for so far."""

    def __init__(
        self,
        index: Index,
        latents: Sequence[int],
        explainer: Delimited,
        judge: Judge,
        text: TokenText,
        hookpoint: str,
        plan: SamplingPlan | None,
        seed: int,
        sink: Callable[[Explanation], None] | None,
        bar: Bar,
    ) -> None:
        self._index, self._text, self._plan, self._seed = index, text, plan, seed
        self._latents, self._explainer, self._hookpoint = latents, explainer, hookpoint
        self._name = explainer.name(judge.name)
        self._sink, self._bar = sink, bar
        self._explanations: dict[int, Explanation] = {}
        self._failures: dict[int, Unexplained] = {}
        self._usage = Usage()
        self._requests = 0

    async def jobs(self) -> AsyncIterator[Job]:
        """One job per latent that has examples."""
        for first in range(0, len(self._latents), _CHUNK):
            chunk = self._latents[first : first + _CHUNK]
            # Drawing takes milliseconds a latent: the answers of others arrive meanwhile.
            for job in await asyncio.to_thread(self._chunk, chunk):
                if isinstance(job, Unexplained):
                    self._failures[job.latent] = job
                    self._bar.advance(1, failures=1)
                else:
                    yield job

    def _chunk(self, latents: Sequence[int]) -> list[Job | Unexplained]:
        examples = self._index.sample(latents, self._plan, self._seed)
        examples = examples.take(examples.split == 0)
        shown = show(examples, self._index, self._text)
        jobs: list[Job | Unexplained] = []
        for latent in latents:
            rows = (examples.latent == latent).nonzero()[0]
            if not len(rows):
                jobs.append(Unexplained(latent, _SILENT))
                continue
            prompt = self._explainer.prompt(
                latent, [shown[row] for row in rows], examples.activations[rows]
            )
            jobs.append(Job(latent, prompt, self._explainer.max_tokens, SCHEMA))
        return jobs

    async def handle(self, job: Job, answer: Answer) -> None:
        """Keep an explanation or a failure."""
        latent: int = job.key
        self._usage += answer.usage
        self._requests += 1
        said = explanation_text(answer)
        if isinstance(said, Failure):
            self._failures[latent] = Unexplained(latent, str(said), said.kind in TRANSIENT)
        else:
            explanation = Explanation.of(self._hookpoint, latent, self._name, said)
            self._explanations[latent] = explanation
            if self._sink is not None:
                self._sink(explanation)
        self._bar.advance(
            1,
            tokens=answer.usage.prompt + answer.usage.completion,
            failures=int(isinstance(said, Failure)),
        )

    def explained(self, seconds: float) -> Explained:
        """All of it, in the order asked for."""
        order = self._latents
        return Explained(
            tuple(self._explanations[latent] for latent in order if latent in self._explanations),
            tuple(self._failures[latent] for latent in order if latent in self._failures),
            self._usage.entry("explain", self._name, self._requests, seconds),
        )
