"""Output: which of five lists of tokens does the explanation's latent promote?

    scorer = OutputScorer(OutputOptions(), promoted, token_name=text.name, saw_logits=saw_logits)
    output_p_value(right=4, asked=5)          # 0.10

The right list is the latent's ten largest entries of W_U W_D[f]; the other four are those of other
latents of the layer, drawn by seed. An explanation may describe what a latent responds to without a
word on what it does: this asks for the second (Gur-Arieh et al. 2025, "Enhancing automated
interpretability with output-centric feature descriptions"). An explainer that saw the logits would
be asked for what it was told: it is refused unless that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from glossator.errors import InputError
from glossator.judges.base import Answer, Capabilities, Failure, Prompt, Reading
from glossator.records import Explanation, Record, Verdict, content_id
from glossator.sampling import SamplingPlan
from glossator.score.lettered import LETTERS, letter_job, place_of, share_of
from glossator.score.parts import failure_of, missing, prompt_id_of, verdict_of
from glossator.score.questions import Item, keyed_generator
from glossator.score.scorers import Material, Request
from glossator.shown import single_line

__all__ = ["OutputOptions", "OutputScorer", "output_p_value"]

_SYSTEM = """\
You check a description of one unit of a neural network that reads text and predicts the next \
token. An active unit makes some tokens more likely to come next. You are given the description, \
written from texts on which the unit is active, and five lists of tokens, A to E. One of them \
holds the tokens that the unit makes most likely; the others belong to other units. Say which one \
it is. ␣ stands for a space, ⏎ for a line break. Answer with one letter and nothing else."""

_SHOTS: tuple[tuple[str, tuple[tuple[str, ...], ...], int], ...] = (
    (
        "the words degrees and temperature in weather reports",
        (
            ("␣whose", "␣who", "␣whom", "␣himself"),
            ("();", "){", "});", "␣null"),
            ("␣Celsius", "␣Fahrenheit", "°", "␣Kelvin"),
            ("␣Mr", "␣Dr", "␣Sir", "␣Lord"),
            ("␣yesterday", "␣ago", "␣earlier", "␣since"),
        ),
        2,
    ),
    (
        "the beginning of a question, after a line break",
        (
            ("?", "␣why", "␣whether", "␣how"),
            ("␣kilometres", "␣miles", "␣metres", "␣feet"),
            ("ing", "ed", "er", "ers"),
            ("␣blue", "␣red", "␣green", "␣yellow"),
            ("␣import", "␣def", "␣return", "␣class"),
        ),
        0,
    ),
)
"""Worked examples: description, lists, the right one's place."""


class OutputOptions(Record):
    """How often is asked, and of whom."""

    questions: int = Field(default=5, ge=1)
    """Questions about a latent, each with four other latents' lists; no list comes twice."""
    tokens: int = Field(default=10, ge=1)
    """Tokens of a list."""
    despite_logits: bool = False
    """Whether explainers are scored that saw the logits, too."""


@dataclass(frozen=True, slots=True, eq=False)
class _Choice(Request):
    """Five lists, and which is the right one."""

    right: int = 0
    """Its place."""
    refused: str = ""
    """Why nothing is asked; empty where something is."""


class OutputScorer:
    """Asks which tokens an explained latent promotes.

    Args:
        options: how often is asked, and of whom.
        promoted: for each latent of the layer the tokens that it promotes most, strongest first;
            dead latents left out.
        token_name: prints one token.
        saw_logits: whether an explainer, by its name, was shown them.
    """

    name = "output"
    needs_explanation = True
    slow = False
    template_hash = content_id(_SYSTEM, _SHOTS)

    def __init__(
        self,
        options: OutputOptions,
        promoted: Mapping[int, Sequence[int]],
        *,
        token_name: Callable[[int], str],
        saw_logits: Callable[[str], bool],
    ) -> None:
        self._options, self._token_name, self._saw_logits = options, token_name, saw_logits
        self._lists = {
            latent: tuple(tokens[: options.tokens]) for latent, tokens in promoted.items()
        }
        self._latents = sorted(self._lists)

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON, and what the lists are."""
        lists = content_id([[latent, self._lists[latent]] for latent in self._latents])
        return {**self._options.model_dump(mode="json"), "lists": lists}

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a layer without lists to choose from.

        Raises:
            InputError: fewer than five latents have one.
        """
        if len(self._lists) < len(LETTERS):
            raise InputError(
                f"scorer `{self.name}`: {len(self._lists)} latents have lists of promoted tokens, "
                f"{len(LETTERS)} are needed; the subject's output layer must be as wide as the "
                "coder's decoder"
            )

    def prepare(self, materials: Sequence[Material]) -> None:
        """Nothing is cheaper for many latents."""

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """One question for every four other lists; none where the latent has no list."""
        refused = ""
        if self._saw_logits(explanation.explainer) and not self._options.despite_logits:
            refused = "the explainer saw the tokens that are asked for"
        for number, (lists, right) in enumerate(self._questions(material)):
            items = (Item("", " ".join(map(str, lists)), True),)
            key = prompt_id_of(self.name, explanation, protocol_id, items, number, lists)
            prompt = Prompt(
                _question(
                    explanation.text, [[self._token_name(t) for t in some] for some in lists]
                ),
                system=_SYSTEM,
                shots=tuple(
                    (_question(text, shown), LETTERS[place]) for text, shown, place in _SHOTS
                ),
                group=f"{material.hookpoint}/{material.latent}",
                label=f"latent {material.latent}, {self.name}",
            )
            jobs = () if refused else (letter_job(None, prompt),)
            yield _Choice(key, self.name, explanation, items, jobs, right, refused)

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """Whether the right list was chosen; `value` is the place chosen and the right one."""
        assert isinstance(request, _Choice)
        if request.refused:
            return missing(request, protocol_id, Failure("refused", request.refused))
        failure = failure_of(answers)
        if failure is not None:
            return missing(request, protocol_id, failure)
        (answer,) = answers
        place = place_of(answer)
        if isinstance(place, Failure):
            return missing(request, protocol_id, place)
        return [
            verdict_of(
                request,
                protocol_id,
                0,
                answer=place == request.right,
                p_yes=share_of(answer, request.right),
                value=(float(place), float(request.right)),
            )
        ]

    def _questions(self, material: Material) -> Iterator[tuple[tuple[tuple[int, ...], ...], int]]:
        """Five lists and the right one's place, for each question."""
        own = self._lists.get(material.latent)
        if own is None:
            return
        generator = keyed_generator(
            "output", material.seed, material.hookpoint, material.latent, own
        )
        others: list[tuple[int, ...]] = []
        wanted = self._options.questions * (len(LETTERS) - 1)
        for at in generator.permutation(len(self._latents)).tolist():
            if len(others) == wanted:
                break
            other = self._lists[self._latents[at]]
            # Of two lists that share half of their tokens neither is the wrong one.
            if self._latents[at] != material.latent and 2 * len({*own} & {*other}) < len(own):
                others.append(other)
        for first in range(0, len(others) - 3, len(LETTERS) - 1):
            lists = others[first : first + len(LETTERS) - 1]
            right = int(generator.integers(len(LETTERS)))
            lists.insert(right, own)
            yield tuple(lists), right


def _question(description: str, lists: Sequence[Sequence[str]]) -> str:
    lettered = "\n".join(
        f"{letter}: {'  '.join(names)}" for letter, names in zip(LETTERS, lists, strict=True)
    )
    return f"Description: {single_line(description)}\n\n{lettered}"


def output_p_value(right: int, asked: int) -> float:
    """How often an explanation that has nothing to do with the latent does as well.

    One latent's questions all have the same right list, and a judge may like that list whatever it
    is asked: so right answers come together, and a binomial of chance .2 would call five of five
    3·10⁻⁴. Where the right list's place u among all lists in the judge's liking is uniform, a
    question is answered rightly with probability u⁴, and the number of right answers has a
    beta-binomial distribution with α = 1/4 and β = 1: chance .2, and five of five in 1/21.

    Args:
        right: questions answered rightly.
        asked: questions answered.
    """
    from scipy.special import beta

    return sum(
        math.comb(asked, k) * float(beta(k + 0.25, asked - k + 1)) / 4
        for k in range(right, asked + 1)
    )
