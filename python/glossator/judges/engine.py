"""A judge in this process: vLLM's engine, with no server between.

    with EngineJudge("SmolLM2-135M-Instruct/", engine={"max_model_len": 4096}) as judge:
        explanations = gl.explain(index, latents, explainer="delimited", judge=judge)
        results = gl.score(index, explanations, judge=judge)

The engine starts at `check` or at the first question, and ends with the block; without one, with
`close`, which every call of glossator's ends with. The script that starts it must guard its own
start (`if __name__ == "__main__":`), as wherever Python starts processes.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jinja2
import xxhash

from glossator.errors import InputError, JudgeError
from glossator.judges.base import (
    Answer,
    Capabilities,
    Failure,
    Prompt,
    Reading,
    Usage,
    refuse_both,
    together,
)
from glossator.judges.chat import Chat
from glossator.judges.choosing import Next, beginnings, probabilities
from glossator.judges.engine_requests import (
    first_token,
    free,
    likeliest,
    text_of,
    tokenizer_of,
    weighing,
)
from glossator.judges.hosting import Host

__all__ = ["EngineJudge"]

# No model answers so unless it is held to it.
_PROBE = Prompt("Which is larger, two or three? Answer with one word.", label="start-up")
_PROBE_CHOICES = ("granite", "maple")
_EXTRA = "chat_template_kwargs"
# The alternatives asked for are all that the constraint allows if they leave no more than this.
_LEFT_OVER = 1e-4
_MOST_ALTERNATIVES = 1_024
# Groups whose replica is remembered.
_REMEMBERED = 65_536


class EngineJudge:
    """A judge in this process.

    Attributes:
        notes: what `check` found that a reader of the scores should know.
        capabilities: all there are; known after `check`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        engine: Mapping[str, Any] | None = None,
        replicas: int = 1,
        concurrency: int = 256,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe the engine; nothing starts before `check` or `answer`.

        Args:
            model: a Hugging Face model directory, or a model's name.
            engine: arguments of vLLM's engine (`{"tensor_parallel_size": 4}`, say).
            replicas: engines, each on devices of its own; prompts of one `Prompt.group` go to one.
            concurrency: prompts in flight, for each replica.
            extra: `{"chat_template_kwargs": {...}}`: arguments of the chat template.

        Raises:
            InputError: a number below 1, or an unknown field of `extra`.
        """
        for what, number in (("concurrency", concurrency), ("replicas", replicas)):
            if number < 1:
                raise InputError(f"judge {what} {number}: must be at least 1")
        for field in extra or {}:
            if field != _EXTRA:
                raise InputError(f"judge `vllm:{model}`: unknown field `{field}`; know {_EXTRA}")
        self.notes: tuple[str, ...] = ()
        self.capabilities = Capabilities()
        self._model = str(model)
        self._arguments = dict(engine or {})
        self._replicas = replicas
        self._concurrency = concurrency
        self._template_arguments = dict((extra or {}).get(_EXTRA, {}))
        self._lock = threading.Lock()
        self._host: Host | None = None
        self._chat: Chat | None = None
        self._finalizer: weakref.finalize[[], EngineJudge] | None = None
        self._held = 0
        self._checked = False
        self._sent = 0
        self._waiting = [0] * replicas
        self._homes: OrderedDict[str, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"EngineJudge({self._model!r})"

    def __enter__(self) -> Self:
        self._held += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._held -= 1
        if not self._held:
            self._stop()

    @property
    def name(self) -> str:
        """The model's name; of a directory, its last part."""
        path = Path(self._model)
        return path.resolve().name if path.is_dir() else self._model

    @property
    def concurrency(self) -> int:
        """How many prompts are in flight at most, for all replicas."""
        return self._concurrency * self._replicas

    async def check(self) -> None:
        """Start the engine and ask it one trivial question; a second call costs nothing.

        Raises:
            InputError: vLLM is not installed, or has no such argument.
            JudgeError: the engine does not start, or answers a constrained token with none.
        """
        host, chat = await self._started()
        if self._checked:
            return
        work = self._answer_one(host, chat, _PROBE, _PROBE_CHOICES, None, 8, True)
        answer = await host.run(work)
        if answer.text is None:
            raise JudgeError(
                f"{self.name}: answers one constrained word with none ({answer.failure}), as "
                "models do that think first; switch thinking off with --judge-extra, "
                """'{"chat_template_kwargs": {"enable_thinking": false}}' say, """
                "or choose a model that does not think"
            )
        self.capabilities = Capabilities(
            choices=True, schemas=True, logprobs=True, readings=chat.reads, cached_tokens=True
        )
        copies = f", {self._replicas} replicas" if self._replicas > 1 else ""
        self.notes = (f"{self.name}: vLLM {_version()} in this process{copies}", *chat.notes)
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
        """Answer prompts at temperature 0; see `Judge.answer`.

        With `choices` and `logprobs` one token decides, whatever `max_tokens` is, and as many
        questions more as there are choices that begin with the same token.
        """
        refuse_both(choices, schema)
        held_to = tuple(choices) if choices is not None else None
        host, chat = await self._started()
        return await host.run(
            together(
                self._answer_one(host, chat, prompt, held_to, schema, max_tokens, logprobs)
                for prompt in prompts
            )
        )

    async def read(self, prompts: Sequence[Prompt], *, alternatives: int = 0) -> list[Reading]:
        """Weigh replies; see `Judge.read`."""
        for prompt in prompts:
            if not prompt.reply:
                raise InputError(f"{prompt.label or 'a prompt'}: has no `reply` to weigh")
        host, chat = await self._started()
        if not chat.reads:
            raise JudgeError(f"{self.name}: its tokenizer does not tell which words a token is of")
        return await host.run(
            together(self._read_one(host, chat, prompt, alternatives) for prompt in prompts)
        )

    async def close(self) -> None:
        """End the engine, unless a `with` block holds it; the next `answer` starts it again."""
        if not self._held:
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        with self._lock:
            finalizer, self._host, self._chat = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    async def _started(self) -> tuple[Host, Chat]:
        with self._lock:
            if self._host is None:
                self._host = Host(self._model, self._arguments, self._replicas)
                # An engine that nobody closes ends with its judge, or with the interpreter.
                self._finalizer = weakref.finalize(self, self._host.stop)
            host = self._host
        try:
            engine = await host.engine()
            if self._chat is None:
                tokenizer = await asyncio.to_thread(tokenizer_of, engine.model_config)
                self._chat = Chat(tokenizer, self.name, self._template_arguments)
        except Exception:
            await asyncio.to_thread(self._stop)
            raise
        return host, self._chat

    async def _answer_one(
        self,
        host: Host,
        chat: Chat,
        prompt: Prompt,
        choices: tuple[str, ...] | None,
        schema: Mapping[str, Any] | None,
        max_tokens: int,
        logprobs: bool,
    ) -> Answer:
        begun = time.perf_counter()
        spent: list[Usage] = []
        try:
            ids = chat.tokens(prompt)
            if choices is not None and logprobs:
                weights = await self._weigh(host, chat, ids, prompt.group, choices, spent)
                if weights is not None:
                    text = max(weights, key=lambda choice: weights[choice])
                    return Answer(text, None, _sum(spent), _since(begun), weights)
            params = free(max_tokens, choices, schema)
            output = await self._generate(host, ids, prompt.group, params, spent)
        except Exception as error:
            return Answer(
                failure=self._failure(error, prompt), usage=_sum(spent), seconds=_since(begun)
            )
        found = text_of(output.outputs[0], choices, max_tokens)
        if isinstance(found, Failure):
            return Answer(failure=found, usage=_sum(spent), seconds=_since(begun))
        return Answer(found, None, _sum(spent), _since(begun))

    async def _weigh(
        self,
        host: Host,
        chat: Chat,
        ids: list[int],
        group: str,
        choices: tuple[str, ...],
        spent: list[Usage],
    ) -> dict[str, float] | None:
        """Probability of each choice; one token decides unless they begin with the same."""

        async def ask(path: tuple[int, ...], rests: tuple[str, ...]) -> list[Next]:
            wanted = beginnings(rests)
            while True:
                params = first_token(rests, wanted)
                output = await self._generate(host, [*ids, *path], group, params, spent)
                (place,) = output.outputs[0].logprobs
                likely = {token: math.exp(entry.logprob) for token, entry in place.items()}
                # A text may be several tokens, of bytes say: then there are more than was thought.
                if sum(likely.values()) > 1 - _LEFT_OVER or wanted >= _MOST_ALTERNATIVES:
                    return [Next(t, chat.piece(t), p) for t, p in likely.items() if p > 0.0]
                wanted *= 8

        return await probabilities(ask, choices)

    async def _read_one(self, host: Host, chat: Chat, prompt: Prompt, alternatives: int) -> Reading:
        begun = time.perf_counter()
        spent: list[Usage] = []
        try:
            ids, words = chat.tokens_with_reply(prompt)
            params = weighing(alternatives)
            output = await self._generate(host, ids, prompt.group, params, spent)
        except Exception as error:
            return Reading(
                failure=self._failure(error, prompt), usage=_sum(spent), seconds=_since(begun)
            )
        first = len(ids) - len(words)
        places = [output.prompt_logprobs[at] for at in range(first, len(ids))]
        return Reading(
            tokens=words,
            logprobs=tuple(
                place[token].logprob for place, token in zip(places, ids[first:], strict=True)
            ),
            alternatives=tuple(likeliest(chat, place, alternatives) for place in places)
            if alternatives
            else (),
            usage=_sum(spent),
            seconds=_since(begun),
        )

    async def _generate(
        self,
        host: Host,
        ids: list[int],
        group: str,
        params: Any,  # noqa: ANN401 - vLLM's SamplingParams
        spent: list[Usage],
    ) -> Any:  # noqa: ANN401 - vLLM's RequestOutput
        """One request; on the engine's own loop. Cancelling it gives it up there, too."""
        engine = await host.engine()
        self._sent += 1
        place = self._place(group)
        self._waiting[place] += 1
        rank = {"data_parallel_rank": place} if self._replicas > 1 else {}
        outputs = engine.generate({"prompt_token_ids": ids}, params, str(self._sent), **rank)
        try:
            output = [output async for output in outputs][-1]
        finally:
            self._waiting[place] -= 1
        written = len(output.outputs[0].token_ids)
        spent.append(Usage(len(ids), output.num_cached_tokens or 0, written))
        return output

    def _place(self, group: str) -> int:
        """The replica that is asked: the group's own.

        A new group gets the first by rendezvous hashing (Thaler and Ravishankar 1998) that has
        fewer prompts than it takes, and the least busy where none has.
        """
        places = range(self._replicas)
        if self._replicas == 1:
            return 0
        least = min(places, key=lambda place: self._waiting[place])
        if not group:
            return least
        if group in self._homes:
            self._homes.move_to_end(group)
            return self._homes[group]
        order = sorted(
            places, key=lambda place: xxhash.xxh3_64_intdigest(f"{place}\0{group}".encode())
        )
        free = [place for place in order if self._waiting[place] < self._concurrency]
        self._homes[group] = free[0] if free else least
        if len(self._homes) > _REMEMBERED:
            self._homes.popitem(last=False)
        return self._homes[group]

    def _failure(self, error: Exception, prompt: Prompt) -> Failure:
        """Why a request has no answer.

        Raises:
            JudgeError: the engine is dead.
            Exception: `error` itself where it is a fault of ours.
        """
        from vllm import exceptions
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        label = f"{prompt.label}: " if prompt.label else ""
        what = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, EngineDeadError):
            raise JudgeError(
                f"{self.name}: the engine ended, and its own words are above; "
                "run the same command again: what was answered is kept"
            ) from error
        if isinstance(error, EngineGenerateError):
            return Failure("server_error", f"{label}{what} {error.__cause__ or ''}".rstrip())
        # Before it had errors of its own, vLLM raised this one for a prompt that it does not take.
        theirs = getattr(exceptions, "VLLMClientError", ValueError)
        if isinstance(error, theirs | ValueError | jinja2.TemplateError):
            return Failure("rejected", label + what)
        raise error


def _sum(spent: Sequence[Usage]) -> Usage:
    return sum(spent, Usage())


def _since(begun: float) -> float:
    return time.perf_counter() - begun


def _version() -> str:
    import vllm

    return str(vllm.__version__)
