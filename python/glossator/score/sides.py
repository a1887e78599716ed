"""One side of a comparison: its scores by latent, and its verdicts with what they are about.

side = side_of(run, "A", explainer="delimited")
side.scores["detection", "balanced_accuracy"]["model.layers.5", 17]["value"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from glossator.errors import InputError
from glossator.records import TABLES
from glossator.records import Protocol as HowAsked
from glossator.score.nulls import NULL

__all__ = ["Side", "Source", "side_of"]


class _Tables(Protocol):
    """A run."""

    def table(self, name: str) -> pa.Table:
        """One of its tables."""


class _Scored(Protocol):
    """What `score` gives."""

    @property
    def verdicts(self) -> pa.Table:
        """The run's table."""

    @property
    def scores(self) -> pa.Table:
        """The run's table."""

    @property
    def examples(self) -> pa.Table:
        """The run's table."""

    @property
    def protocol(self) -> HowAsked:
        """How it was asked."""


Source = _Tables | _Scored | Mapping[str, pa.Table]
"""What can be compared."""

Latent = tuple[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """What is compared of one side."""

    scores: Mapping[tuple[str, str], Mapping[Latent, Mapping[str, Any]]]
    """By scorer and metric, then by hookpoint and latent: rows of the table `scores`."""
    verdicts: pa.Table
    """Answered verdicts of yes or no: `hookpoint`, `latent`, `scorer`, `example_id`, `marks` (as
    text), `truth`, and whether they are `right`."""


def side_of(
    source: Source,
    name: str,
    *,
    explainer: str | None = None,
    judge: str | None = None,
    protocol: str | None = None,
) -> Side:
    """What is compared of a run, of what `score` gave, or of tables.

    Args:
        source: where it comes from.
        name: of the side, for errors.
        explainer: whose explanations; any but the null's where None.
        judge: whose verdicts.
        protocol: how asked: the id or its beginning, or the name of a preset.

    Raises:
        InputError: there are several scores of one latent, scorer and metric, or none.
    """
    tables = _tables(source)
    who = _who(tables)
    protocols = {
        row["protocol_id"]: row
        for row in tables["protocols"].select(["protocol_id", "preset", "judge"]).to_pylist()
    }

    def chosen(explanation: str, how: str) -> bool:
        written = who.get(explanation, ("", 0, ""))[2]
        row = protocols.get(how, {"preset": "", "judge": ""})
        return (
            (not written.startswith(NULL) if explainer is None else written == explainer)
            and (judge is None or row["judge"] == judge)
            and (protocol is None or row["preset"] == protocol or how.startswith(protocol))
        )

    scores: dict[tuple[str, str], dict[Latent, Mapping[str, Any]]] = {}
    for row in tables["scores"].to_pylist():
        if row["kind"] != "all" or row["decile"] != 0:
            continue
        if not chosen(row["explanation_id"], row["protocol_id"]):
            continue
        if row["explanation_id"] not in who:
            raise InputError(
                f"{name}: explanation `{row['explanation_id']}` is scored, but of which latent is "
                "not known; give the table `explanations`"
            )
        of = scores.setdefault((row["scorer"], row["metric"]), {})
        at = who[row["explanation_id"]][:2]
        if at in of:
            raise InputError(_several(name, at, row, of[at], who, protocols))
        of[at] = row
    if not scores:
        known = sorted({found for *_, found in who.values()} - {""})
        raise InputError(
            f"{name}: no score of explainer {explainer or 'any'}, judge {judge or 'any'}, protocol "
            f"{protocol or 'any'}; explainers there are {', '.join(known) or 'none'}"
        )
    return Side(scores, _verdicts(tables["verdicts"], who, chosen))


def _tables(source: Source) -> dict[str, pa.Table]:
    names = ("verdicts", "scores", "examples", "explanations", "protocols")
    if isinstance(source, Mapping):
        return {name: source.get(name, TABLES[name].empty_table()) for name in names}
    if hasattr(source, "table"):
        return {name: source.table(name) for name in names}
    how = source.protocol
    protocols = [{"protocol_id": how.protocol_id, "preset": how.preset, "judge": how.judge}]
    return {
        "verdicts": source.verdicts,
        "scores": source.scores,
        "examples": source.examples,
        "explanations": TABLES["explanations"].empty_table(),
        "protocols": pa.Table.from_pylist(protocols, schema=TABLES["protocols"]),
    }


def _who(tables: Mapping[str, pa.Table]) -> dict[str, tuple[str, int, str]]:
    """Hookpoint, latent and explainer of each explanation; by its examples where no table says."""
    names = ["example_id", "hookpoint", "latent"]
    examples = tables["examples"].select(names).to_pydict()
    places = zip(examples["hookpoint"], examples["latent"], strict=True)
    of = dict(zip(examples["example_id"], places, strict=True))
    pairs = tables["verdicts"].select(["explanation_id", "example_id"]).to_pydict()
    found = {}
    for explanation, example in zip(pairs["explanation_id"], pairs["example_id"], strict=True):
        if explanation not in found and example in of:
            found[explanation] = (*of[example], "")
    columns = ["explanation_id", "hookpoint", "latent", "explainer"]
    rows = tables["explanations"].select(columns).to_pylist()
    found |= {row["explanation_id"]: tuple(row[name] for name in columns[1:]) for row in rows}
    return found


def _verdicts(verdicts: pa.Table, who: Mapping[str, tuple[str, int, str]], chosen: Any) -> pa.Table:  # noqa: ANN401
    answered = verdicts.filter(pc.is_valid(verdicts["answer"]))
    ids, hows = answered["explanation_id"].to_pylist(), answered["protocol_id"].to_pylist()
    keep = [key in who and chosen(key, how) for key, how in zip(ids, hows, strict=True)]
    answered = answered.filter(pa.array(keep, pa.bool_()))
    places = [who[key] for key in answered["explanation_id"].to_pylist()]
    marks = [
        "" if offsets is None else ",".join(map(str, offsets))
        for offsets in answered["marks"].to_pylist()
    ]
    return pa.table(
        {
            "hookpoint": pa.array([place[0] for place in places], pa.string()),
            "latent": pa.array([place[1] for place in places], pa.int64()),
            "scorer": answered["scorer"],
            "example_id": answered["example_id"],
            "marks": pa.array(marks, pa.string()),
            "truth": answered["truth"],
            "right": pc.equal(answered["answer"], answered["truth"]),
        }
    )


def _several(
    name: str,
    at: Latent,
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    who: Mapping[str, tuple[str, int, str]],
    protocols: Mapping[str, Mapping[str, Any]],
) -> str:
    """Which choice tells two scores of one latent apart."""
    ways = []
    for kind, of in (
        ("explainer", lambda row: who[row["explanation_id"]][2]),
        ("judge", lambda row: protocols.get(row["protocol_id"], {}).get("judge", "")),
        ("protocol", lambda row: row["protocol_id"]),
    ):
        found = sorted({str(of(one)), str(of(other))})
        if len(found) > 1:
            ways.append(f"{kind} ({', '.join(found)})")
    return (
        f"{name}: latent {at[1]} of {at[0]} has several scores by {one['scorer']}; choose the "
        f"{' or '.join(ways) or 'explanation'}"
    )
