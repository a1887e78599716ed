"""The records that travel between the rooms, and the columns of a run's tables.

    rule = Rule(tokens=(262, 655))
    explanation = Explanation.of("model.layers.5", 17, "rules", "Activates on …", rule=rule)
    explanation.explanation_id

Every record is frozen. Ids are hashes of the content, so that the same work done twice carries the
same id and a resumed run recognises what it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Self

import pyarrow as pa
import xxhash
from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "TABLES",
    "Explanation",
    "LedgerEntry",
    "Near",
    "Protocol",
    "Record",
    "Rule",
    "Score",
    "Verdict",
    "content_id",
    "table_of",
]


# `json.dumps` makes one anew each time, which costs as much as its work.
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def content_id(*parts: object) -> str:
    """A 32-digit hexadecimal id of JSON-serialisable parts: equal parts, equal id."""
    text = _CANONICAL.encode(parts)
    return xxhash.xxh3_128_hexdigest(text.encode())


class Record(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Near(Record):
    """A set of context tokens and how far from the position they may stand."""

    tokens: tuple[int, ...] = Field(min_length=1)
    """Token ids, of which any one counts."""
    before: int = Field(ge=0)
    """How many positions before the token are looked at."""
    after: int = Field(default=0, ge=0)
    """How many positions after it; 0 for a causal subject."""


class Rule(Record):
    """An explanation that runs.

    It fires at an unmasked position whose token is in `tokens` if, within the same context, some
    token of `require` stands near (where given) and no token of `exclude` does (where given).
    """

    tokens: tuple[int, ...] = Field(min_length=1)
    """Token ids on which the rule fires."""
    require: Near | None = None
    """Context tokens of which one must stand near."""
    exclude: Near | None = None
    """Context tokens of which none may stand near."""


class Explanation(Record):
    """A text that says when a latent is active, and who wrote it."""

    explanation_id: str
    """Hash of all the other fields."""
    hookpoint: str
    """The module path of the latent."""
    latent: int = Field(ge=0)
    """The latent's id."""
    explainer: str
    """Who wrote it: `rules`, or the explainer's name and its judge."""
    text: str
    """The explanation in words."""
    rule: Rule | None = None
    """The predicate, where the explanation runs."""

    @classmethod
    def of(
        cls, hookpoint: str, latent: int, explainer: str, text: str, rule: Rule | None = None
    ) -> Self:
        """Make an explanation with its id."""
        parts = (hookpoint, latent, explainer, text, rule and rule.model_dump(mode="json"))
        return cls(
            explanation_id=content_id(*parts),
            hookpoint=hookpoint,
            latent=latent,
            explainer=explainer,
            text=text,
            rule=rule,
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The explanation of a row of the run's table `explanations`, where the rule is JSON."""
        rule = row["rule"]
        return cls(**{**row, "rule": rule and Rule.model_validate_json(rule)})


class Protocol(Record):
    """How verdicts were asked for: everything that a score depends on beside the explanation."""

    protocol_id: str
    """Hash of all the other fields, `versions` apart."""
    preset: str
    """Name of the set of parameters."""
    parameters: dict[str, Any]
    """Every parameter: the sampling plan, examples a prompt, marks, thresholds."""
    prompt_hash: str
    """Hash of the prompt templates."""
    judge: str
    """The judge's model; empty for a check without one."""
    seed: int
    """Seed of the examples and of their order."""
    index_hash: str
    """Hash of the index's manifest."""
    coder_hash: str = ""
    """Hash of the sparse coder's weights."""
    tokenizer_hash: str = ""
    """Hash of the tokenizer file."""
    corpus_hash: str = ""
    """Hash of the corpus as read."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of glossator and the libraries that took part."""

    @classmethod
    def of(cls, **fields: Any) -> Self:  # noqa: ANN401 - the fields above, checked by pydantic
        """Make a protocol with its id."""
        named = {key: value for key, value in fields.items() if key != "versions"}
        return cls(protocol_id=content_id(named), **fields)


class Verdict(Record):
    """A judge's answer on one example."""

    explanation_id: str
    """The explanation judged."""
    protocol_id: str
    """How it was asked."""
    scorer: str
    """`detection` or `fuzzing`."""
    example_id: str
    """The example judged."""
    prompt_id: str
    """The prompt it was part of."""
    slot: int
    """Its place in that prompt, from 0."""
    marks: tuple[int, ...] | None = None
    """Offsets shown as active; None where nothing was marked."""
    truth: bool
    """What the right answer is."""
    answer: bool | None
    """What the judge said; None where the request failed or the answer is no yes or no."""
    p_yes: float | None = None
    """Probability of yes among yes and no; None without logprobs."""
    value: tuple[float, ...] | None = None
    """Other figures of a scorer."""
    failure: str | None = None
    """Why there is no answer."""


class Score(Record):
    """One figure with its interval and the verdicts that it stands on."""

    explanation_id: str
    """The explanation scored."""
    protocol_id: str
    """How."""
    scorer: str
    """`detection`, `fuzzing`, or `corpus` for a rule checked on every held-out window."""
    metric: str
    """`balanced_accuracy`, `precision`, `recall`, `f1`, …"""
    kind: str = "all"
    """Kind of the negatives."""
    decile: int = Field(default=0, ge=0, le=10)
    """Decile of the activating examples; 0 for all."""
    value: float | None = None
    """The figure; None with a `reason`."""
    low: float | None = None
    """Lower end of the 95 % interval; None where none is claimed."""
    high: float | None = None
    """Upper end."""
    n: int = 0
    """Verdicts (or windows) that it stands on."""
    n_positive: int = 0
    """Activating ones."""
    n_negative: int = 0
    """Silent ones."""
    n_missing: int = 0
    """Verdicts asked for and not obtained."""
    null_value: float | None = None
    """The same figure for another latent's explanation."""
    p_value: float | None = None
    """Probability of so good a figure by chance."""
    q_value: float | None = None
    """The same, corrected over latents."""
    reason: str | None = None
    """Why there is no value or no lower bound."""


class LedgerEntry(Record):
    """What a stage cost."""

    stage: str
    """Stage of the run."""
    scorer: str = ""
    """Scorer or explainer, where one stage has several."""
    latent: int = -1
    """The latent; -1 for what is no single one's."""
    requests: int = 0
    """Requests answered or failed."""
    verdicts: int = 0
    """Verdicts that they gave, or explanations."""
    prompt_tokens: int = 0
    """Tokens sent."""
    unique_prompt_tokens: int = 0
    """Tokens sent that were not in the engine's cache."""
    cached_tokens: int = 0
    """Tokens that the engine had cached."""
    completion_tokens: int = 0
    """Tokens received."""
    seconds: float = 0.0
    """Wall time."""


TABLES: dict[str, pa.Schema] = {
    "latents": pa.schema(
        [
            ("hookpoint", pa.string()),
            ("latent", pa.int64()),
            ("count", pa.int64()),
            ("windows", pa.int64()),
            ("windows_scoring", pa.int64()),
            ("documents", pa.int64()),
            ("density", pa.float64()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("type", pa.string()),
            ("top_logits", pa.string()),
            ("bottom_logits", pa.string()),
        ]
    ),
    "explanations": pa.schema(
        [
            ("explanation_id", pa.string()),
            ("hookpoint", pa.string()),
            ("latent", pa.int64()),
            ("explainer", pa.string()),
            ("text", pa.string()),
            ("rule", pa.string()),
        ]
    ),
    "examples": pa.schema(
        [
            ("example_id", pa.string()),
            ("hookpoint", pa.string()),
            ("latent", pa.int64()),
            ("context", pa.int64()),
            ("start", pa.int64()),
            ("tokens", pa.list_(pa.uint32())),
            ("text", pa.string()),
            ("activations", pa.list_(pa.float32())),
            ("decile", pa.int64()),
            ("activating", pa.bool_()),
            ("split", pa.string()),
            ("kind", pa.string()),
            ("source_latent", pa.int64()),
            ("source_rank", pa.int64()),
            ("document", pa.uint64()),
        ]
    ),
    "protocols": pa.schema(
        [
            ("protocol_id", pa.string()),
            ("preset", pa.string()),
            ("parameters", pa.string()),
            ("prompt_hash", pa.string()),
            ("judge", pa.string()),
            ("seed", pa.int64()),
            ("index_hash", pa.string()),
            ("coder_hash", pa.string()),
            ("tokenizer_hash", pa.string()),
            ("corpus_hash", pa.string()),
            ("versions", pa.string()),
        ]
    ),
    "verdicts": pa.schema(
        [
            ("explanation_id", pa.string()),
            ("protocol_id", pa.string()),
            ("scorer", pa.string()),
            ("example_id", pa.string()),
            ("prompt_id", pa.string()),
            ("slot", pa.int64()),
            ("marks", pa.list_(pa.int64())),
            ("truth", pa.bool_()),
            ("answer", pa.bool_()),
            ("p_yes", pa.float64()),
            ("value", pa.list_(pa.float64())),
            ("failure", pa.string()),
        ]
    ),
    "scores": pa.schema(
        [
            ("explanation_id", pa.string()),
            ("protocol_id", pa.string()),
            ("scorer", pa.string()),
            ("metric", pa.string()),
            ("kind", pa.string()),
            ("decile", pa.int64()),
            ("value", pa.float64()),
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("n", pa.int64()),
            ("n_positive", pa.int64()),
            ("n_negative", pa.int64()),
            ("n_missing", pa.int64()),
            ("null_value", pa.float64()),
            ("p_value", pa.float64()),
            ("q_value", pa.float64()),
            ("reason", pa.string()),
        ]
    ),
    "ledger": pa.schema(
        [
            ("stage", pa.string()),
            ("scorer", pa.string()),
            ("latent", pa.int64()),
            ("requests", pa.int64()),
            ("verdicts", pa.int64()),
            ("prompt_tokens", pa.int64()),
            ("unique_prompt_tokens", pa.int64()),
            ("cached_tokens", pa.int64()),
            ("completion_tokens", pa.int64()),
            ("seconds", pa.float64()),
        ]
    ),
}
"""The tables of a run, by name: the columns that `glossator export tables` writes."""


def table_of(
    name: str,
    rows: Iterable[Record | Mapping[str, Any]] | Mapping[str, Iterable[Any]],
    **same: Any,  # noqa: ANN401 - whatever the column holds
) -> pa.Table:
    """Records, or columns such as triage gives, as one of `TABLES`.

    Args:
        name: which of them.
        rows: records or mappings, one a row; or a mapping of columns. What a column of text cannot
            hold is written as JSON; columns that are missing are null.
        same: columns that hold one value in every row.
    """
    if not isinstance(rows, Mapping):
        listed = [row.model_dump(mode="json") if isinstance(row, Record) else row for row in rows]
        rows = {field.name: [row.get(field.name) for row in listed] for field in TABLES[name]}
    columns = {key: list(values) for key, values in rows.items()}
    n = max(map(len, columns.values()), default=0)
    columns |= {key: [value] * n for key, value in same.items()}
    arrays = [
        pa.array([_cell(value, field) for value in columns.get(field.name, [None] * n)], field.type)
        for field in TABLES[name]
    ]
    return pa.Table.from_arrays(arrays, schema=TABLES[name])


def _cell(value: Any, field: pa.Field) -> Any:  # noqa: ANN401 - whatever Arrow takes
    if field.type != pa.string() or value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
