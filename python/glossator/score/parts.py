"""What the scorers have in common: which windows they show, and verdicts of one request.

    windows = first_windows(material.windows, per_decile=1, silent=10)
    verdict_of(request, protocol_id, slot, answer=True)
    missing(request, protocol_id, Failure("timeout"))

The windows of a latent come in the order of drawing, so the first ones are a smaller draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

from glossator.errors import InputError
from glossator.judges.base import Answer, Capabilities, Failure, Reading
from glossator.records import Explanation, Verdict, content_id
from glossator.sampling import SamplingPlan
from glossator.score.questions import Item, Window, keyed_generator
from glossator.score.scorers import Material, Request

__all__ = [
    "WIDTHS",
    "Strata",
    "failure_of",
    "first_windows",
    "missing",
    "need_judge",
    "need_readings",
    "need_strata",
    "need_windows",
    "of_strata",
    "prompt_id_of",
    "verdict_of",
]


Strata: TypeAlias = Literal["decile", "quintile"]
"""By what activating examples are counted: ten strata or five."""

WIDTHS: dict[str, int] = {"decile": 1, "quintile": 2}
"""Deciles in a stratum."""


def of_strata(material: Material, strata: Strata) -> dict[int, list[Window]]:
    """A latent's activating windows by stratum, from 1 on.

    The deciles of a quintile take turns, which of them begins being drawn by seed: the first five
    are three of one and two of the other, and the next five the reverse.
    """
    deciles: dict[int, list[Window]] = {decile: [] for decile in range(1, 11)}
    for window in material.windows:
        if window.decile:
            deciles[window.decile].append(window)
    if strata == "decile":
        return deciles
    generator = keyed_generator("strata", material.seed, material.hookpoint, material.latent)
    found = {}
    for stratum, swapped in enumerate(generator.integers(2, size=5).tolist(), start=1):
        pair = [deciles[2 * stratum - 1 + swapped], deciles[2 * stratum - swapped]]
        turns = zip_longest(*pair)
        found[stratum] = [window for turn in turns for window in turn if window is not None]
    return found


def first_windows(
    windows: Sequence[Window], *, per_decile: int | None, silent: int | None
) -> list[Window]:
    """The first activating windows of each decile and the first silent ones; all where None."""
    limits = {0: silent}
    taken: Counter[int] = Counter()
    chosen = []
    for window in windows:
        taken[window.decile] += 1
        limit = limits.get(window.decile, per_decile)
        if limit is None or taken[window.decile] <= limit:
            chosen.append(window)
    return chosen


def need_windows(
    scorer: str, plan: SamplingPlan, *, per_decile: int | None, silent: int | None
) -> None:
    """Refuse a plan that draws less than a scorer shows.

    Args:
        scorer: who shows it.
        plan: what is drawn.
        per_decile: activating windows of each decile; None for all, but one at least.
        silent: negatives; None for all, but one at least.

    Raises:
        InputError: names the field of the plan.
    """
    wanted = 1 if per_decile is None else per_decile
    if plan.per_decile < wanted:
        raise InputError(
            f"plan: `per_decile` is {plan.per_decile}; {scorer} shows {wanted} examples of each "
            "decile"
        )
    wanted = 1 if silent is None else silent
    drawn = sum(negative.n for negative in plan.negatives)
    if drawn < wanted:
        raise InputError(f"plan: `negatives` are {drawn}; {scorer} shows {wanted}")


def need_strata(scorer: str, plan: SamplingPlan, strata: Strata, wanted: int) -> None:
    """Refuse a plan that draws fewer activating windows of each stratum than a scorer shows.

    Raises:
        InputError: names the field of the plan.
    """
    if plan.per_decile * WIDTHS[strata] < wanted:
        raise InputError(
            f"plan: `per_decile` is {plan.per_decile}; {scorer} shows {wanted} examples of each "
            f"{strata}"
        )


def need_judge(scorer: str, capabilities: Capabilities | None) -> None:
    """Refuse to score by a judge where none is named.

    Raises:
        InputError: there is no judge.
    """
    if capabilities is None:
        raise InputError(f"scorer `{scorer}`: asks a judge; name one, or leave the scorer out")


def need_readings(scorer: str, capabilities: Capabilities | None) -> None:
    """Refuse a judge that cannot weigh given words.

    Raises:
        InputError: names what is missing.
    """
    if capabilities is None or not capabilities.readings:
        raise InputError(
            f"scorer `{scorer}`: the judge gives no log probabilities of a given text; take one "
            "behind vLLM (`prompt_logprobs`), or leave the scorer out"
        )


def prompt_id_of(
    scorer: str, explanation: Explanation, protocol_id: str, items: Sequence[Item], *more: object
) -> str:
    """Id of a request: the same question about the same explanation has it again."""
    content = [(item.example_id, item.marks) for item in items]
    return content_id(explanation.explanation_id, protocol_id, scorer, content, *more)


def verdict_of(
    request: Request,
    protocol_id: str,
    slot: int,
    **fields: Any,  # noqa: ANN401 - those of the verdict, checked by pydantic
) -> Verdict:
    """The verdict on the item at a place of a request."""
    item = request.items[slot]
    named: dict[str, Any] = {
        "explanation_id": request.explanation.explanation_id,
        "protocol_id": protocol_id,
        "scorer": request.scorer,
        "example_id": item.example_id,
        "prompt_id": request.prompt_id,
        "slot": slot,
        "marks": item.marks,
        "truth": item.truth,
        "answer": None,
    }
    return Verdict(**{**named, **fields})


def missing(request: Request, protocol_id: str, failure: Failure) -> list[Verdict]:
    """Every item's verdict, missing, with the reason."""
    return [
        verdict_of(request, protocol_id, slot, failure=str(failure))
        for slot in range(len(request.items))
    ]


def failure_of(answers: Sequence[Answer | Reading]) -> Failure | None:
    """The first failure among the answers to a request; None where all were answered."""
    return next((answer.failure for answer in answers if answer.failure is not None), None)
