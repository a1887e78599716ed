"""Verdicts with the examples that they are on, for some explanations at a time.

for row in verdict_rows(run, explanation_ids):
    row["explanation_id"], row["truth"], row["answer"], row["text"], row["str_tokens"]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from glossator.export.chosen import Exported, rows_of

__all__ = ["verdict_rows"]

_AT_ONCE = 64
"""Explanations whose examples are held at once."""


def verdict_rows(run: Exported, explanation_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The verdicts of some explanations, each with its example's facts.

    Args:
        run: the run.
        explanation_ids: of which; those of one batch of latents.

    Returns:
        Rows of the table `verdicts` with `decile`, `kind`, `document`, `activations`, `tokens`,
        `str_tokens` and `text` beside.
    """
    for at in range(0, len(explanation_ids), _AT_ONCE):
        some = explanation_ids[at : at + _AT_ONCE]
        rows = list(rows_of(run, "verdicts", "explanation_id", some))
        examples = _examples(run, sorted({row["example_id"] for row in rows}))
        for row in rows:
            yield {**row, **examples[row["example_id"]]}


def _examples(run: Exported, ids: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows_of(run, "examples", "example_id", ids):
        tokens = row["tokens"] or []
        pieces = [piece.encode("utf-8", "replace").decode() for piece in run.text.pieces(tokens)]
        found[row["example_id"]] = {
            "decile": row["decile"],
            "kind": row["kind"],
            "document": row["document"],
            "activations": row["activations"] or [],
            "tokens": tokens,
            "str_tokens": pieces,
            "text": row["text"] if row["text"] is not None else "".join(pieces),
        }
    return found
