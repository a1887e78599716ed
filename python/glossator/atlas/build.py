"""One HTML file that shows every latent of a hookpoint, and needs nothing but a browser.

    from glossator.atlas import build_atlas

    build_atlas(Path("atlas.html"), index=index, text=text, hookpoint="model.layers.5",
                latents=run.table("latents"), explanations=run.table("explanations"),
                scores=run.table("scores"), run_info={"subject": "SmolLM2-135M"})

Two gzip blobs hold the data: the table, which is shown at once, and the pages of latents. The
file's content security policy allows its own script and style and nothing else: no request, no
other script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, StrictUndefined

from glossator.atlas.columns import METRICS, Explainer, LatentColumns, explainers, latent_columns
from glossator.atlas.examples import draw
from glossator.atlas.firing import AtlasIndex, AtlasText
from glossator.atlas.pack import encode, pack, shorten
from glossator.atlas.pages import choose_pages, near_data, page_data, running_rules
from glossator.atlas.summary import Fact, explainer_facts, latent_facts
from glossator.errors import InputError
from glossator.folders import new_file
from glossator.neighbours import Neighbours
from glossator.progress import SILENT, Progress

__all__ = ["build_atlas"]

_SCRIPTS = ("unpack.js", "dom.js", "list.js", "figures.js", "page.js", "main.js")
_SHOWN_FIRST = ("subject", "coder", "corpus")


def _asset(name: str) -> str:
    return resources.files("glossator.atlas").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source expression of a content security policy for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _of_hookpoint(table: pa.Table, name: str, hookpoint: str, n_latents: int) -> pa.Table:
    mine = table.filter(pc.equal(table["hookpoint"], hookpoint))
    if len(mine):
        bounds = pc.min_max(mine["latent"]).as_py()
        if bounds["min"] < 0 or bounds["max"] >= n_latents:
            bad = bounds["min"] if bounds["min"] < 0 else bounds["max"]
            raise InputError(
                f"table {name}: field `latent`: {bad} is no latent of the index, which has "
                f"{n_latents}; the table belongs to another index"
            )
    return mine


def _table_blob(
    rows: LatentColumns, known: Sequence[Explainer], facts: Mapping[str, list[Fact]]
) -> bytes:
    meta = {
        "statuses": rows.statuses,
        "reason": rows.reason,
        "type": rows.type,
        "explainers": [
            {
                "name": explainer.name,
                "source": explainer.source,
                "text": explainer.text,
                "facts": [[fact.value, fact.label, fact.detail] for fact in facts[explainer.name]],
            }
            for explainer in known
        ],
    }
    arrays = {"status": rows.status, "density": rows.density, **rows.counts}
    for i, explainer in enumerate(known):
        for name in METRICS:
            arrays[f"{name}_{i}"] = shorten(explainer.metrics[name])
    return pack(meta, arrays)


def _held(n_pages: int, n_latents: int, *, named: bool, seed: int) -> str | None:
    """A sentence on which latents have a page; None where all have."""
    if n_pages == n_latents:
        return None
    how = "named for it" if named else f"drawn by seed {seed} among the live ones first"
    return (
        f"This file lists all {n_latents:,} latents and holds the pages of {n_pages:,} of them, "
        f"{how}."
    )


def _write(out: Path, text: str) -> None:
    """A reader sees the old file or the new one."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be made ({error.strerror})") from error
    with new_file(out) as file:
        file.write(text.encode())


def build_atlas(
    out: str | Path,
    *,
    index: AtlasIndex,
    text: AtlasText,
    latents: pa.Table,
    explanations: pa.Table,
    scores: pa.Table,
    hookpoint: str | None = None,
    run_info: Mapping[str, object] | None = None,
    protocols: pa.Table | None = None,
    neighbours: Neighbours | None = None,
    seed: int = 0,
    pages: Sequence[int] | None = None,
    max_pages: int = 10_000,
    progress: Progress = SILENT,
) -> Path:
    """Write the atlas of one hookpoint.

    The same arguments give the same bytes: the file holds no date and no path.

    Args:
        out: the HTML file; what stood there is replaced in one step.
        index: the index that examples are drawn from.
        text: the texts of its tokens.
        latents: the table `latents`. `top_logits` and `bottom_logits` are JSON lists of pairs of a
            token (id or printable name) and its logit.
        explanations: the table `explanations`.
        scores: the table `scores`.
        hookpoint: rows of other hookpoints in the tables are left out; the index's own by default.
        run_info: what the header says: `subject`, `coder` and `corpus` (strings), `notes` (strings,
            shown as cautions), and anything else under its own key in the details.
        protocols: the table `protocols`, which names the judge beside its scores.
        neighbours: the nearest latents of each, which its page then links to.
        seed: of the examples and of the choice of pages.
        pages: latents whose pages the file holds. None: all, or above `max_pages` a draw by seed.
        max_pages: how many pages one file holds at most.
        progress: shows the latents done, and notes what the file holds.

    Returns:
        `out`.

    Raises:
        InputError: `pages` names a latent that does not exist or too many, a table belongs to
            another index, logits cannot be read, or `out` cannot be written.
    """
    out = Path(out)
    hookpoint = index.attributes.get("hookpoint", "") if hookpoint is None else hookpoint
    run_info = {"activation precision": index.precision, **(run_info or {})}
    L = int(index.n_latents)
    if neighbours is not None and neighbours.n_latents != L:
        raise InputError(
            f"neighbours of {neighbours.n_latents} latents; the index has {L}: they belong to "
            "another coder"
        )
    latents = _of_hookpoint(latents, "latents", hookpoint, L)
    explanations = _of_hookpoint(explanations, "explanations", hookpoint, L)
    rows = latent_columns(latents, L)
    known = explainers(explanations, scores, L)
    chosen = choose_pages(rows, pages=pages, max_pages=max_pages, seed=seed)
    facts = {explainer.name: explainer_facts(rows, explainer) for explainer in known}
    counted = latent_facts(rows)
    held = _held(len(chosen), L, named=pages is not None, seed=seed)

    with progress.stage("atlas", total=len(chosen), unit="latents") as bar:
        rules = running_rules(explanations, known)
        top = np.asarray(index.summary()["max_activation"], np.float32)
        drawn = draw(index, text, chosen, top=top, rules=rules, bar=bar, seed=seed)
        meta, arrays = page_data(chosen, rows, explanations, scores, protocols, text)
        near, nearest = near_data(chosen, neighbours)
        limits = np.asarray(index.deciles(), np.float32)[chosen.astype(np.int64)]
        bounds = np.searchsorted(drawn.latent, np.append(chosen, np.uint32(L)))
        pages_blob = pack(
            meta | near | {"width": drawn.width, "strings": drawn.strings},
            arrays
            | nearest
            | {
                "deciles": limits,
                "max_activation": top[chosen.astype(np.int64)],
                "page_examples": bounds.astype(np.uint32),
            }
            | drawn.arrays(),
        )
        bar.note(held or f"the atlas holds the pages of all {L:,} latents")

    script = "\n".join(_asset(name) for name in _SCRIPTS)
    style = _asset("atlas.css")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    cautions = run_info.get("notes", ())
    _write(
        out,
        environment.from_string(_asset("atlas.html")).render(
            hookpoint=hookpoint,
            run={key: run_info.get(key) for key in _SHOWN_FIRST},
            details={
                key: value
                for key, value in run_info.items()
                if key not in (*_SHOWN_FIRST, "hookpoint", "notes") and value is not None
            },
            tokens=int(index.n_tokens),
            n_latents=L,
            cautions=[cautions] if isinstance(cautions, str) else list(cautions),  # type: ignore[call-overload]
            counted=counted,
            facts=facts[known[0].name] if known else [],
            explainers=[explainer.name for explainer in known],
            held=held,
            script=script,
            style=style,
            script_hash=_hash(f"\n{script}\n"),
            style_hash=_hash(f"\n{style}\n"),
            table=encode(_table_blob(rows, known, facts)),
            pages=encode(pages_blob),
        ),
    )
    return out
