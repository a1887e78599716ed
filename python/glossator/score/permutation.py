"""How often a judge that knows nothing would do as well: p-values, and q-values over latents.

    classification_p_value(truth, answer, weights, one_a_prompt=True)
    ranking_p_value(p_yes, truth)
    scores = with_q_values(scores, {explanation_id: explainer})

Under the null the truth is exchangeable over the slots of a latent's prompts: its examples were put
there in random order. So the labels are permuted and the answers kept: no request is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["classification_p_value", "ranking_p_value", "with_q_values"]

Bools = npt.NDArray[np.bool_]

_DRAWS = 9_999
_EXACT = 200
"""Examples up to which the distribution of Mann and Whitney is computed exactly."""


def classification_p_value(
    truth: Bools, answer: Bools, strata: npt.NDArray[np.int64], *, exact: bool, seed: int = 0
) -> float | None:
    """Probability of so good a balanced accuracy if the answers knew nothing of the truth.

    One-sided. Of the labels, those of the examples answered yes are a random set, so the number of
    activating ones among them is hypergeometric. That is the p-value with `exact`, and where the
    strata are of one size, for the balanced accuracy then depends on that number alone. Otherwise
    the balanced accuracy is drawn 9,999 times, and the p-value is (1 + draws as good) / (1 +
    draws).

    Args:
        truth: [n] the right answers.
        answer: [n] the judge's.
        strata: [n] deciles or quintiles of the activating examples; of others it is not looked at.
        exact: whether each example stood in a prompt of its own.
        seed: of the draws.

    Returns:
        The p-value; None where one of the two classes is empty.

    Source: Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010)
    39.
    """
    positive, n, yes = int(truth.sum()), len(truth), int(answer.sum())
    if positive in (0, n):
        return None
    labels = np.unique(np.where(truth, strata, -1), return_inverse=True)[1]
    sizes = np.bincount(labels)
    if exact or len(np.unique(sizes[1:])) == 1:
        from scipy.stats import hypergeom

        return float(min(hypergeom.sf(int((truth & answer).sum()) - 1, n, positive, yes), 1.0))
    weights = 1.0 / (sizes * (len(sizes) - 1))
    weights[0] = -1.0 / sizes[0]
    found = float(np.bincount(labels[answer], minlength=len(sizes)) @ weights)
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(sizes, yes, _DRAWS) @ weights
    return float((1 + np.count_nonzero(drawn >= found - 1e-12)) / (1 + _DRAWS))


def ranking_p_value(
    score: npt.NDArray[np.floating], truth: Bools, *, seed: int = 0
) -> float | None:
    """Probability of so large an AUROC if the scores knew nothing of the truth; one-sided.

    Mann and Whitney's test, exact where no scores are tied; else labels are permuted 9,999 times.

    Args:
        score: [n] what ranks, higher for activating.
        truth: [n] whether the example is activating.
        seed: of the permutations.

    Returns:
        The p-value; None where one of the two classes is empty.
    """
    from scipy.stats import mannwhitneyu, rankdata

    positive = int(truth.sum())
    if positive in (0, len(truth)):
        return None
    if len(np.unique(score)) == len(score) <= _EXACT:
        test = mannwhitneyu(score[truth], score[~truth], alternative="greater", method="exact")
        return float(test.pvalue)
    # In an order of their own: the rows' is none.
    ranks = rankdata(score)
    generator = np.random.default_rng(seed)
    found, as_good = float(ranks[truth].sum()), 1
    block = max(1, 2_000_000 // len(ranks))
    for first in range(0, _DRAWS, block):
        shuffled = np.tile(np.sort(ranks), (min(block, _DRAWS - first), 1))
        sums = generator.permuted(shuffled, axis=1)[:, :positive].sum(axis=1)
        as_good += int(np.count_nonzero(sums >= found - 1e-9))
    return as_good / (1 + _DRAWS)


def with_q_values(scores: pa.Table, groups: Mapping[str, str] | None = None) -> pa.Table:
    """The scores with `q_value`: the p-value corrected over the latents of one protocol.

    Benjamini and Hochberg's correction, over all rows of one protocol, scorer, metric, kind, decile
    and group that have a p-value. To be called on all latents that a protocol scored: of a part of
    them the correction would be too mild.

    Args:
        scores: rows of the run's table `scores`.
        groups: the explainer of each explanation, so that those of several, or of the null, are not
            corrected for one another; one group if None.
    """
    from scipy.stats import false_discovery_control

    names = ("protocol_id", "scorer", "metric", "kind", "decile", "explanation_id", "p_value")
    families: dict[tuple[object, ...], list[int]] = {}
    columns = [scores[name].to_pylist() for name in names]
    for number, row in enumerate(zip(*columns, strict=True)):
        *family, explanation, p_value = row
        if p_value is not None:
            key = (*family, (groups or {}).get(explanation, ""))
            families.setdefault(key, []).append(number)
    q_values: list[float | None] = [None] * len(scores)
    for places in families.values():
        corrected = false_discovery_control([columns[-1][place] for place in places])
        for at, value in zip(places, np.asarray(corrected).tolist(), strict=True):
            q_values[at] = value
    place = scores.column_names.index("q_value")
    field = scores.schema.field(place)
    return scores.set_column(place, field, pa.array(q_values, field.type))
