"""Which latents and explanations a run is about.

chosen_latents(run)      # explained
judged_latents(run)      # a judge is asked about these
"""

from __future__ import annotations

import numpy as np

from glossator.errors import InputError
from glossator.records import Explanation
from glossator.runs import Run

__all__ = ["chosen_explanations", "chosen_latents", "judged_latents"]


def chosen_latents(run: Run) -> list[int]:
    """The latents that are explained: those named, or all live ones.

    Raises:
        InputError: one that is named is not in the index.
    """
    named = run.config.explain.latents
    if named is None:
        return _live(run)
    if outside := [latent for latent in named if latent >= run.index.n_latents]:
        raise InputError(
            f"--latents: {outside[0]} is not in the index; "
            f"its latents are 0 to {run.index.n_latents - 1}"
        )
    return list(named)


def judged_latents(run: Run) -> list[int]:
    """At most so many live latents as the judge is asked about, drawn by seed.

    Those of a type that is to be skipped are not among them.
    """
    live = set(_live(run)) - _skipped(run)
    candidates = sorted(latent for latent in chosen_latents(run) if latent in live)
    order = np.random.default_rng(run.config.seed).permutation(len(candidates))
    return [candidates[place] for place in order[: run.config.judge.bound].tolist()]


def chosen_explanations(run: Run) -> list[Explanation]:
    """The explanations of the latents that are explained."""
    chosen = set(chosen_latents(run))
    return [
        Explanation.from_row(row)
        for row in run.table("explanations").to_pylist()
        if row["latent"] in chosen
    ]


def _skipped(run: Run) -> set[int]:
    types = set(run.config.explain.skip_types)
    rows = run.table("latents").select(["latent", "type"]).to_pylist()
    return {row["latent"] for row in rows if row["type"] in types}


def _live(run: Run) -> list[int]:
    latents: list[int] = run.store.table("latents", "status = 'live'")["latent"].to_pylist()
    return latents
