"""Yes-or-no questions: the words they are put in, and how an answer is read.

    TEMPLATE.prompt("names of rivers", [" the Loire", " my house"])           # "[true, false]"
    TEMPLATE.prompt("names of rivers", [" the Loire"], several=False)         # "yes" or "no"
    booleans(answer, 2)                         # two answers or a failure

One example in a prompt is answered by one word, of which a judge may tell the probability; several
are answered by a boolean each, in a JSON array.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from glossator.judges.base import Answer, Failure, Prompt
from glossator.records import content_id
from glossator.shown import Shown, single_line

__all__ = [
    "CHOICES",
    "Item",
    "Template",
    "Window",
    "answer_schema",
    "answer_tokens",
    "booleans",
    "keyed_generator",
    "yes_or_no",
]

CHOICES = ("yes", "no")
"""The answers to a prompt with one example."""

_WORD = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One of the scorer's examples."""

    example_id: str
    """Its id in the run."""
    decile: int
    """Decile of an activating example; 0 where the latent is silent."""
    shown: Shown
    """Its text."""
    activations: npt.NDArray[np.float32]
    """[W] activations."""
    kind: str | None = None
    """Kind of negative; None where it is none."""
    source: int | None = None
    """The neighbour whose window it is, of the decoder kinds."""
    rank: int = 0
    """Rank of that neighbour, or of the window in order of nearness; elsewhere 0."""


@dataclass(frozen=True, slots=True)
class Item:
    """One example as it stands in a prompt."""

    example_id: str
    """The example."""
    line: str
    """What the judge reads."""
    truth: bool
    """What the right answer is."""
    marks: tuple[int, ...] | None = None
    """Offsets marked; None where marks are no part of the question."""


@dataclass(frozen=True, slots=True)
class Template:
    """The words of a scorer's prompts: the same for all latents, for the prefix cache."""

    task: str
    """Standing instructions, where several examples stand in a prompt."""
    task_of_one: str
    """The same, where one does."""
    shots: tuple[tuple[str, str, tuple[bool, ...]], ...]
    """Worked examples: explanation, lines, answers."""

    @property
    def hash(self) -> str:
        """Hash of the words."""
        return content_id(self.task, self.task_of_one, self.shots, _ONE, _SEVERAL, CHOICES)

    def prompt(
        self,
        explanation: str,
        lines: Sequence[str],
        label: str = "",
        group: str = "",
        *,
        several: bool = True,
    ) -> Prompt:
        """Instructions, worked examples, then the explanation, then the examples.

        Args:
            explanation: what is judged.
            lines: the examples; one where not `several`.
            label: as in the prompt.
            group: as in the prompt.
            several: whether booleans are asked for, not one word. What comes before that one
                example is the same text for all prompts about an explanation, and ends in a line
                break, which no tokenizer joins to what follows.
        """
        system, shots = _head(self, several)
        put = _several if several else _one
        return Prompt(put(explanation, lines), system=system, shots=shots, label=label, group=group)


_SEVERAL = "Description: {}\n\n{}"
_ONE = "Description: {}\nPassage:\n{}"


@cache
def _head(template: Template, several: bool) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Instructions and worked examples: made once, not once a prompt."""
    if several:
        return template.task, tuple(
            (_several(text, lines.split("\n")), json.dumps(answers))
            for text, lines, answers in template.shots
        )
    return template.task_of_one, tuple(
        (_one(text, [line]), CHOICES[0 if answer else 1])
        for text, lines, answers in template.shots
        for line, answer in zip(lines.split("\n"), answers, strict=True)
    )


def _several(explanation: str, lines: Sequence[str]) -> str:
    numbered = "\n".join(f"Example {number}: {line}" for number, line in enumerate(lines, start=1))
    return _SEVERAL.format(single_line(explanation), numbered)


def _one(explanation: str, lines: Sequence[str]) -> str:
    (line,) = lines
    return _ONE.format(single_line(explanation), line)


def keyed_generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key alone, not on what was drawn before."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(content_id(*key).encode()))


def answer_schema(n: int) -> Mapping[str, Any]:
    """JSON schema of n booleans."""
    return {"type": "array", "items": {"type": "boolean"}, "minItems": n, "maxItems": n}


def answer_tokens(n: int) -> int:
    """Tokens that n booleans take at most, each on a line of its own."""
    return 16 + 8 * n


def booleans(answer: Answer, n: int) -> tuple[bool, ...] | Failure:
    """The n answers, or why there are none: not JSON, no list of booleans, another length."""
    if answer.failure is not None:
        return answer.failure
    text = (answer.text or "").strip()
    if text.startswith("```"):
        # Chat models fence JSON that no schema constrains.
        text = text.strip("`").removeprefix("json")
    try:
        # Constrained engines emit bare control characters between the elements.
        values = json.loads(text, strict=False)
    except (json.JSONDecodeError, RecursionError):
        return Failure("malformed", "the answer is no JSON")
    if not isinstance(values, list) or not all(isinstance(value, bool) for value in values):
        return Failure("malformed", "the answer is no array of booleans")
    if len(values) != n:
        return Failure("malformed", f"the answer holds {len(values)} booleans in place of {n}")
    return tuple(values)


def yes_or_no(answer: Answer) -> tuple[bool, float | None] | Failure:
    """The answer to a prompt with one example and its P(yes), or why there is none.

    P(yes) is renormalised over yes and no, and yes is where it is above one half; where the judge
    gives no probabilities, its word alone counts.
    """
    if answer.failure is not None:
        return answer.failure
    known = answer.probabilities
    if known is not None:
        yes, no = (known.get(choice, 0.0) for choice in CHOICES)
        if yes + no > 0:
            p_yes = yes / (yes + no)
            return p_yes > 0.5, p_yes
    word = _WORD.match(answer.text or "")
    if word is None:
        return Failure("malformed", "the answer is neither yes nor no")
    return word[1].lower() == CHOICES[0], None
