"""Drawing examples from one latent's postings with NumPy: what a script does without the index."""

import numpy as np


def sample(positions, values, tokens, sides, rng, *, window=32, explain=40, decile=5, negatives=50):
    """Windows of one latent: drawn, their tokens and activations gathered.

    Args:
        positions: [n] ascending.
        values: [n].
        tokens: Every token of the corpus.
        sides: [windows] 0 explain, 1 score, 2 neither.
        rng: Draws.
        window: Tokens in a window.
        explain: Windows of the explain side.
        decile: Score-side windows of each tenth of the ranks.
        negatives: Silent windows of the score side.

    Returns:
        Tokens [m, window] and activations [m, window].
    """
    of = np.asarray(positions) // window
    windows, first = np.unique(of, return_index=True)
    if not len(windows):
        return np.empty((0, window), tokens.dtype), np.empty((0, window), np.float32)
    order = np.argsort(np.maximum.reduceat(values, first), kind="stable")
    deciles = np.empty(len(windows), np.int64)
    deciles[order] = 1 + 10 * np.arange(len(windows)) // len(windows)
    drawn = []
    if explain:
        drawn.append(rng.permutation(windows[sides[windows] == 0])[:explain])
    scored = sides[windows] == 1
    drawn += [rng.permutation(windows[(deciles == d) & scored])[:decile] for d in range(1, 11)]
    if negatives:
        silent = rng.permutation(np.nonzero(sides == 1)[0])[: 4 * negatives]
        drawn.append(np.setdiff1d(silent, windows)[:negatives])
    chosen = np.concatenate(drawn)
    shown = tokens.reshape(-1, window)[chosen]
    dense = np.zeros(shown.shape, np.float32)
    place = np.full(len(sides), -1)
    place[chosen] = np.arange(len(chosen))
    inside = place[of] >= 0
    dense[place[of[inside]], np.asarray(positions)[inside] % window] = values[inside]
    return shown, dense
