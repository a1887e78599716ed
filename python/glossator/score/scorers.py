"""What a scorer is: questions about one latent's examples, and verdicts from the answers.

    class Coin:                         # any object of this shape is a scorer
        name, needs_explanation, slow, template_hash = "coin", True, False, ""
        def parameters(self): ...
        def refuse(self, plan, capabilities): ...
        def prepare(self, materials): ...
        def requests(self, material, explanation, protocol_id): ...
        def verdicts(self, request, protocol_id, answers): ...

A scorer puts questions and reads answers; `glossator.score.asking` queues, stores and resumes for
all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from glossator.judges.base import Answer, Capabilities, Job, Reading
from glossator.records import Explanation, Verdict
from glossator.sampling import SamplingPlan
from glossator.score.questions import Item, Window

__all__ = ["Material", "Request", "Scorer", "Shortfall", "Writing"]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What the scorers are given of one latent: the same for all its explanations."""

    hookpoint: str
    """Its module path."""
    latent: int
    """Its id."""
    seed: int
    """Of the order of examples and of wrong marks."""
    windows: tuple[Window, ...]
    """Its examples of the score side, in the order of drawing."""
    explanations: tuple[Explanation, ...] = ()
    """What is scored."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is asked at one go, and what the verdicts will be about."""

    prompt_id: str
    """Hash of explanation, protocol, scorer and content: what was answered is not asked again."""
    scorer: str
    """Who asks."""
    explanation: Explanation
    """What is judged."""
    items: tuple[Item, ...]
    """The examples, one a verdict, in the order shown."""
    jobs: tuple[Job, ...]
    """The questions, mostly one; none where no judge is needed."""


class Shortfall(NamedTuple):
    """What a latent has too little of."""

    latent: int
    """The latent."""
    what: str
    """Of what: `score` (activating windows), a kind of negatives, or what a scorer lacks."""
    wanted: int
    """How many the plan asks for."""
    found: int
    """How many there are."""


class Scorer(Protocol):
    """A way of scoring explanations."""

    @property
    def name(self) -> str:
        """Its name in the tables."""

    @property
    def needs_explanation(self) -> bool:
        """False: a latent is asked about once, whatever was said of it."""

    @property
    def slow(self) -> bool:
        """Whether `verdicts` takes more than a moment: then it is called in a thread.

        So it is for requests without a question. One call at a time, of all scorers.
        """

    @property
    def template_hash(self) -> str:
        """Hash of the words of its prompts; empty if it has none."""

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON: part of the protocol."""

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan that draws too little, or a judge that cannot answer.

        Args:
            plan: what is drawn.
            capabilities: of the judge; None where none is named.

        Raises:
            InputError: names the field or the capability that is missing.
        """

    def prepare(self, materials: Sequence[Material]) -> Sequence[Shortfall] | None:
        """Do at once what is cheaper for many latents than for one; called in a thread.

        `requests` is called for these latents, and for no others until the next call of this.

        Returns:
            What some of the latents have too little of, where the scorer knows.
        """

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """The questions about one explanation: the same ones for every explanation of a latent.

        Called in a thread. The keys of the jobs are the caller's to set.
        """

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """One verdict an item; all of them missing, with the reason, where an answer failed."""


@runtime_checkable
class Writing(Protocol):
    """A scorer whose examples are not all drawn: it has texts written or altered."""

    @property
    def made(self) -> pa.Table:
        """Those texts so far, as rows of the run's table `examples`."""
