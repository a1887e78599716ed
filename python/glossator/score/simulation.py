"""Simulation: what activation does the explanation predict on every token?

    scorer = SimulationScorer(SimulationOptions(per_decile=1, silent=10))
    scorer.requests(material, explanation, protocol_id)      # one reading a window
    expected_values(reading, reply, places)                  # one value a token

The method is that of Bills et al. (2023), "Language models can explain neurons in language models",
with all tokens of a window in one forward pass: the judge reads a reply that lists the tokens, each
followed by a tab and an ellipsis, and the probabilities of the digits in the ellipsis's place are
the prediction. The worked examples begin with ellipses, too, and go over to digits, so that a digit
is likely anywhere. A window in which some token gets no digit is missing, not zero.

Digits go from 0 to 9, for a number of two digits begins as another of one where a tokenizer splits
them (Llama 2, Gemma, Qwen, SmolLM2): 10 would be read as 1. What is stored is spread over 0 to 10.
The placeholder is a sign, no word: tokenizers of GPT-4's kind join a tab with the word after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from pydantic import Field

from glossator.judges.base import Answer, Capabilities, Failure, Job, Prompt, Reading
from glossator.records import Explanation, Record, Verdict, content_id
from glossator.sampling import SamplingPlan
from glossator.score.parts import (
    failure_of,
    first_windows,
    missing,
    need_readings,
    need_windows,
    prompt_id_of,
    verdict_of,
)
from glossator.score.questions import Item
from glossator.score.scorers import Material, Request
from glossator.shown import SIGNS, Shown, single_line

__all__ = [
    "SimulationOptions",
    "SimulationScorer",
    "expected_values",
    "listed",
]

_TOP = 9
_DIGITS = {str(digit): digit for digit in range(_TOP + 1)}
_HEAD = "token\tresponse"
_HIDDEN = "…"
_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
_OURS = "⏎␍⇥¶"

_SYSTEM = f"""\
You predict how strongly one unit of a neural network responds to each token of a passage, going \
by a description of what it responds to. The passage comes as a list with one token a line: the \
token, a tab, and the response as one digit, from 0 for none to {_TOP} for the strongest. The unit \
is silent on most tokens. In the first lines of a list an ellipsis may stand in the place of the \
digit, which says nothing about the response. {SIGNS} ⇥ stands for a tab in the text."""

_SHOTS: tuple[tuple[str, int, tuple[tuple[str, int], ...]], ...] = (
    (
        "numbers written out as words",
        3,
        (
            ("¶The", 0),
            (" ferry", 0),
            (" leaves", 0),
            (" at", 0),
            (" seven", 9),
            (" and", 1),
            (" returns", 0),
            (" before", 0),
            (" twenty", 8),
            ("-", 3),
            ("two", 7),
            (" h", 0),
        ),
    ),
    (
        "the word not, and contractions that end in n't",
        5,
        (
            (" could", 0),
            (" not", 8),
            (" see", 0),
            (" the", 0),
            (" harbour", 0),
            (".", 0),
            ("⏎", 0),
            ("We", 0),
            (" did", 0),
            ("n't", 9),
            (" mind", 1),
            (" waiting", 0),
        ),
    ),
    (
        "names of rivers, most of all where they flood",
        1,
        (
            (" the", 0),
            (" Loire", 6),
            (" rose", 2),
            (" again", 0),
            (" in", 0),
            (" March", 0),
            (" and", 0),
            (" flooded", 3),
            (" Or", 0),
            ("lé", 0),
            ("ans", 0),
            (",", 0),
        ),
    ),
)
"""Worked examples: description, how many digits are covered, tokens and digits."""


class SimulationOptions(Record):
    """What simulation shows."""

    per_decile: int = Field(default=1, ge=1)
    """Activating windows of each decile: the first ones."""
    silent: int = Field(default=10, ge=0)
    """Silent windows; with 0 the figures say nothing of false alarms outside activating text."""
    alternatives: int = Field(default=20, ge=1)
    """Likeliest tokens looked at in each place; vLLM gives 20 unless told otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class _Listed(Request):
    """A window's tokens put to the judge."""

    places: tuple[int | None, ...] = ()
    """For each token where in the reply its placeholder stands; None where it is not shown."""


class SimulationScorer:
    """Predicts an activation for every token of a window from the explanation."""

    name = "simulation"
    needs_explanation = True
    slow = False
    template_hash = content_id(_SYSTEM, _HEAD, _HIDDEN, _SHOTS)

    def __init__(self, options: SimulationOptions = SimulationOptions()) -> None:  # noqa: B008
        self._options = options

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON."""
        return self._options.model_dump(mode="json")

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan that draws too little, or a judge that reads nothing."""
        options = self._options
        need_windows(self.name, plan, per_decile=options.per_decile, silent=options.silent)
        need_readings(self.name, capabilities)

    def prepare(self, materials: Sequence[Material]) -> None:
        """Nothing is cheaper for many latents."""

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """One reading for each window that has a token to be shown."""
        options = self._options
        windows = first_windows(
            material.windows, per_decile=options.per_decile, silent=options.silent
        )
        for window in windows:
            reply, places = listed(window.shown)
            if not any(place is not None for place in places):
                continue
            items = (Item(window.example_id, reply, window.decile > 0),)
            prompt = Prompt(
                _question(explanation.text),
                system=_SYSTEM,
                shots=_shots(),
                reply=reply,
                group=f"{material.hookpoint}/{material.latent}",
                label=f"latent {material.latent}, {self.name}",
            )
            job = Job(None, prompt, 1, alternatives=options.alternatives)
            key = prompt_id_of(self.name, explanation, protocol_id, items)
            yield _Listed(key, self.name, explanation, items, (job,), places)

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """The predicted activations of one window; NaN on tokens that were not shown."""
        failure = failure_of(answers)
        if failure is not None:
            return missing(request, protocol_id, failure)
        (reading,) = answers
        assert isinstance(reading, Reading)
        assert isinstance(request, _Listed)
        values = expected_values(reading, request.jobs[0].prompt.reply, request.places)
        if isinstance(values, Failure):
            return missing(request, protocol_id, values)
        return [verdict_of(request, protocol_id, 0, value=values)]


def listed(shown: Shown) -> tuple[str, tuple[int | None, ...]]:
    """A window as the reply that the judge reads, and where each token's placeholder stands.

    The tokens of one character are one line and share its placeholder; those that do not count have
    none (padding, sinks). Returns an empty list's heading where no token counts.
    """
    reply = _HEAD
    found: dict[int, int] = {}
    for at, (piece, head) in enumerate(zip(shown.pieces, shown.heads, strict=True)):
        if at != head or not piece or not shown.live[at]:
            continue
        line = "".join(_visible(character) for character in piece)
        begin = "¶" if shown.document_starts[at] else ""
        reply += f"\n{begin}{line}\t"
        found[at] = len(reply)
        reply += _HIDDEN
    places = (
        found.get(head) if live else None
        for head, live in zip(shown.heads, shown.live, strict=True)
    )
    return reply, tuple(places)


def expected_values(
    reading: Reading, reply: str, places: Sequence[int | None]
) -> tuple[float, ...] | Failure:
    """The expected activation of each token, from 0 to 10; NaN where none is asked for.

    Args:
        reading: of the reply, with alternatives.
        reply: what was read.
        places: for each token where in the reply the judge would write the digit.

    Returns:
        A failure where the judge's tokens do not begin at a place, or a place has no digit among
        its likeliest tokens.
    """
    tokens = reading.tokens or ()
    if "".join(tokens) != reply:
        return Failure("malformed", "what was read is not what was sent")
    if len(reading.alternatives) != len(tokens):
        return Failure("malformed", "the reading has no alternatives")
    begins = dict(zip(accumulate(map(len, tokens), initial=0), reading.alternatives, strict=False))
    values = []
    for number, place in enumerate(places):
        if place is None:
            values.append(math.nan)
            continue
        if place not in begins:
            return Failure("malformed", "the judge's tokenizer joins the tab and what follows it")
        value = _expected(begins[place])
        if value is None:
            return Failure("malformed", f"no digit among the likeliest tokens, at token {number}")
        values.append(value)
    return tuple(values)


def _expected(alternatives: Mapping[str, float]) -> float | None:
    total = mean = 0.0
    for text, logprob in alternatives.items():
        digit = _DIGITS.get(text.strip())
        if digit is not None:
            weight = math.exp(logprob)
            total += weight
            mean += weight * digit
    return mean / total * (10 / _TOP) if total else None


def _question(description: str) -> str:
    return f"Description: {single_line(description)}"


@cache
def _shots() -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            _question(description),
            "\n".join(
                [
                    _HEAD,
                    *(
                        f"{token}\t{_HIDDEN if number < hidden else digit}"
                        for number, (token, digit) in enumerate(tokens)
                    ),
                ]
            ),
        )
        for description, hidden, tokens in _SHOTS
    )


def _visible(character: str) -> str:
    if character in _OURS:
        return "\\" + character
    return _SIGNS.get(character, character)
