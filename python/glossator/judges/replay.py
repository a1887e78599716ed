"""Every answer that was paid for, kept: the same question never goes out twice.

    with Replay("answers.db") as replay:
        judge = ReplayJudge(OpenAIJudge(url), replay)   # asks only what is not there
        again = ReplayJudge(None, replay, model="NAME") # asks nobody

One SQLite file, usable from several processes. A row is found by a hash of model, turns and
parameters, so any run on any machine that asks the same thing finds it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from glossator.errors import JudgeError
from glossator.judges.answers import Replay
from glossator.judges.base import (
    TRANSIENT,
    Answer,
    Capabilities,
    Failure,
    Judge,
    Prompt,
    Reading,
    Usage,
    together,
)

__all__ = ["Replay", "ReplayJudge"]

_CONCURRENCY = 8
_canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Failures that cost nothing, and may be none with another server: asked again where one is there.
_FREE = TRANSIENT | {"rejected"}

Outcome = TypeVar("Outcome", Answer, Reading)


class ReplayJudge:
    """A judge that asks another one only what was never asked before.

    Attributes:
        asked_before: added to every prompt's `attempt`: above 0, what failed is asked anew.
    """

    def __init__(
        self,
        judge: Judge | None,
        replay: Replay,
        *,
        model: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Put a store in front of a judge.

        Args:
            judge: who answers what is not stored; None for nobody.
            replay: the store; stays open when the judge is closed.
            model: without a judge, whose answers are wanted; None for the only one's in the store.
            extra: further fields of every request's body: part of what was asked.

        Raises:
            JudgeError: without a judge: the store has answers of no model, or of several.
        """
        self._judge = judge
        self._replay = replay
        self._extra = dict(extra or {})
        self.asked_before = 0
        self._pending: dict[bytes, asyncio.Future[Any]] = {}
        if judge is None:
            stored = replay.models()
            if model is None and len(stored) != 1:
                names = "no model" if not stored else ", ".join(stored[:8])
                raise JudgeError(
                    f"{replay.path}: holds answers of {names}; name a judge with --judge, "
                    "or one of these models with --judge-model"
                )
            self._model = model or stored[0]
            described = replay.describe(self._model)
            if described is None:
                raise JudgeError(
                    f"{replay.path}: holds no answers of `{self._model}`, only of "
                    f"{', '.join(stored[:8]) or 'no model'}; name a judge with --judge"
                )
            self._capabilities, self._notes = described

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model if self._judge is None else self._judge.name

    @property
    def concurrency(self) -> int:
        """How many prompts are answered at once."""
        return _CONCURRENCY if self._judge is None else self._judge.concurrency

    @property
    def capabilities(self) -> Capabilities:
        """What the judge can be held to, or could when its answers were stored."""
        return self._capabilities if self._judge is None else self._judge.capabilities

    @property
    def notes(self) -> Sequence[str]:
        """What `check` found that a reader of the scores should know."""
        return self._notes if self._judge is None else self._judge.notes

    async def check(self) -> None:
        """Check the judge and remember what it can be held to; see `Judge.check`."""
        if self._judge is not None:
            await self._judge.check()
            found = (self._judge.capabilities, tuple(self._judge.notes))
            if self._replay.describe(self._judge.name) != found:
                self._replay.remember(self._judge.name, *found)

    async def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        choices: Sequence[str] | None = None,
        schema: Mapping[str, Any] | None = None,
        max_tokens: int,
        logprobs: bool = False,
    ) -> list[Answer]:
        """Answer from the store, else ask; see `Judge.answer`.

        Raises:
            JudgeError: an answer is not stored and there is no judge.
        """
        judge = self._judge
        constraint = [list(choices) if choices else None, schema, max_tokens, logprobs]

        async def ask(prompt: Prompt) -> Answer:
            assert judge is not None
            (answer,) = await judge.answer(
                [prompt], choices=choices, schema=schema, max_tokens=max_tokens, logprobs=logprobs
            )
            return answer

        return await together(
            self._one("answer", prompt, constraint, ask, _answer_from) for prompt in prompts
        )

    async def read(self, prompts: Sequence[Prompt], *, alternatives: int = 0) -> list[Reading]:
        """Weigh replies from the store, else ask; see `Judge.read`.

        Raises:
            JudgeError: a reading is not stored and there is no judge.
        """
        judge = self._judge

        async def ask(prompt: Prompt) -> Reading:
            assert judge is not None
            (reading,) = await judge.read([prompt], alternatives=alternatives)
            return reading

        return await together(
            self._one("read", prompt, [alternatives], ask, _reading_from) for prompt in prompts
        )

    async def close(self) -> None:
        """Commit what waits and close the judge's connections; the store stays open."""
        self._replay.flush()
        if self._judge is not None:
            await self._judge.close()

    async def _one(
        self,
        kind: Literal["answer", "read"],
        prompt: Prompt,
        constraint: Sequence[Any],
        ask: Callable[[Prompt], Awaitable[Outcome]],
        load: Callable[[Mapping[str, Any], str], Outcome],
    ) -> Outcome:
        prompt = replace(prompt, attempt=prompt.attempt + self.asked_before)
        key = _key(kind, self.name, prompt, constraint, self._extra)
        while True:
            body = self._last(kind, prompt, constraint)
            if body is not None:
                return load(json.loads(body), prompt.label)
            if self._judge is None:
                about = prompt.label or "a prompt"
                raise JudgeError(
                    f"{self._replay.path}: no answer to {about} is stored; "
                    "name a judge with --judge to ask it"
                )
            pending = self._pending.get(key)
            if pending is None:
                break
            # The same question is on its way. Shielded: this one's cancelling is not the other's.
            outcome: Outcome | None = await asyncio.shield(pending)
            if outcome is not None:
                return replace(outcome, replayed=True)
        pending = self._pending[key] = asyncio.get_running_loop().create_future()
        kept: Outcome | None = None
        try:
            asked = await ask(prompt)
            free = asked.failure is not None and asked.failure.kind in _FREE
            await self._replay.keep(key, _body(asked, prompt.label), free=free)
            kept = asked
            return asked
        finally:
            # None: cancelled or unusable; whoever waits looks for itself.
            del self._pending[key]
            pending.set_result(kept)

    def _last(
        self, kind: Literal["answer", "read"], prompt: Prompt, constraint: Sequence[Any]
    ) -> bytes | None:
        """What was said when this was asked for the last time, if it was asked.

        It is asked once more only where an answer is of no use: the last one is what counted.
        """
        last = None
        while True:
            key = _key(kind, self.name, prompt, constraint, self._extra)
            body = self._replay.find(key, free=self._judge is None)
            if body is None:
                return last
            last = body
            prompt = replace(prompt, attempt=prompt.attempt + 1)


def _key(
    kind: str,
    model: str,
    prompt: Prompt,
    constraint: Sequence[Any],
    extra: Mapping[str, Any],
) -> bytes:
    """Hash of all that the answer depends on; label and group are not sent and not in it."""
    turns = [prompt.system, prompt.shots, prompt.user, prompt.reply, prompt.attempt]
    asked = _canonical([kind, model, turns, constraint, extra])
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).digest()[:20]


def _body(outcome: Answer | Reading, label: str) -> bytes:
    """The canonical JSON of an answer or a reading, without what was in it of this one prompt."""
    usage, failure = outcome.usage, outcome.failure
    fields: dict[str, Any] = {
        "usage": [usage.prompt, usage.cached, usage.completion],
        "seconds": outcome.seconds,
    }
    if failure is not None:
        start = f"{label}: " if label else ""
        named = bool(start) and failure.message.startswith(start)
        fields["failure"] = [failure.kind, failure.message.removeprefix(start), named]
    elif isinstance(outcome, Answer):
        fields["text"] = outcome.text
    else:
        fields["tokens"], fields["logprobs"] = outcome.tokens, outcome.logprobs
        fields["alternatives"] = outcome.alternatives
    if isinstance(outcome, Answer) and outcome.probabilities is not None:
        fields["probabilities"] = dict(outcome.probabilities)
    return _canonical(fields).encode("utf-8", "surrogatepass")


def _answer_from(fields: Mapping[str, Any], label: str) -> Answer:
    return Answer(
        text=fields.get("text"),
        failure=_failure_from(fields, label),
        usage=Usage(*fields["usage"]),
        seconds=fields["seconds"],
        probabilities=fields.get("probabilities"),
        replayed=True,
    )


def _reading_from(fields: Mapping[str, Any], label: str) -> Reading:
    failure = _failure_from(fields, label)
    return Reading(
        tokens=None if failure else tuple(fields["tokens"]),
        logprobs=tuple(fields.get("logprobs", ())),
        alternatives=tuple(fields.get("alternatives", ())),
        failure=failure,
        usage=Usage(*fields["usage"]),
        seconds=fields["seconds"],
        replayed=True,
    )


def _failure_from(fields: Mapping[str, Any], label: str) -> Failure | None:
    """The failure, naming what was asked about this time where it named what was then."""
    if "failure" not in fields:
        return None
    kind, message, named = fields["failure"]
    return Failure(kind, f"{label}: {message}" if named and label else message)
