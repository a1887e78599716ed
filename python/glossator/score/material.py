"""What is drawn of some latents, made ready for the scorers.

    drawing = Drawing(index, text, hookpoint, draw, seed)
    materials = drawing.of({17: explanations_of_17})
    drawing.examples, drawing.shortfalls        # what was drawn so far, what was not there

What is drawn and shown depends on index, latent and seed, never on the explanation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from glossator.index import Index
from glossator.records import Explanation
from glossator.sampling import KINDS, NO_LATENT, Examples
from glossator.score.questions import Window
from glossator.score.scorers import Material, Shortfall
from glossator.shown import Shown, example_ids, example_rows, show
from glossator.text import TokenText

__all__ = ["Drawing"]


class Drawing:
    """Draws latents' examples of the score side, and keeps account of them."""

    def __init__(
        self,
        index: Index,
        text: TokenText,
        hookpoint: str,
        draw: Callable[[Sequence[int]], Examples],
        seed: int,
    ) -> None:
        self._index, self._text, self._hookpoint = index, text, hookpoint
        self._draw, self._seed = draw, seed
        self.examples: list[pa.Table] = []
        self.shortfalls: list[Shortfall] = []

    def of(self, explanations: Mapping[int, Sequence[Explanation]]) -> list[Material]:
        """The material of some latents, by what is said of them."""
        examples = self._draw(list(explanations))
        self.shortfalls += [
            Shortfall(**row) for row in examples.shortfalls.to_pylist() if row["what"] != "explain"
        ]
        examples = examples.take(examples.split == 1)
        shown = show(examples, self._index, self._text)
        rows = example_rows(examples, self._index, self._text, self._hookpoint, shown)
        self.examples.append(rows)
        windows = self._windows(examples, shown)
        return [
            Material(
                self._hookpoint, latent, self._seed, tuple(windows.get(latent, ())), tuple(said)
            )
            for latent, said in explanations.items()
        ]

    def _windows(self, examples: Examples, shown: Sequence[Shown]) -> dict[int, list[Window]]:
        windows: dict[int, list[Window]] = {}
        rows = zip(
            examples.latent.tolist(),
            example_ids(examples, self._index, self._hookpoint),
            examples.decile.tolist(),
            shown,
            examples.activations,
            [KINDS[code] for code in examples.kind.tolist()],
            [None if source == NO_LATENT else source for source in examples.source.tolist()],
            examples.rank.tolist(),
            strict=True,
        )
        for latent, *fields in rows:
            windows.setdefault(latent, []).append(Window(*fields))
        return windows
