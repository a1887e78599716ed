"""Feature files of circuit-tracer and of the attribution-graph viewer.

    export_circuit_tracer(run, "features", layer=6)
    # features/index.json.gz and features/layer_6.bin
    add_layer("features", run, layer=7)                 # the next hookpoint of a transcoder set

A `.bin` holds one record a latent: four bytes with the length of what follows, little-endian, then
zlib-compressed JSON. The index names for each layer its file and where each latent's record begins;
a viewer reads from `offsets[i]` to `offsets[i + 1]`. A latent that is not exported has a record
with its frequency and without examples: a viewer asks for any.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from glossator.errors import InputError
from glossator.export.chosen import Chosen, Exported
from glossator.export.material import Page, pages
from glossator.export.places import absent, new_tree
from glossator.folders import new_file
from glossator.progress import SILENT, Progress

__all__ = ["add_layer", "export_circuit_tracer", "feature_id", "read_feature"]

_BINS = 40


def feature_id(layer: int, latent: int) -> int:
    """The number of a latent in an attribution graph: Cantor's pairing of layer and latent."""
    both = layer + latent
    return both * (both + 1) // 2 + latent


def export_circuit_tracer(
    run: Exported,
    out: str | Path,
    *,
    layer: int,
    name: str | None = None,
    chosen: Chosen | None = None,
    length: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the files of one layer into a new folder.

    Args:
        run: the run.
        out: a new folder.
        layer: number of the layer.
        name: of the transcoder; the run's hookpoint if None.
        chosen: which latents; those of `Chosen.of(run)` if None.
        length: tokens of an example; the index's window if None.
        progress: counts latents.

    Raises:
        InputError: `out` is there already or cannot be written.
    """
    out = absent(out)
    with new_tree(out) as scratch:
        _write(scratch, {}, run, layer, name, chosen, length, progress)
    return out


def add_layer(
    out: str | Path,
    run: Exported,
    *,
    layer: int,
    name: str | None = None,
    chosen: Chosen | None = None,
    length: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Add the file of another layer to a folder; the index is replaced last.

    Raises:
        InputError: no such folder, or it has that layer.
    """
    out = Path(out)
    index = _index_of(out)
    if str(layer) in index:
        raise InputError(f"{out}: has layer {layer} already; name a new folder")
    _write(out, index, run, layer, name, chosen, length, progress)
    return out


def read_feature(out: str | Path, layer: int, latent: int) -> dict[str, Any]:
    """The record of one latent, read as a viewer does.

    Raises:
        InputError: no such layer or latent, or a damaged file.
    """
    out = Path(out)
    index = _index_of(out)
    if str(layer) not in index:
        raise InputError(f"{out}: has no layer {layer}; it has {', '.join(index)}")
    offsets = index[str(layer)]["offsets"]
    if not 0 <= latent < len(offsets) - 1:
        raise InputError(f"{out}: layer {layer} has no latent {latent}")
    begin, end = offsets[latent], offsets[latent + 1]
    try:
        with (out / index[str(layer)]["filename"]).open("rb") as file:
            file.seek(begin)
            record = file.read(end - begin)
        (length,) = struct.unpack_from("<I", record)
        found: dict[str, Any] = json.loads(zlib.decompress(record[4 : 4 + length]))
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{out}: latent {latent} of layer {layer} is damaged ({error})") from error
    return found


def _index_of(out: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(gzip.decompress((out / "index.json.gz").read_bytes()))
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(f"{out}: no feature files here (index.json.gz: {error})") from error
    return found


def _write(
    folder: Path,
    index: dict[str, Any],
    run: Exported,
    layer: int,
    name: str | None,
    chosen: Chosen | None,
    length: int | None,
    progress: Progress,
) -> None:
    chosen = Chosen.of(run) if chosen is None else chosen
    file = f"layer_{layer}.bin"
    offsets = np.zeros(run.index.n_latents + 1, np.int64)
    with new_file(folder / file) as bin_:
        name = name or run.hookpoint
        maxima = np.nan_to_num(run.index.deciles()[:, 10]).tolist()
        frequencies = (run.index.counts() / max(run.index.n_tokens, 1)).tolist()
        done = 0

        def fill(end: int) -> None:
            for latent in range(done, end):
                empty = _empty(latent, name, maxima[latent], frequencies[latent])
                _record(bin_, empty)
                offsets[latent + 1] = bin_.tell()

        for page in pages(run, chosen, length=length, progress=progress):
            fill(page.latent)
            _record(bin_, _feature(run, page, name))
            done = page.latent + 1
            offsets[done] = bin_.tell()
        fill(run.index.n_latents)
    index = index | {str(layer): {"filename": file, "offsets": offsets.tolist()}}
    text = json.dumps(index, separators=(",", ":")).encode()
    with new_file(folder / "index.json.gz") as packed:
        packed.write(gzip.compress(text, mtime=0))


def _record(file: BinaryIO, feature: dict[str, Any]) -> None:
    text = json.dumps(feature, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    packed = zlib.compress(text.encode())
    file.write(struct.pack("<I", len(packed)))
    file.write(packed)


def _empty(latent: int, name: str, maximum: float, frequency: float) -> dict[str, Any]:
    lists = ("examples_quantiles", "top_logits", "bottom_logits", "quantile_values", "histogram")
    return {
        "transcoder_id": name,
        "index": latent,
        **{key: [] for key in lists},
        "act_min": 0.0,
        "act_max": maximum,
        "activation_frequency": frequency,
    }


def _feature(run: Exported, page: Page, name: str) -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in page.examples:
        peak = one.values.index(max(one.values))
        group = "Top activations" if one.top else f"Decile {one.decile}"
        groups.setdefault(group, []).append(
            {
                "tokens_acts_list": list(one.values),
                "train_token_ind": peak,
                "is_repeated_datapoint": False,
                "tokens": list(one.tokens),
            }
        )
    best = page.best
    figure = best.figure() if best else None
    return {
        "transcoder_id": name,
        "index": page.latent,
        "examples_quantiles": [
            {"quantile_name": group, "examples": examples} for group, examples in groups.items()
        ],
        "top_logits": [token for token, _ in page.promoted],
        "bottom_logits": [token for token, _ in page.suppressed],
        "act_min": 0.0,
        "act_max": page.maximum,
        "quantile_values": list(page.deciles),
        "histogram": _histogram(run, page),
        "activation_frequency": page.facts["density"],
        "clerp": best.text if best else "",
        "score": figure[2] if figure else None,
        "scorer": figure[0] if figure else None,
    }


def _histogram(run: Exported, page: Page) -> list[float]:
    """Windows by their largest activation, in 40 bins of equal width from 0 to the maximum."""
    _, maxima, _ = run.index.windows(page.latent)
    counts, _ = np.histogram(maxima, bins=_BINS, range=(0.0, max(page.maximum, 1e-12)))
    return counts.astype(float).tolist()  # type: ignore[no-any-return]
