"""Is a latent active on its token whatever stands around it? The scramble test.

    kinds = latent_types(index)
    unigrams = np.flatnonzero(kinds["type"] == "unigram")
    test = scramble_test(kinds, unigrams, subject_activations(subject, coder), text, seen)
    test["share"][0] > 0.9                  # the first of them is free of context

Each of a latent's few peak tokens is planted twice among 19 random tokens, and the subject model
reads the result (Juang et al., 2024, "Unigram features").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from glossator.errors import InputError

__all__ = ["SCRAMBLE_THRESHOLDS", "scramble_test"]

SCRAMBLE_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of scrambles above which latents are counted; above the last the post calls a latent free
of context."""

_ATTEMPTS = 4
"""Drawings of one scramble, whose text may be cut into other tokens."""

Array = npt.NDArray[Any]


class Texts(Protocol):
    """What is asked of a tokenizer: `glossator.text.TokenText` has it."""

    def pieces(self, tokens: Sequence[int] | npt.NDArray[np.integer], /) -> list[str]:
        """One string for each token, which together are the text."""


def scramble_test(
    kinds: Mapping[str, Array],
    latents: Sequence[int] | npt.NDArray[np.integer],
    activations: Callable[[Sequence[str], int], list[tuple[Array, Array]]],
    text: Texts,
    vocabulary: npt.NDArray[np.integer],
    *,
    repeats: int = 2,
    around: int = 19,
    seed: int = 0,
) -> dict[str, Array]:
    """Plant the peak tokens of latents among random ones, and encode them again.

    What is planted is text: where it is cut into other tokens than were planted, it is drawn again
    up to four times, and then left out. The token is never the first: many models attend to that
    one whatever it is. The scrambles of a latent depend on seed and latent alone.

    Args:
        kinds: what `latent_types` gave; `peak_ids` says which tokens.
        latents: which latents, [n]; those of type `unigram`, say.
        activations: reads texts: an `ActivationSource`, such as `subject_activations` gives.
        text: the texts of tokens.
        vocabulary: tokens to draw from, [V]: those that the corpus has, say.
        repeats: how often each token is planted.
        around: random tokens around it.
        seed: of the drawing.

    Returns:
        Columns over those latents [n]: `latent`; `scrambles`, how many were read; `share` of them
        in which the latent is active anywhere, as in the post, and `share_on_token`, on the
        planted token (NaN without scrambles); `over_50` to `over_90`, whether `share` is above
        each of `SCRAMBLE_THRESHOLDS`.

    Raises:
        InputError: a latent whose peak tokens are not few, or nothing to draw from.
    """
    if repeats < 1 or around < 1 or not len(vocabulary):
        raise InputError(
            "the scramble test: `repeats`, `around` and `vocabulary` must not be empty"
        )
    rows = np.asarray(latents, np.int64)
    counted = np.zeros((len(rows), 3), np.int64)
    for place, latent in enumerate(rows.tolist()):
        planted = list(kinds["peak_ids"][latent]) * repeats
        if not planted:
            raise InputError(
                f"latent {latent}: the scramble test needs a latent that peaks on few tokens; "
                f"it is of type `{kinds['type'][latent]}`"
            )
        rng = np.random.default_rng([seed, latent])
        for _ in range(_ATTEMPTS):
            texts = [_scramble(token, vocabulary, around, text, rng) for token in planted]
            again = []
            for token, (ids, values) in zip(planted, activations(texts, latent), strict=True):
                there = np.asarray(ids) == token
                if not there.any():
                    again.append(token)
                    continue
                active = np.asarray(values) > 0
                counted[place] += 1, active.any(), active[there].any()
            planted = again
            if not planted:
                break
    scrambles = counted[:, 0]
    with np.errstate(invalid="ignore"):
        share, on_token = counted[:, 1] / scrambles, counted[:, 2] / scrambles
    columns: dict[str, Array] = {
        "latent": rows,
        "scrambles": scrambles,
        "share": share,
        "share_on_token": on_token,
    }
    for threshold in SCRAMBLE_THRESHOLDS:
        columns[f"over_{threshold * 100:.0f}"] = share > threshold
    return columns


def _scramble(
    token: int, vocabulary: Array, around: int, text: Texts, rng: np.random.Generator
) -> str:
    tokens = rng.choice(vocabulary, around).tolist()
    tokens.insert(int(rng.integers(1, around + 1)), token)
    return "".join(text.pieces(tokens))
