"""How many requests a server is sent at once: as many as it answers well, and no more than allowed.

    limit = Limit(most=64)
    await limit.enter()                        # waits for a place
    limit.answered("choices", seconds=0.2)     # an attempt succeeded
    limit.pressed(begun)                       # an attempt was turned away, or timed out
    limit.leave()

Additive increase, multiplicative decrease (Chiu and Jain 1989), begun by doubling as TCP does. What
decreases it is a server that turns requests away or lets them time out, and a latency that grows
much faster than the number of requests in flight: fewer are then answered a second than before.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable

__all__ = ["Limit"]

_FIRST = 16
# Answers between two changes, at least: fewer say little about the latency.
_LEAST_ANSWERS = 16
# After a refusal, and after a latency that grew.
_CUT, _EASE = 0.5, 0.75
# Batching engines answer slower the more they have to do, up to in proportion.
_TOLERANCE = 2.0
# A mean latency of so much of the deadline puts the slowest answers past it.
_DEADLINE_SHARE = 0.5


class Limit:
    """A number of places that follows what a server can take.

    Attributes:
        most: places at most.
        now: places at present.
    """

    def __init__(
        self,
        most: int,
        *,
        deadline: float = float("inf"),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin with a moderate number of places.

        Args:
            most: places at most.
            deadline: seconds that an answer may take.
            clock: seconds, as given to `pressed`.
        """
        self.most = most
        self.now = min(most, _FIRST)
        self._deadline = deadline
        self._clock = clock
        self._in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._doubling = True
        self._cut_at = float("-inf")
        self._growth = 1.0
        self._full = False
        self._usual: dict[Hashable, float] = {}
        self._answers = 0
        self._sums: dict[Hashable, tuple[int, float]] = {}

    def restart(self) -> None:
        """Forget who is in flight: their event loop has ended. What was learned stays."""
        self._in_flight = 0
        self._queue.clear()

    async def enter(self) -> None:
        """Take a place, after those who came before."""
        if self._in_flight < self.now and not self._queue:
            self._in_flight += 1
            return
        self._full = True
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place back."""
        self._in_flight -= 1
        while self._queue and self._in_flight < self.now:
            place = self._queue.popleft()
            if not place.done():
                self._in_flight += 1
                place.set_result(None)

    def answered(self, kind: Hashable, seconds: float) -> None:
        """Count an answer.

        Args:
            kind: what sort of request it was: only like is compared with like.
            seconds: what it took.
        """
        number, total = self._sums.get(kind, (0, 0.0))
        self._sums[kind] = (number + 1, total + seconds)
        self._answers += 1
        if self._answers >= max(self.now, _LEAST_ANSWERS):
            self._turn()

    def pressed(self, begun: float) -> None:
        """Count a request that was turned away or timed out.

        Args:
            begun: when it was sent: those sent before the last cut say nothing of the present.
        """
        if begun >= self._cut_at:
            self._set(self.now * _CUT)
            self._cut_at = self._clock()

    def _turn(self) -> None:
        """Draw the balance of so many answers."""
        means = {kind: total / number for kind, (number, total) in self._sums.items()}
        known = [
            (self._sums[k][0], mean / self._usual[k])
            for k, mean in means.items()
            if k in self._usual
        ]
        slower = sum(n * ratio for n, ratio in known) / sum(n for n, _ in known) if known else 1.0
        mean = sum(total for _, total in self._sums.values()) / self._answers
        self._usual |= {kind: max(mean, 1e-9) for kind, mean in means.items()}
        if slower > _TOLERANCE * self._growth or mean > _DEADLINE_SHARE * self._deadline:
            self._set(self.now * _EASE)
        elif self._full:
            self._raise()
        else:
            self._begin(1.0)

    def _raise(self) -> None:
        before = self.now
        self.now = min(self.most, self.now * 2 if self._doubling else self.now + 1)
        self._begin(self.now / before)
        self._in_flight += 1
        self.leave()  # lets in whom the new places are for

    def _set(self, places: float) -> None:
        self._doubling = False
        before = self.now
        self.now = max(1, int(places))
        self._begin(self.now / before)

    def _begin(self, growth: float) -> None:
        """Count anew, at a number of places `growth` times the last."""
        self._growth = max(growth, 1.0)
        self._answers = 0
        self._sums = {}
        self._full = bool(self._queue)
