"""Several explainers argue with verified quotes, and one who saw no passage chooses.

    explainer = Debate(debaters=3)
    explained.attempts                   # each debater's text, share of the votes, and quotes

After the post's sketch of a debate and Khan et al. 2024, "Debating with More Persuasive LLMs Leads
to More Truthful Answers". Everyone is asked at temperature 0: the debaters differ by the order of
the passages and by what they are told to look at first. Their notes are hidden from the one who
chooses, who may be a weaker model; it reads claims and the quotes that stand in the passages,
cut from there with their true marks.

Neither place nor length can win. With N claims it is asked N² times: each claim stands in each
place and is in turn made the longest, in every combination, by filler that says nothing; all others
are filled up to one length. One who always takes the first, or the longest, gives each N votes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from glossator.explain.delimited import Delimited
from glossator.explain.explainers import (
    SCHEMA,
    Ask,
    Attempt,
    Steps,
    Told,
    json_object,
    keyed,
    object_schema,
)
from glossator.explain.quotes import LONGEST, Quote, find_quotes
from glossator.explain.shots import Shot
from glossator.explain.views import View
from glossator.judges.base import TRANSIENT, Answer, Failure, Prompt
from glossator.shown import SIGNS

__all__ = ["Debate", "ballot", "filled"]

_LETTERS = "ABCDEFGH"
_QUOTES = 3
_TOKENS = 1_000
_SCHEMA = object_schema(
    notes={"type": "string", "maxLength": 600},
    quotes={
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": LONGEST},
        "minItems": _QUOTES,
        "maxItems": _QUOTES,
    },
    explanation=SCHEMA["properties"]["explanation"],
)
_ANSWER = """\
Others describe the unit, too. Somebody who cannot see the passages will choose among the \
descriptions by the quotes given for each. So give the three quotes that best bear yours out: \
each copied from one passage letter by letter, at most 20 words long, and holding a marked token. \
A quote that is not in the passages just so is struck out. Your notes are for yourself alone.

Answer with one JSON object, {"notes": "...", "quotes": ["...", "...", "..."], "explanation": \
"..."}, and nothing else."""
_LOOK = (
    "Look first at the marked tokens themselves.",
    "Look first at what stands before the marked tokens.",
    "Look first at what the passages are about.",
    "Look first at the form: spelling, grammar, layout.",
    "Look first at what the weakest passages share with the strongest.",
    "Look first at what would come right after the marked tokens.",
    "Look first for the narrowest description that fits every passage.",
    "Look first for exceptions: passages that fit no simple description.",
)
_CHOOSE = f"""\
Several people have described when one unit of a neural network is active. For each claim you are \
given quotes from texts; what stands between << and >> in a quote is where the unit really is \
active, whoever gave the quote. Choose the claim that the quotes of all of them bear out best: it \
fits what is marked, and nothing that is not. {SIGNS} Entries come in any order, and are brought \
to certain lengths by filler in square brackets; neither says anything about a claim.

Answer with one letter and nothing else."""
_FILLER = (
    "this is filler that brings the entry to its length and says nothing about what is claimed "
    "here or elsewhere, so it is best passed over; "
)
_MARGIN = 120
"""Characters by which the longest entry stands out at least."""


class Debate(Delimited):
    """Delimited passages read by several debaters; one who sees only their arguments chooses."""

    label: ClassVar[str] = "debate"

    debaters: int = Field(default=3, ge=2, le=len(_LETTERS))
    """How many explain; the one who chooses is asked the square of it."""

    @model_validator(mode="after")
    def _notes_are_the_thought(self) -> Self:
        if self.cot:
            raise ValueError("debaters write notes; leave `cot` out")
        return self

    @property
    def longest(self) -> int:
        """Notes and quotes take more words."""
        return self.max_tokens or _TOKENS

    @property
    def form(self) -> Mapping[str, Any]:
        """Notes, quotes and the explanation."""
        return _SCHEMA

    def answer_form(self) -> str:
        """What is asked for beside the explanation."""
        return _ANSWER

    def answer_of(self, shot: Shot) -> str:
        """A worked example: three of its passages are quoted whole."""
        quotes = [
            passage.shown.render(passage.marks(self.threshold)).strip()
            for passage in shot.active[:_QUOTES]
        ]
        fields = {"notes": f"{shot.tokens}; {shot.shared}", "quotes": quotes}
        return json.dumps({**fields, "explanation": shot.text}, ensure_ascii=False)

    def steps(self, view: View) -> Steps:
        """All debaters at once, then all ballots at once."""
        answers = yield [self._argue(view, number) for number in range(self.debaters)]
        arguments: list[_Argument] = []
        attempts: list[Attempt] = []
        for number, answer in enumerate(answers, start=1):
            argument = self._argument(view, answer)
            if isinstance(argument, Failure):
                if argument.kind in TRANSIENT:
                    return argument
                note, said = str(argument), ""
            else:
                note = "\n".join(quote.line for quote in argument.quotes) or "no quote was there"
                said = argument.text
                if argument.quotes:
                    arguments = _with(arguments, argument)
            attempts.append(Attempt(view.latent, number, said, None, False, note))
        if not arguments:
            return Failure("malformed", "no debater gave a quote that stands in the passages")
        votes: Sequence[float] | Failure = [1.0]
        if len(arguments) > 1:
            ballots = [
                self._ballot(view, arguments, first, longest)
                for first in range(len(arguments))
                for longest in range(len(arguments))
            ]
            votes = _counted((yield ballots), len(arguments))
        if isinstance(votes, Failure):
            return votes
        best = _chosen(view, arguments, votes)
        shares = {one.text: vote for one, vote in zip(arguments, votes, strict=True)}
        return Told(
            best.text,
            tuple(
                replace(one, score=shares.get(one.text), kept=one.text == best.text)
                for one in attempts
            ),
        )

    def _argue(self, view: View, number: int) -> Ask:
        """What one debater is asked: the passages in an order of its own."""
        order = keyed("debate", view.seed, view.hookpoint, view.latent, number)
        shuffled = [view.passages[i] for i in order.permutation(len(view.passages)).tolist()]
        asked = self.asked(replace(view, passages=tuple(shuffled)))
        user = f"{asked.prompt.user}\n\n{_LOOK[number % len(_LOOK)]}"
        return replace(asked, prompt=replace(asked.prompt, user=user))

    def _argument(self, view: View, answer: Answer) -> _Argument | Failure:
        text = self.read(answer)
        if isinstance(text, Failure):
            return text
        fields = json_object((answer.text or "").strip()) or {}
        given = fields.get("quotes")
        quotes = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
        found = find_quotes(quotes[:_QUOTES], view.passages, self.threshold)
        return _Argument(text, tuple(found))

    def _ballot(self, view: View, arguments: Sequence[_Argument], first: int, longest: int) -> Ask:
        prompt = Prompt(
            ballot(
                [(one.text, [quote.line for quote in one.quotes]) for one in arguments],
                first,
                longest,
            ),
            system=_CHOOSE,
            group=view.group,
            label=view.label("choice among explanations"),
        )
        letters = tuple(_LETTERS[: len(arguments)])
        return Ask(prompt, 4, choices=letters, to_chooser=True)


@dataclass(frozen=True, slots=True)
class _Argument:
    """What a debater says, with the quotes that are there."""

    text: str
    quotes: tuple[Quote, ...]


def _with(arguments: list[_Argument], new: _Argument) -> list[_Argument]:
    """The arguments and one more; of two that claim the same the better quoted one is left."""
    for place, one in enumerate(arguments):
        if one.text == new.text:
            better = max(one, new, key=lambda argument: len(argument.quotes))
            return [*arguments[:place], better, *arguments[place + 1 :]]
    return [*arguments, new]


def ballot(claims: Sequence[tuple[str, Sequence[str]]], first: int, longest: int) -> str:
    """The claims and their quotes, lettered.

    Every entry has as many lines, and line by line they are of one length, save those of the
    longest entry.

    Args:
        claims: texts and quotes.
        first: which stands first; the others follow in turn.
        longest: which is made the longest.
    """
    rows = [[text, *quotes, *[""] * (_QUOTES - len(quotes))] for text, quotes in claims]
    widths = [max(len(row[line]) for row in rows) for line in range(1 + _QUOTES)]
    entries = []
    for place in range(len(rows)):
        which = (first + place) % len(rows)
        lines = []
        for line, (text, width) in enumerate(zip(rows[which], widths, strict=True)):
            if line == 0 and which == longest:
                width += max(_MARGIN, width // 2)
            name = "Claim" if line == 0 else f"Quote {line}"
            lines.append(f"   {name}: {filled(text, width)}")
        entries.append("\n".join([f"{_LETTERS[place]}.", *lines]))
    return "\n".join(entries)


def filled(text: str, width: int) -> str:
    """A text and filler in square brackets, so many characters longer than `width` in all cases."""
    missing = width - len(text)
    filler = (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    return f"{text} [{filler}]"


def _counted(answers: Sequence[Answer], n: int) -> list[float] | Failure:
    """Each claim's share of the votes; `answers` as the ballots were made.

    A ballot without a letter favours nobody.
    """
    votes = [0.0] * n
    failures: list[Failure] = []
    for number, answer in enumerate(answers):
        if answer.failure is not None and answer.failure.kind in TRANSIENT:
            return answer.failure
        first = number // n
        shares = _shares(answer, n)
        if shares is None:
            failures.append(answer.failure or Failure("malformed", "the choice is no letter"))
            shares = [1 / n] * n
        for place, share in enumerate(shares):
            votes[(first + place) % n] += share
    if len(failures) == len(answers):
        return failures[0]
    return [vote / len(answers) for vote in votes]


def _shares(answer: Answer, n: int) -> list[float] | None:
    """What each place gets of one vote: its probability, or all of it; None without a letter."""
    letters = _LETTERS[:n]
    if answer.failure is not None:
        return None
    if answer.probabilities is not None:
        return [answer.probabilities.get(letter, 0.0) for letter in letters]
    said = (answer.text or "").strip().strip("\"'*(").upper()
    if not said or said[0] not in letters or said[1:2].isalnum():
        return None
    return [float(letter == said[0]) for letter in letters]


def _chosen(view: View, arguments: Sequence[_Argument], votes: Sequence[float]) -> _Argument:
    """The most votes; of equals the most quotes; of equals one by lot."""
    lot = keyed("lot", view.seed, view.hookpoint, view.latent).permutation(len(arguments))
    return arguments[
        max(
            range(len(arguments)),
            key=lambda i: (round(votes[i], 6), len(arguments[i].quotes), int(lot[i])),
        )
    ]
