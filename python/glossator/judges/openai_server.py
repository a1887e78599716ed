"""A judge behind any server that speaks the chat-completions dialect of OpenAI: vLLM first.

    judge = OpenAIJudge("http://127.0.0.1:8000/v1", "NAME")
    await judge.check()
    answers = await judge.answer([Prompt("Is a whale a fish?")], max_tokens=16)
    await judge.close()

The key comes from the environment alone (`GLOSSATOR_JUDGE_API_KEY`, else `OPENAI_API_KEY`) and
stands in no message, no `repr` and no file.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai
import tenacity

from glossator.errors import InputError, JudgeError
from glossator.judges.base import (
    Answer,
    Capabilities,
    Failure,
    Prompt,
    Reading,
    refuse_both,
    together,
)
from glossator.judges.faults import (
    MalformedReplyError,
    classify,
    describe,
    is_retryable,
    status_of,
    wait_before,
)
from glossator.judges.replies import probabilities_of, text_of, usage_of

__all__ = ["KEY_VARIABLES", "OpenAIJudge"]

KEY_VARIABLES = ("GLOSSATOR_JUDGE_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key, the first one set winning."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What the start-up question must be answered with: one boolean in a list, as scorers ask.
_PROBE_SCHEMA = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 1}
_PROBE = Prompt(
    "Is two an even number? Answer with a JSON array that holds one boolean.", label="start-up"
)
# A timeout has cost minutes already; other faults cost nothing but the wait.
_TIMEOUT_ATTEMPTS = 3

_T = TypeVar("_T")


def _key_from_environment() -> str:
    for variable in KEY_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    return "none"


def _checked_url(url: str) -> str:
    """The base URL without a trailing slash; `/v1` where no path is given."""
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_number = False
    if not port_is_number or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"judge `{url}`: not a URL; give the server's base URL, http://127.0.0.1:8000/v1 say"
        )
    if parts.username or parts.password:
        raise InputError(
            f"judge at {parts.hostname}: the URL holds a name or password; "
            f"put the key into {KEY_VARIABLES[0]} instead"
        )
    url = url.rstrip("/")
    return url if parts.path.strip("/") else url + "/v1"


class OpenAIJudge:
    """A judge behind an HTTP server.

    Attributes:
        url: base URL of the server.
        notes: what `check` found that a reader of the scores should know.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        concurrency: int = 32,
        timeout: float = 120.0,
        attempts: int = 8,
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
            concurrency: requests in flight at most.
            timeout: seconds after which an attempt is given up.
            attempts: how often a request is sent before it counts as failed (a timeout: three
                times at most).
            dead_after: so many requests in a row that fail for want of a working server end the
                run with a `JudgeError`.
            backoff: seconds before the second attempt; doubled for each one more.
            longest_wait: longest of these waits. A `Retry-After` is heeded up to ten minutes.
            sleep: how to wait.
            extra: further fields of every request's body.

        Raises:
            InputError: `url` is no URL, or holds a password.
        """
        if concurrency < 1:
            raise InputError(f"judge concurrency {concurrency}: must be at least 1")
        self.url = _checked_url(url)
        self.notes: tuple[str, ...] = ()
        self.capabilities = Capabilities()
        self._model = model
        self._key = _key_from_environment()
        self._concurrency = concurrency
        self._timeout = timeout
        self._attempts = attempts
        self._dead_after = dead_after
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._sleep = sleep
        self._extra = dict(extra or {})
        self._constrains = True
        self._checked = False
        self._failed_in_a_row = 0
        self._client: openai.AsyncOpenAI | None = None
        self._places: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

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
        """Find the model and ask it one trivial question; a second call costs nothing.

        Raises:
            JudgeError: refused connection, a key that is not accepted, an unknown model, or a
                server that answers no question at all.
        """
        if self._checked:
            return
        served = await self._served_models()
        if self._model is None:
            if served is None or len(served) != 1:
                names = "names no models" if not served else "serves " + ", ".join(served[:8])
                raise JudgeError(f"{self.url}: the server {names}; choose one with --judge-model")
            self._model = served[0]
        try:
            await self._patiently(lambda: self._send(_PROBE, None, _PROBE_SCHEMA, 32, False), 3)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            # The server knows the model but not the schema; what it says is then only checked.
            try:
                await self._patiently(lambda: self._send(_PROBE, None, None, 32, False), 3)
            except _FAULTS as error:
                raise self._unusable(error, served) from None
            self._constrains = False
            self.notes = (
                f"{self.url} does not enforce JSON schemas: answers are checked, not constrained",
            )
        except _FAULTS as error:
            raise self._unusable(error, served) from None
        self.capabilities = Capabilities(schemas=self._constrains)
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
        raise JudgeError(f"{self.url}: gives no log probabilities of given words")

    async def close(self) -> None:
        """Close the connections."""
        client, self._client, self._loop = self._client, None, None
        if client is not None:
            await client.close()

    async def _answer_one(
        self,
        prompt: Prompt,
        choices: Sequence[str] | None,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        logprobs: bool,
    ) -> Answer:
        self._connect()
        assert self._places is not None
        async with self._places:
            begun = time.perf_counter()
            try:
                completion, seconds = await self._patiently(
                    lambda: self._send(prompt, choices, schema, max_tokens, logprobs),
                    self._attempts,
                )
            except _FAULTS as error:
                return self._failed(error, prompt, time.perf_counter() - begun)
        self._failed_in_a_row = 0
        usage = usage_of(completion)
        probabilities = None
        if choices is not None and logprobs:
            probabilities = probabilities_of(completion, choices)
        text = text_of(completion, choices, max_tokens)
        if isinstance(text, Failure):
            return Answer(failure=text, usage=usage, seconds=seconds)
        if probabilities:
            text = max(probabilities, key=lambda choice: probabilities[choice])
        return Answer(self._scrub(text), None, usage, seconds, probabilities)

    async def _send(
        self,
        prompt: Prompt,
        choices: Sequence[str] | None,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        logprobs: bool,
    ) -> tuple[Any, float]:
        """One attempt: the server's completion and the seconds it took."""
        request: dict[str, Any] = {
            "model": self.name,
            "messages": prompt.messages(),
            "temperature": 0.0,
            "max_tokens": max_tokens,
        }
        body = dict(self._extra)
        if schema is not None and self._constrains:
            form = {"name": "answer", "schema": dict(schema), "strict": True}
            request["response_format"] = {"type": "json_schema", "json_schema": form}
        if choices is not None:
            body["structured_outputs"] = {"choice": list(choices)}
        if logprobs:
            request.update(logprobs=True, top_logprobs=20)
        client = self._connect()
        begun = time.perf_counter()
        # The client's own timeout bounds the silence between two bytes, this one the whole.
        async with asyncio.timeout(self._timeout):
            completion: Any = await client.chat.completions.create(
                **request, extra_body=body or None
            )
        if not isinstance(completion, openai.types.chat.ChatCompletion) or not completion.choices:
            raise MalformedReplyError("the reply is no chat completion")
        return completion, time.perf_counter() - begun

    def _connect(self) -> openai.AsyncOpenAI:
        """The client of this event loop: connections cannot move from one loop to another."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            local = urlsplit(self.url).hostname in _LOOPBACK
            self._client = openai.AsyncOpenAI(
                base_url=self.url,
                api_key=self._key,
                max_retries=0,
                timeout=2 * self._timeout,
                # A proxy from the environment does not reach this machine's own ports.
                http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if local else None,
            )
            self._places = asyncio.Semaphore(self._concurrency)
            self._loop = loop
        return self._client

    async def _patiently(self, send: Callable[[], Awaitable[_T]], attempts: int) -> _T:
        """Send, and send again after faults that may pass."""

        def enough(state: tenacity.RetryCallState) -> bool:
            fault = state.outcome.exception() if state.outcome else None
            if isinstance(fault, TimeoutError | openai.APITimeoutError):
                return state.attempt_number >= min(attempts, _TIMEOUT_ATTEMPTS)
            return state.attempt_number >= attempts

        def wait(state: tenacity.RetryCallState) -> float:
            fault = state.outcome.exception() if state.outcome else None
            return wait_before(fault, state.attempt_number, self._backoff, self._longest_wait)

        async def once() -> _T:
            return await send()

        retrying = tenacity.AsyncRetrying(
            sleep=self._sleep,
            stop=enough,
            wait=wait,
            retry=tenacity.retry_if_exception(is_retryable),
            reraise=True,
        )
        return await retrying(once)

    async def _served_models(self) -> list[str] | None:
        """Names of the models, or None where the server does not list them."""
        client = self._connect()

        async def listed() -> list[str]:
            async with asyncio.timeout(self._timeout):
                page = await client.models.list()
            return [model.id for model in getattr(page, "data", None) or []]

        try:
            # Nobody there now is nobody there: a start-up question does not wait for a server.
            return await listed()
        except (openai.NotFoundError, MalformedReplyError, json.JSONDecodeError):
            return None
        except _FAULTS as error:
            if status_of(error) in (None, 401, 402, 403):
                raise self._unusable(error, None) from None
            return None

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
        what = self._scrub(describe(error))
        if isinstance(error, openai.APIConnectionError | TimeoutError):
            return JudgeError(
                f"{self.url}: no judge answers there ({what}); start the server or correct --judge"
            )
        return JudgeError(f"{self.url}: the judge cannot be used ({what})")

    def _failed(self, error: BaseException, prompt: Prompt, seconds: float) -> Answer:
        """The answer of a request that failed to the end.

        Raises:
            JudgeError: the fault is not this request's but the server's for good.
        """
        kind = classify(error)
        what = self._scrub(describe(error))
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
        return Answer(failure=Failure(kind, label + what), seconds=seconds)

    def _scrub(self, text: str) -> str:
        """Text without the key, which a server may echo."""
        if self._key != "none" and self._key in text:
            return text.replace(self._key, "[key]")
        return text


_FAULTS = (openai.APIError, TimeoutError, MalformedReplyError, json.JSONDecodeError)
