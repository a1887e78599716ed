"""Generation: do texts that were written after the explanation activate the latent?

    scorer = GenerationScorer(GenerationOptions(texts=10), subject_activations(subject, coder))
    scorer.requests(material, explanation, protocol_id)      # one request: all the texts
    scorer.made                                              # the texts, as rows of `examples`

The judge writes the texts, the subject model and the sparse coder read them, and the share in which
the latent is active is the score ("Open Source Automated Interpretability for Sparse Autoencoder
Features", Juang et al., 2024). It tells an explanation that is too broad, and says nothing of what
one leaves out. Its interval is that of more texts by the same writer, not of other writers.

Each text is kept as an example of kind `generated`, with its tokens and activations, and its
verdict bears that example's id. `keep` is called with the examples before the verdicts are given
back: a run that is killed between the two has texts without a verdict, never the reverse.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glossator.judges.base import Answer, Capabilities, Failure, Job, Prompt, Reading
from glossator.records import TABLES, Explanation, Record, Verdict, content_id
from glossator.sampling import SamplingPlan
from glossator.score.parts import failure_of, missing, prompt_id_of, verdict_of
from glossator.score.questions import Item
from glossator.score.scorers import Material, Request
from glossator.shown import single_line

__all__ = ["GENERATED", "ActivationSource", "GenerationOptions", "GenerationScorer", "texts_of"]

GENERATED = "generated"
"""The kind of such examples in the table `examples`."""

_TOKENS_EACH = 80
_SYSTEM = """\
You are given a description of what one unit of a neural network responds to when it reads text. \
Write {n} short texts, of ten to thirty words each, to which the unit should respond strongly. Let \
them differ in subject and wording as much as the description allows, and write them as they could \
stand in a book, on a web page or in source code: do not talk about the description.

Answer with a JSON array of {n} strings and nothing else."""


class ActivationSource(Protocol):
    """The subject model and its sparse coder, as far as this scorer needs them."""

    def __call__(
        self, texts: Sequence[str], latent: int
    ) -> list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]]:
        """Read texts.

        Args:
            texts: each on its own.
            latent: whose activations are wanted.

        Returns:
            For each text its token ids [n] and the latent's activation on each [n], 0 where it is
            silent.
        """


class GenerationOptions(Record):
    """How many texts are written."""

    texts: int = Field(default=10, ge=1)
    """Texts of one request."""


class GenerationScorer:
    """Lets the judge write texts and looks whether the latent is active on them.

    Args:
        options: how many texts.
        activations: reads them.
        keep: called with rows of the table `examples`, as soon as there are some.
    """

    name = "generation"
    needs_explanation = True
    slow = True
    template_hash = content_id(_SYSTEM)

    def __init__(
        self,
        options: GenerationOptions,
        activations: ActivationSource,
        keep: Callable[[pa.Table], None] | None = None,
    ) -> None:
        self._options, self._activations, self._keep = options, activations, keep
        self._made: list[pa.Table] = []
        self._lock = threading.Lock()

    @property
    def made(self) -> pa.Table:
        """The texts so far, as rows of the table `examples`."""
        return pa.concat_tables([TABLES["examples"].empty_table(), *self._made])

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON."""
        return self._options.model_dump(mode="json")

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Any plan and any judge will do."""

    def prepare(self, materials: Sequence[Material]) -> None:
        """Nothing is cheaper for many latents."""

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """One request for all the texts."""
        n = self._options.texts
        items = tuple(Item("", "", True) for _ in range(n))
        prompt = Prompt(
            f"Description: {single_line(explanation.text)}",
            system=_SYSTEM.format(n=n),
            group=f"{material.hookpoint}/{material.latent}",
            label=f"latent {material.latent}, {self.name}",
        )
        schema = {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": n,
            "maxItems": n,
        }
        job = Job(None, prompt, _TOKENS_EACH * n, schema)
        key = prompt_id_of(self.name, explanation, protocol_id, items)
        yield Request(key, self.name, explanation, items, (job,))

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """Whether the latent is active on each text; `value` is its maximum and the offset of it.

        A text that says the same as one before it is no more evidence: its verdict is missing. Runs
        the subject: call it in a thread.
        """
        failure = failure_of(answers)
        if failure is not None:
            return missing(request, protocol_id, failure)
        (answer,) = answers
        assert isinstance(answer, Answer)
        texts = texts_of(answer.text or "", len(request.items))
        if isinstance(texts, Failure):
            return missing(request, protocol_id, texts)
        first: dict[str, int] = {}
        for slot, text in enumerate(texts):
            first.setdefault(single_line(text).casefold(), slot)
        fresh = sorted(first.values())
        explanation = request.explanation
        with self._lock:
            # A model with hooks reads one batch at a time.
            read = self._activations([texts[slot] for slot in fresh], explanation.latent)
        rows, verdicts = [], []
        of_slot = dict(zip(fresh, read, strict=True))
        for slot, text in enumerate(texts):
            if slot not in of_slot:
                again = first[single_line(text).casefold()]
                reason = str(Failure("malformed", f"text {slot} repeats text {again}"))
                verdicts.append(verdict_of(request, protocol_id, slot, failure=reason))
                continue
            row = _row(explanation, protocol_id, text, *of_slot[slot])
            rows.append(row)
            values = row["activations"]
            at = int(np.argmax(values)) if values else -1
            peak = values[at] if values else 0.0
            verdicts.append(
                verdict_of(
                    request,
                    protocol_id,
                    slot,
                    example_id=row["example_id"],
                    answer=peak > 0,
                    value=(peak, float(at)),
                )
            )
        self._add(pa.Table.from_pylist(rows, schema=TABLES["examples"]))
        return verdicts

    def _add(self, rows: pa.Table) -> None:
        self._made.append(rows)
        if self._keep is not None:
            self._keep(rows)


def texts_of(answer: str, n: int) -> tuple[str, ...] | Failure:
    """The n texts of an answer, or why there are none: not JSON, an empty text, another number."""
    text = answer.strip()
    if text.startswith("```"):
        # Chat models fence JSON that no schema constrains.
        text = text.strip("`").removeprefix("json")
    try:
        values = json.loads(text, strict=False)
    except (json.JSONDecodeError, RecursionError):
        return Failure("malformed", "the answer is no JSON")
    if not isinstance(values, list) or not all(
        isinstance(value, str) and value.strip() for value in values
    ):
        return Failure("malformed", "the answer is no array of texts")
    if len(values) != n:
        return Failure("malformed", f"the answer holds {len(values)} texts in place of {n}")
    return tuple(values)


def _row(
    explanation: Explanation,
    protocol_id: str,
    text: str,
    tokens: npt.NDArray[np.uint32],
    activations: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """A row of the table `examples`: of no context, document or decile."""
    return {
        "example_id": content_id(GENERATED, explanation.explanation_id, protocol_id, text),
        "hookpoint": explanation.hookpoint,
        "latent": explanation.latent,
        "tokens": tokens.tolist(),
        "text": text,
        "activations": activations.tolist(),
        "decile": 0,
        "activating": bool((activations > 0).any()),
        "split": "score",
        "kind": GENERATED,
    }
