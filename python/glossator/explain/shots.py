"""The worked examples of the explainers' prompts, as data.

    passage_of("¶The ferry leaves at {seven:9} and returns")     # a Passage, marked and valued

They are shown by the same functions as a latent's own passages, so that they always look alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from glossator.explain.views import Passage
from glossator.shown import Shown

__all__ = ["GIVES_LOGITS", "PLAIN", "Shot", "passage_of"]

_CUT = re.compile(r"\{([^:{}]+):(\d+)\}|( ?[^ {}]+| )")


@dataclass(frozen=True, slots=True)
class Shot:
    """One made-up unit and what is to be said of it."""

    active: tuple[Passage, ...]
    """Passages in which it is active."""
    silent: tuple[Passage, ...]
    """Like ones in which it is not."""
    top: tuple[str, ...]
    """Tokens that it promotes, as `TokenText.name` prints them."""
    bottom: tuple[str, ...]
    """Tokens that it suppresses."""
    tokens: str
    """The first step of the thought: what is marked."""
    shared: str
    """The second: what the passages share."""
    promoted: str
    """The third: what comes next."""
    text: str
    """The description."""


def passage_of(line: str) -> Passage:
    """A passage from a line in which `{word:7}` is a token of level 7 and ¶ begins a document."""
    pieces, levels, starts = [], [], []
    for token, level, other in _CUT.findall(line):
        text = token or other
        starts.append(text.startswith("¶"))
        pieces.append(text.removeprefix("¶").replace("⏎", "\n"))
        levels.append(int(level or 0))
    n = len(pieces)
    shown = Shown(tuple(pieces), tuple(range(n)), tuple(starts), (True,) * n)
    return Passage(shown, np.array(levels, np.float32))


def _passages(*lines: str) -> tuple[Passage, ...]:
    return tuple(map(passage_of, lines))


PLAIN = (
    Shot(
        active=_passages(
            "¶The ferry leaves at{ seven:9} and returns before",
            " sold{ four:8} of the paintings, kept the rest⏎",
            " after{ twelve:10} years in the same house, she",
            " only{ three:8} students passed;{ nineteen:7} had tried",
        ),
        silent=_passages(
            " platform 12 is closed, gate 7 is open",
            " the second attempt went as the first had⏎",
        ),
        top=("␣hundred", "␣years", "␣days", "teen"),
        bottom=("ly", "␣Mr", "();"),
        tokens="seven, four, twelve, three, nineteen: all are numbers written out",
        shared="something is counted, in plain prose; digits and ordinals are not marked",
        promoted="what follows a count, such as hundred, years or days",
        text="numbers written out as words",
    ),
    Shot(
        active=_passages(
            "could not open the file:{ permission:10} denied⏎¶Usage",
            " without written{ permission:9} of the author.⏎",
            " they asked for{ leave:6} to appeal, and were granted it",
        ),
        silent=_passages(
            " you are free to leave the room now",
            " nothing in the file was changed by the author",
        ),
        top=("␣denied", "␣granted", "␣slip", "␣to"),
        bottom=("␣very", "berg", "␣1"),
        tokens="permission, leave; before them written, asked for",
        shared="somebody is or is not allowed to do something, in code as well as in law",
        promoted="denied, granted, and to: the outcome of having asked",
        text="nouns for being allowed to do something, such as permission or leave",
    ),
)
"""For every way of showing."""

GIVES_LOGITS = Shot(
    active=_passages(
        " kept the milk at{ 20:9} for an hour, then",
        " fell to minus{ 7:7} in the night, the",
        " water boils near{ 100:10}, and alcohol well before",
        " a mild day, highs of{ 14:8} by the coast",
    ),
    silent=_passages(
        " kept the milk for 20 minutes, then",
        " bought 100 of them on the coast",
    ),
    top=("␣degrees", "°", "␣Celsius", "␣C"),
    bottom=("␣people", "th", "%"),
    tokens="20, 7, 100, 14, with kept at, minus, boils, highs of before them",
    shared="cooking, physics and weather: a number that is a temperature",
    promoted="degrees, °, Celsius: the unit of temperature",
    text="numbers that give a temperature, before the word degrees or its sign",
)
"""Where the tokens that the unit promotes are shown: they decide what the marks leave open."""
