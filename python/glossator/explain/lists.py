"""Short labels from lists: the tokens of the strongest peaks, what follows them, what is promoted.

    explainer = MaxActivations(n=10)
    explainer.name("llama")              # "max_activations:llama"

The way is that of Neuronpedia's `np_max-act-logits`: four lists, looked at in order, and labels
that begin with "say" where a latent is known by what it makes come next. The words are ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from pydantic import Field

from glossator.explain.explainers import Reader
from glossator.explain.views import Passage, View, signs
from glossator.judges.base import Prompt
from glossator.sampling import ExplainPlan
from glossator.shown import SIGNS

__all__ = ["MaxActivations"]

_SYSTEM = f"""\
You label one unit of a neural network that reads text and predicts the next token. You are given \
up to four lists:
1. PEAKS: the tokens on which it is most active, one from each text.
2. AFTER: the tokens right after those.
3. PROMOTED: the tokens that the active unit makes most likely to come next.
4. TEXTS: a stretch of each text, with the peak between << and >>.
␣ stands for a space. {SIGNS}

Take the first of these that gives a clear answer:
1. The peaks are one token or of one sort: the label is that token or that sort.
2. The tokens after the peaks are alike, or of a sort that PROMOTED bears out: the label is "say" \
and that token or sort.
3. The promoted tokens are alike: the label is "say" and what they are.
4. The texts are about one thing: the label is that thing.
A list may hold some tokens that do not fit: go by the most of it, upper and lower case alike.

The label has 1 to 6 words. It is as specific as the lists allow, and says nothing of tokens, \
words, texts, lists or patterns as such. Answer with one JSON object, {{"explanation": "..."}}, \
and nothing else."""

_Lists = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...], str]
_SHOTS: tuple[_Lists, ...] = (
    (
        ("␣seven", "␣four", "␣Twelve", "␣three"),
        ("␣and", "␣of", "␣years", "␣students"),
        ("teen", "␣hundred", "fold", "␣times"),
        (
            "The ferry leaves at <<seven>> and returns",
            " they sold <<four>> of the paintings",
            "<<Twelve>> years in the same house",
            " in the end only <<three>> students passed",
        ),
        "numbers in words",
    ),
    (
        ("␣the", "␣my", "␣her", "␣at"),
        ("␣throat", "␣teeth", "␣tongue", "␣mouth"),
        ("␣lips", "␣throat", "␣jaw", "␣mouth"),
        (
            " felt it stick in <<the>> throat",
            " I brushed <<my>> teeth twice",
            " she bit <<her>> tongue and said",
            " foaming <<at>> the mouth",
        ),
        "say parts of the mouth",
    ),
    (
        (",", "␣was", "␣that", "␣of"),
        ("␣nearly", "␣in", "␣it", "␣stone"),
        ("burgh", "shire", "ville", "ham"),
        (
            " the old road<<,>> nearly forgotten, ran",
            " the fair <<was>> in the next town",
            " so small <<that>> it has no church",
            " a bridge <<of>> stone over the",
        ),
        "say endings of place names",
    ),
    (
        ("␣stood", "␣ended", ".", "␣for"),
        ("␣up", "␣with", "⏎", "␣order"),
        ("ao", "::", "␣Q", "x"),
        (
            " members <<stood>> up to be counted",
            " the debate <<ended>> with a vote",
            " the bill was read a third time<<.>>",
            " the speaker called <<for>> order",
        ),
        "parliamentary debates",
    ),
)
"""Worked examples, one for each of the four ways."""


class MaxActivations(Reader):
    """Lists of peaks, of what follows them, of promoted tokens, and short texts."""

    label: ClassVar[str] = "max_activations"
    examples: ClassVar[ExplainPlan] = ExplainPlan(kind="top", n=10)

    logits: int = Field(default=10, ge=0)
    """So many of the tokens that the latent promotes are listed; 0 leaves that list out."""
    around: int = Field(default=8, ge=1)
    """Tokens before and after the peak in the short texts."""

    @property
    def sees_logits(self) -> bool:
        """Whether it is shown the tokens that the latent promotes."""
        return self.logits > 0

    def prompt(self, view: View) -> Prompt:
        """The lists."""
        peaks, after, texts = [], [], []
        for passage in view.passages:
            here, following = _at_peak(passage)
            peaks.append(here)
            if following:
                after.append(following)
            texts.append(_around(passage, self.around))
        promoted: list[str] = []
        if self.logits and view.logits is not None:
            promoted = [view.name(token) for token, _ in view.logits.top[: self.logits]]
        return Prompt(
            _lists(peaks, after, promoted, texts),
            system=_SYSTEM,
            shots=_shots(self.sees_logits),
            group=view.group,
            label=view.label("explanation"),
        )


def _lists(
    peaks: Sequence[str], after: Sequence[str], promoted: Sequence[str], texts: Sequence[str]
) -> str:
    named = {"PEAKS": peaks, "AFTER": after, "PROMOTED": promoted}
    lines = [
        f"{name}: " + " ".join(json.dumps(token, ensure_ascii=False) for token in tokens)
        for name, tokens in named.items()
        if tokens
    ]
    return "\n".join([*lines, "TEXTS:", *texts])


@cache
def _shots(with_logits: bool) -> tuple[tuple[str, str], ...]:
    # Without the list nothing tells the third unit.
    chosen = _SHOTS if with_logits else (*_SHOTS[:2], *_SHOTS[3:])
    return tuple(
        (
            _lists(peaks, after, promoted if with_logits else (), texts),
            json.dumps({"explanation": label}),
        )
        for peaks, after, promoted, texts, label in chosen
    )


def _at_peak(passage: Passage) -> tuple[str, str]:
    """The sign of the peak and the one after it, with visible spaces; empty where none is."""
    head = passage.shown.heads[passage.peak]
    texts = [(sign.offset, _printed(sign.text)) for sign in signs(passage, 0.0)]
    here = next((text for offset, text in texts if offset == head), "")
    return here, next((text for offset, text in texts if offset > head), "")


def _printed(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥")


def _around(passage: Passage, reach: int) -> str:
    """The stretch around the peak, which alone is marked."""
    peak = passage.peak
    return passage.cut(peak - reach, peak + reach + 1).shown.render([peak - max(peak - reach, 0)])
