"""Fuzzing: are the marked tokens the ones on which the latent is active?

    items, left_out = fuzzing_items(windows, right=5, wrong=2, threshold=0.3, key=("fuzzing", 0))

The method is that of "Open Source Automated Interpretability for Sparse Autoencoder Features"
(Juang et al., 2024): of seven activating examples per decile five are marked rightly and two at
random places where the latent is silent, as many tokens as are marked rightly on average.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from glossator.score.questions import Item, Template, Window, keyed_generator
from glossator.shown import SIGNS

__all__ = ["TEMPLATE", "fuzzing_items", "right_marks", "silent_signs"]

TEMPLATE = Template(
    system=f"""\
You check a description of one unit of a neural network. You are given the description and then \
some numbered passages in which parts are marked, between << and >>. For each passage say whether \
the marks are right, going by the description alone: true if the marked parts are those on which \
the unit is active, false if they are not. Any number of the passages may be marked rightly; \
sometimes all are, sometimes none. {SIGNS}

Answer with a JSON array of booleans, one for each passage in order, and nothing else.""",
    shots=(
        (
            "numbers written out as words",
            "¶The ferry leaves at <<seven>> and returns before\n"
            " after twelve years in the <<same>> house, she\n"
            " only <<three>> students passed; <<nineteen>> had tried\n"
            "sold four of <<the>> paintings, kept <<the rest>>⏎",
            (True, False, True, False),
        ),
        (
            "the word not, and contractions that end in n't",
            " it <<does>> not matter who came <<first>>\n <<we>> couldn't see the harbour",
            (False, False),
        ),
        (
            "closing brackets at the end of a function call",
            "print(total<<)>>⏎return total⏎\n"
            " for x in sorted(names<<)>>: out.write(x<<)>>\n"
            "if len(rows<<) == 0>>: return None",
            (True, True, False),
        ),
    ),
)
"""The words of the prompt."""


def right_marks(window: Window, threshold: float) -> tuple[int, ...]:
    """Offsets whose activation is above a share of the window's maximum; whole characters."""
    peak = window.activations.max(initial=np.float32(0.0))
    if peak <= 0:
        return ()
    return window.shown.whole(np.flatnonzero(window.activations > threshold * peak).tolist())


def silent_signs(window: Window) -> list[int]:
    """First tokens of the characters on which the latent is silent and which may be marked.

    Silent is an activation of exactly 0 on every token of the character, none of them masked.
    """
    shown = window.shown
    barred = {
        shown.heads[at]
        for at, (value, live) in enumerate(zip(window.activations, shown.live, strict=True))
        if value != 0 or not live
    }
    return [
        at
        for at, head in enumerate(shown.heads)
        if at == head and head not in barred and shown.pieces[at]
    ]


def fuzzing_items(
    windows: Sequence[Window], *, right: int, wrong: int, threshold: float, key: tuple[object, ...]
) -> tuple[list[Item], int]:
    """Activating windows, marked rightly and wrongly.

    Args:
        windows: one latent's examples of the score side, in the order of drawing.
        right: how many of each decile are marked rightly: the first ones.
        wrong: how many after those are marked wrongly.
        threshold: tokens above this share of the window's maximum are marked rightly.
        key: what the places of wrong marks depend on beside the example.

    Returns:
        The items, and how many windows were left out because they have too few silent tokens.
    """
    activating = [window for window in windows if window.decile > 0]
    marks = [right_marks(window, threshold) for window in activating]
    sizes = [
        len({window.shown.heads[at] for at in marked})
        for window, marked in zip(activating, marks, strict=True)
    ]
    n = max(1, round(float(np.mean(sizes)))) if sizes else 0
    taken: Counter[int] = Counter()
    items, left_out = [], 0
    for window, marked in zip(activating, marks, strict=True):
        taken[window.decile] += 1
        place = taken[window.decile]
        if place <= right:
            line = window.shown.render(marked)
            items.append(Item(window.example_id, line, True, marked))
        elif place <= right + wrong:
            silent = silent_signs(window)
            if len(silent) < n:
                left_out += 1
                continue
            generator = keyed_generator("marks", *key, window.example_id)
            chosen = generator.choice(len(silent), size=n, replace=False).tolist()
            marked = window.shown.whole(silent[at] for at in chosen)
            items.append(Item(window.example_id, window.shown.render(marked), False, marked))
    return items, left_out
