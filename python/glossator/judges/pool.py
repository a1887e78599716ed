"""Several servers of one model as one judge.

    judge = Pool([OpenAIJudge(url) for url in urls])
    await judge.check()
    answers = await judge.answer(prompts, max_tokens=16)

Prompts of one group (`Prompt.group`) go to one server, whose prefix cache then holds what they
share. A server that breaks down is left out and its share goes to the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import xxhash

from glossator.errors import InputError, JudgeError
from glossator.judges.base import (
    TRANSIENT,
    Answer,
    Capabilities,
    Judge,
    Prompt,
    Reading,
    refuse_both,
    together,
)

__all__ = ["Pool"]

# Prompts are drawn so many times as fast as all servers take them: then there are groups enough in
# view to keep every server busy, though each group has only one.
_AHEAD = 4
# Groups whose server is remembered.
_REMEMBERED = 65_536
# A server that broke down is tried again after so many seconds, by one group's prompts.
_REST_SECONDS = 60.0
# A prompt goes round all servers so many times before it counts as failed.
_ROUNDS = 2

Outcome = TypeVar("Outcome", Answer, Reading)


class Pool:
    """Several judges of one model, asked as one.

    Attributes:
        notes: what `check` found that a reader of the scores should know.
        capabilities: what all of them can be held to.
    """

    def __init__(
        self, judges: Sequence[Judge], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Put judges together; nothing is sent before `check` or `answer`.

        Args:
            judges: the servers; each bounds its own requests in flight.
            clock: seconds, for the rest of a server that broke down.

        Raises:
            InputError: there are none, or one stands there twice.
        """
        if not judges:
            raise InputError("judge: a pool of no servers; give at least one URL")
        names = [repr(judge) for judge in judges]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"judge: {name} is named twice; name each server once")
        self.notes: tuple[str, ...] = ()
        self.capabilities = Capabilities()
        self._judges = list(judges)
        self._names = names
        self._clock = clock
        self._checked = False
        self._waiting: list[set[asyncio.Timeout]] = [set() for _ in judges]
        self._back_at = [0.0] * len(judges)
        self._last_fault: JudgeError | None = None
        self._homes: OrderedDict[str, int] = OrderedDict()

    def __repr__(self) -> str:
        return f"Pool({', '.join(self._names)})"

    @property
    def name(self) -> str:
        """The model's name."""
        return self._judges[0].name

    @property
    def concurrency(self) -> int:
        """How many prompts are worth putting at once: more than are in flight."""
        return _AHEAD * sum(judge.concurrency for judge in self._judges)

    async def check(self) -> None:
        """Check every server; those that are not there are left out and named in `notes`.

        Raises:
            JudgeError: none can be used, or they serve different models.
        """
        if self._checked:
            return
        faults: list[JudgeError] = []

        async def checked(judge: Judge) -> Judge | None:
            try:
                await judge.check()
            except JudgeError as error:
                faults.append(error)
                return None
            return judge

        found = [judge for judge in await together(map(checked, self._judges)) if judge]
        if not found:
            raise faults[0]
        models = sorted({judge.name for judge in found})
        if len(models) > 1:
            raise JudgeError(
                f"judge: the servers serve different models ({', '.join(models)}); "
                "choose one with --judge-model"
            )
        self._leave_out(found)
        self.capabilities = _common([judge.capabilities for judge in found])
        notes = [f"left out: {fault}" for fault in faults]
        notes += [note for judge in found for note in judge.notes]
        self.notes = tuple(dict.fromkeys(notes))
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

        Raises:
            InputError: `choices` and `schema` together.
            JudgeError: all servers broke down.
        """
        refuse_both(choices, schema)

        async def ask(judge: Judge, prompt: Prompt) -> Answer:
            (answer,) = await judge.answer(
                [prompt], choices=choices, schema=schema, max_tokens=max_tokens, logprobs=logprobs
            )
            return answer

        return await together(self._one(prompt, ask) for prompt in prompts)

    async def read(self, prompts: Sequence[Prompt], *, alternatives: int = 0) -> list[Reading]:
        """Weigh replies; see `Judge.read`."""

        async def ask(judge: Judge, prompt: Prompt) -> Reading:
            (reading,) = await judge.read([prompt], alternatives=alternatives)
            return reading

        return await together(self._one(prompt, ask) for prompt in prompts)

    async def close(self) -> None:
        """Close the connections."""
        await together(judge.close() for judge in self._judges)

    def _leave_out(self, found: Sequence[Judge]) -> None:
        """Go on with those that were found alone."""
        self._names = [repr(judge) for judge in found]
        self._judges = list(found)
        self._waiting = [set() for _ in found]
        self._back_at = [0.0] * len(found)

    async def _one(
        self, prompt: Prompt, ask: Callable[[Judge, Prompt], Awaitable[Outcome]]
    ) -> Outcome:
        outcome: Outcome | None = None
        for _ in range(_ROUNDS):
            tried: set[int] = set()
            while (place := self._place(prompt.group, tried)) is not None:
                tried.add(place)
                waiting = self._waiting[place]
                try:
                    # No deadline: it is there to end the wait for a server that broke down.
                    async with asyncio.timeout(None) as wait:
                        waiting.add(wait)
                        try:
                            outcome = await ask(self._judges[place], prompt)
                        finally:
                            waiting.discard(wait)
                except JudgeError as error:
                    self._rest(place, error)
                    continue
                except TimeoutError:
                    continue
                if outcome.failure is None or outcome.failure.kind not in TRANSIENT:
                    return outcome
        if outcome is None:
            assert self._last_fault is not None
            raise JudgeError(f"none of {len(self._judges)} judges is left: {self._last_fault}")
        return outcome

    def _place(self, group: str, tried: set[int]) -> int | None:
        """The server that is asked next: the group's own, where it works.

        A new group gets the first server by rendezvous hashing (Thaler and Ravishankar 1998) that
        has a place free, and the one with the fewest prompts where none has (as in consistent
        hashing with bounded loads: Mirrokni, Thorup and Zadimoghaddam 2018).
        """
        now = self._clock()
        live = [i for i in range(len(self._judges)) if self._back_at[i] <= now and i not in tried]
        if not live:
            return None
        home = self._homes.get(group)
        if home in live:
            self._homes.move_to_end(group)
            return home
        if group:
            live.sort(key=lambda i: xxhash.xxh3_64_intdigest(f"{self._names[i]}\0{group}".encode()))
        free = [i for i in live if len(self._waiting[i]) < self._judges[i].concurrency]
        # Without a group any server will do.
        first = free[0] if free and group else min(live, key=lambda i: len(self._waiting[i]))
        if group:
            self._homes[group] = first
            self._homes.move_to_end(group)
            if len(self._homes) > _REMEMBERED:
                self._homes.popitem(last=False)
        return first

    def _rest(self, place: int, fault: JudgeError) -> None:
        self._back_at[place] = self._clock() + _REST_SECONDS
        self._last_fault = fault
        now = asyncio.get_running_loop().time()
        for wait in self._waiting[place]:
            if not wait.expired():
                wait.reschedule(now)
        dead = self._names[place]
        note = f"{dead} broke down on the way: its share went to the others"
        if note not in self.notes:
            self.notes = (*self.notes, note)


def _common(all_of_them: Sequence[Capabilities]) -> Capabilities:
    """What every one has."""
    fields = Capabilities.__dataclass_fields__
    return Capabilities(**{name: all(getattr(c, name) for c in all_of_them) for name in fields})
