"""What the tests of scorers share: materials of a planted index, and answers put together."""

from __future__ import annotations

import re

import numpy as np

from glossator.judges.base import Answer, Failure, Reading
from glossator.sampling import ExplainPlan, NegativePlan, SamplingPlan
from glossator.score.questions import Window
from glossator.score.scorers import Material
from glossator.shown import Shown, example_ids, show
from planted import HOOKPOINT, planted_explanations

PLAN = SamplingPlan(
    explain=ExplainPlan(n=0), per_decile=7, negatives=(NegativePlan(kind="random", n=20),)
)
CUT = re.compile(r"\n|\t|[^\n\t]+")


def materials_of(planted, latents, *, plan=PLAN, seed=0):
    """Materials as a scoring prepares them."""
    index, text = planted
    examples = index.sample(list(latents), plan, seed=seed)
    examples = examples.take(examples.split == 1)
    rows = zip(
        examples.latent.tolist(),
        example_ids(examples, index, HOOKPOINT),
        examples.decile.tolist(),
        show(examples, index, text),
        examples.activations,
        strict=True,
    )
    windows = {latent: [] for latent in latents}
    for latent, *fields in rows:
        windows[latent].append(Window(*fields))
    return [
        Material(HOOKPOINT, latent, seed, tuple(windows[latent]), (explanation,))
        for latent, explanation in zip(latents, planted_explanations(latents), strict=True)
    ]


def asked(scorer, materials, answer):
    """All verdicts, each job answered by `answer(job)`."""
    scorer.prepare(materials)
    verdicts = []
    for material in materials:
        for explanation in material.explanations:
            for request in scorer.requests(material, explanation, "protocol"):
                answers = [answer(job) for job in request.jobs]
                verdicts += scorer.verdicts(request, "protocol", answers)
    return verdicts


def lost(job):
    """The failure of a request, of whichever kind it is."""
    failure = Failure("timeout", "no answer")
    return Answer(failure=failure) if job.alternatives is None else Reading(failure=failure)


def window(pieces, activations, *, heads=None, starts=None, live=None, decile=1, name="w"):
    """A window made by hand."""
    n = len(pieces)
    shown = Shown(
        tuple(pieces),
        tuple(heads or range(n)),
        tuple(starts or [False] * n),
        tuple(live or [True] * n),
    )
    return Window(name, decile, shown, np.array(activations, np.float32))
