"""How likely each of several given answers is, from the alternatives of single tokens.

    async def ask(path, rests): ...             # the next tokens that the constraint allows
    await probabilities(ask, ("1", "10"))       # {"1": 0.3, "10": 0.7}

Under a constraint the probabilities of the tokens that are allowed add up to 1. One token decides
where the choices begin differently; where several begin with it, what comes after it is asked too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Next", "beginnings", "probabilities"]

# A path this unlikely leaves the probabilities as they are.
_NEGLIGIBLE = 1e-7


class Next(NamedTuple):
    """A token that may come next."""

    token: int
    """Its id."""
    text: str
    """What it adds; whatever, where it ends the answer."""
    probability: float
    """After all that stands before it."""


Ask = Callable[[tuple[int, ...], tuple[str, ...]], Awaitable[Sequence[Next]]]


def beginnings(rests: Sequence[str]) -> int:
    """How many different texts a first token can be: as many alternatives are enough, mostly."""
    return len({rest[:length] for rest in rests for length in range(len(rest) + 1)} - {""}) + (
        "" in rests
    )


async def probabilities(ask: Ask, choices: Sequence[str]) -> dict[str, float] | None:
    """Probability of each choice, adding up to 1.

    All ways to spell a choice count for it, token by token as the constraint allows them.

    Args:
        ask: called with the tokens so far and what each choice still lacks after them.
        choices: texts, not empty.

    Returns:
        None where tokens that do not show which choice they begin (a part of a character) take
        more than a thousandth.
    """
    weights = dict.fromkeys(choices, 0.0)

    async def follow(path: tuple[int, ...], left: Mapping[str, str], reached: float) -> None:
        if len(left) == 1:
            (choice,) = left.values()
            weights[choice] += reached
            return
        for token, text, probability in await ask(path, tuple(left)):
            weight = reached * probability
            if weight <= _NEGLIGIBLE:
                continue
            begun = {
                rest[len(text) :]: choice for rest, choice in left.items() if rest.startswith(text)
            }
            if text and begun:
                await follow((*path, token), begun, weight)
            elif "" in left:
                weights[left[""]] += weight

    await follow((), {choice: choice for choice in choices}, 1.0)
    total = sum(weights.values())
    if total < 0.999:
        return None
    return {choice: weight / total for choice, weight in weights.items()}
