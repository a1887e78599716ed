"""Detection: is the latent active anywhere in this passage, by its explanation alone?

    items = detection_items(windows, per_decile=5)
    TEMPLATE.prompt(explanation.text, [item.line for item in items], "latent 17, detection")

The method is that of "Open Source Automated Interpretability for Sparse Autoencoder Features"
(Juang et al., 2024): five activating examples per decile and random silent ones, five a prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from glossator.score.questions import Item, Template, Window
from glossator.shown import SIGNS

__all__ = ["TEMPLATE", "detection_items"]

TEMPLATE = Template(
    system=f"""\
You check a description of one unit of a neural network. You are given the description and then \
some numbered passages. For each passage say whether the unit is active on any part of it, going \
by the description alone: true if some word or sign of the passage fits the description, false if \
nothing in it does. Any number of the passages may fit; sometimes all do, sometimes none. {SIGNS}

Answer with a JSON array of booleans, one for each passage in order, and nothing else.""",
    shots=(
        (
            "numbers written out as words",
            "¶The ferry leaves at seven and returns before\n"
            " painted the gate green and left it open⏎\n"
            "Call 555-0199 between 9 and 17 h\n"
            " after twelve years in the same house, she",
            (True, False, False, True),
        ),
        (
            "the word not, and contractions that end in n't",
            " has been closed since the spring⏎¶How to\n"
            "I knotted the rope twice and tied it to\n"
            " a notable exception, as the report says",
            (False, False, False),
        ),
        (
            "closing brackets at the end of a function call",
            "print(total)⏎return total⏎\n for x in sorted(names): out.write(x)",
            (True, True),
        ),
    ),
)
"""The words of the prompt."""


def detection_items(windows: Sequence[Window], *, per_decile: int) -> list[Item]:
    """The first `per_decile` activating windows of each decile and all silent ones, unmarked.

    Args:
        windows: one latent's examples of the score side, in the order of drawing.
        per_decile: how many of each decile are shown.
    """
    taken: Counter[int] = Counter()
    items = []
    for window in windows:
        taken[window.decile] += 1
        if window.decile == 0 or taken[window.decile] <= per_decile:
            items.append(Item(window.example_id, window.shown.render(), window.decile > 0))
    return items
