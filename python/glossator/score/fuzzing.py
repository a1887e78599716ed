"""Fuzzing: are the marked tokens the ones on which the latent is active?

    scorer = FuzzingScorer(FuzzingOptions(right=5, wrong=2))
    scorer.requests(material, explanation, protocol_id)      # 50 rightly and 20 wrongly marked

The method is that of "Open Source Automated Interpretability for Sparse Autoencoder Features"
(Juang et al., 2024): of seven activating examples per decile five are marked rightly and two at
random places where the latent is silent, as many tokens as are marked rightly on average.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from glossator.judges.base import Answer, Capabilities, Reading
from glossator.records import Explanation, Record, Verdict
from glossator.sampling import SamplingPlan
from glossator.score.parts import need_judge, need_windows
from glossator.score.questions import Item, Template, Window, keyed_generator
from glossator.score.scorers import Material, Request, Shortfall
from glossator.score.yes_or_no import requests_of, verdicts_of
from glossator.shown import SIGNS

__all__ = [
    "TEMPLATE",
    "FuzzingOptions",
    "FuzzingScorer",
    "fuzzing_items",
    "right_marks",
    "silent_signs",
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

    right: int = Field(default=5, ge=1)
    """Examples of each decile that are marked rightly: the first ones."""
    wrong: int = Field(default=2, ge=1)
    """Examples of each decile that are marked wrongly: the next ones."""
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
        shown = self._options.right + self._options.wrong
        need_windows(self.name, plan, per_decile=shown, silent=0)

    def prepare(self, materials: Sequence[Material]) -> list[Shortfall]:
        """Mark the examples of some latents; those of the latents before are forgotten."""
        self._items, shortfalls = {}, []
        for material in materials:
            items, left_out = self._marked(material)
            self._items[material.hookpoint, material.latent] = items
            if left_out:
                wanted = left_out + sum(not item.truth for item in items)
                shortfalls.append(
                    Shortfall(material.latent, "wrong marks", wanted, wanted - left_out)
                )
        return shortfalls

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """Activating examples, marked rightly and wrongly."""
        items = self._items.get((material.hookpoint, material.latent))
        if items is None:
            items, _ = self._marked(material)
        per_prompt = self._options.per_prompt
        return requests_of(
            self.name, TEMPLATE, items, material, explanation, protocol_id, per_prompt
        )

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """Whether each passage was said to be marked rightly."""
        return verdicts_of(request, protocol_id, answers)

    def _marked(self, material: Material) -> tuple[list[Item], int]:
        return fuzzing_items(
            material.windows,
            right=self._options.right,
            wrong=self._options.wrong,
            threshold=self._options.threshold,
            key=(material.seed, material.hookpoint, material.latent),
        )


def right_marks(window: Window, threshold: float) -> tuple[int, ...]:
    """Offsets whose activation is above a share of the window's maximum; whole characters."""
    peak = window.activations.max(initial=np.float32(0.0))
    if peak <= 0:
        return ()
    return window.shown.whole(np.flatnonzero(window.activations > threshold * peak).tolist())


def silent_signs(window: Window) -> list[int]:
    """First tokens of the characters on which the latent is silent and which may be marked.

    Silent is an activation of exactly 0 on every token of the character, none of them masked.
    """
    shown = window.shown
    barred = {
        shown.heads[at]
        for at, (value, live) in enumerate(zip(window.activations, shown.live, strict=True))
        if value != 0 or not live
    }
    return [
        at
        for at, head in enumerate(shown.heads)
        if at == head and head not in barred and shown.pieces[at]
    ]


def fuzzing_items(
    windows: Sequence[Window], *, right: int, wrong: int, threshold: float, key: tuple[object, ...]
) -> tuple[list[Item], int]:
    """Activating windows, marked rightly and wrongly.

    Args:
        windows: one latent's examples of the score side, in the order of drawing.
        right: how many of each decile are marked rightly: the first ones.
        wrong: how many after those are marked wrongly.
        threshold: tokens above this share of the window's maximum are marked rightly.
        key: what the places of wrong marks depend on beside the example.

    Returns:
        The items, and how many windows were left out because they have too few silent tokens.
    """
    activating = [window for window in windows if window.decile > 0]
    marks = [right_marks(window, threshold) for window in activating]
    sizes = [
        len({window.shown.heads[at] for at in marked})
        for window, marked in zip(activating, marks, strict=True)
    ]
    n = max(1, round(float(np.mean(sizes)))) if sizes else 0
    taken: Counter[int] = Counter()
    items, left_out = [], 0
    for window, marked in zip(activating, marks, strict=True):
        taken[window.decile] += 1
        place = taken[window.decile]
        if place <= right:
            line = window.shown.render(marked)
            items.append(Item(window.example_id, line, True, marked))
        elif place <= right + wrong:
            silent = silent_signs(window)
            if len(silent) < n:
                left_out += 1
                continue
            generator = keyed_generator("marks", *key, window.example_id)
            chosen = generator.choice(len(silent), size=n, replace=False).tolist()
            marked = window.shown.whole(silent[at] for at in chosen)
            items.append(Item(window.example_id, window.shown.render(marked), False, marked))
    return items, left_out
