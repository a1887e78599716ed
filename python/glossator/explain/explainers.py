"""What an explainer is: settings, and the steps by which a latent's view becomes a text.

    class Shout(Explainer):
        label = "shout"
        def prompt(self, view): ...          # how examples are shown, and the words around them
    explainer = Shout(n=20, draw="top")
    explainer.name("llama")                  # "shout(n=20,draw=top):llama"

An explainer that asks more than once writes `steps`: it yields what is asked at one go, is sent the
answers, and returns what it makes of them. `glossator.explain.asking` queues the questions of all
latents and knows no explainer by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xxhash
from pydantic import Field

from glossator.explain.views import View, Wants
from glossator.judges.base import Answer, Failure, Prompt
from glossator.records import Record, content_id
from glossator.sampling import ExplainPlan, SamplingPlan
from glossator.shown import single_line

__all__ = [
    "LONGEST",
    "MARKER",
    "SCHEMA",
    "Ask",
    "Attempt",
    "Explainer",
    "Reader",
    "Steps",
    "Told",
    "explanation_text",
    "keyed",
    "object_schema",
]

MARKER = "Explanation:"
"""What stands before the explanation in an answer that is no JSON."""
LONGEST = 300
"""Characters of an explanation, where the server holds the model to a schema."""

_TOKENS = 400
_LAST_MARKER = re.compile(rf"(?is).*{re.escape(MARKER)}")


def object_schema(**fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of an object with these fields, all required and in this order."""
    return {
        "type": "object",
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
    }


SCHEMA = object_schema(explanation={"type": "string", "minLength": 1, "maxLength": LONGEST})
"""What an answer is asked to be. Where the server holds the model to it, no answer runs on until it
is cut off; a server that does not is answered for by `MARKER`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question on the way to an explanation."""

    prompt: Prompt
    """What is asked."""
    max_tokens: int
    """Longest answer."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer."""
    choices: tuple[str, ...] | None = None
    """Texts of which the answer is one."""
    to_chooser: bool = False
    """Whether the one who chooses is asked, where that is another."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the texts on the way to an explanation."""

    latent: int
    """The latent."""
    number: int
    """Which round of a refinement, or which debater; from 1."""
    text: str
    """What was said of the latent; empty where that failed."""
    score: float | None
    """Balanced accuracy on the explain side, or share of the votes; None where it has none."""
    kept: bool
    """Whether it became the explanation."""
    note: str = ""
    """What was shown for it, or why it failed."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an explainer says of one latent."""

    text: str
    """The explanation."""
    attempts: tuple[Attempt, ...] = ()
    """The texts from which it was chosen, where there were several."""


Steps = Generator[Sequence[Ask], Sequence[Answer], Told | Failure]
"""Yields what is asked at one go, is sent the answers in that order, returns the outcome."""


class Explainer(Record):
    """Settings of an explainer; each of the subclasses is one way of explaining."""

    label: ClassVar[str] = ""
    """Its name."""
    asks: ClassVar[bool] = False
    """Whether it needs a judge."""

    def name(self, judge: str = "", chooser: str = "") -> str:
        """Its name in the tables, with the settings that are not the default ones.

        Args:
            judge: the model that explains.
            chooser: the one that chooses or scores, where that is another.
        """
        changed = self.model_dump(mode="json", exclude_defaults=True)
        if self.asks and chooser and chooser != judge:
            changed["chooser"] = chooser
        settings = ",".join(f"{key}={_plain(value)}" for key, value in changed.items())
        name = f"{self.label}({settings})" if settings else self.label
        return f"{name}:{judge}" if self.asks and judge else name

    @property
    def sees_logits(self) -> bool:
        """Whether it is shown the tokens that the latent promotes."""
        return False

    def wants(self, plan: SamplingPlan | None) -> Wants:
        """What it is to be shown of each latent.

        Args:
            plan: what the caller would have drawn; None leaves it to the explainer.
        """
        raise NotImplementedError

    def steps(self, view: View) -> Steps:
        """The questions about one latent, and what is made of the answers."""
        raise NotImplementedError


class Reader(Explainer):
    """An explainer that reads examples and is asked for one text."""

    asks: ClassVar[bool] = True
    examples: ClassVar[ExplainPlan] = ExplainPlan()
    """What is drawn where neither the settings nor a plan say it."""

    n: int | None = Field(default=None, ge=1, lt=2**32)
    """Examples shown; the plan's number if None."""
    draw: Literal["uniform", "top", "top_of", "deciles", "mixture"] | None = None
    """Which of the explain side's windows, as `ExplainPlan.kind` has it; the plan's if None."""
    length: int | None = Field(default=None, ge=1, lt=2**32)
    """Tokens shown of each; the plan's if None."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest answer; a longer one counts as a failure. None: as long as such answers need."""

    @property
    def longest(self) -> int:
        """Tokens of an answer at most."""
        return self.max_tokens or _TOKENS

    def wants(self, plan: SamplingPlan | None) -> Wants:
        """The examples that the settings name, else the plan's, else the explainer's own."""
        changed = {
            key: value for key, value in (("n", self.n), ("kind", self.draw)) if value is not None
        }
        examples = (self.examples if plan is None else plan.explain).model_dump() | changed
        examples["n_top"] = min(examples["n_top"], examples["n"])
        drawn = SamplingPlan(
            explain=ExplainPlan(**examples),
            per_decile=0,
            negatives=(),
            length=self.length or (plan.length if plan else None),
            centred=plan.centred if plan else False,
        )
        return Wants(plan=drawn, logits=self.sees_logits)

    @property
    def form(self) -> Mapping[str, Any]:
        """What the answer is asked to be."""
        return SCHEMA

    def prompt(self, view: View) -> Prompt:
        """How the examples are shown, and the words around them."""
        raise NotImplementedError

    def read(self, answer: Answer) -> str | Failure:
        """The explanation in an answer."""
        return explanation_text(answer)

    def asked(self, view: View) -> Ask:
        """The question, with how its answer is constrained."""
        return Ask(self.prompt(view), self.longest, self.form)

    def steps(self, view: View) -> Steps:
        """One question and its answer."""
        (answer,) = yield [self.asked(view)]
        said = self.read(answer)
        return said if isinstance(said, Failure) else Told(said)


def explanation_text(answer: Answer, *, last_line: bool = False) -> str | Failure:
    """The explanation in an answer, on one line.

    It is the field of a JSON object, else what follows the last marker, else the whole.

    Args:
        answer: what came back.
        last_line: of an answer with neither field nor marker the last line is taken: it thought
            aloud before.
    """
    if answer.failure is not None:
        return answer.failure
    said = (answer.text or "").strip()
    fields = json_object(said)
    if fields is not None:
        explanation = fields.get("explanation")
        if not isinstance(explanation, str):
            return Failure("malformed", "the answer is JSON without a text in `explanation`")
        said = explanation
    elif said.startswith("{"):
        return Failure("malformed", "the answer begins as JSON and is none")
    elif _LAST_MARKER.match(said):
        said = _LAST_MARKER.sub("", said, count=1)
    elif last_line and said:
        said = said.splitlines()[-1]
    text = single_line(said)
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    return text or Failure("empty", "the answer holds no explanation")


def json_object(said: str) -> dict[str, Any] | None:
    """The JSON object that a text is, or that stands in it after words; None without one."""
    begin = said.find("{")
    if begin < 0:
        return None
    try:
        # Constrained engines emit bare control characters; what follows the object is a fence's.
        value, _ = json.JSONDecoder(strict=False).raw_decode(said, begin)
    except (ValueError, RecursionError):
        return None
    # A brace in prose is no answer of ours.
    return value if begin == 0 or "explanation" in value else None


def keyed(*key: object) -> np.random.Generator:
    """A random generator that depends on the key alone, not on what was drawn before."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(content_id(*key).encode()))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
