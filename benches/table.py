"""The tables of numbers of the README and of docs/export.md, from the files in `benches/results`.

    python benches/table.py                # print it
    python benches/table.py --write        # put them where they belong
    python benches/table.py --record run   # note what a finished run of the demo took and found

`make bench` writes `results/cpu.csv`, `benches/index_figures.py` `results/index.csv`,
`benches/neighbours_figures.py` `results/neighbours.csv`, `benches/export_figures.py`
`results/exports.csv`, and `--record` writes `results/demo.csv` from the run's own database, so that
no figure is typed by hand.
"""

import argparse
import csv
import platform
import sys
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
EXPORTS = HERE.parent / "docs" / "export.md"
OPEN, CLOSE = "<!-- numbers -->", "<!-- /numbers -->"
COLUMNS = ("op", "shape", "metric", "value", "date", "machine", "versions")
INDEX_OPS = (
    *("size", "build from token-major batches", "one latent's 40 + 50 + 50 windows"),
    *(
        "one latent's 40 + 50 + 50 windows, beside delphi",
        "40 + 50 + 50 windows of all 32,768 latents",
    ),
    *("40 stratified windows, one call: a latent on 30% of the tokens",),
    *("top-10 Jaccard of all 32,768 latents, per token",),
    *("postings: ascending positions and activations, one core",),
)
NEIGHBOUR_OPS = (
    "10 nearest latents of one coder, clustered rows",
    "10 nearest latents between two coders, clustered rows",
)
INDEX_METRICS = ("rate", "size", "time")
NOTHING = "No figures are recorded yet: `make demo` and `make bench` make them."


def rows_of(name):
    path = RESULTS / name
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def figure(row):
    """A figure in its unit: 12.3 M tokens/s."""
    value = float(row["p50"])
    for factor, name in ((1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if value >= factor and row["metric"] == "rate":
            return f"{value / factor:.3g} {name}{row['unit']}"
    digits = 4 if row["metric"] == "size" else 3
    return f"{value:,.0f} {row['unit']}" if value >= 1e3 else f"{value:.{digits}g} {row['unit']}"


def bench_lines(rows):
    """For each operation: glossator, its best peer, and their ratio; above 1 is a win, or below
    for a size.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row["op"], row["shape"], row["metric"]].append(row)
    for (op, shape, metric), members in groups.items():
        peers = [row for row in members if row["implementation"].startswith("peer")]
        best = max if metric == "rate" else min
        peer = best(peers, key=lambda other: float(other["p50"]), default=None)
        for row in members:
            if row["implementation"].startswith("glossator") and row["ratio_to_peer"]:
                beside = f"{peer['implementation'].removeprefix('peer: ')}: {figure(peer)}"
                ratio = f"{float(row['ratio_to_peer']):.2f} ×"
                yield f"| {op} ({shape}) | {figure(row)} | {beside} | {ratio} |"


def largest(rows):
    """Of the index's figures those of the most tokens, with the defaults."""
    kept = [row for row in rows if row["op"] in INDEX_OPS and row["metric"] in INDEX_METRICS]
    kept = [row for row in kept if row["implementation"].startswith(("glossator", "peer"))]
    kept = [row for row in kept if "," not in row["implementation"].partition("glossator")[2]]
    tokens = {row["shape"]: int(row["shape"].split()[0].removeprefix("T=")) for row in kept}
    kept = [row for row in kept if row["shape"] == max(tokens, key=tokens.get)]
    return sorted(kept, key=lambda row: INDEX_OPS.index(row["op"]))


def table():
    """The Markdown, without a final newline."""
    demo, bench = rows_of("demo.csv"), rows_of("cpu.csv")
    bench = [row for row in bench if row["op"] == "encode"]
    index = largest(rows_of("index.csv"))
    near = [row for row in rows_of("neighbours.csv") if row["op"] in NEIGHBOUR_OPS]
    near = [row for row in near if row["metric"] == "time"]
    if not demo and not bench and not index and not near:
        return NOTHING
    lines = ["| | figure | beside | ratio |", "|---|---|---|---|"]
    lines += [
        f"| {row['op']} ({row['shape']}): {row['metric']} | {row['value']} | | |" for row in demo
    ]
    lines += bench_lines(index)
    lines += bench_lines(near)
    lines += bench_lines(bench)
    lines.append("")
    for name, rows, how in (
        ("Demo", demo, "`make demo`"),
        ("Index", index, "`python -m benches.index_figures`, medians"),
        ("Neighbours", near, "`python -m benches.neighbours_figures`, medians"),
        ("Encode", bench, "`make bench`, medians"),
    ):
        if rows:
            lines.append(
                f"{name}: {how}; {rows[0]['machine']}; {rows[0]['versions']}; {rows[0]['date']}."
            )
    return "\n".join(lines)


def exports():
    """What each export costs, as Markdown without a final newline; of the most tokens measured."""
    groups = defaultdict(dict)
    for row in rows_of("exports.csv"):
        groups[row["shape"]].setdefault(row["op"], {})[row["metric"]] = row
    if not groups:
        return "No figures are recorded yet: `python -m benches.export_figures` makes them."
    shape = max(groups, key=lambda shape: int(shape.split()[0].removeprefix("T=")))
    T, L, _, judged = (part.partition("=")[2] for part in shape.split())
    lines = ["| | time | memory | written | files |", "|---|---|---|---|---|"]
    for op, figures in groups[shape].items():
        shown = [
            figure(figures[metric]) if metric in figures else ""
            for metric in ("time", "memory", "size")
        ]
        files = f"{float(figures['files']['p50']):,.0f}" if "files" in figures else ""
        lines.append(f"| `{op}` | {' | '.join(shown)} | {files} |")
    one = next(iter(groups[shape].values()))["time"]
    lines += [
        "",
        f"{int(L):,} latents over {int(T):,} tokens, a rule for each, {int(judged):,} of them",
        "judged by detection and fuzzing; memory is beyond the imported package and the index's",
        f"mapped files. {one['machine']}; {one['versions']}; {one['date']}.",
    ]
    return "\n".join(lines)


def machine():
    """The processor and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    cores = sum(line.startswith("processor") for line in lines)
    return f"{model or platform.processor()}, {cores} cores"


def versions():
    """What took part in the run."""
    names = ("glossator", "numpy", "torch", "transformers")
    return " ".join(f"{name}={version(name)}" for name in names)


def record(path):
    """Note a finished run: seconds, peak memory, latents explained, mean F1."""
    import glossator as gl
    from glossator.pipeline import rule_summary

    with gl.Run.open(path) as run:
        stages, rules = run.stages(), rule_summary(run)
        corpus = stages["corpus"]
        live = run.store.table("latents", "status = 'live'").num_rows
        n_latents = run.index.n_latents
        ledger = run.table("ledger").to_pylist()
    seconds = sum(facts["seconds"] for facts in stages.values())
    peak = max(facts["peak_bytes"] for facts in stages.values())
    tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in ledger)
    shared = {
        "op": "demo",
        "shape": f"{corpus['tokens']:,} tokens, {n_latents:,} latents",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
    }
    f1, above = rules.f1, rules.above
    figures = {
        "wall time, the coder's training included": f"{seconds:,.0f} s",
        "peak memory": f"{peak / 2**30:.2f} GiB",
        "latents explained by a rule": f"{rules.explained:,} of {live:,} live",
        "mean F1 per window": f"{f1.value:.3f} (another latent's rule: {f1.null_value:.3f})",
        "latents whose lower bound of F1 passes 0.8": f"{above.above:,} of {above.total:,}",
        "tokens of language model used": f"{tokens:,}",
    }
    with (RESULTS / "demo.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**shared, "metric": k, "value": v} for k, v in figures.items())


def write():
    """Put the tables into the README and into docs/export.md."""
    for path, numbers in ((README, table()), (EXPORTS, exports())):
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(f"{OPEN}\n")
        _, closing, after = rest.partition(CLOSE)
        if not closing:
            sys.exit(f"{path.name}: no `{OPEN}` … `{CLOSE}`")
        path.write_text(f"{before}{OPEN}\n{numbers}\n{CLOSE}{after}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the tables where they belong")
    parser.add_argument("--record", metavar="RUN", help="note the figures of a finished run")
    asked = parser.parse_args()
    if asked.record:
        RESULTS.mkdir(exist_ok=True)
        record(asked.record)
    if asked.write:
        write()
    if not asked.record and not asked.write:
        print(table())
