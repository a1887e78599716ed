"""The explainers by name.

    explainer_of("activations", threshold=0.6, n=20)
    saw_logits("cot(logits=10):llama")   # True

A command line gives settings as texts (`threshold=0.6`); they are read as the fields' types.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from pydantic import ValidationError

from glossator.errors import InputError
from glossator.explain.baselines import Nothing, Null, PeakToken
from glossator.explain.debate import Debate
from glossator.explain.delimited import (
    Activations,
    ChainOfThought,
    Contrastive,
    Delimited,
    TopLogits,
)
from glossator.explain.explainers import Explainer
from glossator.explain.given import File
from glossator.explain.lists import MaxActivations
from glossator.explain.pairs import TokenActivations
from glossator.explain.refine import Refine
from glossator.explain.rules import RuleOptions

__all__ = ["EXPLAINERS", "explainer_of", "saw_logits"]

EXPLAINERS: Mapping[str, type[Explainer]] = {
    kind.label: kind
    for kind in (
        RuleOptions,
        Delimited,
        ChainOfThought,
        Activations,
        TopLogits,
        Contrastive,
        TokenActivations,
        MaxActivations,
        Refine,
        Debate,
        File,
        PeakToken,
        Nothing,
        Null,
    )
}
"""All explainers, by name."""

_NAME = re.compile(r"(?P<label>\w+)(?:\((?P<settings>.*?)\))?(?::|$)")


def explainer_of(name: str, /, **settings: object) -> Explainer:
    """The explainer of a name, with settings.

    Args:
        name: one of `EXPLAINERS`.
        settings: its fields, as they are or as texts.

    Raises:
        InputError: an unknown name or setting, or a value out of range; says what there is.
    """
    kind = EXPLAINERS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, EXPLAINERS, n=1)
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        raise InputError(f"explainer `{name}`: unknown{hint}; known are {', '.join(EXPLAINERS)}")
    for field in settings:
        if field not in kind.model_fields:
            there = ", ".join(kind.model_fields) or "none"
            raise InputError(f"explainer `{name}`: no setting `{field}`; its settings are {there}")
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise InputError(f"explainer `{name}`: give `{field}`") from None
        where = f"`{field}` is {first['input']!r}: " if field else ""
        raise InputError(f"explainer `{name}`: {where}{message[:1].lower()}{message[1:]}") from None


def saw_logits(explainer: str) -> bool:
    """Whether an explainer, by its name in the tables, was shown the tokens that are promoted."""
    found = _NAME.match(explainer.removeprefix(f"{Null.label}:"))
    if found is None or found["label"] not in EXPLAINERS:
        return False
    kind = EXPLAINERS[found["label"]]
    pairs = (pair.partition("=") for pair in (found["settings"] or "").split(",") if pair)
    settings = {key: value for key, _, value in pairs if key in kind.model_fields}
    try:
        return kind.model_validate(settings).sees_logits
    except ValidationError:
        return False
