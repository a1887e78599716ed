"""Explanations by a language model that reads passages with the active tokens between delimiters.

    explainer = Delimited(threshold=0.3)
    explainer = ChainOfThought(n=20, values=True)
    explainer.prompt(view)            # what is asked
    explainer.read(answer)            # a text or a failure

The ways of showing examples are those of "Open Source Automated Interpretability for Sparse
Autoencoder Features" (Juang et al., 2024), and may be joined; the words of the prompts are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import Field

from glossator.explain.explainers import LONGEST, SCHEMA, Reader, explanation_text, object_schema
from glossator.explain.shots import GIVES_LOGITS, PLAIN, Shot
from glossator.explain.views import Logits, Passage, View, Wants, signs
from glossator.judges.base import Answer, Failure, Prompt
from glossator.sampling import SamplingPlan
from glossator.shown import SIGNS

__all__ = [
    "POST",
    "Activations",
    "ChainOfThought",
    "Contrastive",
    "Delimited",
    "TopLogits",
    "listed",
]

_STEP = {"type": "string", "maxLength": LONGEST}
_STEPS = ("tokens", "shared", "promoted")
_STEPS_SCHEMA = object_schema(
    **dict.fromkeys(_STEPS, _STEP), explanation=SCHEMA["properties"]["explanation"]
)
_STEPS_TOKENS = 1_000
_INTRODUCTION = f"""\
You study one unit of a neural network. The unit is silent on most text and active on some tokens. \
You are shown passages in which it is active: the tokens on which it is most active stand between \
<< and >>. {SIGNS}"""
_VALUES = (
    "Beneath each passage the marked tokens are listed with how active the unit is on them, "
    "from 1 to 10, where 10 is the most that it ever is."
)
_SILENT = (
    "After them come passages in which it is silent throughout, although they are like the others: "
    "your description must not fit them."
)
_LOGITS = (
    "Last come the tokens that the active unit makes most and least likely to come next (␣ stands "
    "for a space). They tell what the unit does, which may say more than where it is active."
)
_TASK = """\
Find what the marked tokens have in common: which tokens they are, what they mean, or what stands \
before them. Say in one sentence of at most 25 words when the unit is active. Be as specific as \
the passages allow. Do not list the passages and do not speak of marks or delimiters."""
_ANSWER = 'Answer with one JSON object, {"explanation": "..."}, and nothing else.'
_ANSWER_IN_STEPS = """\
Go about it in four steps. First, name up to five marked tokens or words around them that seem \
telling, and any pattern in them. Second, say what the passages share as a whole. Third, say which \
tokens the unit makes likely to come next. Fourth, write the description.

Answer with one JSON object that holds the four steps, {"tokens": "...", "shared": "...", \
"promoted": "...", "explanation": "..."}, and nothing else."""


class Delimited(Reader):
    """Passages with their active tokens between delimiters."""

    label: ClassVar[str] = "delimited"

    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Tokens above this share of the example's maximum are marked."""
    values: bool = False
    """Whether the marked tokens are listed with how active the latent is on them, 1 to 10."""
    cot: bool = False
    """Whether the answer thinks aloud in four steps first."""
    logits: int = Field(default=0, ge=0)
    """So many of the tokens that it promotes, and of those that it suppresses, are shown."""
    silent: int = Field(default=0, ge=0)
    """So many like passages in which it is silent are shown as such."""

    @property
    def sees_logits(self) -> bool:
        """Whether it is shown the tokens that the latent promotes."""
        return self.logits > 0

    @property
    def longest(self) -> int:
        """Thinking aloud takes more words."""
        return self.max_tokens or (_STEPS_TOKENS if self.cot else super().longest)

    @property
    def form(self) -> Mapping[str, Any]:
        """The four steps, where they are asked for."""
        return _STEPS_SCHEMA if self.cot else SCHEMA

    def wants(self, plan: SamplingPlan | None) -> Wants:
        """The examples, and silent ones where they are shown."""
        wanted = super().wants(plan)
        return Wants(plan=wanted.plan, logits=wanted.logits, silent=self.silent)

    def prompt(self, view: View) -> Prompt:
        """Numbered passages, then what else is shown."""
        return Prompt(
            self.body(
                view.passages, view.peak, view.silent[: self.silent], _named(view, self.logits)
            ),
            system=self.system(),
            shots=_shots(self),
            group=view.group,
            label=view.label("explanation"),
        )

    def read(self, answer: Answer) -> str | Failure:
        """The explanation in an answer; the last line of one that thought aloud."""
        return explanation_text(answer, last_line=self.cot)

    def system(self) -> str:
        """The standing instructions."""
        shown = [_INTRODUCTION]
        shown += [_VALUES] * self.values + [_SILENT] * (self.silent > 0)
        shown += [_LOGITS] * (self.logits > 0)
        return "\n\n".join([" ".join(shown), _TASK, self.answer_form()])

    def answer_form(self) -> str:
        """How the answer is to look."""
        return _ANSWER_IN_STEPS if self.cot else _ANSWER

    def answer_of(self, shot: Shot) -> str:
        """The answer to a worked example."""
        steps = {step: getattr(shot, step) for step in _STEPS} if self.cot else {}
        return json.dumps({**steps, "explanation": shot.text}, ensure_ascii=False)

    def body(
        self,
        passages: Sequence[Passage],
        peak: float,
        silent: Sequence[Passage],
        ends: tuple[Sequence[str], Sequence[str]] | None,
    ) -> str:
        """What is shown of one latent.

        Args:
            passages: in which it is active.
            peak: its largest activation.
            silent: in which it is not.
            ends: the tokens that it promotes and suppresses, as they are printed.
        """
        lines = []
        for number, passage in enumerate(passages, start=1):
            marks = passage.marks(self.threshold)
            lines.append(f"Example {number}: {passage.shown.render(marks)}")
            if self.values:
                lines.append(f"Values {number}: {_values(passage, marks, peak)}")
        lines += [
            f"Silent {number}: {passage.shown.render()}"
            for number, passage in enumerate(silent, start=1)
        ]
        if ends is not None:
            lines += [f"More likely: {listed(ends[0])}", f"Less likely: {listed(ends[1])}"]
        return "\n".join(lines)


class ChainOfThought(Delimited):
    """The same, with the post's four steps of thought before the answer."""

    label: ClassVar[str] = "cot"
    cot: bool = True
    """Whether the answer thinks aloud in four steps first."""


class Activations(Delimited):
    """The same, with the activations of the marked tokens."""

    label: ClassVar[str] = "activations"
    values: bool = True
    """Whether the marked tokens are listed with how active the latent is on them, 1 to 10."""


class TopLogits(Delimited):
    """The same, with the tokens that the latent promotes and suppresses: the ends of W_U W_D[f]."""

    label: ClassVar[str] = "logits"
    logits: int = Field(default=10, ge=1)
    """So many of the tokens that it promotes, and of those that it suppresses, are shown."""


class Contrastive(Delimited):
    """The same, with like passages in which the latent is silent."""

    label: ClassVar[str] = "contrastive"
    silent: int = Field(default=10, ge=1)
    """So many like passages in which it is silent are shown as such."""


POST = Activations(threshold=0.6, n=20, draw="uniform", length=20)
"""What the post's explainer saw: 20 uniform examples of 20 tokens, marks above 0.6 of the example's
maximum, values from 0 to 10."""


def listed(texts: Sequence[str]) -> str:
    """Tokens between quotation marks, whatever stands in them."""
    return " ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def _values(passage: Passage, marks: Sequence[int], peak: float) -> str:
    marked = set(passage.shown.whole(marks))
    return ", ".join(
        f"{json.dumps(sign.text, ensure_ascii=False)} {sign.level}"
        for sign in signs(passage, peak)
        if sign.offset in marked
    )


def _named(view: View, n: int) -> tuple[list[str], list[str]] | None:
    """The first n tokens of each end, as they are printed."""
    if not n:
        return None
    logits = view.logits or Logits(())
    top, bottom = ([view.name(token) for token, _ in end[:n]] for end in _ends(logits))
    return top, bottom


def _ends(logits: Logits) -> tuple[tuple[tuple[int, float], ...], ...]:
    return logits.top, logits.bottom


@lru_cache(maxsize=64)
def _shots(explainer: Delimited) -> tuple[tuple[str, str], ...]:
    """The worked examples, shown as the explainer shows a latent."""
    shots = []
    for shot in (*PLAIN, GIVES_LOGITS) if explainer.logits else PLAIN:
        ends = (shot.top, shot.bottom) if explainer.logits else None
        silent = shot.silent if explainer.silent else ()
        shots.append((explainer.body(shot.active, 10.0, silent, ends), explainer.answer_of(shot)))
    return tuple(shots)
