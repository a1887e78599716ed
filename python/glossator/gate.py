"""Is the coder read as it was made? Its figures on real hidden states tell.

    report = gl.check_coder(coder, x, others={"layers.3.mlp:in": x2})
    report.verdict, report.culprit, report.line
    gl.refuse_misread(report)

A convention read wrongly (a bias, a norm, a scale, another module) does not crash: it gives labels
of another tensor. It shows in the variance left unexplained and in L0, and undoing it brings both
back: so the gate tries, and names what does. docs/gate.md measures what it sees and what not.
`reconstruction` makes the figures, `conventions` the other readings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from glossator.errors import InputError
from glossator.reconstruction import Figures, distinct_states, measured, ordinary, spread
from glossator.records import Record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from glossator.coders import SparseCoder

    Rows = torch.Tensor | npt.NDArray[np.floating[Any]]

__all__ = ["FEWEST_ROWS", "Figures", "GateReport", "Trial", "check_coder", "refuse_misread"]

FEWEST_ROWS = 64
"""Hidden states below which nothing is measured."""

# docs/gate.md has the figures between which each of these stands.
_EXPLAINS = 0.75
"""A convention explains if with another at most this share of the unexplained variance is left."""
_VISIBLE = 0.05
"""Less of all variance than this is not explained, nor looked for."""
_POOR = 0.5
"""Unexplained variance that is worth a warning."""
_ABSURD = 1.0
"""Unexplained variance at which the mean alone would say as much."""
_NEAR_L0 = 2.0
"""Factor within which L0 agrees with the declared one; it differs by corpus."""
_FAR_L0 = 8.0
"""Factor beyond which it is another tensor's, whether or not a convention explains it."""
_NEAR_EXPLAINED = 0.1
"""Difference within which variance explained agrees with the declared one."""
_OVERFULL = 4.0
"""Times the variance to be described that no part of a cross-layer coder writes on its own."""
_ABSURD_DENSITY = 0.25
"""Share of latents active on a token that no sparse coder has by a threshold."""
_FEWEST_STATES = 24
"""States below which text is too uniform: a sentence repeated has 10 to 16, other text hundreds."""
_ROWS, _TRIAL_ROWS = 2_048, 512
_PRODUCTS, _TRIAL_PRODUCTS = 1 << 40, 1 << 38
"""Multiply-adds of one encoding of the rows, at most, down to the fewest rows."""


class Trial(Record):
    """One other convention, and what it gives."""

    convention: str
    """The convention changed: `input`, `target`, `input bias`, `normalization`, `input scale`,
    `output scale`, `activation scale`, `encoder orientation`, `decoder orientation`, `both
    orientations`, `skip orientation`, `decoder norm` or `rule`."""
    reading: str
    """How the coder was read: completes "read with …"."""
    remedy: str
    """How to have it read so."""
    figures: Figures
    """What it gives on the rows of `GateReport.compared`."""
    explains: bool
    """Whether it explains the figures of the coder as read."""


class GateReport(Record):
    """What the gate saw: a part of the run's record."""

    source: str
    """The coder's format and path."""
    coder_hash: str
    """Hash of its weights, rule and conventions, as read."""
    figures: Figures
    """The coder as read, on all rows."""
    ordinary: Figures
    """The same without rows of outlying norm."""
    compared: Figures | None
    """The same on the rows of the trials; None where none was made."""
    outlying: float
    """Share of rows of more than four times the median norm."""
    distinct: int
    """States that stand for all others to 5 % of the variance, counted to 24: where fewer do, the
    text is too uniform to tell, nothing is tried and nothing refused."""
    declared_l0: tuple[float, float] | None
    """The L0 that the files claim, from and to."""
    declared_explained: float | None
    """The share of variance explained that the files claim."""
    trials: tuple[Trial, ...]
    """The conventions tried."""
    verdict: Literal["passes", "warns", "misread"]
    """`misread` is refused, `warns` is a coder to be wary of."""
    culprit: str | None
    """The convention that explains the figures, as `Trial.convention` names it."""
    line: str
    """All of it in one line."""


def check_coder(
    coder: SparseCoder,
    x: Rows,
    target: Rows | None = None,
    *,
    others: Mapping[str, Rows] | None = None,
) -> GateReport:
    """Measure a coder on real hidden states, and find which convention is wrong if one is.

    At most 2,048 rows are looked at, evenly spread over those given, and 512 for each convention
    tried; fewer (never under 64) where the encoder has over 2²⁹ weights. No convention is tried
    where the figures leave nothing to explain, else about 20. Each costs one encoding of its rows
    and 2³² multiply-adds of decoding at most. Beside the coder it takes one copy of its encoder or
    decoder and about 400 MB.

    Args:
        coder: as read from its files; `declared` may hold `l0` or `density` (a number, or from and
            to), `variance_explained`, `k` and `threshold`.
        x: float[N, d]: what the hookpoint gives, without BOS and padding. Some thousand tokens of
            ordinary text, on the device where the coder shall run.
        target: float[N, d_out]: what a transcoder describes, token by token; None for an
            autoencoder.
        others: what could have been meant instead, by name: hidden states of the same N tokens,
            from the module's other side, before or after a norm, from another module.

    Raises:
        InputError: shapes disagree, fewer than 64 rows, or NaN or infinity in them.
    """
    import torch

    from glossator.conventions import readings

    states = _rows(coder, "x", x, coder.width)
    wanted = states if target is None else _rows(coder, "target", target, coder.width_out)
    choices = {name: _rows(coder, name, rows) for name, rows in (others or {}).items()}
    for name, rows in {"target": wanted, **choices}.items():
        if len(rows) != len(states):
            raise InputError(
                f"coder {coder.source}: {len(rows):,} rows of `{name}`, but {len(states):,} of `x`"
            )
    weights = coder.n_latents * coder.width
    kept = spread(torch.arange(len(states)), _most(_ROWS, _PRODUCTS // weights))
    figures = seen = measured(coder, states[kept], wanted[kept])
    usual = ordinary(states) & ordinary(wanted)
    if not bool(usual[kept].all()):
        kept = kept[usual[kept]]
        seen = measured(coder, states[kept], wanted[kept])
    kept = spread(kept, _most(_TRIAL_ROWS, _TRIAL_PRODUCTS // weights))
    some = states[kept]
    distinct = distinct_states(some, _VISIBLE, _FEWEST_STATES)
    claims = _Claims.of(coder)
    compared, trials = None, []
    if distinct == _FEWEST_STATES and not (claims.met_by(figures) and claims.met_by(seen)):
        meant = some if target is None else wanted[kept]
        compared = measured(coder, some, meant)
        choices = {name: rows[kept] for name, rows in choices.items()}
        for reading in readings(coder, some, meant, choices, transcodes=target is not None):
            other = reading.coder()
            given, described = reading.x, reading.target
            if given is not some or described is not meant:
                live = ordinary(given) & ordinary(described)
                given, described = given[live], described[live]
            found = measured(other, given, described)
            trials.append(
                Trial(
                    convention=reading.convention,
                    reading=reading.reading,
                    remedy=reading.remedy,
                    figures=found,
                    explains=claims.explain(compared, found) and not _absurd(other, found),
                )
            )
    verdict, culprit, line = _judged(coder, seen, compared, claims, trials)
    if verdict != "passes" and distinct < _FEWEST_STATES:
        told = _told(seen, claims)
        verdict, culprit = "warns", None
        line = (
            f"coder {coder.source}: {told}, but the text is too uniform to tell: {distinct} states "
            "stand for all others; measure it on ordinary text"
        )
    return GateReport(
        source=coder.source,
        coder_hash=coder.hash,
        figures=figures,
        ordinary=seen,
        compared=compared,
        outlying=1.0 - float(usual.float().mean()),
        distinct=distinct,
        declared_l0=claims.l0,
        declared_explained=claims.explained,
        trials=tuple(trials),
        verdict=verdict,
        culprit=culprit,
        line=line,
    )


def refuse_misread(report: GateReport) -> None:
    """Refuse a coder that is not read as it was made.

    Raises:
        InputError: the report's line, where its verdict is `misread`.
    """
    if report.verdict == "misread":
        raise InputError(report.line)


@dataclass(frozen=True)
class _Claims:
    """What the files say of the coder's figures."""

    l0: tuple[float, float] | None
    explained: float | None

    @staticmethod
    def of(coder: SparseCoder) -> _Claims:
        l0 = _range(coder.declared.get("l0", coder.declared.get("l0_range")))
        density = _range(coder.declared.get("density"))
        if l0 is None and density is not None:
            l0 = (density[0] * coder.n_latents, density[1] * coder.n_latents)
        explained = _range(coder.declared.get("variance_explained"))
        return _Claims(l0 if l0 and l0[0] > 0 else None, explained[0] if explained else None)

    def off(self, l0: float) -> float:
        """The factor by which an L0 is outside the declared one; 1 inside, or undeclared."""
        if self.l0 is None:
            return 1.0
        return max(self.l0[0] / l0, l0 / self.l0[1], 1.0) if l0 else math.inf

    def met_by(self, seen: Figures) -> bool:
        """Whether nothing is left to explain."""
        if seen.unexplained is None:
            return self.off(seen.l0) <= _NEAR_L0 and (seen.written or 0.0) <= _OVERFULL
        claimed = 1.0 - self.explained if self.explained is not None and self.l0 else 0.0
        return seen.unexplained <= claimed + _VISIBLE and self.off(seen.l0) <= _NEAR_L0

    def explain(self, now: Figures, then: Figures) -> bool:
        """Whether what gives `then` is likelier right than what gives `now`."""
        nearer = self.off(then.l0) <= max(self.off(now.l0), _NEAR_L0)
        if now.unexplained is None or then.unexplained is None:
            return self.off(now.l0) > _NEAR_L0 >= self.off(then.l0)
        gain = now.unexplained - then.unexplained
        better = gain >= _VISIBLE and then.unexplained <= _EXPLAINS * now.unexplained
        mended = self.off(now.l0) > _NEAR_L0 >= self.off(then.l0) and gain >= 0
        return then.unexplained < _ABSURD and ((better and nearer) or mended)


def _judged(
    coder: SparseCoder,
    seen: Figures,
    compared: Figures | None,
    claims: _Claims,
    trials: list[Trial],
) -> tuple[Literal["passes", "warns", "misread"], str | None, str]:
    told = f"coder {coder.source}: {_told(seen, claims)}"
    explaining = [trial for trial in trials if trial.explains]
    if explaining and compared is not None:
        # Of readings that explain, the one that leaves least; L0 decides where none is explained.
        best = min(explaining, key=lambda trial: _rank(trial.figures, claims))
        return (
            "misread",
            best.convention,
            f"{told}; read with {best.reading} it has {_told(best.figures, None)}: its "
            f"{best.convention} is not as it was trained; {best.remedy}, or go on with `--no-gate`",
        )
    if absurd := _absurd(coder, seen):
        return (
            "misread",
            None,
            f"{told}: {absurd}, and no convention tried explains it; check that coder, model and "
            "hookpoint belong together, or go on with `--no-gate`",
        )
    if claims.off(seen.l0) > _FAR_L0:
        return (
            "misread",
            None,
            f"{told}: over {_FAR_L0:g} times off, and no convention tried explains it; check that "
            "coder, model and hookpoint belong together, or go on with `--no-gate`",
        )
    doubts = []
    lost = seen.unexplained
    if lost is not None and claims.explained is not None:
        if 1.0 - lost < claims.explained - _NEAR_EXPLAINED:
            doubts.append("it explains less than declared")
    elif lost is not None and lost > _POOR:
        doubts.append("it explains little")
    if claims.off(seen.l0) > _NEAR_L0:
        doubts.append("its L0 is not the declared one")
    if doubts:
        return "warns", None, f"{told}: {' and '.join(doubts)}; no convention tried explains it"
    return "passes", None, told


def _rank(seen: Figures, claims: _Claims) -> tuple[float, float]:
    lost = 0.0 if seen.unexplained is None else seen.unexplained
    # Readings within a hundredth of each other describe alike: there L0 decides.
    return round(lost, 2), claims.off(seen.l0)


def _told(seen: Figures, claims: _Claims | None) -> str:
    said = claims or _Claims(None, None)
    lost = seen.unexplained
    parts = []
    if lost is not None:
        parts.append(f"{100 * lost:.3g} % of variance unexplained")
        if said.explained is not None:
            parts[0] += f" ({100 - 100 * said.explained:.3g} % declared)"
    parts.append(f"L0 {seen.l0:.3g}")
    if said.l0 is not None:
        low, high = (f"{bound:.3g}" for bound in said.l0)
        parts[-1] += f" ({low if low == high else f'{low} to {high}'} declared)"
    return " and ".join(parts)


def _absurd(coder: SparseCoder, seen: Figures) -> str | None:
    """Why no coder that is read rightly has these figures; None if one may."""
    if seen.l0 == 0:
        return "no latent is active"
    if seen.unexplained is not None and seen.unexplained >= _ABSURD:
        return "the mean alone explains as much"
    if seen.unexplained is None and seen.written is not None and seen.written > _OVERFULL:
        return f"it writes {seen.written:.3g} times the variance that there is"
    if coder.k is None and seen.density > _ABSURD_DENSITY:
        return f"{seen.density:.0%} of latents are active on a token"
    return None


def _most(*limits: int) -> int:
    """Rows to look at: the least limit, and never under the fewest."""
    return max(min(limits), FEWEST_ROWS)


def _range(said: object) -> tuple[float, float] | None:
    """A declared number, or from and to; None where it is neither."""
    pair = said if isinstance(said, list | tuple) and len(said) == 2 else (said, said)
    try:
        low, high = (float(bound) for bound in pair)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _rows(coder: SparseCoder, name: str, rows: Rows, width: int | None = None) -> torch.Tensor:
    import torch

    given = rows if isinstance(rows, torch.Tensor) else torch.from_numpy(rows)
    if given.ndim != 2 or width not in (None, given.shape[1]):
        raise InputError(
            f"coder {coder.source}: `{name}` has shape {list(given.shape)}; "
            f"rows of {width or 'numbers'} are needed"
        )
    if len(given) < FEWEST_ROWS:
        raise InputError(
            f"coder {coder.source}: `{name}` has {len(given)} rows; the check needs {FEWEST_ROWS}"
        )
    if not bool(torch.isfinite(given).all()):
        raise InputError(f"coder {coder.source}: `{name}` holds NaN or infinity")
    return given
