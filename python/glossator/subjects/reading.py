"""One pass of a model that keeps what stands at some places, and ends when it has them all.

found = read_points(model, {"layers.3.mlp:in": point, …}, input_ids=ids)
found["layers.3.mlp:in"]                         # what the module was given, as it arose
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from glossator.subjects.hookpoints import Point, normalized

__all__ = ["read_points"]

_INPUTS = ("hidden_states", "input", "x", "inputs_embeds")
"""Names under which modules are given their states where no argument stands by its place."""


class _ReachedError(Exception):
    """Ends a forward pass: the layers above have no say in the result."""


def read_points(
    model: torch.nn.Module, points: Mapping[str, Point], **inputs: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The states at some places, by name; a place that the pass does not come to is left out.

    Of a module that runs several times, the first time counts.
    """
    found = _run(model, points, inputs, copied=False)
    if found is None:
        # A layer writes its sum over what it was given, so what was kept has changed since.
        found = _run(model, points, inputs, copied=True)
    return found or {}


def _run(
    model: torch.nn.Module,
    points: Mapping[str, Point],
    inputs: Mapping[str, torch.Tensor],
    *,
    copied: bool,
) -> dict[str, torch.Tensor] | None:
    """What stood at the points; None if any of it was written over before the end of the pass."""
    found: dict[str, torch.Tensor] = {}
    versions: dict[str, tuple[torch.Tensor, int]] = {}

    def keep(name: str, point: Point, module: torch.nn.Module, state: object) -> None:
        if name in found:
            return
        if not isinstance(state, torch.Tensor):
            # Something else than a state: left out, and refused by whoever asked for it.
            missing.add(name)
        elif point.part == "normalized":
            found[name] = normalized(module, state)
        elif copied:
            found[name] = state.clone()
        else:
            found[name] = state
            versions[name] = (state, state._version)
        if len(found) + len(missing) == len(points):
            raise _ReachedError

    missing: set[str] = set()
    handles = []
    try:
        for name, point in points.items():
            module = model.get_submodule(point.path)
            handles.append(_hook(module, name, point, keep))
        model(**inputs)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if any(state._version != version for state, version in versions.values()):
        return None
    return {name: found[name] for name in points if name in found}


def _hook(
    module: torch.nn.Module,
    name: str,
    point: Point,
    keep: Callable[[str, Point, torch.nn.Module, object], None],
) -> torch.utils.hooks.RemovableHandle:
    if point.part == "out":

        def after(_: torch.nn.Module, __: object, output: object) -> None:
            keep(name, point, module, output[0] if isinstance(output, tuple | list) else output)

        return module.register_forward_hook(after)

    def before(_: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        keep(name, point, module, _given(given, named))

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _given(given: tuple[Any, ...], named: Mapping[str, Any]) -> object:
    """The states that a module is given: its first argument, or the one that is called so."""
    if given:
        return given[0]
    return next((named[name] for name in _INPUTS if name in named), None)
