"""How many negatives were denied, by the rank at which they were drawn.

specificity_by_rank(verdicts, examples)       # against the distance of neighbours
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from glossator.score.columns import codes, need, of_examples
from glossator.score.shares import share_figure

__all__ = ["specificity_by_rank"]


def specificity_by_rank(verdicts: pa.Table, examples: pa.Table) -> pa.Table:
    """How many negatives were denied, by the rank at which they were drawn.

    Of the decoder kinds the rank is the neighbour's, so that this is accuracy against neighbour
    distance; of `embedding` it is the window's place in order of nearness.

    Args:
        verdicts: columns `example_id`, `prompt_id`, `truth` and `answer` of the run's table: of one
            explanation, or of many together. Those without an answer are left out.
        examples: columns `example_id`, `kind` and `source_rank`.

    Returns:
        `kind`, `source_rank`, `value` (the share), `low` and `high` (its 95 % interval on prompts;
        null where all stood in one prompt), and `n` verdicts; by kind and rank.

    Raises:
        InputError: a column is missing, or a verdict is on an example that is not there.
    """
    need("verdicts", verdicts, ("example_id", "prompt_id", "truth", "answer"))
    need("examples", examples, ("example_id", "kind", "source_rank"))
    verdicts = verdicts.sort_by([("prompt_id", "ascending"), ("example_id", "ascending")])
    prompt = codes(verdicts["prompt_id"])
    rows: dict[tuple[str, int], list[int]] = {}
    columns = (
        of_examples(verdicts, examples, "kind"),
        of_examples(verdicts, examples, "source_rank"),
        verdicts["truth"].to_pylist(),
        verdicts["answer"].to_pylist(),
    )
    denied = np.array([answer is False for answer in columns[3]], dtype=np.bool_)
    for number, (kind, rank, truth, answer) in enumerate(zip(*columns, strict=True)):
        if kind is not None and rank is not None and not truth and answer is not None:
            rows.setdefault((kind, rank), []).append(number)
    found = []
    for (kind, rank), chosen in sorted(rows.items()):
        figure = share_figure(denied[chosen], prompt[chosen])
        found.append(
            {
                "kind": kind,
                "source_rank": rank,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "n": len(chosen),
            }
        )
    return pa.Table.from_pylist(found, schema=_BY_RANK)


_BY_RANK = pa.schema(
    [
        ("kind", pa.string()),
        ("source_rank", pa.int64()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)
