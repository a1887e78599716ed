"""Explanations of latents: rules learned without a model, or a language model's words.

    explained = explain(index, [3, 17], explainer="delimited", judge=judge, text=text)
    explained.explanations[0].text
    explained.failures                 # latents without one, with the reason
    explain(index, [3], explainer=Activations(threshold=0.6, n=20), judge=judge, text=text)

`EXPLAINERS` names all of them; `aexplain` is the same for use inside an event loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from glossator.errors import InputError
from glossator.explain.asking import Asking, Explained
from glossator.explain.baselines import Nothing, Null, PeakToken, null_explanations
from glossator.explain.debate import Debate
from glossator.explain.delimited import (
    POST,
    Activations,
    ChainOfThought,
    Contrastive,
    Delimited,
    TopLogits,
)
from glossator.explain.drawing import SILENT as _SILENT
from glossator.explain.drawing import Drawing, Unexplained
from glossator.explain.explainers import Attempt, Explainer
from glossator.explain.given import File, read_explanations
from glossator.explain.lists import MaxActivations
from glossator.explain.pairs import TokenActivations
from glossator.explain.refine import Refine
from glossator.explain.registry import EXPLAINERS, explainer_of, saw_logits
from glossator.explain.rules import RuleOptions, learn_rules
from glossator.explain.views import Logits, logits_of
from glossator.index import Index
from glossator.judges.base import Judge, Usage, run_sync
from glossator.progress import SILENT, Progress
from glossator.records import Explanation
from glossator.sampling import NeighbourTable, SamplingPlan
from glossator.text import TokenText

__all__ = [
    "EXPLAINERS",
    "POST",
    "Activations",
    "Attempt",
    "ChainOfThought",
    "Contrastive",
    "Debate",
    "Delimited",
    "Explained",
    "Explainer",
    "File",
    "Logits",
    "MaxActivations",
    "Nothing",
    "Null",
    "PeakToken",
    "Refine",
    "RuleOptions",
    "TokenActivations",
    "TopLogits",
    "Unexplained",
    "aexplain",
    "explain",
    "explainer_of",
    "logits_of",
    "null_explanations",
    "saw_logits",
]


def explain(
    index: Index,
    latents: Sequence[int],
    *,
    explainer: str | Explainer = "rules",
    judge: Judge | None = None,
    chooser: Judge | None = None,
    text: TokenText | None = None,
    hookpoint: str | None = None,
    plan: SamplingPlan | None = None,
    seed: int = 0,
    logits: Mapping[int, Logits] | None = None,
    neighbours: NeighbourTable | None = None,
    explanations: Iterable[Explanation] = (),
    sink: Callable[[Explanation], None] | None = None,
    progress: Progress = SILENT,
) -> Explained:
    """Explain latents; see `aexplain`."""
    explainer = explainer_of(explainer) if isinstance(explainer, str) else explainer
    if isinstance(explainer, RuleOptions):
        # Learning needs no event loop, and without one Ctrl-C stops it at once.
        return _learned(index, latents, explainer, text, hookpoint, sink, progress)

    async def whole() -> Explained:
        try:
            return await aexplain(
                index,
                latents,
                explainer=explainer,
                judge=judge,
                chooser=chooser,
                text=text,
                hookpoint=hookpoint,
                plan=plan,
                seed=seed,
                logits=logits,
                neighbours=neighbours,
                explanations=explanations,
                sink=sink,
                progress=progress,
            )
        finally:
            if chooser is not None:
                await chooser.close()

    return run_sync(whole(), judge, "aexplain")


async def aexplain(
    index: Index,
    latents: Sequence[int],
    *,
    explainer: str | Explainer = "rules",
    judge: Judge | None = None,
    chooser: Judge | None = None,
    text: TokenText | None = None,
    hookpoint: str | None = None,
    plan: SamplingPlan | None = None,
    seed: int = 0,
    logits: Mapping[int, Logits] | None = None,
    neighbours: NeighbourTable | None = None,
    explanations: Iterable[Explanation] = (),
    sink: Callable[[Explanation], None] | None = None,
    progress: Progress = SILENT,
) -> Explained:
    """Explain latents from the explain side of the index.

    Args:
        index: where their activations are.
        latents: their ids; one asked for twice is explained once.
        explainer: one of `EXPLAINERS`, by name or with settings of its own.
        judge: the language model that explains, where the explainer asks one.
        chooser: another one, which chooses in a debate and checks in a refinement; the judge itself
            if None.
        text: the tokenizer's texts.
        hookpoint: the latents' module path; the index's own by default.
        plan: what to draw; what the explainer's settings say goes before it.
        seed: seed of the draw.
        logits: the tokens that each latent promotes, for explainers that are shown them.
        neighbours: the latents nearest to each: their windows are hard for `contrastive` and
            `refine`; without them, windows that hold a peak token are.
        explanations: what `null` shuffles.
        sink: called with each explanation as it arrives, so that it can be stored.
        progress: shows how many are done.

    Returns:
        The explanations, the latents without one, and the cost.

    Raises:
        InputError: an unknown explainer; a judge, text, logits or file that is missing.
        JudgeError: the judge cannot be used any more; what `sink` was given is done.
    """
    explainer = explainer_of(explainer) if isinstance(explainer, str) else explainer
    hookpoint = index.attributes.get("hookpoint", "") if hookpoint is None else hookpoint
    latents = list(dict.fromkeys(int(latent) for latent in latents))
    if isinstance(explainer, RuleOptions):
        return await _learned_beside(index, latents, explainer, text, hookpoint, sink, progress)
    if isinstance(explainer, (File, Nothing, Null)):
        return _given(index, latents, explainer, hookpoint, explanations, seed, sink)
    if explainer.asks and judge is None:
        raise InputError(f"explainer `{explainer.label}`: needs a judge; name one with --judge")
    if text is None:
        raise _no_text()
    if explainer.sees_logits and logits is None:
        raise InputError(
            f"explainer `{explainer.label}`: needs `logits`, the tokens that each latent promotes; "
            "give `logits_of(run.table('latents'))`"
        )
    asked = judge if explainer.asks else None
    name = explainer.name(asked.name if asked else "", chooser.name if chooser else "")
    drawing = Drawing(
        index,
        text,
        explainer.wants(plan),
        hookpoint=hookpoint,
        seed=seed,
        logits=logits,
        neighbours=neighbours,
    )
    begun = time.perf_counter()
    asked_of = [one for one in (asked, chooser if asked else None) if one is not None]
    for one in asked_of:
        await one.check()
    with progress.stage("explain", total=len(latents), unit="latents") as bar:
        for one in asked_of:
            for note in one.notes:
                bar.note(note)
        asking = Asking(
            explainer,
            drawing,
            latents,
            name=name,
            judge=asked,
            chooser=chooser,
            hookpoint=hookpoint,
            sink=sink,
            bar=bar,
        )
        await asking.run()
    return asking.explained(time.perf_counter() - begun)


def _given(
    index: Index,
    latents: Sequence[int],
    explainer: File | Nothing | Null,
    hookpoint: str,
    explanations: Iterable[Explanation],
    seed: int,
    sink: Callable[[Explanation], None] | None,
) -> Explained:
    """Explanations that are there already, or need none of the examples."""
    begun = time.perf_counter()
    if isinstance(explainer, File):
        there = read_explanations(explainer.path, hookpoint, index.n_latents)
        reason = f"{explainer.path} has none"
    elif isinstance(explainer, Null):
        there = null_explanations(explanations, latents=explainer.latents, seed=seed)
        reason = ""  # A latent that the lot passed over lacks nothing.
    else:
        there = [Explanation.of(hookpoint, latent, explainer.name(), "") for latent in latents]
        reason = ""
    wanted = {latent: place for place, latent in enumerate(latents)}
    found = [one for one in there if one.latent in wanted and one.hookpoint == hookpoint]
    found.sort(key=lambda one: wanted[one.latent])
    if sink is not None:
        for explanation in found:
            sink(explanation)
    having = {explanation.latent for explanation in found}
    return Explained(
        tuple(found),
        tuple(Unexplained(one, reason) for one in latents if reason and one not in having),
        Usage().entry("explain", explainer.name(), 0, time.perf_counter() - begun),
    )


def _learned(
    index: Index,
    latents: Sequence[int],
    options: RuleOptions,
    text: TokenText | None,
    hookpoint: str | None,
    sink: Callable[[Explanation], None] | None,
    progress: Progress,
) -> Explained:
    """Rules, in the shape of any other explainer's work."""
    if text is None:
        raise _no_text()
    begun = time.perf_counter()
    found = learn_rules(
        index,
        latents,
        names=text,
        options=options,
        hookpoint=hookpoint,
        sink=sink,
        progress=progress,
    )
    there = {explanation.latent for explanation in found}
    silent = dict.fromkeys(int(latent) for latent in latents if int(latent) not in there)
    return Explained(
        tuple(found),
        tuple(Unexplained(latent, _SILENT) for latent in silent),
        Usage().entry("explain", options.name(), 0, time.perf_counter() - begun),
    )


async def _learned_beside(
    index: Index,
    latents: Sequence[int],
    options: RuleOptions,
    text: TokenText | None,
    hookpoint: str | None,
    sink: Callable[[Explanation], None] | None,
    progress: Progress,
) -> Explained:
    """Rules learned in a thread of their own; `sink` is called in the event loop's."""
    loop = asyncio.get_running_loop()
    cancelled = threading.Event()

    async def keep(explanation: Explanation) -> None:
        if sink is not None:
            sink(explanation)

    def hand_over(explanation: Explanation) -> None:
        if cancelled.is_set():
            raise asyncio.CancelledError
        asyncio.run_coroutine_threadsafe(keep(explanation), loop).result()

    learned = partial(_learned, index, latents, options, text, hookpoint, hand_over, progress)
    try:
        return await asyncio.to_thread(learned)
    finally:
        cancelled.set()


def _no_text() -> InputError:
    return InputError("explain: `text` is missing; give TokenText.open(the tokenizer's file)")
