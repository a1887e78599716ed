"""The commands of `glossator export` and `glossator import` that speak other tools' formats.

glossator export neuronpedia run tree --model gpt2-small --layer 6 --source-set res-mine
glossator export circuit-tracer run features --layer 6
glossator import delphi results/mine out --hookpoint layers.5
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from glossator import imports
from glossator.cli_options import examples, help_without_command, parse_latents
from glossator.cli_settings import takes
from glossator.errors import InputError
from glossator.export import circuit_tracer, dataset, delphi, neuronpedia, notes, upload
from glossator.export.chosen import Chosen
from glossator.progress import SILENT, Progress, reporter
from glossator.runs import Run

__all__ = ["add_exports", "import_app"]

import_app = typer.Typer(help="Take over what other tools made.")

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
OutDir = Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")]
OutFile = Annotated[Path, typer.Argument(metavar="OUT", help="The file.")]
Layer = Annotated[int, typer.Option(min=0, help="Number of the layer.")]
ModelName = Annotated[str, typer.Option(help="The subject model's name there.")]
Required: Any = ...

WHICH = {
    "latents": Annotated[
        str | None, typer.Option(help="Latents: ids (3,17,40-49) or a file of them; all if none.")
    ],
    "include": Annotated[
        list[str] | None,
        typer.Option(help="Also latents that are dense, rare or unexplained; may be repeated."),
    ],
    "explainer": Annotated[str | None, typer.Option(help="Only explanations of this explainer.")],
}
"""Which latents are exported; what `Chosen.of` takes."""

LENGTH = {
    "length": Annotated[
        int | None, typer.Option(min=1, help="Tokens of an example; a window's if none.")
    ],
}
"""How examples are shown."""

SOURCE = {
    "suffix": Annotated[str | None, typer.Option(help="Tells sources of one set and layer apart.")],
    "release": Annotated[str | None, typer.Option(help="Name of the release.")],
    "description": Annotated[str | None, typer.Option(help="Of release and set, for readers.")],
    "url": Annotated[str | None, typer.Option(help="Of the paper or the repository.")],
    "creator": Annotated[str | None, typer.Option(help="Name of whoever made it.")],
    "creator_id": Annotated[str | None, typer.Option(help="Id of that user there.")],
    "n_layers": Annotated[int | None, typer.Option(help="Layers of the subject model.")],
    "dataset": Annotated[str | None, typer.Option(help="Name of the corpus.")],
    "method": Annotated[str | None, typer.Option(help="Explanation type there.")],
    "explainer_model": Annotated[str | None, typer.Option(help="Explanation model there.")],
    "score_model": Annotated[str | None, typer.Option(help="Score model there.")],
}
"""Where latents stand on Neuronpedia; fields of `NeuronpediaSource`."""


def _chosen(run: Run, options: dict[str, Any]) -> Chosen:
    latents = parse_latents(options.get("latents"))
    others = {name: options[name] for name in ("include", "explainer") if name in options}
    return Chosen.of(run, latents, **others)


def _write(run_dir: Path, options: dict[str, Any], export: Callable[..., Path]) -> None:
    """Export what was chosen, and print where it is."""
    shown = {name: options[name] for name in LENGTH if name in options}
    with Run.open(run_dir) as run:
        print(export(run, chosen=_chosen(run, options), progress=reporter(), **shown))


@takes(SOURCE, WHICH, LENGTH)
def neuronpedia_command(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="A new folder; none with --upload.")
    ] = None,
    model: Annotated[str, typer.Option(help="Id of the subject model there.")] = Required,
    layer: Layer = Required,
    source_set: Annotated[str, typer.Option(help="Name of the source set.")] = Required,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the server would refuse; send nothing.")
    ] = False,
    send: Annotated[
        bool, typer.Option("--upload", help="Send to the server, with NEURONPEDIA_API_KEY.")
    ] = False,
    skip_refused: Annotated[
        bool,
        typer.Option(
            "--skip-refused", help="Leave out texts that are too long, latents without an example."
        ),
    ] = False,
    server: Annotated[str, typer.Option(help="Its address.")] = upload.SERVER,
    known_method: Annotated[
        list[str] | None, typer.Option(help="An explanation type that the server knows, too.")
    ] = None,
    known_model: Annotated[
        list[str] | None, typer.Option(help="An explanation model that the server knows, too.")
    ] = None,
    *,
    options: dict[str, Any],
) -> None:
    """Write Neuronpedia's file tree, or send the latents to its batch API.

    Before anything is sent, all of it is checked; what would be refused is listed, and nothing is
    sent. What was sent stands in RUN/neuronpedia.jsonl: run again, the rest is sent.
    """
    from pydantic import ValidationError

    if (out is None) != (send or dry_run):
        raise InputError("export neuronpedia: name OUT, or give --dry-run or --upload")
    named = {name: options[name] for name in SOURCE if name in options}
    try:
        source = neuronpedia.NeuronpediaSource(
            model=model, layer=layer, source_set=source_set, **named
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{first['loc'][0]}: {first['msg']}".replace("_", "-")) from error
    if out is not None:
        _write(run_dir, options, partial(neuronpedia.export_neuronpedia, out=out, source=source))
        return
    with Run.open(run_dir) as run:
        chosen, length = _chosen(run, options), options.get("length")

        def bodies(progress: Progress = SILENT) -> Iterator[dict[str, Any]]:
            all_ = upload.payloads(run, source, chosen=chosen, length=length, progress=progress)
            return upload.without_refused(all_) if skip_refused else all_

        n = 0

        def counted() -> Iterator[dict[str, Any]]:
            nonlocal n
            for body in bodies(reporter()):
                n += len(body["features"])
                yield body

        refusals = upload.dry_run(
            counted(),
            methods=(*upload.METHODS, *(known_method or ())),
            models=(*upload.MODELS, *(known_model or ())),
        )
        for line in refusals:
            print(line)
        if refusals:
            raise InputError(f"{len(refusals)} faults would be refused; nothing was sent")
        if dry_run:
            print(f"{n:,} latents would be sent to {server}")
            return
        done = upload.upload(
            bodies(),
            journal=run.path / "neuronpedia.jsonl",
            server=server,
            progress=reporter(),
        )
        print(f"{done.sent:,} latents sent, {done.before:,} were there before")


@takes(WHICH, LENGTH)
def circuit_tracer_command(
    run_dir: RunDir,
    out: OutDir,
    layer: Layer = Required,
    add: Annotated[
        bool, typer.Option("--add", help="OUT holds other layers: add this one.")
    ] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Write feature files for circuit-tracer and the attribution-graph viewer."""
    export: Callable[..., Path] = partial(circuit_tracer.export_circuit_tracer, out=out)
    if add:
        export = partial(circuit_tracer.add_layer, out)
    _write(run_dir, options, partial(export, layer=layer))


@takes(WHICH)
def delphi_command(
    run_dir: RunDir,
    out: OutDir,
    model_name: ModelName = Required,
    cache: Annotated[bool, typer.Option(help="Write the activations, too.")] = True,
    *,
    options: dict[str, Any],
) -> None:
    """Write a delphi results folder: cache, explanations, scores, neighbours."""
    export = partial(delphi.export_delphi, out=out, model_name=model_name, cache=cache)
    _write(run_dir, options, export)


@takes(WHICH)
def dataset_command(
    run_dir: RunDir,
    out: OutDir,
    title: Annotated[str, typer.Option(help="Of the card.")] = "Explained latents",
    licence: Annotated[str | None, typer.Option(help="Of the data, by its name there.")] = None,
    *,
    options: dict[str, Any],
) -> None:
    """Write a Hugging Face dataset folder: a row a latent, a row a verdict, and a card."""
    _write(run_dir, options, partial(dataset.export_dataset, out=out, title=title, licence=licence))


@takes(WHICH)
def notes_command(
    run_dir: RunDir,
    out: OutFile,
    prefix: Annotated[str, typer.Option(help="Of the names: resid_5, mlp_0, attn_3.")] = Required,
    *,
    options: dict[str, Any],
) -> None:
    """Write a line a latent for sparse feature circuits: name, explanation, score."""
    _write(run_dir, options, partial(notes.export_notes, out=out, prefix=prefix))


@takes(WHICH)
def saebench_command(
    run_dir: RunDir,
    out: OutFile,
    model_name: ModelName = Required,
    release: Annotated[str, typer.Option(help="Release of the sparse coder.")] = "",
    sae_id: Annotated[str | None, typer.Option(help="Its id; the hookpoint if none.")] = None,
    dataset_name: Annotated[str, typer.Option("--dataset", help="Name of the corpus.")] = "",
    *,
    options: dict[str, Any],
) -> None:
    """Write SAEBench's JSON of `autointerp`: mean accuracy of detection and its deviation."""
    export = partial(
        notes.export_saebench,
        out=out,
        model_name=model_name,
        release=release,
        sae_id=sae_id,
        dataset=dataset_name,
    )
    _write(run_dir, options, export)


_NEURONPEDIA = "--model gpt2-small --layer 6 --source-set res-mine"


def add_exports(app: typer.Typer) -> None:
    """Give `glossator export` the commands of this file."""
    for name, command, lines in (
        (
            "neuronpedia",
            neuronpedia_command,
            (
                f"glossator export neuronpedia run tree {_NEURONPEDIA}",
                f"glossator export neuronpedia run {_NEURONPEDIA} --dry-run",
            ),
        ),
        (
            "circuit-tracer",
            circuit_tracer_command,
            ("glossator export circuit-tracer run features --layer 6",),
        ),
        ("delphi", delphi_command, ("glossator export delphi run results --model-name gpt2",)),
        ("dataset", dataset_command, ("glossator export dataset run labels",)),
        ("notes", notes_command, ("glossator export notes run notes.jsonl --prefix resid_6",)),
        (
            "saebench",
            saebench_command,
            ("glossator export saebench run result.json --model-name gpt2",),
        ),
    ):
        app.command(name=name, epilog=examples(*lines))(command)


@import_app.callback(invoke_without_command=True)
def _import(context: typer.Context) -> None:
    """Take over what other tools made."""
    help_without_command(context)


@import_app.command(
    name="delphi", epilog=examples("glossator import delphi results/mine out --hookpoint layers.5")
)
def import_delphi_command(
    folder: Annotated[Path, typer.Argument(metavar="RESULTS", help="A delphi results folder.")],
    out: OutDir,
    hookpoint: Annotated[str, typer.Option(help="Name of its folder under `latents`.")] = Required,
    n_latents: Annotated[
        int | None, typer.Option(min=1, help="Latents of the coder; those of the shards if none.")
    ] = None,
) -> None:
    """Make an index of delphi's cache, and take its explanations and raw scores."""
    print(
        imports.import_delphi(
            folder, out, hookpoint=hookpoint, n_latents=n_latents, progress=reporter()
        )
    )


@import_app.command(
    name="neuronpedia",
    epilog=examples("glossator import neuronpedia gpt2-small/6-res-jb labels.jsonl"),
)
def import_neuronpedia_command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A source's folder, or a file.")],
    out: OutFile,
    hookpoint: Annotated[str | None, typer.Option(help="Written into each row.")] = None,
) -> None:
    """Take the explanations of a Neuronpedia export, for `--explainer file:path=OUT`."""
    n = imports.import_neuronpedia(path, out, hookpoint=hookpoint, progress=reporter())
    print(f"{out}: {n:,} explanations")
