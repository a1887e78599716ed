"""Verdicts handed over in groups, none of them later than its request is done with.

    handing = Handing(sink)
    await handing.give(verdicts)        # returns when they were handed over

To store what a request brought costs as much for one as for fifty. So verdicts wait, some
milliseconds, for others; and who brings them waits until they are handed over before it asks
anything more. A process that is killed then loses no more than the requests in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from glossator.records import Verdict

__all__ = ["Handing", "Sink"]

Sink = Callable[[list[Verdict]], None]
"""Takes verdicts, to store them; what it raises stops the scoring."""

_SHARE = 0.1
"""Of the time handing over may take so much, where others wait."""
_LONGEST = 0.1


class Handing:
    """Hands verdicts over in groups.

    Args:
        sink: takes them; None where nobody does.
    """

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self._waiting: list[Verdict] = []
        self._done: asyncio.Future[None] | None = None
        self._took = 0.0

    async def give(self, verdicts: list[Verdict]) -> None:
        """Hand verdicts over, with those of others.

        Raises:
            Exception: what the sink raised.
        """
        if self._sink is None:
            return
        self._waiting += verdicts
        if self._done is None:
            loop = asyncio.get_running_loop()
            self._done = loop.create_future()
            loop.call_later(min(self._took / _SHARE, _LONGEST), self._hand_over)
        # Shielded: who is cancelled while waiting must not cancel it for the others.
        await asyncio.shield(self._done)

    def close(self) -> None:
        """Hand over what still waits: the scoring ends here, by whatever cause."""
        if self._waiting:
            self._hand_over()

    def _hand_over(self) -> None:
        waiting, self._waiting = self._waiting, []
        done, self._done = self._done, None
        if not waiting:
            return
        assert self._sink is not None
        begun = time.perf_counter()
        try:
            self._sink(waiting)
        except Exception as error:  # whatever it is, those who wait are told
            if done is None or done.done():
                raise
            done.set_exception(error)
            # Somebody waits, unless all were cancelled: then nobody is left to be told.
            done.exception()
        else:
            if done is not None and not done.done():
                done.set_result(None)
        self._took = time.perf_counter() - begun
