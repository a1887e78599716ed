"""What every export costs at the size of one real coder: seconds, memory, bytes, files.

    python -m benches.export_figures                                   # 32,768 latents, 2 M tokens
    python -m benches.export_figures --latents 8192 --tokens 1000000
    python -m benches.export_figures --only tables dataset --dry

Each export has a process of its own. Memory is the most that it held of its own beyond what it
held before, the package imported and the run opened: looked at every 5 ms, without the pages of the
index's files, which are mapped and whose cache the system takes back as it likes. `memory, mapped`
counts those too. Everything is synced to the disk before the clock stops, as an export does itself.
The imports read what the exports wrote.
"""

import argparse
import shutil
import sys
import threading
from pathlib import Path

from benches import export_world, synthetic
from benches.measure import ROOT, Figures, child, files_of, log, memory, reset_peak, serve, timed

from glossator import imports
from glossator.export import (
    NeuronpediaSource,
    export_circuit_tracer,
    export_dataset,
    export_delphi,
    export_neuronpedia,
    export_notes,
    export_postings,
    export_saebench,
    export_tables,
)
from glossator.export.upload import dry_run, payloads

SOURCE = NeuronpediaSource(model="gpt2-small", layer=6, source_set="res-mine")
HOOKPOINT = export_world.HOOKPOINT

EXPORTS = {
    "tables": export_tables,
    "postings": lambda run, out: export_postings(run.index, out.with_suffix(".parquet")),
    "dataset": export_dataset,
    "neuronpedia": lambda run, out: export_neuronpedia(run, out, SOURCE),
    "neuronpedia --dry-run": lambda run, out: dry_run(payloads(run, SOURCE)),
    "circuit-tracer": lambda run, out: export_circuit_tracer(run, out, layer=6),
    "delphi": lambda run, out: export_delphi(run, out, model_name="gpt2"),
    "delphi --no-cache": lambda run, out: export_delphi(run, out, model_name="gpt2", cache=False),
    "notes": lambda run, out: export_notes(run, out.with_suffix(".jsonl"), prefix="resid_6"),
    "saebench": lambda run, out: export_saebench(run, out.with_suffix(".json"), model_name="gpt2"),
}
IMPORTS = {
    "import neuronpedia": lambda out: imports.import_neuronpedia(
        out.with_name("neuronpedia") / SOURCE.model / SOURCE.source, out.with_suffix(".jsonl")
    ),
    "import delphi": lambda out: imports.import_delphi(
        out.with_name("delphi"), out, hookpoint=HOOKPOINT
    ),
}


def once(folder, data, name, out):
    """Seconds, memory beyond what was held before, bytes and files of one export or import."""
    out = Path(out)
    with export_world.World(Path(folder), Path(data)).open() as run:
        own, mapped = memory("RssAnon"), memory()
        reset_peak()
        task = (
            (lambda: IMPORTS[name](out)) if name in IMPORTS else (lambda: EXPORTS[name](run, out))
        )
        over, seen = threading.Event(), [own]
        looking = threading.Thread(target=_look, args=(over, seen))
        looking.start()
        seconds, _ = timed(task)
        over.set()
        looking.join()
    written = [out] if out.is_dir() else list(out.parent.glob(f"{out.name}.*"))
    sizes = [
        size
        for path in written
        for size in ([path.stat().st_size] if path.is_file() else files_of(path).values())
    ]
    return {
        "seconds": seconds,
        "memory": max(seen) - own,
        "mapped": memory("VmHWM") - mapped,
        "bytes": sum(sizes),
        "files": len(sizes),
    }


def _look(over, seen):
    while not over.wait(0.005):
        seen.append(memory("RssAnon"))


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--latents", type=int, default=32_768)
    parser.add_argument("--judged", type=int, default=1_000)
    parser.add_argument("--only", nargs="+", choices=(*EXPORTS, *IMPORTS))
    parser.add_argument("--data", type=Path, default=Path("/tmp/glossator-figures"))
    parser.add_argument("--out", default=str(ROOT / "benches" / "results" / "exports.csv"))
    parser.add_argument("--dry", action="store_true", help="write no figures")
    options = parser.parse_args()
    shape = synthetic.Shape(tokens=options.tokens, latents=options.latents)
    world = export_world.make(options.data, shape, options.judged)
    shape = export_world.shape_of(world)
    figures = Figures(options.out)
    scratch = world.folder / "out"
    for name in options.only or (*EXPORTS, *IMPORTS):
        out = scratch / name.replace(" ", "-")
        for old in (out, *scratch.glob(f"{out.name}.*")):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        scratch.mkdir(exist_ok=True)
        found = child(
            "benches.export_figures",
            "once",
            folder=world.folder,
            data=world.data,
            name=name,
            out=out,
        )
        op = name if name in IMPORTS else f"export {name}"
        figures.add(op, "glossator", shape, "time", "s", found["seconds"])
        figures.add(op, "glossator", shape, "memory", "MiB", found["memory"] / 2**20)
        mapped = found["mapped"] / 2**20
        figures.add(op, "glossator", shape, "memory, mapped", "MiB", mapped)
        if found["files"]:
            figures.add(op, "glossator", shape, "size", "MiB", found["bytes"] / 2**20)
            figures.add(op, "glossator", shape, "files", "files", found["files"])
    if options.dry:
        log("not written")
    else:
        figures.write()


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "once":
        serve({"once": once})
    else:
        main()
