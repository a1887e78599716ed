"""Explanations by a language model that reads passages with the active tokens between delimiters.

    explainer = Delimited(threshold=0.3)
    prompt = explainer.prompt(17, shown, activations)
    explanation_text(answer)          # a text or a failure

The way of showing examples is that of "Open Source Automated Interpretability for Sparse
Autoencoder Features" (Juang et al., 2024); the words of the prompt are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from glossator.judges.base import Answer, Failure, Prompt
from glossator.records import Record, content_id
from glossator.shown import SIGNS, Shown, single_line

__all__ = ["MARKER", "SCHEMA", "Delimited", "explanation_text", "marks_above"]

MARKER = "Explanation:"
"""What stands before the explanation in an answer that is no JSON."""

_LONGEST = 300
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"explanation": {"type": "string", "minLength": 1, "maxLength": _LONGEST}},
    "required": ["explanation"],
    "additionalProperties": False,
}
"""What an answer is asked to be. Where the server holds the model to it, no answer runs on until it
is cut off; a server that does not is answered for by `MARKER`."""

_SYSTEM = f"""\
You study one unit of a neural network. The unit is silent on most text and active on some tokens. \
You are shown passages in which it is active: the tokens on which it is active stand between << \
and >>, all others are silent. {SIGNS}

Find what the marked tokens have in common: which tokens they are, what they mean, or what stands \
before them. Say in one sentence of at most 25 words when the unit is active. Be as specific as \
the passages allow. Do not list the passages and do not speak of marks or delimiters.

Answer with one JSON object, {{"explanation": "..."}}, and nothing else."""

_SHOTS = (
    (
        "Example 1: ¶The ferry leaves at <<seven>> and returns before\n"
        "Example 2: sold <<four>> of the paintings, kept the rest⏎\n"
        "Example 3:  after <<twelve>> years in the same house, she\n"
        "Example 4: only <<three>> students passed; <<nineteen>> had tried",
        '{"explanation": "numbers written out as words"}',
    ),
    (
        "Example 1: could not open the file: <<permission>> denied⏎¶Usage\n"
        "Example 2:  without written <<permission>> of the author.⏎\n"
        "Example 3: they asked for <<leave>> to appeal, and were granted it",
        '{"explanation": "nouns for being allowed to do something, such as permission or leave"}',
    ),
)
_LAST_MARKER = re.compile(rf"(?is).*{re.escape(MARKER)}")


def marks_above(activations: npt.NDArray[np.float32], threshold: float) -> list[list[int]]:
    """For each row the offsets above a share of the row's maximum; [] for a silent row.

    Args:
        activations: [n, W], 0 where the latent is silent.
        threshold: share from 0 to below 1.
    """
    peaks = activations.max(axis=1, keepdims=True, initial=0.0)
    above = (activations > threshold * peaks) & (activations > 0)
    return [np.flatnonzero(row).tolist() for row in above]


class Delimited(Record):
    """How examples are shown to the explainer and how long its answer may be."""

    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Tokens above this share of the example's maximum are marked."""
    max_tokens: int = Field(default=400, gt=0)
    """Longest answer; a longer one counts as a failure."""

    def name(self, judge: str) -> str:
        """The explainer's name in the tables, with the settings that are not the default ones."""
        changed = self.model_dump(exclude_defaults=True)
        settings = ",".join(f"{key}={value}" for key, value in changed.items())
        return f"delimited({settings}):{judge}" if settings else f"delimited:{judge}"

    def prompt(
        self, latent: int, shown: Sequence[Shown], activations: npt.NDArray[np.float32]
    ) -> Prompt:
        """Ask for one explanation.

        Args:
            latent: the latent, for messages.
            shown: the explainer's examples.
            activations: [n, W], their activations.
        """
        marks = marks_above(activations, self.threshold)
        lines = [
            f"Example {number}: {example.render(offsets)}"
            for number, (example, offsets) in enumerate(zip(shown, marks, strict=True), start=1)
        ]
        return Prompt(
            "\n".join(lines), system=_SYSTEM, shots=_SHOTS, label=f"latent {latent}, explanation"
        )


def explanation_text(answer: Answer) -> str | Failure:
    """The explanation in an answer, on one line.

    It is the field of a JSON object, else what follows the last marker, else the whole.
    """
    if answer.failure is not None:
        return answer.failure
    said = answer.text or ""
    try:
        fields = json.loads(said, strict=False)
    except ValueError:
        fields = None
    if isinstance(fields, dict) and isinstance(fields.get("explanation"), str):
        said = fields["explanation"]
    text = single_line(_LAST_MARKER.sub("", said, count=1))
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    return text or Failure("empty", "the answer holds no explanation")


PROMPT_HASH = content_id("delimited", _SYSTEM, _SHOTS, SCHEMA)
"""Hash of the prompt's fixed words."""
