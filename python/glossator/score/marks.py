"""Marks that are wrong: on silent tokens, and by their pattern not to be told from right ones.

    right_marks(window, threshold=0.3)           # where the latent is active
    wrong = moved(patterns, windows, generator)  # those patterns, on silent tokens of other windows
    scattered(window, 3, generator)              # three silent tokens, wherever

Whoever sees marks at places where right ones never stand, or fewer of them, or none in a row, knows
that they are wrong without a look at the text. So each wrong marking takes the pattern of a right
one (how many, in which runs, where) to a window in which those very tokens are silent; each pattern
goes to one window, and which goes where is chosen so that as few as possible must be moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from glossator.score.questions import Window

__all__ = ["moved", "right_marks", "scattered", "silent_signs"]

_MOVED, _NEVER = 1.0, 1e6


def right_marks(window: Window, threshold: float) -> tuple[int, ...]:
    """Offsets whose activation is above a share of the window's maximum; whole characters."""
    peak = window.activations.max(initial=np.float32(0.0))
    if peak <= 0:
        return ()
    return window.shown.whole(np.flatnonzero(window.activations > threshold * peak).tolist())


def silent_signs(window: Window) -> list[int]:
    """First tokens of the characters on which the latent is silent and which may be marked.

    Silent is an activation of exactly 0 on every token of the character, none of them masked.
    """
    shown = window.shown
    barred = {
        shown.heads[at]
        for at, (value, live) in enumerate(
            zip(window.activations.tolist(), shown.live, strict=True)
        )
        if value != 0 or not live
    }
    return [
        at
        for at, head in enumerate(shown.heads)
        if at == head and head not in barred and shown.pieces[at]
    ]


def scattered(window: Window, n: int, generator: np.random.Generator) -> tuple[int, ...] | None:
    """So many silent characters of a window, each as likely as any; None where it has too few."""
    silent = silent_signs(window)
    if len(silent) < n:
        return None
    chosen = generator.choice(len(silent), size=n, replace=False).tolist()
    return window.shown.whole(silent[at] for at in chosen)


def moved(
    patterns: Sequence[Sequence[int]], windows: Sequence[Window], generator: np.random.Generator
) -> list[tuple[int, ...] | None]:
    """The patterns of right markings on silent tokens of other windows.

    As many patterns as there are windows are drawn, none of them twice before all were drawn once.
    Each goes where it fits as it is, if the windows can be dealt out so; else it is shifted by as
    little as it takes; and only where no shift puts it on silent tokens are its runs moved apart or
    broken, the number of tokens kept.

    Args:
        patterns: offsets of the marked tokens of each right marking.
        windows: what is to be marked.
        generator: draws.

    Returns:
        For each window the offsets marked, whole characters; None where it has too few silent ones.
    """
    if not patterns or not windows:
        return [None] * len(windows)
    rounds = -(-len(windows) // len(patterns))
    order = np.concatenate([generator.permutation(len(patterns)) for _ in range(rounds)])
    drawn = [patterns[at] for at in order[: len(windows)].tolist()]
    bits = [_bits(pattern) for pattern in drawn]
    free = [_bits(window.shown.whole(silent_signs(window))) for window in windows]
    cost = np.array([[_cost(pattern, room) for pattern in bits] for room in free])
    rows, columns = linear_sum_assignment(cost)
    found: list[tuple[int, ...] | None] = [None] * len(windows)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if cost[row, column] < _NEVER:
            first_left = bool(generator.integers(2))
            found[row] = _placed(drawn[column], windows[row], free[row], first_left)
    return found


def _bits(offsets: Sequence[int]) -> int:
    return sum(1 << at for at in offsets)


def _cost(pattern: int, room: int) -> float:
    """0 where a pattern fits as it is; 1 where it must be moved; never where it has no room."""
    if not pattern & ~room:
        return 0.0
    return _MOVED if pattern.bit_count() <= room.bit_count() else _NEVER


def _placed(
    pattern: Sequence[int], window: Window, room: int, first_left: bool
) -> tuple[int, ...] | None:
    width, whole = len(window.shown.pieces), window.shown.whole
    bits = _bits(pattern)
    for step in _steps(width, first_left):
        shifted = bits << step if step >= 0 else bits >> -step
        if shifted.bit_count() != bits.bit_count() or shifted & ~room:
            continue
        marks = _offsets(shifted)
        # A character of several tokens may be cut by what was none in its own window.
        if whole(marks) == marks:
            return marks
    return _apart(pattern, window, room, first_left)


def _apart(
    pattern: Sequence[int], window: Window, room: int, first_left: bool
) -> tuple[int, ...] | None:
    """The runs each on its own, the longest first; broken in two where a run has no room."""
    width, whole = len(window.shown.pieces), window.shown.whole
    waiting = sorted(_runs(pattern), key=lambda run: (-len(run), run))
    taken = 0
    while waiting:
        run = waiting.pop(0)
        bits = _bits(run)
        # Runs that touch would be one; where there is no other room, they may.
        for barred in (taken | taken << 1 | taken >> 1, taken):
            place = next(
                (
                    shifted
                    for step in _steps(width, first_left)
                    if (shifted := bits << step if step >= 0 else bits >> -step).bit_count()
                    == len(run)
                    and not shifted & (~room | barred)
                    and whole(_offsets(shifted)) == _offsets(shifted)
                ),
                None,
            )
            if place is not None:
                taken |= place
                break
        else:
            if len(run) == 1:
                return None
            middle = len(run) // 2
            waiting = sorted(
                [*waiting, run[:middle], run[middle:]], key=lambda run: (-len(run), run)
            )
    return _offsets(taken)


def _steps(width: int, first_left: bool) -> list[int]:
    """No step, then one to either side, then two, and so on."""
    sides = (-1, 1) if first_left else (1, -1)
    return [0, *(side * step for step in range(1, width) for side in sides)]


def _offsets(bits: int) -> tuple[int, ...]:
    return tuple(at for at in range(bits.bit_length()) if bits >> at & 1)


def _runs(pattern: Sequence[int]) -> list[tuple[int, ...]]:
    """Offsets that follow each other, together."""
    runs: list[list[int]] = []
    for at in sorted(pattern):
        if runs and runs[-1][-1] == at - 1:
            runs[-1].append(at)
        else:
            runs.append([at])
    return [tuple(run) for run in runs]
