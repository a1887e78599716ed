"""Embedding: how like the explanation is a window, to a sentence encoder?

    scorer = EmbeddingScorer(EmbeddingOptions(model="sentence-transformers/all-MiniLM-L6-v2"))
    scorer.prepare(materials)                       # all texts of some latents at once
    scorer.requests(material, explanation, protocol_id)       # nothing is asked of a judge

The value is the cosine of the two embeddings; the score is the AUROC of activating against silent
windows. It costs no judge, and says least of all scorers: its correlation with people's ratings is
.32, of fuzzing .69 (Paulo et al. 2024, "Automatically interpreting millions of features in large
language models").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from glossator.embeddings import MODEL, Model, encoder, refuse_missing
from glossator.judges.base import Answer, Capabilities, Reading
from glossator.records import Explanation, Record, Verdict
from glossator.sampling import SamplingPlan
from glossator.score.parts import first_windows, need_windows, prompt_id_of, verdict_of
from glossator.score.questions import Item, Window
from glossator.score.scorers import Material, Request
from glossator.shown import single_line

__all__ = ["EmbeddingOptions", "EmbeddingScorer"]

_AT_ONCE = 16
"""Windows of a request: what is stored at one go."""


class EmbeddingOptions(Record):
    """What the embedding scorer compares."""

    model: str = MODEL
    """Name or folder of a `sentence-transformers` model."""
    prefix: str = ""
    """What stands before an explanation, for encoders that were trained with an instruction."""
    per_decile: int | None = Field(default=None, ge=1)
    """Activating windows of each decile: the first ones; None: all that are drawn."""
    silent: int | None = Field(default=None, ge=1)
    """Silent windows: the first ones; None: all that are drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class _Compared(Request):
    """Windows with their likeness to the explanation."""

    cosines: tuple[float, ...] = ()
    """One for each item."""


class EmbeddingScorer:
    """Compares an explanation with windows by their embeddings.

    Args:
        options: what is compared.
        model: takes the place of the model that `options` names: such a model, or a function of
            texts.
    """

    name = "embedding"
    needs_explanation = True
    slow = False
    template_hash = ""

    def __init__(
        self,
        options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 - frozen
        model: Model | None = None,
    ) -> None:
        self._options = options
        self._model = options.model if model is None else model
        self._encode = encoder(self._model)
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def parameters(self) -> Mapping[str, Any]:
        """Every setting, as JSON."""
        return self._options.model_dump(mode="json")

    def refuse(self, plan: SamplingPlan, capabilities: Capabilities | None) -> None:
        """Refuse a plan that draws too little, or a model whose package is missing."""
        options = self._options
        need_windows(self.name, plan, per_decile=options.per_decile, silent=options.silent)
        refuse_missing(self._model)

    def prepare(self, materials: Sequence[Material]) -> None:
        """Embed the texts of some latents together; those of the latents before are forgotten."""
        texts: dict[str, None] = {}
        for material in materials:
            texts |= dict.fromkeys(window.shown.text for window in self._windows(material))
            texts |= dict.fromkeys(map(self._query, material.explanations))
        self._known = self._embedded(texts)

    def requests(
        self, material: Material, explanation: Explanation, protocol_id: str
    ) -> Iterator[Request]:
        """The windows with their cosines, some at a time; no question among them."""
        windows = self._windows(material)
        query = self._query(explanation)
        lacking = {query, *(window.shown.text for window in windows)} - self._known.keys()
        known = self._known | self._embedded(dict.fromkeys(sorted(lacking)))
        for first in range(0, len(windows), _AT_ONCE):
            some = windows[first : first + _AT_ONCE]
            items = tuple(Item(w.example_id, w.shown.text, w.decile > 0) for w in some)
            cosines = tuple(float(known[item.line] @ known[query]) for item in items)
            key = prompt_id_of(self.name, explanation, protocol_id, items)
            yield _Compared(key, self.name, explanation, items, (), cosines)

    def verdicts(
        self, request: Request, protocol_id: str, answers: Sequence[Answer | Reading]
    ) -> list[Verdict]:
        """The cosine of each window."""
        assert isinstance(request, _Compared)
        return [
            verdict_of(request, protocol_id, slot, value=(cosine,))
            for slot, cosine in enumerate(request.cosines)
        ]

    def _windows(self, material: Material) -> list[Window]:
        options = self._options
        return first_windows(material.windows, per_decile=options.per_decile, silent=options.silent)

    def _query(self, explanation: Explanation) -> str:
        return self._options.prefix + single_line(explanation.text)

    def _embedded(self, texts: Mapping[str, None]) -> dict[str, npt.NDArray[np.float32]]:
        listed = list(texts)
        return dict(zip(listed, self._encode(listed), strict=True)) if listed else {}
