"""Surprisal: does the explanation make a text less surprising?

    scorer = SurprisalScorer(SurprisalOptions(per_decile=2, silent=20))
    scorer.requests(material, explanation, protocol_id)      # two readings a window

The judge reads each window as its own words, once asked for a text that fits the explanation and
once for any text. The value is what the explanation takes off the loss, in nats per token; the
score is the AUROC of activating against silent windows: an explanation that makes every text
likelier says nothing of the latent.

The second reading is the same for all explanations of a latent: a replay store pays it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from glossator.shown import single_line

__all__ = ["SurprisalOptions", "SurprisalScorer"]

_SYSTEM = """\
You write short passages as they stand in books, on web pages and in source code: cut out of a \
longer text, so that they may begin and end anywhere. You are told what should occur in the \
passage. Write the passage and nothing else."""
_WITH = "What occurs in it: {}"
_WITHOUT = "What occurs in it: anything at all"


class SurprisalOptions(Record):
    """Which windows are read."""

    per_decile: int | None = Field(default=2, ge=1)
    """Activating windows of each decile: the first ones; None: all that are drawn."""
    silent: int | None = Field(default=20, ge=1)
    """Silent windows: the first ones; None: all that are drawn."""


class SurprisalScorer:
    """Weighs a window's words with the explanation and without it."""

    name = "surprisal"
    needs_explanation = True
    slow = False
    template_hash = content_id(_SYSTEM, _WITH, _WITHOUT)

    def __init__(self, options: SurprisalOptions = SurprisalOptions()) -> None:  # noqa: B008
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
        """Two readings of each window that has a text."""
        options = self._options
        windows = first_windows(
            material.windows, per_decile=options.per_decile, silent=options.silent
        )
        questions = (_WITH.format(single_line(explanation.text)), _WITHOUT)
        for window in windows:
            # Chat templates take off what white space stands at the ends of a turn.
            reply = window.shown.text.strip()
            if not reply:
                continue
            items = (Item(window.example_id, reply, window.decile > 0),)
            jobs = tuple(
                Job(
                    None,
                    Prompt(
                        question,
                        system=_SYSTEM,
                        reply=reply,
                        group=f"{material.hookpoint}/{material.latent}",
                        label=f"latent {material.latent}, {self.name}",
                    ),
                    1,
                    alternatives=0,
                )
                for question in questions
            )
            key = prompt_id_of(self.name, explanation, protocol_id, items)
            yield Request(key, self.name, explanation, items, jobs)

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """What the explanation takes off the window's loss, in nats per token."""
        failure = failure_of(answers)
        if failure is not None:
            return missing(request, protocol_id, failure)
        given, without = answers
        assert isinstance(given, Reading)
        assert isinstance(without, Reading)
        tokens = given.tokens or ()
        if tokens != without.tokens or "".join(tokens) != request.items[0].line:
            reason = Failure("malformed", "what was read is not what was sent")
            return missing(request, protocol_id, reason)
        gain = (sum(given.logprobs) - sum(without.logprobs)) / len(tokens)
        return [verdict_of(request, protocol_id, 0, value=(gain,))]
