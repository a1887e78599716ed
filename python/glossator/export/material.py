"""What every export shows of a latent: what is known of it, its neighbours, logits and examples.

    for page in pages(run, Chosen.of(run)):
        page.latent, page.best.text, page.examples[0].tokens

Latents come in batches, so that what is held does not grow with their number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glossator.export.chosen import Chosen, Exported, Known
from glossator.neighbours import NO_NEIGHBOUR, RELATIONS, Neighbours
from glossator.progress import SILENT, Progress
from glossator.sampling import ExplainPlan, SamplingPlan
from glossator.shown import show
from glossator.text import TokenText

__all__ = ["Example", "Page", "pages"]

_INVISIBLE = "\u200b"


@dataclass(frozen=True, slots=True)
class Example:
    """One stretch of text on which the latent is active."""

    start: int
    """Position of its first token."""
    tokens: tuple[str, ...]
    """Text of each token; none is empty, and none holds a NUL."""
    values: tuple[float, ...]
    """The activation on each."""
    decile: int
    """Of the window, 10 the strongest."""
    top: bool
    """Whether it is one of the strongest of the explain side."""


@dataclass(frozen=True, slots=True)
class Page(Known):
    """What is exported of one latent."""

    near: tuple[tuple[int, float, str | None], ...]
    """Neighbours with cosine and relation, the nearest first."""
    promoted: tuple[tuple[str, float], ...]
    """Tokens that it promotes most, with the logit."""
    suppressed: tuple[tuple[str, float], ...]
    """Tokens that it suppresses most, with the logit."""
    deciles: tuple[float, ...]
    """Eleven limits of its window maxima."""
    maximum: float
    """Its largest activation."""
    examples: tuple[Example, ...]
    """Its strongest windows, then those of the deciles from the strongest down; none twice."""


def pages(
    run: Exported,
    chosen: Chosen,
    *,
    n_top: int = 20,
    per_decile: int = 2,
    length: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Iterator[Page]:
    """The pages of some latents, in their order.

    Args:
        run: the run.
        chosen: which.
        n_top: of the strongest windows of the explain side.
        per_decile: windows of each decile; one that is a top one is not shown twice, and nothing is
            filled up.
        length: tokens of each; the index's window if None.
        seed: of the draw.
        progress: counts latents.
    """
    index = run.index
    deciles = index.deciles()
    near = run.neighbours
    with progress.stage("export", len(chosen.latents), "latents") as bar:
        for batch in chosen.known(run):
            some = np.array([one.latent for one in batch], np.uint32)
            drawn = _examples(run, some, n_top, per_decile, length, seed)
            for one in batch:
                latent = one.latent
                yield Page(
                    latent=latent,
                    facts=one.facts,
                    said=one.said,
                    near=_near(near, latent),
                    promoted=_logits(one.facts["top_logits"], run.text),
                    suppressed=_logits(one.facts["bottom_logits"], run.text),
                    deciles=tuple(deciles[latent].tolist()),
                    maximum=float(np.nan_to_num(deciles[latent, 10])),
                    examples=tuple(drawn.get(latent, ())),
                )
                bar.advance(1)


def _logits(listed: str | None, text: TokenText) -> tuple[tuple[str, float], ...]:
    return tuple((_alone(token, text), float(value)) for token, value in json.loads(listed or "[]"))


def _alone(token: int, text: TokenText) -> str:
    """The text of one token as it stands behind another; its name where it is no whole text."""
    behind = text.pieces([token, token])[1]
    return text.name(token) if not behind or "\ufffd" in behind or "\0" in behind else behind


def _near(near: Neighbours | None, latent: int) -> tuple[tuple[int, float, str | None], ...]:
    if near is None:
        return ()
    ids = near.ids[latent].tolist()
    relation = near.relation
    codes = [None] * len(ids) if relation is None else relation[latent].tolist()
    return tuple(
        (other, float(cosine), None if code is None else RELATIONS[code])
        for other, cosine, code in zip(ids, near.cosines[latent].tolist(), codes, strict=True)
        if other != NO_NEIGHBOUR
    )


def _examples(
    run: Exported,
    latents: npt.NDArray[np.uint32],
    n_top: int,
    per_decile: int,
    length: int | None,
    seed: int,
) -> dict[int, list[Example]]:
    found: dict[int, list[Example]] = {}
    seen: set[tuple[int, int]] = set()
    for top, explain in (
        (True, ExplainPlan(kind="top", n=n_top)),
        (False, ExplainPlan(kind="deciles", n=10 * per_decile)),
    ):
        plan = SamplingPlan(explain=explain, per_decile=0, negatives=(), length=length)
        drawn = run.index.sample(latents, plan, seed)
        shown = show(drawn, run.index, run.text)
        order = np.lexsort((-drawn.activations.max(axis=1, initial=0), drawn.latent))
        for row in order.tolist():
            key = int(drawn.latent[row]), int(drawn.start[row])
            if key in seen:
                continue
            seen.add(key)
            pieces, values = _trimmed(shown[row].pieces, drawn.activations[row].tolist())
            one = Example(key[1], pieces, values, int(drawn.decile[row]), top)
            found.setdefault(key[0], []).append(one)
    return found


def _trimmed(
    pieces: Sequence[str], values: Sequence[float]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Without padding at the end; no text is empty or holds what a database refuses."""
    end = len(pieces)
    while end > 1 and not pieces[end - 1] and not values[end - 1]:
        end -= 1
    clean, whole = tuple(pieces[:end]), "".join(pieces[:end])
    # Nearly all text is in order, which is found faster than mended.
    if "" in clean or _mended(whole) != whole:
        clean = tuple(_mended(piece or _INVISIBLE) for piece in clean)
    return clean, tuple(values[:end])


def _mended(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
