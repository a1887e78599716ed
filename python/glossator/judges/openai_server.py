"""A judge behind any server that speaks the chat-completions dialect of OpenAI: vLLM first.

    judge = OpenAIJudge("http://127.0.0.1:8000/v1", "NAME")
    await judge.check()
    answers = await judge.answer([Prompt("Is a whale a fish?")], max_tokens=16)
    await judge.close()

What the server understands is found out by `check`; until then it is asked as vLLM is.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai

from glossator.errors import InputError, JudgeError
from glossator.judges.base import (
    Answer,
    Capabilities,
    Failure,
    FailureKind,
    Prompt,
    Reading,
    refuse_both,
    together,
)
from glossator.judges.connection import FAULTS, KEY_VARIABLES, Connection
from glossator.judges.dialect import Dialect
from glossator.judges.faults import (
    MalformedReplyError,
    classify,
    describe,
    is_retryable,
    status_of,
    wait_before,
)
from glossator.judges.limits import Limit
from glossator.judges.probe import probe
from glossator.judges.readings import reading_of
from glossator.judges.replies import checked, probabilities_of, text_of, usage_of

__all__ = ["OpenAIJudge"]

# A timeout has cost minutes already; other faults cost nothing but the wait.
_TIMEOUT_ATTEMPTS = 3
_PROBE_ATTEMPTS = 3
_LOST: tuple[FailureKind | None, ...] = ("connection", "timeout")


class OpenAIJudge:
    """A judge behind an HTTP server.

    Attributes:
        url: base URL of the server.
        notes: what `check` found that a reader of the scores should know.
        capabilities: what `check` found that it can be held to.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        concurrency: int = 32,
        timeout: float = 120.0,
        attempts: int = 8,
        lost_attempts: int | None = None,
        dead_after: int = 8,
        backoff: float = 0.5,
        longest_wait: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the server; nothing is sent before `check` or `answer`.

        Args:
            url: base URL; `/v1` is added where it has no path.
            model: the model's name there; None takes the only one that it serves.
            concurrency: requests in flight at most; fewer where the server does not keep up.
            timeout: seconds after which an attempt is given up.
            attempts: how often a request is sent before it counts as failed (a timeout: three
                times at most).
            lost_attempts: the same where the connection is lost or no answer comes in time; None
                for as often.
            dead_after: so many requests in a row that fail for want of a working server end the
                run with a `JudgeError`.
            backoff: seconds before the second attempt; doubled for each one more.
            longest_wait: longest of these waits. A `Retry-After` is heeded up to ten minutes.
            sleep: how to wait.
            extra: further fields of every request's body; they win over all others.

        Raises:
            InputError: `url` is no URL, or holds a password.
        """
        if concurrency < 1:
            raise InputError(f"judge concurrency {concurrency}: must be at least 1")
        self._connection = Connection(url, timeout)
        self.url = self._connection.url
        self.notes: tuple[str, ...] = ()
        self.capabilities = Capabilities()
        self._dialect = Dialect()
        self._model = model
        self._concurrency = concurrency
        self._attempts = attempts
        self._lost_attempts = min(lost_attempts or attempts, attempts)
        self._dead_after = dead_after
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._sleep = sleep
        self._extra = dict(extra or {})
        self._checked = False
        self._failed_in_a_row = 0
        self._limit = Limit(concurrency, deadline=timeout)
        self._session = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"OpenAIJudge({self.url!r}, {self._model!r})"

    @property
    def name(self) -> str:
        """The model's name; known after `check` where none was given."""
        if self._model is None:
            raise JudgeError(f"{self.url}: no model chosen yet; name one or call `check` first")
        return self._model

    @property
    def concurrency(self) -> int:
        """How many requests are in flight at most."""
        return self._concurrency

    async def check(self) -> None:
        """Find the model and ask a handful of questions; a second call costs nothing.

        Raises:
            JudgeError: refused connection, a key that is not accepted, an unknown model, a server
                that answers no question at all, or a model that thinks and cannot be stopped.
        """
        if self._checked:
            return
        served = await self._served_models()
        if self._model is None:
            if served is None or len(served) != 1:
                names = "names no models" if not served else "serves " + ", ".join(served[:8])
                raise JudgeError(f"{self.url}: the server {names}; choose one with --judge-model")
            self._model = served[0]
        echoes: list[tuple[bool, bool]] = []

        async def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
            reply, request_id, _ = await self._patiently(body, "probe", _PROBE_ATTEMPTS)
            echoes.append((_repeats(reply, request_id), reply.get("model") == self._model))
            return reply

        try:
            dialect, self.notes = await probe(ask, self._model, self._extra)
        except FAULTS as error:
            raise self._unusable(error, served) from None
        self._dialect = replace(
            dialect,
            repeats_id=all(repeats_id for repeats_id, _ in echoes),
            repeats_model=all(repeats_model for _, repeats_model in echoes),
        )
        self.capabilities = dialect.capabilities()
        self._checked = True

    async def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        choices: Sequence[str] | None = None,
        schema: Mapping[str, Any] | None = None,
        max_tokens: int,
        logprobs: bool = False,
    ) -> list[Answer]:
        """Answer prompts at temperature 0; see `Judge.answer`."""
        refuse_both(choices, schema)
        return await together(
            self._answer_one(prompt, choices, schema, max_tokens, logprobs) for prompt in prompts
        )

    async def read(self, prompts: Sequence[Prompt], *, alternatives: int = 0) -> list[Reading]:
        """Weigh replies; see `Judge.read`."""
        if not self._dialect.readings:
            raise JudgeError(
                f"{self.url}: gives no log probabilities of given words (vLLM's "
                "`prompt_logprobs`); choose a server that does, or scorers that need none"
            )
        for prompt in prompts:
            if not prompt.reply:
                raise InputError(f"judge: {prompt.label or 'a prompt'} has no reply to be read")
        return await together(self._read_one(prompt, alternatives) for prompt in prompts)

    async def close(self) -> None:
        """Close the connections; the next request opens them again."""
        await self._connection.close()

    async def _answer_one(
        self,
        prompt: Prompt,
        choices: Sequence[str] | None,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        logprobs: bool,
    ) -> Answer:
        dialect = self._dialect
        body = dialect.answer(prompt, choices, schema, max_tokens, logprobs)
        reply, seconds = await self._ask(body, prompt, (max_tokens, choices is None))
        if isinstance(reply, Failure):
            return Answer(failure=reply, seconds=seconds)
        usage = usage_of(reply)
        text = text_of(reply, max_tokens, whole=choices is not None)
        if isinstance(text, Failure):
            return Answer(failure=text, usage=usage, seconds=seconds)
        if choices is None:
            return Answer(self._connection.scrub(text), None, usage, seconds)
        chosen = dialect.chosen(text, choices)
        if chosen is None:
            failure = Failure("malformed", f"the answer is none of {', '.join(choices)}")
            return Answer(failure=failure, usage=usage, seconds=seconds)
        probabilities = None
        if logprobs:
            loosely = dialect.choices == "none"
            probabilities = probabilities_of(reply, choices, loosely=loosely)
        if probabilities:
            chosen = max(probabilities, key=probabilities.__getitem__)
        return Answer(chosen, None, usage, seconds, probabilities)

    async def _read_one(self, prompt: Prompt, alternatives: int) -> Reading:
        body = self._dialect.read(prompt, alternatives)
        reply, seconds = await self._ask(body, prompt, "read")
        if isinstance(reply, Failure):
            return Reading(failure=reply, seconds=seconds)
        usage = usage_of(reply)
        found = reading_of(reply, prompt.reply, alternatives)
        if isinstance(found, Failure):
            return Reading(failure=found, usage=usage, seconds=seconds)
        return Reading(
            found.tokens, found.logprobs, found.alternatives, usage=usage, seconds=seconds
        )

    async def _ask(
        self, body: Mapping[str, Any], prompt: Prompt, kind: object
    ) -> tuple[Mapping[str, Any] | Failure, float]:
        """The server's reply to one prompt, and the seconds it took.

        Raises:
            JudgeError: the server is of no use any more.
        """
        if self._connection.renew():
            self._limit.restart()
        await self._limit.enter()
        begun = time.perf_counter()
        try:
            reply, _, seconds = await self._patiently(body, kind, self._attempts)
        except FAULTS as error:
            return self._failure(error, prompt), time.perf_counter() - begun
        finally:
            self._limit.leave()
        self._failed_in_a_row = 0
        return reply, seconds

    async def _patiently(
        self, body: Mapping[str, Any], kind: object, attempts: int
    ) -> tuple[Mapping[str, Any], str, float]:
        """Send, and send again after faults that may pass.

        Returns:
            The reply, the id of the attempt that it answers, and the seconds this took.

        Raises:
            openai.APIError, TimeoutError, MalformedReplyError: the last attempt's.
        """
        body = {"model": self.name, **body, **self._extra}
        if "chat_template_kwargs" in self._extra:
            quiet = self._dialect.quiet.get("chat_template_kwargs", {})
            body["chat_template_kwargs"] = quiet | self._extra["chat_template_kwargs"]
        for attempt in itertools.count(1):
            request_id = f"{self._session}-{next(self._numbers)}"
            begun = time.perf_counter()
            try:
                reply = await self._connection.post("/chat/completions", body, request_id)
                self._recognise(checked(reply), request_id)
            except FAULTS as error:
                failed = classify(error)
                if failed in ("timeout", "rate_limited") or status_of(error) == 503:
                    self._limit.pressed(begun)
                most = attempts
                if failed in _LOST:
                    most = min(most, self._lost_attempts)
                if failed == "timeout":
                    most = min(most, _TIMEOUT_ATTEMPTS)
                if attempt >= most or not is_retryable(error):
                    raise
                wait = wait_before(error, attempt, self._backoff, self._longest_wait)
                await self._sleep(wait)
            else:
                self._limit.answered(kind, begun)
                return reply, request_id, time.perf_counter() - begun
        raise AssertionError

    def _recognise(self, reply: Mapping[str, Any], request_id: str) -> None:
        """Refuse the reply to another request, where the server lets that be seen.

        Raises:
            MalformedReplyError: it is another's.
        """
        if self._dialect.repeats_id and not _repeats(reply, request_id):
            raise MalformedReplyError("the reply is to another request")
        if self._dialect.repeats_model and reply.get("model") != self._model:
            raise MalformedReplyError("the reply is another model's")

    async def _served_models(self) -> list[str] | None:
        """Names of the models, or None where the server does not list them."""
        for attempt in range(1, _PROBE_ATTEMPTS + 1):
            try:
                return await self._connection.models()
            except FAULTS as error:
                # Slow is not gone; nobody there now is nobody there, and is not waited for.
                if classify(error) == "timeout" and attempt < _PROBE_ATTEMPTS:
                    continue
                if status_of(error) in (None, 401, 402, 403):
                    raise self._unusable(error, None) from None
                return None
        raise AssertionError("the last attempt returns or raises")

    def _unusable(self, error: BaseException, served: Sequence[str] | None) -> JudgeError:
        """The one line that says why this server cannot judge and what to do."""
        status = status_of(error)
        if status in (401, 403):
            remedy = f"set {KEY_VARIABLES[0]} to a key that it accepts"
            return JudgeError(f"{self.url}: the server refused the key ({status}); {remedy}")
        if status == 404:
            what = f"no model `{self._model}` (404)" if self._model else "no models (404)"
            names = f"it serves {', '.join(served[:8])}" if served else "is the path /v1 missing?"
            return JudgeError(f"{self.url}: {what}; {names}")
        what = self._connection.scrub(describe(error))
        if isinstance(error, openai.APIConnectionError | TimeoutError):
            return JudgeError(
                f"{self.url}: no judge answers there ({what}); start the server or correct --judge"
            )
        return JudgeError(f"{self.url}: the judge cannot be used ({what})")

    def _failure(self, error: BaseException, prompt: Prompt) -> Failure:
        """What a request that failed to the end comes to.

        Raises:
            JudgeError: the fault is not this request's but the server's for good.
        """
        kind = classify(error)
        what = self._connection.scrub(describe(error))
        if kind is None:
            raise self._unusable(error, None) from None
        if kind in ("connection", "timeout", "server_error"):
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._dead_after:
                raise JudgeError(
                    f"{self.url}: {self._failed_in_a_row} requests in a row failed ({what}); "
                    "start the server again and run the same command: what was answered is kept"
                ) from None
        else:
            self._failed_in_a_row = 0
        label = f"{prompt.label}: " if prompt.label else ""
        return Failure(kind, label + what)


def _repeats(reply: Mapping[str, Any], request_id: str) -> bool:
    """Whether a reply bears a request's id, as vLLM's do that is sent it in a header."""
    said = reply.get("id")
    return isinstance(said, str) and said.endswith(request_id)
