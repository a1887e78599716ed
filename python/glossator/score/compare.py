"""Two explainers, judges or protocols on the same latents and examples.

    comparison = compare(run_a, run_b)                             # two runs, or two `Scored`
    comparison = compare(run, run, explainers=("cot", "delimited"))
    comparison.means                # by scorer and metric: the difference, with its interval
    comparison.latents              # by latent: McNemar's test on the examples both answered
    between_scorers(run)            # how the scorers agree over latents

Differences are of the same latents, with a bootstrap over latents. Explanations of the null are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glossator.score.calibration import Calibration, corrected_balanced_accuracy
from glossator.score.over_latents import mean_draws, mean_figure
from glossator.score.shares import Figure
from glossator.score.sides import Side, Source, side_of
from glossator.score.summary import main_metric

__all__ = ["Comparison", "between_scorers", "compare", "correlation_figures"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What differs between two sides, A and B."""

    means: pa.Table
    """One row a scorer and metric: the means `a` and `b` over the latents with both, `difference`
    a − b with `low` and `high`, the `latents` that both have, how many only one has (`only_a`,
    `only_b`), without a score (`refused_a`, `refused_b`) and verdicts `missing_a`, `missing_b`;
    `pearson` and `spearman` over latents with their intervals; and, where calibration sets are
    given, the corrected means `corrected_a`, `corrected_b`, each with its interval."""
    latents: pa.Table
    """One row a latent and scorer of yes or no: of `n` examples that both answered, `both` right,
    `only_a`, `only_b` and `neither`, `p_value` (McNemar, exact) and `q_value` over latents."""
    one_sided: pa.Table
    """One row a latent, scorer and metric that only one `side` has."""


def compare(
    a: Source,
    b: Source,
    *,
    explainers: tuple[str | None, str | None] = (None, None),
    judges: tuple[str | None, str | None] = (None, None),
    protocols: tuple[str | None, str | None] = (None, None),
    calibrations: tuple[Calibration | None, Calibration | None] = (None, None),
) -> Comparison:
    """Compare two sides on the latents and examples that both have.

    Args:
        a: a run, what `score` gave, or a mapping of the run's tables by name.
        b: the other; the same again where `explainers`, `judges` or `protocols` tell them apart.
        explainers: whose explanations, of each side; any where None.
        judges: whose verdicts.
        protocols: how asked: the id or its beginning, or the name of a preset.
        calibrations: of each side's judge; gives corrected balanced accuracies.

    Raises:
        InputError: a side has several scores of one latent, scorer and metric, or none at all.
    """
    sides = [
        side_of(source, name, explainer=who, judge=judge, protocol=how)
        for source, name, who, judge, how in zip(
            (a, b), "AB", explainers, judges, protocols, strict=True
        )
    ]
    keys = sorted(set(sides[0].scores) | set(sides[1].scores))
    rows, lonely = [], []
    for key in keys:
        own = [side.scores.get(key, {}) for side in sides]
        rows.append(_mean_row(key, own, calibrations))
        for name, one, other in (("A", own[0], own[1]), ("B", own[1], own[0])):
            lonely += [
                {"side": name, "hookpoint": h, "latent": latent, "scorer": key[0], "metric": key[1]}
                for (h, latent), row in sorted(one.items())
                if row["value"] is not None and (h, latent) not in other
            ]
    return Comparison(
        pa.Table.from_pylist(rows, schema=_MEANS),
        _mcnemar(*sides),
        pa.Table.from_pylist(lonely, schema=_ONE_SIDED),
    )


def _mean_row(
    key: tuple[str, str],
    own: list[Mapping[tuple[str, int], Mapping[str, Any]]],
    calibrations: tuple[Calibration | None, Calibration | None],
) -> dict[str, Any]:
    scored = [
        {at: row["value"] for at, row in one.items() if row["value"] is not None} for one in own
    ]
    both = sorted(scored[0].keys() & scored[1].keys())
    a, b = (np.array([one[at] for at in both], np.float64) for one in scored)
    difference = mean_figure(a - b, (-2.0, 2.0))
    row: dict[str, Any] = {
        "scorer": key[0],
        "metric": key[1],
        "a": float(a.mean()) if len(a) else None,
        "b": float(b.mean()) if len(b) else None,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "latents": len(both),
        "only_a": len(own[0].keys() - own[1].keys()),
        "only_b": len(own[1].keys() - own[0].keys()),
    }
    for name, one, values in zip("ab", own, scored, strict=True):
        row[f"refused_{name}"] = len(one) - len(values)
        row[f"missing_{name}"] = sum(entry["n_missing"] for entry in one.values())
    for name, figure in correlation_figures(a, b).items():
        row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    for name, mine, calibration in zip("ab", (a, b), calibrations, strict=True):
        if calibration is not None and key[1] == "balanced_accuracy" and len(mine):
            draws = mean_draws(mine)
            figure = corrected_balanced_accuracy(float(mine.mean()), draws, calibration)
            for end, value in (("", figure.value), ("_low", figure.low), ("_high", figure.high)):
                row[f"corrected_{name}{end}"] = value
    return row


def correlation_figures(a: Floats, b: Floats) -> dict[str, Figure]:
    """Pearson's and Spearman's correlation, with intervals by Fisher's z.

    Source: Bonett and Wright, Psychometrika 65 (2000) 23: the variance of z is 1 / (n − 3), and (1
    + r² / 2) / (n − 3) for ranks.

    Args:
        a: [n] one figure of each latent.
        b: [n] another.
    """
    from scipy.stats import norm, rankdata

    if len(a) < 4 or not np.ptp(a) or not np.ptp(b):
        reason = "fewer than four latents, or all the same"
        return dict.fromkeys(("pearson", "spearman"), Figure(reason=reason))
    found = {}
    for name, (x, y) in {"pearson": (a, b), "spearman": (rankdata(a), rankdata(b))}.items():
        r = float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))
        more = 1 + r * r / 2 if name == "spearman" else 1.0
        half = float(norm.ppf(0.975)) * np.sqrt(more / (len(a) - 3))
        z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
        found[name] = Figure(r, float(np.tanh(z - half)), float(np.tanh(z + half)))
    return found


def between_scorers(
    source: Source,
    *,
    explainer: str | None = None,
    judge: str | None = None,
    protocol: str | None = None,
) -> pa.Table:
    """How the scorers of one side agree over latents, each by its main figure.

    Args:
        source: a run, what `score` gave, or a mapping of tables.
        explainer: whose explanations; any where None.
        judge: whose verdicts.
        protocol: how asked.

    Returns:
        One row a pair: `scorer_a`, `scorer_b`, `latents`, and `pearson` and `spearman` with their
        intervals.
    """
    side = side_of(source, "it", explainer=explainer, judge=judge, protocol=protocol)
    main = {
        scorer: {at: row["value"] for at, row in rows.items() if row["value"] is not None}
        for (scorer, metric), rows in sorted(side.scores.items())
        if metric == main_metric(scorer)
    }
    found = []
    names = list(main)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = sorted(main[first].keys() & main[second].keys())
            a, b = (np.array([main[name][at] for at in both]) for name in (first, second))
            row: dict[str, Any] = {"scorer_a": first, "scorer_b": second, "latents": len(both)}
            for name, figure in correlation_figures(a, b).items():
                row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
            found.append(row)
    return pa.Table.from_pylist(found, schema=_BETWEEN)


def _mcnemar(a: Side, b: Side) -> pa.Table:
    """McNemar's exact test of each latent and scorer, on the examples that both sides answered."""
    from scipy.stats import binom, false_discovery_control

    keys = ["hookpoint", "latent", "scorer", "example_id", "marks", "truth"]
    joined = a.verdicts.join(b.verdicts, keys, join_type="inner", right_suffix="_b")
    if not len(joined):
        return _LATENTS.empty_table()
    one, other = joined["right"], joined["right_b"]
    counts = {
        "both": pc.and_(one, other),
        "only_a": pc.and_not(one, other),
        "only_b": pc.and_not(other, one),
    }
    table = joined.select(keys[:3])
    for name, column in counts.items():
        table = table.append_column(name, pc.cast(column, pa.int64()))
    aggregates = [*((name, "sum") for name in counts), ("both", "count")]
    grouped = table.group_by(keys[:3], use_threads=False).aggregate(aggregates)
    grouped = grouped.sort_by([(name, "ascending") for name in keys[:3]])
    only_a, only_b = (grouped[f"only_{name}_sum"].to_numpy() for name in "ab")
    n, both = grouped["both_count"].to_numpy(), grouped["both_sum"].to_numpy()
    p_values = np.minimum(1.0, 2 * binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))
    scorers = np.array(grouped["scorer"].to_pylist())
    q_values = np.empty(len(p_values))
    for scorer in np.unique(scorers):
        q_values[scorers == scorer] = false_discovery_control(p_values[scorers == scorer])
    columns = {
        **{name: grouped[name].to_pylist() for name in keys[:3]},
        "n": n,
        "both": both,
        "only_a": only_a,
        "only_b": only_b,
        "neither": n - both - only_a - only_b,
        "p_value": p_values,
        "q_value": q_values,
    }
    arrays = [pa.array(columns[field.name], field.type) for field in _LATENTS]
    return pa.Table.from_arrays(arrays, schema=_LATENTS)


def _with_ends(*names: str) -> list[tuple[str, pa.DataType]]:
    return [(f"{name}{end}", pa.float64()) for name in names for end in ("", "_low", "_high")]


_MEANS = pa.schema(
    [
        *((name, pa.string()) for name in ("scorer", "metric")),
        *((name, pa.float64()) for name in ("a", "b", "difference", "low", "high")),
        *((name, pa.int64()) for name in ("latents", "only_a", "only_b")),
        *((name, pa.int64()) for name in ("refused_a", "refused_b", "missing_a", "missing_b")),
        *_with_ends("pearson", "spearman", "corrected_a", "corrected_b"),
    ]
)
_LATENTS = pa.schema(
    [
        *[("hookpoint", pa.string()), ("latent", pa.int64()), ("scorer", pa.string())],
        *((name, pa.int64()) for name in ("n", "both", "only_a", "only_b", "neither")),
        *((name, pa.float64()) for name in ("p_value", "q_value")),
    ]
)
_ONE_SIDED = pa.schema(
    [
        ("side", pa.string()),
        ("hookpoint", pa.string()),
        ("latent", pa.int64()),
        ("scorer", pa.string()),
        ("metric", pa.string()),
    ]
)
_BETWEEN = pa.schema(
    [
        *[("scorer_a", pa.string()), ("scorer_b", pa.string()), ("latents", pa.int64())],
        *_with_ends("pearson", "spearman"),
    ]
)
