"""What a server understands: a handful of questions at the start, each about one thing.

    dialect, notes = await probe(ask, "NAME")

`ask` sends a body and gives the reply; the questions share a long beginning, so that a prefix cache
shows. Fields that a server does not know it mostly ignores: so what counts is not that a request
is taken but that the answer is what only a constraint could have made of it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import openai

from glossator.errors import JudgeError
from glossator.judges.base import Failure, Prompt
from glossator.judges.dialect import Dialect
from glossator.judges.readings import reading_of
from glossator.judges.replies import (
    counts_cached,
    has_logprobs,
    text_of,
    thinking_of,
    usage_of,
)

__all__ = ["PREAMBLE", "probe"]

Ask = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

PREAMBLE = "This is a start-up check. " + " ".join(f"Line {i} is empty." for i in range(80))
"""Standing instructions of every question here: longer than a block of a prefix cache."""

# How servers say that they do not know a field; llama.cpp answers 500 where a template raises.
_REFUSALS = (400, 404, 422, 500, 501)
# Templates name the switch differently and ignore the other.
_QUIET = {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
_GREETING = Prompt("Say hello.", PREAMBLE)
# No model answers so unless it is held to it.
_CHOICES = ("granite", "maple")
_QUESTION = Prompt("Which is larger, two or three? Answer with one word.", PREAMBLE)
_SCHEMA = {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3}
_COLOURS = Prompt("Name three colours.", PREAMBLE)
_READING = Prompt("What is above us?", PREAMBLE, reply="The sky, and it is blue.")
_GREETING_TOKENS, _CHOICE_TOKENS, _SCHEMA_TOKENS = 24, 8, 32


async def probe(ask: Ask, model: str, extra: Mapping[str, Any]) -> tuple[Dialect, tuple[str, ...]]:
    """Find out how a server is asked.

    Args:
        ask: sends the body of a request, and again after faults that may pass.
        model: the model's name, for messages.
        extra: what the user adds to every request: a switch for thinking may be among it.

    Returns:
        How it is asked, and what a reader of the scores should know.

    Raises:
        JudgeError: the model answers a constrained token with none.
        openai.APIError, TimeoutError, MalformedReplyError: it answers no question at all.
    """
    return await _Probe(ask, model, extra).run()


class _Probe:
    """The questions in order; what was found is in `dialect`."""

    def __init__(self, ask: Ask, model: str, extra: Mapping[str, Any]) -> None:
        self.dialect = Dialect(
            choices="none", schemas=False, logprobs=False, readings=False, quiet={}
        )
        self._notes: list[str] = []
        self._ask, self._model = ask, model
        self._may_hush = "chat_template_kwargs" not in extra

    async def run(self) -> tuple[Dialect, tuple[str, ...]]:
        await self._greet()
        await self._choose()
        await self._fill()
        await self._weigh()
        return self.dialect, tuple(self._notes)

    def _found(self, **fields: Any) -> None:  # noqa: ANN401 - those of Dialect
        self.dialect = replace(self.dialect, **fields)

    def _note(self, text: str) -> None:
        self._notes.append(f"{self._model}: {text}")

    async def _send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        reply = await self._ask(body)
        if counts_cached(reply):
            self._found(cached_tokens=True)
        return reply

    async def _try(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The reply; None where the server does not take such a request."""
        try:
            return await self._send(body)
        except openai.APIStatusError as error:
            if error.status_code not in _REFUSALS:
                raise
            return None

    async def _greet(self) -> None:
        """Does it answer at all, is there a system turn, does it think?"""
        reply = await self._try(self._greeting())
        counted = usage_of(reply).prompt if reply else 0
        # A template without a system turn raises, or drops it in silence: then fewer tokens came in
        # than it has words.
        if reply is None or 0 < counted < len(PREAMBLE.split()):
            self._found(system=False)
            reply = await self._send(self._greeting())
            self._note(
                "no system turn in its chat template: "
                "instructions stand at the beginning of the first question"
            )
        if thinking_of(reply) and not await self._hush():
            self._note(
                "thinks before it answers, and nothing switches that off: "
                "a constrained answer is given before it has thought"
            )

    def _greeting(self) -> dict[str, Any]:
        return self.dialect.answer(_GREETING, None, None, _GREETING_TOKENS, False)

    async def _hush(self) -> bool:
        """Switch thinking off, if that helps."""
        if not self._may_hush:
            return False
        self._may_hush = False
        reply = await self._try({**self._greeting(), **_QUIET})
        if reply is None or thinking_of(reply):
            return False
        self._found(quiet=_QUIET)
        self._note("thinking is switched off")
        return True

    async def _choose(self) -> None:
        """Is an answer held to choices, and does it come with probabilities?"""
        ways: tuple[Literal["structured_outputs", "enum"], ...] = ("structured_outputs", "enum")
        for way in ways:
            self._found(choices=way)
            text = await self._chosen()
            if text is not None and self.dialect.chosen(text, _CHOICES) is not None:
                return
        self._found(choices="none")
        await self._chosen()
        self._note("does not enforce choices: answers are checked, not constrained")

    async def _chosen(self) -> str | None:
        """The answer to a question that is constrained; None where the request is refused."""
        for logprobs in (True, False):
            self._found(logprobs=logprobs)
            reply = await self._try(self._question())
            if reply is not None:
                text = text_of(reply, _CHOICE_TOKENS, whole=True)
                if isinstance(text, Failure):
                    reply = await self._insist()
                    text = text_of(reply, _CHOICE_TOKENS, whole=True)
                self._found(logprobs=logprobs and has_logprobs(reply))
                return text if isinstance(text, str) else None
        return None

    def _question(self) -> dict[str, Any]:
        wanted = self.dialect.logprobs
        return self.dialect.answer(_QUESTION, _CHOICES, None, _CHOICE_TOKENS, wanted)

    async def _insist(self) -> Mapping[str, Any]:
        """Ask again with thinking switched off.

        Raises:
            JudgeError: there is no answer still.
        """
        if await self._hush():
            reply = await self._try(self._question())
            if reply is not None and isinstance(text_of(reply, _CHOICE_TOKENS, whole=True), str):
                return reply
        raise JudgeError(
            f"{self._model}: answers one constrained word with none, as models do that think "
            "first; switch thinking off with --judge-extra, "
            """'{"reasoning_effort": "none"}' say, or choose a model that does not think"""
        )

    async def _fill(self) -> None:
        """Is an answer held to a schema?"""
        self._found(schemas=True)
        body = self.dialect.answer(_COLOURS, None, _SCHEMA, _SCHEMA_TOKENS, False)
        reply = await self._try(body)
        text = text_of(reply, _SCHEMA_TOKENS, whole=True) if reply else None
        if not isinstance(text, str) or not _fits(text):
            self._found(schemas=False)
            self._note("does not enforce JSON schemas: answers are checked, not constrained")
        elif not text.rstrip().endswith("]"):
            self._note(
                "fills JSON with white space until it is cut off; start vLLM with "
                """--structured-outputs-config '{"disable_any_whitespace": true}'"""
            )

    async def _weigh(self) -> None:
        """Does it weigh given words?"""
        reply = await self._try(self.dialect.read(_READING, 1))
        if reply is not None:
            found = reading_of(reply, _READING.reply, 1)
            self._found(readings=not isinstance(found, Failure))


def _fits(text: str) -> bool:
    """Whether a text is the array that was asked for, or the beginning of one, padded out."""
    try:
        array = json.loads(text, strict=False)
    except ValueError:
        return text.lstrip().startswith("[") and set(text) <= set("[]truefals, \n\r\t")
    return isinstance(array, list) and len(array) == 3 and all(type(v) is bool for v in array)
