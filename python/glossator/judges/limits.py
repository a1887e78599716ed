"""How many requests a server is sent at once: as many as it answers well, and no more than allowed.

    limit = Limit(most=64)
    await limit.enter()                  # waits for a place
    limit.answered("choices", begun)     # an attempt succeeded
    limit.pressed(begun)                 # an attempt was turned away, or timed out
    limit.leave()

Additive increase, multiplicative decrease (Chiu and Jain 1989), begun by doubling as TCP does. What
decreases it is a server that turns requests away or lets them time out, and a latency that grows
so much faster than the requests in flight that far fewer are answered a second than before.
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
# Answers a second fall so far before it is taken for too many in flight, not for chance.
_TOLERANCE = 2.0
# Fewer in flight must help at least so much, else it was not they.
_HELP = 0.9
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
        self._changed_at = float("-inf")
        self._full = False
        # Per kind, the most answers a second so far; and how far below it all were when eased.
        self._best: dict[Hashable, float] = {}
        self._eased_at: float | None = None
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

    def answered(self, kind: Hashable, begun: float) -> None:
        """Count an answer.

        Args:
            kind: what sort of request it was: only like is compared with like.
            begun: when it was sent: those sent before the last change say nothing of the present.
        """
        if begun < self._changed_at:
            return
        number, total = self._sums.get(kind, (0, 0.0))
        self._sums[kind] = (number + 1, total + max(self._clock() - begun, 1e-9))
        self._answers += 1
        if self._answers >= max(self.now, _LEAST_ANSWERS):
            self._turn()

    def pressed(self, begun: float) -> None:
        """Count a request that was turned away or timed out.

        Args:
            begun: when it was sent, as in `answered`.
        """
        if begun >= self._changed_at:
            self._change(self.now * _CUT)

    def _turn(self) -> None:
        """Draw the balance of so many answers."""
        slower = self._slower()
        mean = sum(total for _, total in self._sums.values()) / self._answers
        if self._eased_at is not None and slower > _HELP * self._eased_at:
            # What is asked has become longer, or others ask, too: this is the best there is now.
            self._best = {}
            slower = self._slower()
        self._eased_at = None
        if slower > _TOLERANCE or mean > _DEADLINE_SHARE * self._deadline:
            self._eased_at = slower
            self._change(self.now * _EASE)
        elif self._full and self.now < self.most:
            self._change(self.now * 2 if self._doubling else self.now + 1, doubling=self._doubling)
        else:
            self._begin()

    def _slower(self) -> float:
        """How far the answers a second are below the most there were, kinds by their number."""
        shortfall = 0.0
        for kind, (number, total) in self._sums.items():
            rate = self.now * number / total  # Little's law
            best = self._best[kind] = max(rate, self._best.get(kind, 0.0))
            shortfall += number * best / rate
        return shortfall / self._answers

    def _change(self, places: float, *, doubling: bool = False) -> None:
        self._doubling = doubling
        self.now = min(self.most, max(1, int(places)))
        self._changed_at = self._clock()
        self._begin()
        self._in_flight += 1
        self.leave()  # lets in whom new places are for

    def _begin(self) -> None:
        """Count anew."""
        self._answers = 0
        self._sums = {}
        self._full = bool(self._queue)
