"""A Hugging Face dataset folder: a row a latent, a row a verdict, and a card.

    export_dataset(run, "labels")
    datasets.load_dataset("labels", "latents")       # or "verdicts", or "protocols"

The folder holds `data/latents.parquet`, `data/verdicts.parquet`, `data/protocols.parquet` and
`README.md`, whose head names the three. It can be pushed to a hub as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from glossator.export.chosen import BATCH, Chosen, Exported
from glossator.export.groups import grouped
from glossator.export.material import Page, pages
from glossator.export.places import absent, new_tree
from glossator.export.verdicts import verdict_rows
from glossator.progress import SILENT, Progress
from glossator.records import TABLES

__all__ = ["LATENTS", "VERDICTS", "export_dataset"]

_SCORE = pa.struct(
    [
        *((name, pa.string()) for name in ("protocol_id", "scorer", "metric")),
        *((name, pa.float64()) for name in ("value", "low", "high", "null_value", "q_value")),
        *((name, pa.int64()) for name in ("n", "n_missing")),
    ]
)
_LOGIT = pa.struct([("token", pa.string()), ("logit", pa.float64())])

LATENTS = pa.schema(
    [
        ("hookpoint", pa.string()),
        ("latent", pa.int64()),
        ("status", pa.string()),
        ("type", pa.string()),
        ("count", pa.int64()),
        ("density", pa.float64()),
        ("windows", pa.int64()),
        ("documents", pa.int64()),
        ("max_activation", pa.float64()),
        ("explanation", pa.string()),
        ("explainer", pa.string()),
        ("scorer", pa.string()),
        ("metric", pa.string()),
        ("score", pa.float64()),
        (
            "explanations",
            pa.list_(
                pa.struct(
                    [
                        ("explanation_id", pa.string()),
                        ("explainer", pa.string()),
                        ("text", pa.string()),
                        ("rule", pa.string()),
                        ("scores", pa.list_(_SCORE)),
                    ]
                )
            ),
        ),
        (
            "neighbours",
            pa.list_(
                pa.struct(
                    [("latent", pa.int64()), ("cosine", pa.float64()), ("relation", pa.string())]
                )
            ),
        ),
        ("top_logits", pa.list_(_LOGIT)),
        ("bottom_logits", pa.list_(_LOGIT)),
        (
            "examples",
            pa.list_(
                pa.struct(
                    [
                        ("decile", pa.int64()),
                        ("tokens", pa.list_(pa.string())),
                        ("activations", pa.list_(pa.float32())),
                    ]
                )
            ),
        ),
    ]
)
"""The columns of a row a latent; `explanation` to `score` are those of the best explanation."""

VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in ("explanation_id", "protocol_id", "scorer")),
        ("latent", pa.int64()),
        ("explanation", pa.string()),
        *((name, pa.string()) for name in ("prompt_id", "example_id", "text")),
        ("slot", pa.int64()),
        ("document", pa.uint64()),
        ("decile", pa.int64()),
        ("kind", pa.string()),
        ("marks", pa.list_(pa.int64())),
        ("truth", pa.bool_()),
        ("answer", pa.bool_()),
        ("p_yes", pa.float64()),
        ("value", pa.list_(pa.float64())),
        ("failure", pa.string()),
    ]
)
"""The columns of a row a verdict; an answer that is not there is null, with the reason beside."""


def export_dataset(
    run: Exported,
    out: str | Path,
    *,
    title: str = "Explained latents",
    licence: str | None = None,
    chosen: Chosen | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the folder.

    Args:
        run: the run.
        out: a new folder.
        title: of the card.
        licence: of the data, by its Hugging Face name; left open if None.
        chosen: which latents; those of `Chosen.of(run)` if None.
        progress: counts latents.

    Raises:
        InputError: `out` is there already or cannot be written.
    """
    out = absent(out)
    chosen = Chosen.of(run) if chosen is None else chosen
    with new_tree(out) as scratch:
        (scratch / "data").mkdir()
        with (
            grouped(scratch / "data" / "latents.parquet", LATENTS) as latents,
            grouped(scratch / "data" / "verdicts.parquet", VERDICTS) as verdicts,
            grouped(scratch / "data" / "protocols.parquet", TABLES["protocols"]) as protocols,
        ):
            for batch in _batches(pages(run, chosen, n_top=5, per_decile=1, progress=progress)):
                rows = [_latent(run, page) for page in batch]
                latents.write(pa.Table.from_pylist(rows, LATENTS))
                rows = list(_verdicts(run, batch))
                verdicts.write(pa.Table.from_pylist(rows, VERDICTS))
            for rows in run.store.batches("protocols"):
                protocols.write(rows)
        card = _card(run, title, licence, chosen, verdicts.rows)
        (scratch / "README.md").write_text(card, encoding="utf-8")
    return out


def _batches(pages_: Iterator[Page]) -> Iterator[list[Page]]:
    held: list[Page] = []
    for page in pages_:
        held.append(page)
        if len(held) == BATCH:
            yield held
            held = []
    if held:
        yield held


def _latent(run: Exported, page: Page) -> dict[str, Any]:
    best = page.best
    scorer, metric, value = (best.figure() if best else None) or (None, None, None)
    names = [field.name for field in _SCORE]
    facts = ("status", "type", "count", "density", "windows", "documents")
    return {
        "hookpoint": run.hookpoint,
        "latent": page.latent,
        **{name: page.facts[name] for name in facts},
        "max_activation": page.maximum,
        "explanation": best.text if best else None,
        "explainer": best.explainer if best else None,
        "scorer": scorer,
        "metric": metric,
        "score": value,
        "explanations": [
            {
                "explanation_id": one.explanation_id,
                "explainer": one.explainer,
                "text": one.text,
                "rule": one.rule,
                "scores": [{name: row[name] for name in names} for row in one.scores],
            }
            for one in page.said
        ],
        "neighbours": [
            {"latent": other, "cosine": cosine, "relation": relation}
            for other, cosine, relation in page.near
        ],
        "top_logits": [{"token": t, "logit": v} for t, v in page.promoted],
        "bottom_logits": [{"token": t, "logit": v} for t, v in page.suppressed],
        "examples": [
            {"decile": one.decile, "tokens": list(one.tokens), "activations": list(one.values)}
            for one in page.examples
        ],
    }


def _verdicts(run: Exported, batch: list[Page]) -> Iterator[dict[str, Any]]:
    said = {one.explanation_id: (page.latent, one.text) for page in batch for one in page.said}
    for row in verdict_rows(run, list(said)):
        latent, text = said[row["explanation_id"]]
        known = {field.name: row.get(field.name) for field in VERDICTS}
        yield known | {"latent": latent, "explanation": text}


def _card(run: Exported, title: str, licence: str | None, chosen: Chosen, n_verdicts: int) -> str:
    left = ", ".join(f"{n:,} {name}" for name, n in chosen.left_out.items()) or "none"
    index = run.index
    return "\n".join(
        [
            "---",
            f"pretty_name: {_yaml(title)}",
            *([f"license: {_yaml(licence)}"] if licence else []),
            "tags:",
            "- interpretability",
            "- sparse-autoencoder",
            "configs:",
            "- config_name: latents",
            "  default: true",
            "  data_files: data/latents.parquet",
            "- config_name: verdicts",
            "  data_files: data/verdicts.parquet",
            "- config_name: protocols",
            "  data_files: data/protocols.parquet",
            "---",
            f"# {title}",
            "",
            f"{len(chosen.latents):,} latents of `{run.hookpoint}`, with {n_verdicts:,} verdicts, "
            "written by glossator.",
            "",
            f"- Corpus: {index.n_tokens:,} tokens in {index.n_contexts:,} contexts of "
            f"{index.context_length:,}",
            f"- Activations: {index.precision}",
            f"- Index: `{index.hash}`",
            f"- Left out: {left}",
            "",
            "`latents` has one row a latent: counts, explanations with their scores and intervals, "
            "neighbours by decoder direction, and examples by decile. `verdicts` has one row an "
            "answer of a judge, so that every score can be computed again; an answer that failed "
            "is null and says why. `protocols` says how each score came about: judge, parameters, "
            "seed, versions.",
            "",
        ]
    )


def _yaml(text: str) -> str:
    """A JSON string is a YAML one."""
    import json

    return json.dumps(text, ensure_ascii=False)
