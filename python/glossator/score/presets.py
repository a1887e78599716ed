"""Presets: every parameter of a way of scoring, under one name.

    PRESETS["glossator"].plan            # what is drawn, the explainer's part too
    PRESETS["post"].options.fuzzing      # what is shown, and how
    explainer_of(PRESETS["post"].explainer, **PRESETS["post"].explainer_settings)

`post` is "Open Source Automated Interpretability for Sparse Autoencoder Features" (Juang et al.,
2024), its text before its released code. `delphi` is EleutherAI's package of that name at its
defaults, `saebench` the automated interpretation of SAEBench (Karvonen et al., 2025), each as far
as it can be said without its mistakes. `glossator` is our own. The words of all prompts are ours:
see `docs/scorers.md` for that and for what else differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from glossator.errors import InputError
from glossator.records import Record
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from glossator.score.detection import DetectionOptions
from glossator.score.fuzzing import FuzzingOptions
from glossator.score.neighbours import LADDER, NeighboursOptions
from glossator.score.options import ScoringOptions
from glossator.score.scorers import Scorer
from glossator.score.variants import ContextOptions, SynonymsOptions

__all__ = ["PRESETS", "Preset", "Settled", "settle"]

_WHOLE_CONTEXT = 2**32 - 1
"""A margin that ends only where the context does."""


class Preset(Record):
    """A way of explaining and scoring, complete."""

    name: str
    """Its name in the protocols."""
    plan: SamplingPlan
    """What is drawn, for the explainer and for the scorers."""
    ladder: tuple[NegativePlan, ...] = ()
    """What is drawn beside it for the scorer `neighbours`."""
    options: ScoringOptions
    """What each scorer shows of it."""
    scorers: tuple[str, ...] = ("detection", "fuzzing")
    """Who scores where nobody says who."""
    explainer: str = "activations"
    """Which explainer it goes with."""
    explainer_settings: Mapping[str, Any] = Field(default_factory=dict)
    """That explainer's settings."""


class Settled(NamedTuple):
    """What a preset comes to, with what was said beside it."""

    preset: str
    """Its name; `custom` where something else than it was asked for."""
    plan: SamplingPlan
    """What is drawn."""
    options: ScoringOptions
    """What is shown."""
    scorers: tuple[str | Scorer, ...]
    """Who scores."""


def settle(
    preset: str | Preset,
    plan: SamplingPlan | None = None,
    options: ScoringOptions | None = None,
    scorers: Sequence[str | Scorer] | None = None,
) -> Settled:
    """A preset with what takes the place of its parts.

    Args:
        preset: one of `PRESETS`, by name, or another.
        plan: what is drawn in place of its plan and ladder.
        options: what is shown in place of its options.
        scorers: who scores; its own if None, and `neighbours` where the plan draws for it.

    Raises:
        InputError: there is no such preset.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise InputError(f"preset `{preset}`: unknown; known are {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    if scorers is None:
        kinds = {negative.kind for negative in plan.negatives} if plan is not None else set()
        scorers = (*preset.scorers, *(("neighbours",) if kinds & LADDER else ()))
    names = {one if isinstance(one, str) else one.name for one in scorers}
    ladder = preset.ladder if "neighbours" in names else ()
    own = preset.plan.model_copy(update={"negatives": (*preset.plan.negatives, *ladder)})
    shown = options or preset.options
    drawn = own if plan is None else plan
    is_own = shown == preset.options and drawn.model_copy(update={"explain": own.explain}) == own
    return Settled(preset.name if is_own else "custom", drawn, shown, tuple(scorers))


_POST = Preset(
    name="post",
    plan=SamplingPlan(
        explain=ExplainPlan(kind="uniform", n=20),
        per_decile=7,
        negatives=(NegativePlan(kind="random", n=20, margin=_WHOLE_CONTEXT),),
        length=20,
        centred=True,
    ),
    ladder=(NegativePlan(kind="decoder_unfiltered", n=100, ranks=(1, 10), pool=10),),
    options=ScoringOptions(
        detection=DetectionOptions(strata="decile", per_stratum=5, per_prompt=5),
        fuzzing=FuzzingOptions(
            strata="decile", right=5, wrong=2, marks="average", threshold=0.3, per_prompt=5
        ),
        neighbours=NeighboursOptions(strata="decile", per_stratum=5, per_prompt=5),
    ),
    explainer_settings={"threshold": 0.6, "n": 20, "draw": "uniform", "length": 20},
)

_DELPHI = Preset(
    name="delphi",
    plan=SamplingPlan(
        explain=ExplainPlan(kind="deciles", n=40),
        per_decile=5,
        negatives=(NegativePlan(kind="random", n=50),),
        length=32,
    ),
    ladder=(NegativePlan(kind="decoder_unfiltered", n=50, ranks=(1, 5), pool=10),),
    options=ScoringOptions(
        detection=DetectionOptions(strata="decile", per_stratum=5, per_prompt=5),
        fuzzing=FuzzingOptions(
            strata="decile",
            right=5,
            wrong=5,
            wrong_on="silent",
            marks="active",
            threshold=0.3,
            per_prompt=5,
        ),
        neighbours=NeighboursOptions(strata="decile", per_stratum=5, per_prompt=5),
    ),
    explainer_settings={"threshold": 0.3, "n": 40, "draw": "deciles", "length": 32},
)

_SAEBENCH = Preset(
    name="saebench",
    plan=SamplingPlan(
        explain=ExplainPlan(kind="mixture", n=15, n_top=10, pool=10),
        per_decile=10,
        negatives=(NegativePlan(kind="random", n=10),),
        length=21,
        centred=True,
    ),
    options=ScoringOptions(
        detection=DetectionOptions(strata="decile", top=2, weighted=2, per_prompt=14),
    ),
    scorers=("detection",),
    explainer="delimited",
    explainer_settings={"threshold": 0.01, "n": 15, "draw": "mixture", "length": 21},
)

_GLOSSATOR = Preset(
    name="glossator",
    plan=SamplingPlan(
        explain=ExplainPlan(kind="uniform", n=40),
        per_decile=5,
        negatives=(
            NegativePlan(kind="random", n=13),
            NegativePlan(kind="peak_token", n=12, even=True),
        ),
    ),
    ladder=(
        NegativePlan(kind="near_token", n=15),
        NegativePlan(kind="decoder", n=20, ranks=(1, 10)),
    ),
    options=ScoringOptions(
        detection=DetectionOptions(strata="quintile", per_stratum=5, per_prompt=1),
        fuzzing=FuzzingOptions(
            strata="quintile", right=5, wrong=5, marks="pattern", threshold=0.3, per_prompt=1
        ),
        neighbours=NeighboursOptions(strata="quintile", per_stratum=5, per_prompt=1),
        fuzzing_synonyms=SynonymsOptions(strata="quintile", right=5, altered=5, per_prompt=1),
        fuzzing_context=ContextOptions(strata="quintile", right=5, altered=5, per_prompt=1),
    ),
    explainer="delimited",
)

PRESETS: Mapping[str, Preset] = {one.name: one for one in (_GLOSSATOR, _POST, _DELPHI, _SAEBENCH)}
"""The presets, by name."""
