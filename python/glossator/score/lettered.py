"""Which of five is it? Questions answered by one letter, and what the answers amount to.

    job = letter_job("output", prompt)
    place_of(answer)                           # 0 for A … 4 for E, or a Failure
    chance_of(right=4, asked=5)                # 0.09: how often a guess does as well

A guess is right once in five times.
"""

from __future__ import annotations

import re

from glossator.judges.base import Answer, Failure, Job, Prompt, Reading

__all__ = ["LETTERS", "letter_job", "place_of", "share_of"]

LETTERS = ("A", "B", "C", "D", "E")
"""The answers."""

_TOKENS = 8
"""Enough for a letter and what a judge without enforced choices may put around it."""
_BARE = re.compile(r"\W*([A-E])\b")


def letter_job(key: object, prompt: Prompt) -> Job:
    """A prompt that is answered by one of the letters."""
    return Job(key, prompt, _TOKENS, choices=LETTERS)


def place_of(answer: Answer | Reading) -> int | Failure:
    """The place that a letter names, or why there is none."""
    if answer.failure is not None:
        return answer.failure
    assert isinstance(answer, Answer)
    found = _BARE.match(answer.text or "")
    if found is None:
        return Failure("malformed", "the answer is none of A to E")
    return LETTERS.index(found[1])


def share_of(answer: Answer | Reading, place: int) -> float | None:
    """The probability that the judge gives to a place; None without probabilities."""
    known = answer.probabilities if isinstance(answer, Answer) else None
    return None if known is None else known.get(LETTERS[place])
