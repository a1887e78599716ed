"""Neuronpedia's file tree: what its importer reads, with the neighbours that others leave empty.

    source = NeuronpediaSource(model="gpt2-small", layer=6, source_set="res-mine", release="mine")
    export_neuronpedia(run, "out", source)
    # out/gpt2-small/6-res-mine/{release,model,sourceset,source}.jsonl
    # out/gpt2-small/6-res-mine/{features,activations,explanations,scores}/batch-0.jsonl.gz

The columns are those of its database (`prisma/schema.prisma`). Nothing in the files depends on the
time, and ids are hashes: an import that is repeated adds nothing, since its inserts pass over ids
that are there.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from glossator.export.chosen import BATCH, Chosen, Exported
from glossator.export.material import Example, Page, pages
from glossator.export.places import absent, new_tree
from glossator.export.verdicts import verdict_rows
from glossator.progress import SILENT, Progress
from glossator.records import Record, content_id

__all__ = ["SCORE_TYPES", "NeuronpediaSource", "export_neuronpedia"]

SCORE_TYPES = {
    "detection": "eleuther_recall",
    "fuzzing": "eleuther_fuzz",
    "embedding": "eleuther_embedding",
}
"""Scorers by the names that Neuronpedia has for them; scores of others have no place there."""

_ROWS = 1_024
_BARS = 50
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class NeuronpediaSource(Record):
    """Where the latents stand on Neuronpedia."""

    model: str = Field(pattern=r"^[a-z0-9_.-]{1,128}$")
    """Id of the subject model there, in lower case."""
    layer: int = Field(ge=0)
    """Number of the layer."""
    source_set: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    """Name of the source set: lower-case letters and digits with single hyphens between."""
    suffix: str = Field(default="", pattern=r"^[a-z0-9-]*$")
    """What tells several sources of one set and layer apart."""
    release: str = Field(default="glossator", pattern=r"^[A-Za-z0-9-]+$")
    """Name of the release."""
    description: str = "Explained by glossator"
    """Of release and source set, for readers."""
    creator: str = "glossator"
    """Name of whoever made it."""
    creator_id: str = "clkht01d40000jv08hvalcvly"
    """Id of the user there; the default is that of a local instance."""
    url: str = ""
    """Of the paper or the repository."""
    n_layers: int = Field(default=0, ge=0)
    """Layers of the subject model, where the instance does not know it yet."""
    dataset: str = ""
    """Name of the corpus."""
    method: str | None = None
    """Explanation type there (`typeName`); none if None."""
    explainer_model: str | None = None
    """Explanation model there; none if None."""
    score_model: str = "unknown"
    """Score model there."""

    @property
    def source(self) -> str:
        """Id of the source: `6-res-mine`, or `6-res-mine__suffix`."""
        return f"{self.layer}-{self.source_set}" + (f"__{self.suffix}" if self.suffix else "")


def export_neuronpedia(
    run: Exported,
    out: str | Path,
    source: NeuronpediaSource,
    *,
    chosen: Chosen | None = None,
    length: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the tree of one source.

    Args:
        run: the run.
        out: a new folder.
        source: where the latents stand.
        chosen: which latents; those of `Chosen.of(run)` if None.
        length: tokens of an example; the index's window if None.
        progress: counts latents.

    Returns:
        The folder of the source, below `out`.

    Raises:
        InputError: `out` is there already or cannot be written.
    """
    out = absent(out)
    chosen = Chosen.of(run) if chosen is None else chosen
    with new_tree(out) as scratch:
        folder = scratch / source.model / source.source
        folder.mkdir(parents=True)
        for name, line in _heads(run, source).items():
            (folder / f"{name}.jsonl").write_text(_line(line), encoding="utf-8")
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(_Batches(folder / name))
                for name in ("features", "activations", "explanations", "scores")
            }
            held: list[Page] = []
            for page in pages(run, chosen, length=length, progress=progress):
                held.append(page)
                files["features"].write([_feature(run, page, source)])
                files["activations"].write(_activations(page, source))
                files["explanations"].write(_explanations(page, source))
                if len(held) == BATCH:
                    files["scores"].write(_scores(run, held, source))
                    held = []
                files["features"].turn(files.values())
            files["scores"].write(_scores(run, held, source))
    return out / source.model / source.source


class _Batches:
    """Files of JSON lines, gzip, that begin anew together every 1,024 latents."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lines, self._number = folder, 0, 0
        self._file: io.BufferedWriter | None = None
        self._gzip: gzip.GzipFile | None = None

    def write(self, rows: Any) -> None:  # noqa: ANN401 - mappings
        for row in rows:
            if self._gzip is None:
                self._folder.mkdir(exist_ok=True)
                self._file = (self._folder / f"batch-{self._number}.jsonl.gz").open("wb")
                # No name and no time: the bytes are the content's.
                self._gzip = gzip.GzipFile("", "wb", compresslevel=5, fileobj=self._file, mtime=0)
            self._gzip.write(_line(row).encode())
            self._lines += 1

    def turn(self, all_: Any) -> None:  # noqa: ANN401 - of these
        if self._lines == _ROWS:
            for one in all_:
                one.next()

    def next(self) -> None:
        self.__exit__()
        self._lines, self._number = 0, self._number + 1

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, *_: object) -> None:
        if self._gzip is not None and self._file is not None:
            self._gzip.close()
            self._file.close()
        self._gzip = self._file = None


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _cuid(*parts: object) -> str:
    """25 characters that begin with `c`, of the content alone."""
    number, digits = int(content_id(*parts), 16), []
    for _ in range(24):
        number, digit = divmod(number, 36)
        digits.append(_ALPHABET[digit])
    return "c" + "".join(digits)


def _heads(run: Exported, source: NeuronpediaSource) -> dict[str, dict[str, Any]]:
    index, urls = run.index, [source.url] if source.url else []
    return {
        "release": {
            "name": source.release,
            "description": source.description,
            "descriptionShort": source.description,
            "urls": urls,
            "creatorName": source.creator,
            "creatorNameShort": source.creator,
            "creatorId": source.creator_id,
            "visibility": "UNLISTED",
        },
        "model": {
            "id": source.model,
            "displayName": source.model,
            "displayNameShort": source.model,
            "instruct": source.model.endswith("-it"),
            "layers": source.n_layers,
            "neuronsPerLayer": 0,
            "owner": "",
            "creatorId": source.creator_id,
            "visibility": "UNLISTED",
        },
        "sourceset": {
            "modelId": source.model,
            "name": source.source_set,
            "description": source.description,
            "type": "",
            "creatorName": source.creator,
            "creatorId": source.creator_id,
            "urls": urls,
            "releaseName": source.release,
            "hasDashboards": True,
            "visibility": "UNLISTED",
        },
        "source": {
            "id": source.source,
            "modelId": source.model,
            "setName": source.source_set,
            "creatorId": source.creator_id,
            "hasDashboards": True,
            "visibility": "UNLISTED",
            "dataset": source.dataset or None,
            "num_prompts": index.n_contexts,
            "num_tokens_in_prompt": index.context_length,
            "notes": f"hookpoint {run.hookpoint}; {index.n_tokens} tokens; "
            f"activations {index.precision}",
        },
    }


def _of(page: Page, source: NeuronpediaSource) -> dict[str, Any]:
    return {"modelId": source.model, "layer": source.source, "index": str(page.latent)}


def _feature(run: Exported, page: Page, source: NeuronpediaSource) -> dict[str, Any]:
    promoted, suppressed = page.promoted, page.suppressed
    _, activations = run.index.postings(page.latent)
    # As a viewer draws it: how many activations there are between 0 and the largest.
    counts, edges = np.histogram(activations, _BARS, (0.0, max(page.maximum, 1e-12)))
    return {
        **_of(page, source),
        "creatorId": source.creator_id,
        "sourceSetName": source.source_set,
        "maxActApprox": page.maximum,
        "hasVector": False,
        "vector": [],
        "topkCosSimIndices": [other for other, _, _ in page.near],
        "topkCosSimValues": [cosine for _, cosine, _ in page.near],
        "pos_str": [token for token, _ in promoted],
        "pos_values": [value for _, value in promoted],
        "neg_str": [token for token, _ in suppressed],
        "neg_values": [value for _, value in suppressed],
        "frac_nonzero": page.facts["density"],
        "freq_hist_data_bar_heights": counts.astype(int).tolist(),
        "freq_hist_data_bar_values": [float(f"{v:.4g}") for v in (edges[1:] + edges[:-1]) / 2],
    }


def quantile(page: Page, example: Example) -> tuple[float, float, float]:
    """Limits and share of the fifth that an example is of; −1, −1, −1 for one of the strongest.

    Fifths of windows by rank: two deciles each.
    """
    if example.top or not example.decile:
        return -1.0, -1.0, -1.0
    fifth = (example.decile - 1) // 2
    return page.deciles[2 * fifth], page.deciles[2 * fifth + 2], 0.2


def _activations(page: Page, source: NeuronpediaSource) -> Iterator[dict[str, Any]]:
    for one in page.examples:
        low, high, share = quantile(page, one)
        peak = max(one.values)
        yield {
            "id": _cuid("activation", source.model, source.source, page.latent, one.start),
            **_of(page, source),
            "tokens": list(one.tokens),
            "values": list(one.values),
            "maxValue": peak,
            "maxValueTokenIndex": one.values.index(peak),
            "minValue": min(one.values),
            "binMin": low,
            "binMax": high,
            "binContains": share,
            "qualifyingTokenIndex": one.values.index(peak),
            "creatorId": source.creator_id,
            "dataSource": source.dataset or None,
            "dataIndex": str(one.start),
            "dfaValues": [],
            "lossValues": [],
        }


def _explanation_id(source: NeuronpediaSource, explanation_id: str) -> str:
    return _cuid("explanation", source.model, source.source, explanation_id)


def _explanations(page: Page, source: NeuronpediaSource) -> Iterator[dict[str, Any]]:
    for one in page.said:
        yield {
            "id": _explanation_id(source, one.explanation_id),
            **_of(page, source),
            "description": one.text,
            "authorId": source.creator_id,
            "typeName": source.method,
            "explanationModelName": source.explainer_model,
            "notes": f"by {one.explainer}",
        }


def _scores(run: Exported, held: list[Page], source: NeuronpediaSource) -> Iterator[dict[str, Any]]:
    ids = [one.explanation_id for page in held for one in page.said]
    details: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in verdict_rows(run, ids):
        key = row["explanation_id"], row["protocol_id"], row["scorer"]
        details.setdefault(key, []).append(row)
    for page in held:
        for one in page.said:
            for score in one.scores:
                kind, value = SCORE_TYPES.get(score["scorer"]), score["value"]
                if kind is None or value is None or score["metric"] != _MAIN[score["scorer"]]:
                    continue
                key = one.explanation_id, score["protocol_id"], score["scorer"]
                yield {
                    "id": _cuid("score", source.source, *key),
                    "value": value,
                    "explanationId": _explanation_id(source, one.explanation_id),
                    "explanationScoreTypeName": kind,
                    "explanationScoreModelName": source.score_model,
                    "initiatedByUserId": source.creator_id,
                    "jsonDetails": json.dumps(
                        [_detail(row) for row in details.get(key, ())], ensure_ascii=False
                    ),
                }


# One figure of each: a score has the id of its explanation and scorer.
_MAIN = {
    "detection": "balanced_accuracy",
    "fuzzing": "balanced_accuracy",
    "embedding": "auroc",
}


def _detail(row: dict[str, Any]) -> dict[str, Any]:
    answered = row["answer"] is not None
    return {
        "text": row["text"],
        "distance": row["decile"] or -1,
        "ground_truth": row["truth"],
        "prediction": row["answer"],
        "highlighted": row["marks"] is not None,
        "correct": row["answer"] == row["truth"] if answered else None,
        "probability": row["p_yes"],
        "activations": row["activations"],
        "str_tokens": row["str_tokens"],
    }
