"""Fuzzing: are the marked tokens the ones on which the latent is active?

    scorer = FuzzingScorer(FuzzingOptions(right=5, wrong=2))
    scorer.requests(material, explanation, protocol_id)      # 50 rightly and 20 wrongly marked

The method is that of "Open Source Automated Interpretability for Sparse Autoencoder Features"
(Juang et al., 2024): of seven activating examples per decile five are marked rightly and two
wrongly, at places where the latent is silent. There the wrong marks are as many as the right ones
on average, at random places, so that they are told without reading: a right marking has two tokens
or five in a row, a wrong one always three that are scattered. Here each wrong one has the pattern
of a right one (`glossator.score.marks`), unless `marks` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, Literal

import numpy as np
from pydantic import Field

from glossator.judges.base import Answer, Capabilities, Reading
from glossator.records import Explanation, Record, Verdict
from glossator.sampling import SamplingPlan
from glossator.score.marks import moved, right_marks, scattered
from glossator.score.parts import Strata, need_judge, need_strata, of_strata
from glossator.score.questions import Item, Template, Window, keyed_generator
from glossator.score.scorers import Material, Request, Shortfall
from glossator.score.yes_or_no import requests_of, verdicts_of
from glossator.shown import SIGNS

__all__ = [
    "TEMPLATE",
    "FuzzingOptions",
    "FuzzingScorer",
    "fuzzing_items",
]

TEMPLATE = Template(
    task=f"""\
You check a description of one unit of a neural network. You are given the description and then \
some numbered passages in which parts are marked, between << and >>. For each passage say whether \
the marks are right, going by the description alone: true if the marked parts are those on which \
the unit is active, false if they are not. Any number of the passages may be marked rightly; \
sometimes all are, sometimes none. {SIGNS}

Answer with a JSON array of booleans, one for each passage in order, and nothing else.""",
    task_of_one=f"""\
You check a description of one unit of a neural network. You are given the description and then \
a passage in which parts are marked, between << and >>. Say whether the marks are right, going by \
the description alone: yes if the marked parts are those on which the unit is active, no if they \
are not. {SIGNS}

Answer with one word, yes or no.""",
    shots=(
        (
            "numbers written out as words",
            "¶The ferry leaves at <<seven>> and returns before\n"
            " after twelve years in the <<same>> house, she\n"
            " only <<three>> students passed; <<nineteen>> had tried\n"
            "sold four of <<the>> paintings, kept <<the rest>>⏎",
            (True, False, True, False),
        ),
        (
            "the word not, and contractions that end in n't",
            " it <<does>> not matter who came <<first>>\n <<we>> couldn't see the harbour",
            (False, False),
        ),
        (
            "closing brackets at the end of a function call",
            "print(total<<)>>⏎return total⏎\n"
            " for x in sorted(names<<)>>: out.write(x<<)>>\n"
            "if len(rows<<) == 0>>: return None",
            (True, True, False),
        ),
    ),
)
"""The words of the prompt."""


class FuzzingOptions(Record):
    """What fuzzing shows."""

    strata: Strata = "decile"
    """By what the examples are counted."""
    right: int = Field(default=5, ge=1)
    """Examples of each stratum that are marked rightly: the first ones, as in detection."""
    wrong: int = Field(default=2, ge=1)
    """Examples of each stratum that are marked wrongly: the next ones."""
    wrong_on: Literal["activating", "silent"] = "activating"
    """`silent`: so many silent windows are marked wrongly in their place."""
    marks: Literal["pattern", "average", "active"] = "pattern"
    """How wrong marks are made. `pattern`: each in the pattern of a right marking. At random
    places, `average`: as many as the right ones on average; `active`: as many as there are active
    tokens on average, rounded up."""
    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Tokens above this share of the example's maximum are marked rightly."""
    per_prompt: int = Field(default=5, ge=1)
    """Examples in one prompt; with 1 the answer is one word, and its probability is known."""


class FuzzingScorer:
    """Asks whether the marks in a passage stand where an explained latent is active."""

    name = "fuzzing"
    needs_explanation = True
    slow = False
    template_hash = TEMPLATE.hash

    def __init__(self, options: FuzzingOptions = FuzzingOptions()) -> None:  # noqa: B008
        self._options = options
        self._items: dict[tuple[str, int], list[Item]] = {}

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON."""
        return self._options.model_dump(mode="json")

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan that draws too little, or the lack of a judge."""
        need_judge(self.name, capabilities)
        options = self._options
        wrong = options.wrong if options.wrong_on == "activating" else 0
        need_strata(self.name, plan, options.strata, options.right + wrong)

    def prepare(self, materials: Sequence[Material]) -> list[Shortfall]:
        """Mark the examples of some latents; those of the latents before are forgotten."""
        self._items, shortfalls = {}, []
        for material in materials:
            items, left_out = fuzzing_items(material, self._options)
            self._items[material.hookpoint, material.latent] = items
            if left_out:
                found = sum(not item.truth for item in items)
                shortfalls.append(
                    Shortfall(material.latent, "wrong marks", found + left_out, found)
                )
        return shortfalls

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """Activating examples, marked rightly and wrongly."""
        items = self._items.get((material.hookpoint, material.latent))
        if items is None:
            items, _ = fuzzing_items(material, self._options)
        per_prompt = self._options.per_prompt
        return requests_of(
            self.name, TEMPLATE, items, material, explanation, protocol_id, per_prompt
        )

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """Whether each passage was said to be marked rightly."""
        return verdicts_of(request, protocol_id, answers)


def fuzzing_items(material: Material, options: FuzzingOptions) -> tuple[list[Item], int]:
    """A latent's windows, marked rightly and wrongly.

    Returns:
        The items, and how many windows were left out because they have too few silent tokens.
    """
    strata = of_strata(material, options.strata)
    right = [window for those in strata.values() for window in those[: options.right]]
    if options.wrong_on == "activating":
        last = options.right + options.wrong
        wrong = [window for those in strata.values() for window in those[options.right : last]]
    else:
        silent = [window for window in material.windows if not window.decile]
        wrong = silent[: options.wrong * len(strata)]
    marked = [right_marks(window, options.threshold) for window in right]
    items = [_item(window, marks, True) for window, marks in zip(right, marked, strict=True)]
    generator = keyed_generator("marks", material.seed, material.hookpoint, material.latent)
    if options.marks == "pattern":
        found = moved(marked, wrong, generator)
    else:
        n = _average([*right, *wrong], options)
        found = [scattered(window, n, generator) if n else None for window in wrong]
    items += [
        _item(window, marks, False)
        for window, marks in zip(wrong, found, strict=True)
        if marks is not None
    ]
    return items, found.count(None)


def _item(window: Window, marks: tuple[int, ...], truth: bool) -> Item:
    return Item(window.example_id, window.shown.render(marks), truth, marks)


def _average(windows: Sequence[Window], options: FuzzingOptions) -> int:
    """How many characters are marked wrongly; 0 where there is nothing to go by."""
    active = [window for window in windows if window.decile]
    if not active:
        return 0
    if options.marks == "active":
        return ceil(np.mean([np.count_nonzero(window.activations) for window in active]))
    sizes = [
        len({window.shown.heads[at] for at in right_marks(window, options.threshold)})
        for window in active
    ]
    return max(1, round(float(np.mean(sizes))))
