"""What a run says of itself on a terminal.

print_closing(run, Console())     # after a run: latents explained, mean F1, seconds, memory
print_inspection(run, Console())  # what a run directory holds
print_set(runs, Console())        # the same of several hookpoints, in a row each
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glossator.latent_types import TYPES
from glossator.pipeline import judged_summary, rule_summary
from glossator.run_set import RunSet
from glossator.runs import STAGES, Run

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["print_closing", "print_inspection", "print_set"]

_MIB = 2**20


# Paths and names are `Text`, in which square brackets are no markup.


def _counts(latents: pa.Table) -> dict[str, int]:
    counted = latents.group_by("status").aggregate([("status", "count")])
    return dict(
        zip(counted["status"].to_pylist(), counted["status_count"].to_pylist(), strict=True)
    )


def _results(run: Run, table: Table) -> None:
    latents = run.table("latents")
    counts = _counts(latents)
    table.add_row(
        "latents",
        f"{latents.num_rows:,}: "
        + ", ".join(
            f"{counts.get(name, 0):,} {name}" for name in ("live", "rare", "dense", "dead")
        ),
    )
    types = run.stages().get("triage", {}).get("types", {})
    if shares := [
        f"{name} {count / latents.num_rows:.1%}" for name, count in types.items() if count
    ]:
        table.add_row("types", ", ".join(shares))
    scramble = run.stages().get("scramble", {})
    if scramble.get("tested"):
        said = f"{scramble['over']['90%']:,} of {scramble['tested']:,} unigram latents are active"
        table.add_row("free of context", f"{said} in over 90% of scrambles of their tokens")
    rules = rule_summary(run)
    table.add_row("explained by rules", f"{rules.explained:,} of {counts.get('live', 0):,} live")
    f1, above = rules.f1, rules.above
    if f1.value is not None:
        null = "" if f1.null_value is None else f"; another latent's rule: {f1.null_value:.3f}"
        table.add_row("mean F1 per window", f"{f1.value:.3f} over {f1.n:,} latents{null}")
    if above.value is not None:
        table.add_row(
            "F1 lower bound > 0.8",
            f"{above.value:.1%} of latents ({above.above:,} of {above.total:,}; "
            f"{above.total - above.bounded:,} in too few documents for a bound)",
        )
    for line in judged_summary(run):
        table.add_row("judged", Text(str(line)))


def _costs(runs: Iterable[Run]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("stage", "left"), ("seconds", "right"), ("peak memory", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    known = [run.stages() for run in runs]
    rows = {}
    for name in STAGES:
        if facts := [stages[name] for stages in known if name in stages]:
            seconds = sum(one["seconds"] for one in facts)
            rows[name] = seconds, max(one.get("peak_bytes", 0) for one in facts) / _MIB
            table.add_row(name, f"{seconds:,.1f}", f"{rows[name][1]:,.0f} MiB")
    total = sum(seconds for seconds, _ in rows.values())
    peak = max((peak for _, peak in rows.values()), default=0)
    table.add_row("all", f"{total:,.1f}", f"{peak:,.0f} MiB", style="bold")
    return table


def _per_million(run: Run, table: Table) -> None:
    """Hours of this machine for a million latents at the rate of this run: by rules, by a judge."""
    stages = run.stages()
    once = ("subject", "corpus", "coder")
    judged = ("explain-judge", "embeddings", "score-judge")

    def add(name: str, chosen: Iterable[str], latents: int, apart: str) -> None:
        seconds = sum(stages[stage]["seconds"] for stage in chosen)
        hours = (
            f"{seconds / latents * 1e6 / 3600:,.1f} hours of this machine" if latents else "none"
        )
        table.add_row("per million latents", f"{name}: {hours} ({apart})")

    add(
        "rules",
        [stage for stage in stages if stage not in once + judged],
        rule_summary(run).explained,
        "forward pass to atlas; loading and training apart",
    )
    if any(stage in stages for stage in judged):
        asked = run.table("verdicts").select(["explanation_id"])
        explanations = run.table("explanations").select(["explanation_id", "latent"])
        latents = explanations.join(asked, "explanation_id", join_type="left semi")["latent"]
        add(
            "judge",
            [stage for stage in judged if stage in stages],
            pc.count_distinct(latents).as_py(),
            "explaining and scoring, the start of a local one included",
        )


def print_closing(run: Run, console: Console) -> None:
    """The closing table of a run."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    _results(run, table)
    ledger = run.table("ledger")
    tokens = (pc.sum(ledger["prompt_tokens"]).as_py() or 0) + (
        pc.sum(ledger["completion_tokens"]).as_py() or 0
    )
    table.add_row("language-model tokens", f"{tokens:,}")
    _per_million(run, table)
    for note in run.notes():
        table.add_row("note", Text(note))
    page = run.path / "atlas.html"
    if page.is_file():
        table.add_row("atlas", Text(str(page)))
    console.print()
    console.print(table)
    console.print()
    console.print(_costs([run]))


def print_set(runs: RunSet, console: Console) -> None:
    """What the runs of several hookpoints amount to, a row for each, and what they cost."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("run", overflow="fold", style="bold")
    columns = ("live", "of latents", "explained", "mean F1", "F1 lower bound > 0.8")
    for name in columns:
        table.add_column(name, justify="right")
    types = Table(box=None, pad_edge=False, header_style="dim")
    types.add_column("run", overflow="fold", style="bold")
    counted = [run.stages().get("triage", {}).get("types", {}) for run in runs]
    shown = [name for name in TYPES if any(types.get(name) for types in counted)]
    for name in shown:
        types.add_column(name, justify="right")
    for name, run, kinds in zip(runs.names, runs, counted, strict=True):
        latents = run.table("latents")
        rules, live = rule_summary(run), _counts(latents).get("live", 0)
        f1, above = rules.f1.value, rules.above.value
        table.add_row(
            Text(name),
            *(f"{count:,}" for count in (live, latents.num_rows, rules.explained)),
            "" if f1 is None else f"{f1:.3f}",
            "" if above is None else f"{above:.1%}",
        )
        shares = (kinds.get(one, 0) / max(latents.num_rows, 1) for one in shown)
        types.add_row(Text(name), *(f"{share:.1%}" for share in shares))
    console.print(table)
    if shown:
        console.print()
        console.print(types)
    for name, run in zip(runs.names, runs, strict=True):
        said = [*map(str, judged_summary(run)), *run.notes()]
        for line in said:
            console.print(Text(f"{name}: {line}"))
    console.print()
    console.print(_costs(runs))


def print_inspection(run: Run, console: Console) -> None:
    """What a run directory holds."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", Text(str(run.path)))
    for name, value in run.description().items():
        table.add_row(name, Text(str(value)))
    if run.done("harvest"):
        _results(run, table)
    for name in ("explanations", "verdicts", "scores", "protocols"):
        table.add_row(name, f"{run.table(name).num_rows:,} rows")
    for note in run.notes():
        table.add_row("note", Text(note))
    console.print(table)
    console.print()
    console.print(_costs([run]))
