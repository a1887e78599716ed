"""What a judge is, and how many prompts are put to one at once.

    class Parrot:                       # any object of this shape is a judge
        name, concurrency, notes = "parrot", 8, ()
        async def check(self): ...
        capabilities = Capabilities(choices=True, schemas=True)
        async def answer(self, prompts, *, choices=None, schema=None, max_tokens, ...): ...
        async def read(self, prompts, *, alternatives=0): ...
        async def close(self): ...

Explainers and scorers see a judge through `Judge` alone. A request that fails comes back as an
`Answer` that carries a `Failure`: it is counted as missing and never becomes a score.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from glossator.errors import InputError
from glossator.records import LedgerEntry

__all__ = [
    "TRANSIENT",
    "Answer",
    "Capabilities",
    "Failure",
    "FailureKind",
    "Job",
    "Judge",
    "Prompt",
    "Reading",
    "Usage",
    "answer_all",
    "refuse_both",
    "run_sync",
    "together",
]

FailureKind = Literal[
    "timeout",
    "connection",
    "rate_limited",
    "server_error",
    "rejected",
    "refused",
    "truncated",
    "malformed",
    "empty",
]
"""Why a request has no answer.

`timeout`: no answer within the deadline. `connection`: dropped or refused. `rate_limited`: 429 to
the end. `server_error`: 408, 409, 5xx, or no chat completion at all, to the end. `rejected`: the
server will not take this prompt (too long, say). `refused`: the model or a filter declined.
`truncated`: cut off by `max_tokens`. `malformed`: the model's answer is not what was asked for.
`empty`: no text.
"""

TRANSIENT: frozenset[str] = frozenset({"timeout", "connection", "rate_limited", "server_error"})
"""Failures of the way to the model, not of the model: worth asking again on another day."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question in the turns of a chat.

    What many prompts share comes first (`system`, then `shots`), so that an engine with a prefix
    cache reads it once.
    """

    user: str
    """The question."""
    system: str = ""
    """Standing instructions; empty for none."""
    shots: tuple[tuple[str, str], ...] = ()
    """Worked examples: pairs of question and answer."""
    reply: str = ""
    """The model's own words, which `Judge.read` weighs; `Judge.answer` takes none."""
    group: str = ""
    """What prompts that begin alike have in common (`model.layers.5/17`): of several servers one is
    sent the whole group, so that its prefix cache is used. Never sent."""
    attempt: int = 1
    """Which asking of the same question this is. Never sent; stores of answers tell them apart."""
    label: str = ""
    """What it is about (`latent 17, detection`), for messages; never sent."""

    def messages(self) -> list[dict[str, str]]:
        """The turns, as chat-completion servers take them."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.shots:
            turns.append({"role": "user", "content": question})
            turns.append({"role": "assistant", "content": answer})
        turns.append({"role": "user", "content": self.user})
        return turns


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that requests took."""

    prompt: int = 0
    """Tokens sent, cached ones among them."""
    cached: int = 0
    """Tokens sent that the engine had in its prefix cache; 0 where it does not say."""
    completion: int = 0
    """Tokens received."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
        )

    def entry(self, stage: str, scorer: str, requests: int, seconds: float) -> LedgerEntry:
        """The line of the run's ledger for so many requests."""
        return LedgerEntry(
            stage=stage,
            scorer=scorer,
            requests=requests,
            prompt_tokens=self.prompt,
            unique_prompt_tokens=self.prompt - self.cached,
            cached_tokens=self.cached,
            completion_tokens=self.completion,
            seconds=seconds,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer."""

    kind: FailureKind
    """What sort of failure."""
    message: str = ""
    """One line more; holds no key and no prompt."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt: a text or a failure, never both."""

    text: str | None = None
    """The model's words; None where it failed."""
    failure: Failure | None = None
    """Why there are none; None where there are."""
    usage: Usage = Usage()
    """Tokens of the request."""
    seconds: float = 0.0
    """Wall time of the attempt that answered, or of all attempts where none did."""
    probabilities: Mapping[str, float] | None = field(default=None, hash=False)
    """Probability of each choice, adding up to 1; None without `choices` and `logprobs`."""
    replayed: bool = False
    """It was paid for before: tokens and seconds are those of then."""

    def __post_init__(self) -> None:
        if (self.text is None) == (self.failure is None):
            raise ValueError("an answer holds either a text or a failure")


@dataclass(frozen=True, slots=True)
class Reading:
    """How likely a model finds the words of `Prompt.reply`, token by token; or a failure."""

    tokens: tuple[str, ...] | None = None
    """[n] the reply as the model's tokenizer cuts it; joined they are the reply. A character of
    several tokens stands whole at the first of them. None where it failed."""
    logprobs: tuple[float, ...] = ()
    """[n] log probability of each token after all that stands before it."""
    alternatives: tuple[Mapping[str, float], ...] = ()
    """[n] log probabilities of the likeliest tokens at each place, by text; empty if not asked."""
    failure: Failure | None = None
    """Why there is none; None where there is one."""
    usage: Usage = Usage()
    """Tokens of the request."""
    seconds: float = 0.0
    """As `Answer.seconds`."""
    replayed: bool = False
    """As `Answer.replayed`."""

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.failure is None):
            raise ValueError("a reading holds either tokens or a failure")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a judge can be held to; found by `Judge.check`."""

    choices: bool = False
    """An answer is one of the choices given, because the model is constrained to them."""
    schemas: bool = False
    """An answer fits the schema given, because the model is constrained to it."""
    logprobs: bool = False
    """Choices come with their probabilities."""
    readings: bool = False
    """`Judge.read` works: log probabilities of given words."""
    cached_tokens: bool = False
    """It says how many tokens of a prompt were in its prefix cache."""


class Judge(Protocol):
    """A language model that can be asked."""

    @property
    def name(self) -> str:
        """The model's name, as it stands in explanations and protocols."""

    @property
    def concurrency(self) -> int:
        """How many prompts it answers at once."""

    @property
    def capabilities(self) -> Capabilities:
        """What `check` found that it can be held to."""

    @property
    def notes(self) -> Sequence[str]:
        """What `check` found that a reader of the scores should know."""

    async def check(self) -> None:
        """Ask one trivial question; a second call costs nothing.

        Raises:
            JudgeError: no such server, a bad key, an unknown model; the text names the remedy.
        """

    async def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        choices: Sequence[str] | None = None,
        schema: Mapping[str, Any] | None = None,
        max_tokens: int,
        logprobs: bool = False,
    ) -> list[Answer]:
        """Answer prompts at temperature 0.

        Args:
            prompts: the questions.
            choices: texts of which the answer is one.
            schema: JSON schema of the answer; not together with `choices`.
            max_tokens: longest answer.
            logprobs: with `choices`, give each one's probability; the likeliest is the answer.

        Returns:
            One answer per prompt, in order.

        Raises:
            InputError: `choices` and `schema` together.
            JudgeError: the judge cannot be used any more.
        """

    async def read(self, prompts: Sequence[Prompt], *, alternatives: int = 0) -> list[Reading]:
        """Weigh the `reply` of each prompt: one forward pass, nothing is generated.

        Args:
            prompts: questions, each with a reply.
            alternatives: so many of the likeliest tokens are given at each place.

        Returns:
            One reading per prompt, in order.

        Raises:
            InputError: a prompt without a reply.
            JudgeError: the judge cannot do this (`capabilities.readings`), or cannot be used any
                more.
        """

    async def close(self) -> None:
        """Give up connections; the next `answer` opens them again."""


def refuse_both(choices: Sequence[str] | None, schema: Mapping[str, Any] | None) -> None:
    """Refuse a request that is constrained in two ways at once.

    Raises:
        InputError: both are given, or there are no choices among `choices`.
    """
    if choices is not None and schema is not None:
        raise InputError("judge: `choices` and `schema` exclude each other; give one of them")
    if choices is not None and not choices:
        raise InputError("judge: `choices` is empty; give at least one")


async def together(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines side by side; the first error cancels the others and is raised as it is."""
    coroutines = list(coroutines)
    if len(coroutines) == 1:  # most calls: a task of its own would cost more than it does
        return [await coroutines[0]]
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt in the queue, with how its answer is constrained."""

    key: Any
    """The caller's handle."""
    prompt: Prompt
    """What is asked."""
    max_tokens: int
    """Longest answer."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer."""
    choices: tuple[str, ...] | None = None
    """Texts of which the answer is one, with their probabilities where the judge gives them."""
    alternatives: int | None = None
    """Not None: the prompt's reply is read, with so many alternatives at each token."""

    async def put(self, judge: Judge) -> Answer | Reading:
        """Ask the judge."""
        if self.alternatives is not None:
            (reading,) = await judge.read([self.prompt], alternatives=self.alternatives)
            return reading
        (answer,) = await judge.answer(
            [self.prompt],
            choices=self.choices,
            schema=self.schema,
            max_tokens=self.max_tokens,
            logprobs=self.choices is not None and judge.capabilities.logprobs,
        )
        return answer


async def answer_all(
    judge: Judge,
    jobs: AsyncIterator[Job],
    handle: Callable[[Job, Any], Awaitable[Job | None]],
) -> None:
    """Put a stream of jobs to a judge, as many at once as it takes, in one queue.

    Jobs are drawn only as places fall free, so a stream may be as long as it likes, and nothing
    waits for a batch to be complete.

    Args:
        judge: who answers.
        jobs: what is asked.
        handle: called with each job and its answer (or reading) as it arrives; returns a job to be
            asked next in this place, or None.

    Raises:
        JudgeError: the judge cannot be used any more; what was handled before stays handled.
    """
    turn = asyncio.Lock()

    async def draw() -> Job | None:
        # An asynchronous generator takes one caller at a time.
        async with turn:
            return await anext(jobs, None)

    async def work() -> None:
        while (job := await draw()) is not None:
            again: Job | None = job
            while again is not None:
                again = await handle(again, await again.put(judge))

    await together(work() for _ in range(judge.concurrency))


def run_sync(work: Coroutine[Any, Any, _T], judge: Judge | None, twin: str) -> _T:
    """Run the asynchronous twin of a function to its end and close the judge's connections.

    Args:
        work: the coroutine.
        judge: whose connections belong to the event loop that ends here.
        twin: name of the asynchronous function, for the error.

    Raises:
        InputError: an event loop is running already in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        work.close()
        raise InputError(f"an event loop is running here; use `await {twin}(...)` instead")

    async def whole() -> _T:
        try:
            return await work
        finally:
            if judge is not None:
                await judge.close()

    return asyncio.run(whole())
