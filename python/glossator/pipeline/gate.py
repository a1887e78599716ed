"""Is the coder that was given read as it was made? Asked before anything is harvested.

gate_stage(run, subject, coder, contexts)
run.stages()["gate"]["verdict"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from glossator.errors import InputError
from glossator.gate import FEWEST_ROWS, check_coder, refuse_misread
from glossator.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from glossator.coders import SparseCoder
    from glossator.corpus import ContextSource
    from glossator.subjects import Subject

__all__ = ["gate_stage"]


def gate_stage(run: Run, subject: Subject, coder: SparseCoder, contexts: ContextSource) -> None:
    """Measure the coder on the corpus's first tokens, and record what was seen.

    The stage's facts are those of `GateReport`, or `reason`: why nothing was measured.

    Raises:
        InputError: a convention was read wrongly, or the figures are no coder's.
    """
    if run.done("gate"):
        return
    with run.stage("gate") as facts:
        if not run.config.coder.gate:
            facts["reason"] = "--no-gate"
            return
        try:
            x, target, others = _states(subject, coder, contexts)
        except InputError as error:
            facts["reason"] = str(error)
            return
        if len(x) < FEWEST_ROWS:
            facts["reason"] = f"the corpus has {len(x)} tokens; the check needs {FEWEST_ROWS}"
            return
        report = check_coder(coder, x, target, others=others)
        facts |= {**report.model_dump(mode="json"), "reason": None}
        refuse_misread(report)


def _states(
    subject: Subject, coder: SparseCoder, contexts: ContextSource
) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]]:
    """What the coder reads; what it describes, if that is another place; what may be meant.

    Raises:
        InputError: the model has no such place as the coder writes to.
    """
    from glossator.conventions import meant_places
    from glossator.harvest import live_states

    own = subject.hookpoint
    out = own if coder.hookpoint_out is None else subject.resolve(coder.hookpoint_out)
    wanted = dict.fromkeys((own, out))
    sides = meant_places(subject, coder, wanted)
    found = _read(subject, contexts, [*wanted, *sides]) if sides else None
    if found is None:  # an embedding is given tokens, which are no states
        found, sides = live_states(subject, contexts, list(wanted)), []
    return found[own], None if out == own else found[out], {name: found[name] for name in sides}


def _read(
    subject: Subject, contexts: ContextSource, hookpoints: Iterable[str]
) -> dict[str, torch.Tensor] | None:
    from glossator.harvest import live_states

    try:
        return live_states(subject, contexts, list(hookpoints))
    except InputError:
        return None
