"""An explainer that sees how its description fared, with new counterexamples, and tries again.

    explainer = Refine(rounds=2)
    explained.attempts                   # each round's text and its score; the best is kept

After the post's idea of an explainer that climbs a score ("Open Source Automated Interpretability
for Sparse Autoencoder Features", 2024, Future Directions). All of it happens on the explain side,
whose documents are dealt out: some are shown, some are hunted for counterexamples (others in each
round), and on the last, of which nothing is ever shown, all texts are scored alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from glossator.explain.delimited import Delimited
from glossator.explain.explainers import Ask, Attempt, Steps, Told
from glossator.explain.views import Part, Passage, View, Wants
from glossator.judges.base import TRANSIENT, Answer, Failure, Prompt
from glossator.sampling import SamplingPlan
from glossator.shown import SIGNS

__all__ = ["Refine", "verdict"]

_YES_NO = ("yes", "no")
_CHECK_TOKENS = 4
_CHECK = f"""\
You check a description of one unit of a neural network. You are given the description and one \
passage. Say whether the unit is active on any part of the passage, going by the description \
alone: yes if some word or sign of the passage fits the description, no if nothing in it does. \
{SIGNS}

Answer with one word, yes or no."""
_CHECK_SHOTS = (
    ("numbers written out as words", " after twelve years in the same house, she", "yes"),
    ("numbers written out as words", "Call 555-0199 between 9 and 17 h", "no"),
)
_AGAIN = """\
Above are your earlier descriptions, with their balanced accuracy: somebody who knew nothing but \
the description was asked whether the unit is active in other passages. Beneath each stand \
passages that it got wrong. If it missed active passages, the description is too narrow; if it \
fitted silent ones, it is too broad. Write a better one, for all passages that you were shown. It \
may be quite another."""


class Refine(Delimited):
    """Delimited passages, and another try after each look at what went wrong."""

    label: ClassVar[str] = "refine"

    rounds: int = Field(default=2, ge=1)
    """Tries after the first."""
    checks: int = Field(default=20, ge=4)
    """Active passages, and silent ones, on which each text is scored."""
    hunted: int = Field(default=10, ge=1)
    """Active passages, and silent ones, among which each round looks for counterexamples."""
    counterexamples: int = Field(default=4, ge=1)
    """Of either sort so many are shown at most."""

    def wants(self, plan: SamplingPlan | None) -> Wants:
        """Passages to show, to score on, and to hunt in."""
        half = self.checks // 2
        hunting = [Part(self.hunted, hard=self.hunted)] * self.rounds
        scoring = Part(self.checks, hard=self.checks - half, easy=half)
        # Of a rare latent's few documents one goes to scoring before any is hunted in.
        return replace(super().wants(plan), parts=(scoring, *hunting))

    def steps(self, view: View) -> Steps:
        """Ask, score, show what was wrong; as often as asked, or until nothing was."""
        asked = self.asked(view)
        scoring, *hunting = view.parts
        told: list[_Try] = []
        failed = ""
        for number in range(self.rounds + 1):
            (answer,) = yield [self._next(asked, told)]
            text = self.read(answer)
            if isinstance(text, Failure):
                if text.kind in TRANSIENT or not told:
                    return text
                failed = str(text)
                break
            hunt = hunting[number] if number < self.rounds else ()
            passages = [*scoring, *hunt]
            answers = yield [self._check(view, text, passage) for passage in passages]
            verdicts = [verdict(one) for one in answers]
            for one in verdicts:
                if isinstance(one, Failure) and one.kind in TRANSIENT:
                    return one
            judged = list(zip(passages, verdicts, strict=True))
            wrong = _wrong(judged[len(scoring) :])
            told.append(_Try(text, _balanced_accuracy(judged[: len(scoring)]), wrong))
            if told[-1].score is None or (told[-1].score == 1.0 and not wrong):
                # Nothing to go by, or nothing to mend.
                break
        return self._told(view.latent, told, failed)

    def _told(self, latent: int, told: Sequence[_Try], failed: str) -> Told:
        """The best of the texts, of equals the first."""
        best = max(range(len(told)), key=lambda i: (told[i].score or 0.0, -i))
        attempts = [
            Attempt(latent, i + 1, one.text, one.score, i == best, self._wrong_lines(one))
            for i, one in enumerate(told)
        ]
        if failed:
            attempts.append(Attempt(latent, len(told) + 1, "", None, False, failed))
        return Told(told[best].text, tuple(attempts))

    def _next(self, asked: Ask, told: Sequence[_Try]) -> Ask:
        """The question, with all earlier tries beneath the passages."""
        if not told:
            return asked
        lines = [asked.prompt.user]
        for number, one in enumerate(told, start=1):
            lines.append(f"\nDescription {number} (balanced accuracy {one.score:.2f}): {one.text}")
            if one.wrong:
                lines.append(self._wrong_lines(one))
        user = "\n".join([*lines, "", _AGAIN])
        return replace(asked, prompt=replace(asked.prompt, user=user))

    def _wrong_lines(self, one: _Try) -> str:
        """The counterexamples, as they are shown."""
        missed = [passage for passage in one.wrong if passage.activations.any()]
        fitted = [passage for passage in one.wrong if not passage.activations.any()]
        lines = [
            f"Missed: {passage.shown.render(passage.marks(self.threshold))}"
            for passage in missed[: self.counterexamples]
        ]
        lines += [
            f"Fitted though silent: {passage.shown.render()}"
            for passage in fitted[: self.counterexamples]
        ]
        return "\n".join(lines)

    def _check(self, view: View, text: str, passage: Passage) -> Ask:
        # What all passages share comes first, for the engine's prefix cache.
        prompt = Prompt(
            _check_question(text, passage.shown.render()),
            system=_CHECK,
            shots=tuple((_check_question(said, line), right) for said, line, right in _CHECK_SHOTS),
            group=view.group,
            label=view.label("check of an explanation"),
        )
        return Ask(prompt, _CHECK_TOKENS, choices=_YES_NO, to_chooser=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Try:
    """One text and how it fared."""

    text: str
    score: float | None
    wrong: tuple[Passage, ...]


def verdict(answer: Answer) -> bool | Failure:
    """Whether the answer is yes."""
    if answer.failure is not None:
        return answer.failure
    said = (answer.text or "").strip().lower().strip("\"'*.")
    for word in _YES_NO:
        if said.startswith(word):
            return word == "yes"
    return Failure("malformed", "the answer is neither yes nor no")


def _check_question(text: str, line: str) -> str:
    return f"Description: {text}\n\nPassage: {line}"


def _balanced_accuracy(judged: Sequence[tuple[Passage, bool | Failure]]) -> float | None:
    """The mean of the two shares that were judged rightly; None where either has no verdict."""
    shares = []
    for active in (True, False):
        right = [
            answer == active
            for passage, answer in judged
            if bool(passage.activations.any()) == active and not isinstance(answer, Failure)
        ]
        if not right:
            return None
        shares.append(sum(right) / len(right))
    return sum(shares) / 2


def _wrong(judged: Sequence[tuple[Passage, bool | Failure]]) -> tuple[Passage, ...]:
    return tuple(
        passage
        for passage, answer in judged
        if not isinstance(answer, Failure) and answer != bool(passage.activations.any())
    )
