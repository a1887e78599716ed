"""Explanations from a list of tokens and activations, one a line, as neurons were first explained.

    explainer = TokenActivations(n=5)
    pair_lines(signs(passage, peak))     # "␣seven⇥9": token, tab, level

After Bills et al. 2023, "Language models can explain neurons in language models"; the words are
ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import ClassVar

from glossator.explain.explainers import Reader
from glossator.explain.shots import PLAIN
from glossator.explain.views import Passage, Sign, View, signs
from glossator.judges.base import Prompt
from glossator.sampling import ExplainPlan

__all__ = ["TokenActivations", "pair_lines", "read_pairs"]

_SIGN_OF = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
_TEXT_OF = {sign: text for text, sign in _SIGN_OF.items()}
_ESCAPED = frozenset("\\⏎␍⇥")
_SYSTEM = """\
You study one unit of a neural network by what it does on some texts. Each text is given token by \
token, one a line: the token, a tab, and how active the unit is on it, from 0 (silent) to 10 (the \
most that it ever is). ⏎ stands for a line break and ⇥ for a tab; a backslash before a sign means \
that the token itself holds that sign.

Find what the tokens with high numbers have in common that those with 0 lack: which tokens they \
are, what they mean, or what stands before them. Say in one sentence of at most 25 words when the \
unit is active. Be as specific as the texts allow; do not list the texts and do not speak of \
numbers.

Answer with one JSON object, {"explanation": "..."}, and nothing else."""


class TokenActivations(Reader):
    """Tokens and activations, one pair a line."""

    label: ClassVar[str] = "token_activations"
    examples: ClassVar[ExplainPlan] = ExplainPlan(kind="top", n=5)

    def prompt(self, view: View) -> Prompt:
        """The passages, token by token."""
        return Prompt(
            _body(view.passages, view.peak),
            system=_SYSTEM,
            shots=_shots(),
            group=view.group,
            label=view.label("explanation"),
        )


def pair_lines(pairs: Iterable[Sign]) -> str:
    """One sign a line: its text, a tab, its level; line breaks and tabs of the text as signs."""
    return "\n".join(
        "".join(_SIGN_OF.get(c, f"\\{c}" if c in _ESCAPED else c) for c in sign.text)
        + f"\t{sign.level}"
        for sign in pairs
    )


def read_pairs(lines: str) -> list[tuple[str, int]]:
    """Texts and levels back from `pair_lines`."""
    pairs = []
    for line in lines.split("\n") if lines else []:
        shown, level = line.split("\t")
        text, characters = "", iter(shown)
        for character in characters:
            text += next(characters) if character == "\\" else _TEXT_OF.get(character, character)
        pairs.append((text, int(level)))
    return pairs


def _body(passages: Sequence[Passage], peak: float) -> str:
    return "\n\n".join(
        f"Text {number}\n{pair_lines(signs(passage, peak))}"
        for number, passage in enumerate(passages, start=1)
    )


@cache
def _shots() -> tuple[tuple[str, str], ...]:
    return tuple((_body(s.active, 10.0), json.dumps({"explanation": s.text})) for s in PLAIN)
