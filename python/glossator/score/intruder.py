"""Intruder: which of five marked passages does not belong? No explanation is needed.

    scorer = IntruderScorer(IntruderOptions(strata="decile"))
    scorer.requests(material, explanation, protocol_id)     # four of one decile and one other

Four windows of a decile are marked where the latent is active; the fifth is one in which it is
silent, marked in the pattern of one more window of that decile. How often it is found says how
much the latent's windows have in common, to the judge, at each strength of activation. The method
is that of Paulo and Belrose (2025), "Evaluating SAE interpretability without explanations".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

from pydantic import Field

from glossator.judges.base import Answer, Capabilities, Failure, Prompt, Reading
from glossator.records import Explanation, Record, Verdict, content_id
from glossator.sampling import SamplingPlan
from glossator.score.lettered import LETTERS, letter_job, place_of, share_of
from glossator.score.marks import right_marks, silent_signs
from glossator.score.parts import failure_of, missing, need_windows, prompt_id_of, verdict_of
from glossator.score.questions import Item, Window, keyed_generator
from glossator.score.scorers import Material, Request
from glossator.shown import SIGNS, Shown

__all__ = ["IntruderOptions", "IntruderScorer", "moved_marks"]

_ALIKE = len(LETTERS) - 1
_STRATA = {"decile": 1, "quintile": 2}

_SYSTEM = f"""\
You are given five passages, A to E, in which parts are marked, between << and >>. One unit of a \
neural network is active on the marked parts of four of them. In the fifth the marks stand on \
parts that have nothing to do with the unit. Find out what the four have in common, mostly in or \
shortly before the marked parts, and say which passage is the fifth. {SIGNS} Answer with one \
letter and nothing else."""

_SHOTS: tuple[tuple[tuple[str, ...], int], ...] = (
    (
        (
            "¶The ferry leaves at <<seven>> and returns before",
            " only <<three>> students passed; <<nineteen>> had tried",
            " painted the <<gate>> green and left it open⏎",
            " after <<twelve>> years in the same house, she",
            "sold <<four>> of the paintings, kept the rest⏎",
        ),
        2,
    ),
    (
        (
            "for x in sorted(<<names>>): out.write(x)",
            "if len(rows<<)>> == 0: return None",
            "print(total<<)>>⏎return total⏎",
            "self.close(<<)>>⏎⏎def open(path",
            " assert check(value<<)>> is True",
        ),
        0,
    ),
)
"""Worked examples: passages and the intruder's place."""


class IntruderOptions(Record):
    """How many questions are asked, about which windows."""

    strata: Literal["decile", "quintile"] = "decile"
    """What the four alike have in common beside the latent: a decile, or two of them."""
    questions: int = Field(default=1, ge=1)
    """Questions of each decile or quintile."""
    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Tokens above this share of a window's maximum are marked."""


class IntruderScorer:
    """Asks which of five windows the latent is silent in."""

    name = "intruder"
    needs_explanation = False
    slow = False
    template_hash = content_id(_SYSTEM, _SHOTS)

    def __init__(self, options: IntruderOptions = IntruderOptions()) -> None:  # noqa: B008
        self._options = options

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON."""
        return self._options.model_dump(mode="json")

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan that draws too little."""
        width, asked = _STRATA[self._options.strata], self._options.questions
        each = -(-_ALIKE * asked // width)
        need_windows(self.name, plan, per_decile=each, silent=asked * 10 // width)

    def prepare(self, materials: Sequence[Material]) -> None:
        """Nothing is cheaper for many latents."""

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """A question for every four windows of a stratum; each silent window is shown once."""
        # Negatives of a kind that is not filtered may be active after all.
        silent = iter([w for w in material.windows if w.decile == 0 and not w.activations.any()])
        for number, alike, spare in self._fours(material.windows):
            items = [self._right(window) for window in alike]
            pattern = right_marks(spare, self._options.threshold)
            intruder = next(filter(None, (_wrong(window, pattern) for window in silent)), None)
            if intruder is None:
                return
            generator = keyed_generator(
                "intruder", material.seed, material.hookpoint, material.latent, number
            )
            order = generator.permutation(_ALIKE).tolist()
            items = [items[place] for place in order]
            items.insert(int(generator.integers(len(LETTERS))), intruder)
            key = prompt_id_of(self.name, explanation, protocol_id, items)
            prompt = Prompt(
                _question([item.line for item in items]),
                system=_SYSTEM,
                shots=tuple((_question(lines), LETTERS[place]) for lines, place in _SHOTS),
                group=f"{material.hookpoint}/{material.latent}",
                label=f"latent {material.latent}, {self.name}",
            )
            jobs = (letter_job(None, prompt),)
            yield Request(key, self.name, explanation, tuple(items), jobs)

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """For each of the five whether it was named; the truth is whether it is the intruder."""
        failure = failure_of(answers)
        if failure is not None:
            return missing(request, protocol_id, failure)
        (answer,) = answers
        place = place_of(answer)
        if isinstance(place, Failure):
            return missing(request, protocol_id, place)
        return [
            verdict_of(
                request, protocol_id, slot, answer=slot == place, p_yes=share_of(answer, slot)
            )
            for slot in range(len(request.items))
        ]

    def _fours(self, windows: Sequence[Window]) -> Iterator[tuple[int, Sequence[Window], Window]]:
        """Number, four windows of a stratum, and the one whose pattern the intruder takes."""
        width, asked = _STRATA[self._options.strata], self._options.questions
        for first in range(1, 11, width):
            rows = [
                [window for window in windows if window.decile == decile]
                for decile in range(first, first + width)
            ]
            # The deciles of a quintile take turns.
            held = [window for turn in zip_longest(*rows) for window in turn if window is not None]
            for number in range(min(asked, len(held) // _ALIKE)):
                begin = _ALIKE * number
                # The pattern of one that is shown would stand there twice, if there is another.
                spare = held[begin - 1] if number else held[min(_ALIKE * asked, len(held) - 1)]
                yield 100 * first + number, held[begin : begin + _ALIKE], spare

    def _right(self, window: Window) -> Item:
        marks = right_marks(window, self._options.threshold)
        return Item(window.example_id, window.shown.render(marks), False, marks)


def _wrong(window: Window, pattern: Sequence[int]) -> Item | None:
    marks = moved_marks(window, pattern)
    return Item(window.example_id, window.shown.render(marks), True, marks) if marks else None


def moved_marks(window: Window, pattern: Sequence[int]) -> tuple[int, ...] | None:
    """The pattern's offsets, moved as little as puts all of them on silent tokens that show.

    Returns:
        Ascending offsets, whole characters; None where the pattern fits nowhere.
    """
    shown: Shown = window.shown
    free = set(shown.whole(silent_signs(window)))
    steps = range(-max(pattern, default=0), len(shown.pieces))
    for step in sorted(steps, key=lambda step: (abs(step), step)):
        if all(at + step in free for at in pattern):
            return shown.whole(at + step for at in pattern)
    return None


def _question(lines: Sequence[str]) -> str:
    return "\n".join(f"{letter}: {line}" for letter, line in zip(LETTERS, lines, strict=True))
