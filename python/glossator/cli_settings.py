"""The options that stand for settings of a run, in groups that several commands take.

@app.command()
@takes(WHAT, JUDGE)
def score(run_dir: RunDir, **options):
    config = settings(run.config, options)     # `options` is what was given of these groups
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from glossator.cli_options import parse_latents
from glossator.config import RunConfig, config_from
from glossator.errors import InputError

__all__ = ["DATA", "EXPLAIN", "JUDGE", "KEPT", "SCORE", "WHAT", "settings", "takes"]

Text = str | None
Texts = list[str] | None
Number = int | None
Share = float | None
Switch = bool | None

# An option's name is `section__field` of the settings.
DATA: Mapping[str, Any] = {
    "corpus__source": Annotated[
        Texts,
        typer.Option(
            "--corpus",
            help="stdlib, packages, hf:NAME[:SPLIT], or a text, JSONL or Parquet file; repeatable. "
            "Or one of tokens: .npy, .npz, or tokens:SOURCE.",
        ),
    ],
    "corpus__column": Annotated[
        Text,
        typer.Option("--column", help="Field of rows with the text (text) or tokens (input_ids)."),
    ],
    "corpus__separator": Annotated[
        Number, typer.Option("--separator", help="Of tokens: the one behind which a document ends.")
    ],
    "corpus__tokens": Annotated[
        Number,
        typer.Option("--tokens", help="Take the documents that fit whole into so many; 0: all."),
    ],
    "subject__name": Annotated[
        Text, typer.Option("--subject", help="smollm2, or any Hugging Face model by name or path.")
    ],
    "subject__hookpoint": Annotated[
        Texts,
        typer.Option(
            "--hookpoint",
            help="Module path whose output is encoded. Repeatable: each gets a run of its own in "
            "--out, all in one pass.",
        ),
    ],
    "subject__dtype": Annotated[
        Text,
        typer.Option("--dtype", help="float32, bfloat16, or auto: the one that a trial favours."),
    ],
    "subject__device_map": Annotated[
        Text,
        typer.Option("--device-map", help="Spread the layers over devices: auto, balanced, …"),
    ],
    "subject__max_memory": Annotated[
        Texts,
        typer.Option(
            "--max-memory",
            metavar="DEVICE=SIZE",
            help="What a device may hold: 0=20GiB, cpu=60GiB; repeatable.",
        ),
    ],
    "coder__path": Annotated[
        Texts,
        typer.Option(
            "--coder",
            help="Folder, file or Hugging Face name of a sparse coder; trained if not given. "
            "Repeatable: one for each hookpoint.",
        ),
    ],
    "coder__latents": Annotated[
        Number, typer.Option("--coder-latents", help="Latents of a coder to be trained.")
    ],
    "coder__steps": Annotated[
        Number,
        typer.Option("--coder-steps", help="Training steps of that coder; 0: random directions."),
    ],
    "coder__gate": Annotated[
        Switch,
        typer.Option(
            "--gate/--no-gate",
            help="Refuse a coder whose figures on real text show that a convention was read "
            "wrongly.",
        ),
    ],
}
"""What the index is made of."""

KEPT: Mapping[str, Any] = {
    "index__lossless": Annotated[
        Switch,
        typer.Option("--lossless", help="Keep every activation as bfloat16, not within 1/32."),
    ],
    "seed": Annotated[Number, typer.Option("--seed", help="Seed of every draw.")],
}
"""How it is kept and drawn from."""

WHAT: Mapping[str, Any] = {
    "explain__latents": Annotated[
        Text,
        typer.Option("--latents", help="Latents to explain: ids (3,17,40-49) or a file of them."),
    ],
    "explain__skip_types": Annotated[
        Text,
        typer.Option(
            "--skip-types", metavar="TYPE,...", help="Types not asked of the language model."
        ),
    ],
    "judge__max_latents": Annotated[
        Number,
        typer.Option(
            "--max-latents",
            help="Latents that the judge is asked about, drawn by seed (64; 4 with local).",
        ),
    ],
    "max_failed": Annotated[
        Share,
        typer.Option(
            "--max-failed", help="Share of explanations or verdicts that may be missing (0.01)."
        ),
    ],
}
"""Which latents, and how much may be missing."""

JUDGE: Mapping[str, Any] = {
    "judge__url": Annotated[
        Texts,
        typer.Option(
            "--judge",
            help="Base URL of an OpenAI-compatible server (repeatable: several that serve one "
            "model), `local` for vLLM on a small built-in model, or `vllm:NAME_OR_PATH`.",
        ),
    ],
    "judge__model": Annotated[
        Text, typer.Option("--judge-model", help="The model's name at that server.")
    ],
    "judge__extra": Annotated[
        Text,
        typer.Option(
            "--judge-extra", metavar="JSON", help="Further fields of every request's body."
        ),
    ],
    "judge__concurrency": Annotated[
        Number,
        typer.Option("--concurrency", help="Requests in flight at most (32; 256 with vllm:)."),
    ],
    "judge__engine": Annotated[
        Texts,
        typer.Option(
            "--engine",
            metavar="KEY=VALUE",
            help="An argument of vLLM's engine, with `vllm:`; repeatable.",
        ),
    ],
    "judge__replicas": Annotated[
        Number, typer.Option("--replicas", help="Engines side by side, with `vllm:` (1).")
    ],
    "judge__answers": Annotated[
        Text,
        typer.Option(
            "--answers",
            metavar="FILE",
            help="Where answers are kept and looked up (RUN/answers.db).",
        ),
    ],
    "judge__replay": Annotated[
        Switch, typer.Option("--replay", help="Ask nobody: every answer comes from that file.")
    ],
}
"""The language model."""

EXPLAIN: Mapping[str, Any] = {
    "explain__explainers": Annotated[
        Texts,
        typer.Option(
            "--explainer",
            metavar="NAME[:KEY=VALUE,...]",
            help="Who explains; repeatable (rules, and delimited where a judge is named).",
        ),
    ],
    "explain_judge__url": Annotated[
        Texts,
        typer.Option("--explainer-judge", help="Where the explainer's model is, if another's."),
    ],
    "explain_judge__model": Annotated[
        Text, typer.Option("--explainer-model", help="Its name there.")
    ],
}
"""Who explains."""

SCORE: Mapping[str, Any] = {
    "score__preset": Annotated[
        Text, typer.Option("--preset", help="glossator, post, delphi or saebench.")
    ],
    "score__scorers": Annotated[
        Texts,
        typer.Option(
            "--scorer",
            metavar="NAME",
            help="Repeatable (those of the preset).",
        ),
    ],
    "score__null": Annotated[
        Number,
        typer.Option("--null", help="Latents also judged by another's explanation (1000)."),
    ],
}
"""How it is scored."""


def takes(*groups: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of some groups; it finds those that were given in `options`."""
    options = {name: kind for group in groups for name, kind in group.items()}

    def widened(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        added = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
            for name, annotation in options.items()
        ]

        def called(**given: Any) -> None:  # noqa: ANN401 - command options
            chosen = {name: given.pop(name) for name in options}
            command(**given, options={k: v for k, v in chosen.items() if v not in (None, [])})

        called.__name__, called.__doc__ = command.__name__, command.__doc__
        own = [parameter for parameter in own if parameter.name != "options"]
        called.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in [*own, *added]}
        return called

    return widened


def settings(base: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """`base` with the options that were given.

    Raises:
        InputError: an option's text cannot be read, or its value is out of range.
    """
    values = base.model_dump(mode="json", exclude_none=True)
    for name, value in options.items():
        section, _, field = name.partition("__")
        if name == "explain__explainers":
            _explainers(values["explain"], value)
        elif section == "explain_judge":
            values["explain"].setdefault("judge", {})[field] = value
        elif field:
            read = _READERS.get(name, _as_it_is)
            values.setdefault(section, {})[field] = read(value)
        else:
            values[section] = value
    return config_from(values, "options")


def _as_it_is(value: Any) -> Any:  # noqa: ANN401 - an option's value
    return str(value) if isinstance(value, Path) else value


def _json(text: str, source: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{source}: not JSON ({error}); give an object in quotes") from error
    if not isinstance(found, dict):
        raise InputError(f"{source}: `{text[:80]}` is no JSON object")
    return found


def _pair(text: str, source: str) -> tuple[str, Any]:
    """`key=value`, the value as JSON where it is such, else as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{source}: `{text[:80]}` is no KEY=VALUE")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value


def _explainers(section: dict[str, Any], given: list[str]) -> None:
    """`NAME` and `NAME:KEY=VALUE,...`, as names and their settings."""
    names = []
    for one in given:
        name, colon, rest = one.partition(":")
        names.append(name)
        if colon:
            pairs = [_pair(part, f"--explainer {name}") for part in rest.split(",")]
            section.setdefault("settings", {}).setdefault(name, {}).update(pairs)
    section["explainers"] = names


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "explain__latents": parse_latents,
    "explain__skip_types": lambda text: tuple(part.strip() for part in text.split(",") if part),
    "subject__max_memory": lambda pairs: dict(_pair(pair, "--max-memory") for pair in pairs),
    "judge__extra": lambda text: _json(text, "--judge-extra"),
    "judge__engine": lambda pairs: dict(_pair(pair, "--engine") for pair in pairs),
}
