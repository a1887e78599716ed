"""Detection: is the latent active anywhere in this passage, by its explanation alone?

    scorer = DetectionScorer(DetectionOptions(per_stratum=5, per_prompt=5))
    scorer.requests(material, explanation, protocol_id)      # 50 activating and all silent ones

The method is that of "Open Source Automated Interpretability for Sparse Autoencoder Features"
(Juang et al., 2024): five activating examples per decile and random silent ones, five a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from glossator.judges.base import Answer, Capabilities, Reading
from glossator.records import Explanation, Record, Verdict
from glossator.sampling import SamplingPlan
from glossator.score.parts import Strata, need_judge, need_strata, of_strata
from glossator.score.questions import Item, Template, Window, keyed_generator
from glossator.score.scorers import Material, Request
from glossator.score.yes_or_no import requests_of, verdicts_of
from glossator.shown import SIGNS

__all__ = ["TEMPLATE", "DetectionOptions", "DetectionScorer", "activating"]

TEMPLATE = Template(
    task=f"""\
You check a description of one unit of a neural network. You are given the description and then \
some numbered passages. For each passage say whether the unit is active on any part of it, going \
by the description alone: true if some word or sign of the passage fits the description, false if \
nothing in it does. Any number of the passages may fit; sometimes all do, sometimes none. {SIGNS}

Answer with a JSON array of booleans, one for each passage in order, and nothing else.""",
    task_of_one=f"""\
You check a description of one unit of a neural network. You are given the description and then \
a passage. Say whether the unit is active on any part of the passage, going by the description \
alone: yes if some word or sign of the passage fits the description, no if nothing in it does. \
{SIGNS}

Answer with one word, yes or no.""",
    shots=(
        (
            "numbers written out as words",
            "¶The ferry leaves at seven and returns before\n"
            " painted the gate green and left it open⏎\n"
            "Call 555-0199 between 9 and 17 h\n"
            " after twelve years in the same house, she",
            (True, False, False, True),
        ),
        (
            "the word not, and contractions that end in n't",
            " has been closed since the spring⏎¶How to\n"
            "I knotted the rope twice and tied it to\n"
            " a notable exception, as the report says",
            (False, False, False),
        ),
        (
            "closing brackets at the end of a function call",
            "print(total)⏎return total⏎\n for x in sorted(names): out.write(x)",
            (True, True),
        ),
    ),
)
"""The words of the prompt."""


class DetectionOptions(Record):
    """What detection shows."""

    strata: Strata = "decile"
    """By what the activating examples are counted."""
    per_stratum: int = Field(default=5, ge=1)
    """Activating examples of each stratum: the first ones."""
    top: int = Field(default=0, ge=0)
    """With `weighted`, in place of those: so many of the strongest that are drawn."""
    weighted: int = Field(default=0, ge=0)
    """And so many of the others, each as likely as its maximum is large."""
    per_prompt: int = Field(default=5, ge=1)
    """Examples in one prompt; with 1 the answer is one word, and its probability is known."""


class DetectionScorer:
    """Asks whether an explained latent is active on a passage."""

    name = "detection"
    needs_explanation = True
    slow = False
    template_hash = TEMPLATE.hash
    kinds: ClassVar[frozenset[str | None]] = frozenset({None, "random", "peak_token"})
    """Kinds of the silent windows that are shown: those whose share of the corpus is known."""

    def __init__(self, options: DetectionOptions = DetectionOptions()) -> None:  # noqa: B008
        self._options = options

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON."""
        return self._options.model_dump(mode="json")

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan that draws too little, or the lack of a judge."""
        need_judge(self.name, capabilities)
        need_strata(self.name, plan, self._options.strata, self._options.per_stratum)

    def prepare(self, materials: Sequence[Material]) -> None:
        """Nothing is cheaper for many latents."""

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """The activating examples and the silent ones, unmarked."""
        silent = [one for one in material.windows if not one.decile and one.kind in self.kinds]
        items = [
            Item(one.example_id, one.shown.render(), one.decile > 0)
            for one in (*activating(material, self._options), *silent)
        ]
        per_prompt = self._options.per_prompt
        return requests_of(
            self.name, TEMPLATE, items, material, explanation, protocol_id, per_prompt
        )

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """Whether each passage was said to activate."""
        return verdicts_of(request, protocol_id, answers)


def activating(material: Material, options: DetectionOptions) -> list[Window]:
    """The activating windows of a latent that are shown."""
    strata = of_strata(material, options.strata)
    if not options.top + options.weighted:
        return [window for those in strata.values() for window in those[: options.per_stratum]]
    windows = [window for those in strata.values() for window in those]
    windows.sort(key=lambda window: (-float(window.activations.max()), window.example_id))
    chosen, rest = windows[: options.top], windows[options.top :]
    n = min(options.weighted, len(rest))
    if n:
        weights = np.array([float(window.activations.max()) for window in rest])
        key = ("weighted", material.seed, material.hookpoint, material.latent)
        drawn = keyed_generator(*key).choice(
            len(rest), size=n, replace=False, p=weights / weights.sum()
        )
        chosen += [rest[at] for at in sorted(drawn.tolist())]
    return chosen
