"""Yes-or-no questions about a handful of examples: how they are put and how an answer is read.

    items = detection_items(...)                # what is judged, with the truth
    for question in questions("detection", explanation, protocol_id, items, seed=0, per_prompt=5):
        question.prompt                         # to the judge
        booleans(answer, len(question.items))   # five answers or a failure

Several examples stand in one prompt and each is answered by one boolean of a JSON array.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from glossator.judges.base import Answer, Failure, Prompt
from glossator.records import Explanation, Verdict, content_id
from glossator.shown import Shown, single_line

__all__ = [
    "Item",
    "Question",
    "Template",
    "Window",
    "answer_schema",
    "answer_tokens",
    "booleans",
    "keyed_generator",
    "questions",
    "verdicts_of",
]


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

    system: str
    """Standing instructions."""
    shots: tuple[tuple[str, str, tuple[bool, ...]], ...]
    """Worked examples: explanation, lines, answers."""

    @property
    def hash(self) -> str:
        """Hash of the words."""
        return content_id(self.system, self.shots)

    def prompt(self, explanation: str, lines: Sequence[str], label: str) -> Prompt:
        """Instructions, worked examples, then the explanation, then the examples."""
        return Prompt(
            _question(explanation, lines),
            system=self.system,
            shots=tuple(
                (_question(text, shot.split("\n")), json.dumps(answers))
                for text, shot, answers in self.shots
            ),
            label=label,
        )


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt and what it asks."""

    prompt_id: str
    """Hash of explanation, protocol, scorer and items."""
    scorer: str
    """Who asks."""
    explanation: Explanation
    """What is judged."""
    items: tuple[Item, ...]
    """The examples, in the order shown."""


def _question(explanation: str, lines: Sequence[str]) -> str:
    numbered = "\n".join(f"Example {number}: {line}" for number, line in enumerate(lines, start=1))
    return f"Description: {single_line(explanation)}\n\n{numbered}"


def keyed_generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key alone, not on what was drawn before."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(content_id(*key).encode()))


def questions(
    scorer: str,
    explanation: Explanation,
    protocol_id: str,
    items: Sequence[Item],
    *,
    seed: int,
    per_prompt: int,
) -> Iterator[Question]:
    """The items in a seeded random order, so many a prompt; a short last prompt is kept.

    The order depends on hookpoint, latent, scorer and seed: two explanations of one latent are
    judged on the same prompts.
    """
    generator = keyed_generator(
        "order", seed, scorer, explanation.hookpoint, explanation.latent, len(items)
    )
    order = generator.permutation(len(items)).tolist()
    for first in range(0, len(order), per_prompt):
        chosen = tuple(items[place] for place in order[first : first + per_prompt])
        content = [(item.example_id, item.marks) for item in chosen]
        prompt_id = content_id(explanation.explanation_id, protocol_id, scorer, first, content)
        yield Question(prompt_id, scorer, explanation, chosen)


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


def verdicts_of(
    question: Question, protocol_id: str, answers: tuple[bool, ...] | Failure
) -> list[Verdict]:
    """One verdict per item; all of them missing where the question failed."""
    failed = str(answers) if isinstance(answers, Failure) else None
    given: Sequence[bool | None] = (
        [None] * len(question.items) if isinstance(answers, Failure) else answers
    )
    return [
        Verdict(
            explanation_id=question.explanation.explanation_id,
            protocol_id=protocol_id,
            scorer=question.scorer,
            example_id=item.example_id,
            prompt_id=question.prompt_id,
            slot=slot,
            marks=item.marks,
            truth=item.truth,
            answer=answer,
            failure=failed,
        )
        for slot, (item, answer) in enumerate(zip(question.items, given, strict=True))
    ]
