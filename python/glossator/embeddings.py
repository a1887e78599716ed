"""Which windows say something like what a latent is active on? By sentence embedding.

    near = nearest_windows(index, [3, 17], text)      # MiniLM; or any sentence-transformers model
    near.windows[0, :5]                               # window numbers, the nearest to latent 3
    index.sample([3, 17], SamplingPlan(negatives=(NegativePlan(kind="embedding"),)), nearest=near)

One pool of windows serves all latents: eligible ones of the score side, drawn by seed. A latent's
query is the mean embedding of a few of its explain-side windows, so nothing that is scored is
looked at. Every embedding is kept in a folder, by window: a process that is killed loses a chunk,
and what is there is not embedded again.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash
from filelock import FileLock, Timeout

from glossator.arrays import Array, flat_ids, to_numpy, whole
from glossator.cooccurrence import NO_NEIGHBOUR
from glossator.errors import InputError, RunLockedError
from glossator.folders import new_file
from glossator.index import Index
from glossator.neighbours import search
from glossator.progress import SILENT, Progress
from glossator.records import content_id
from glossator.sampling import NO_WINDOW, ExplainPlan, NearestWindows, SamplingPlan
from glossator.shown import show_windows
from glossator.text import TokenText

__all__ = ["MODEL", "Encoder", "Model", "encoder", "nearest_windows", "refuse_missing"]

Encoder: TypeAlias = Callable[[list[str]], npt.ArrayLike]
"""Texts to float[N, e]; the rows need not be normalised."""

Model: TypeAlias = str | os.PathLike[str] | Encoder

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""The model where none is named."""

_PACKAGE = "sentence_transformers"
_QUERY = SamplingPlan(explain=ExplainPlan(n=8), per_decile=0, negatives=())
_LATENTS = 4_096
_CHUNK = 256
_VERSION = 1


def nearest_windows(
    index: Index,
    latents: npt.ArrayLike,
    text: TokenText,
    *,
    model: Model = MODEL,
    n: int = 200,
    max_windows: int = 50_000,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> NearestWindows:
    """The windows of the score side that lie nearest to each latent's explain-side examples.

    The latent may be active in some of them: a draw of negatives passes those by.

    Args:
        index: where the windows are.
        latents: [m] latent ids, in any order.
        text: the tokenizer's texts.
        model: name or folder of a `sentence-transformers` model; or such a model, or a function of
            texts.
        n: windows for each latent; fewer where the pool has no more than n.
        max_windows: windows of the pool.
        seed: of the pool and of the examples that make a query.
        cache: the folder in which a folder of embeddings is kept; None: that of the index. Those
            of a function are kept only where a folder is named, and known by the function's name.
        progress: shows windows embedded and latents searched.

    Raises:
        InputError: the index has no such latent or too few windows, a package or the model is
            missing, or the folder cannot be written.
        RunLockedError: another process embeds into the same folder.
    """
    ids = np.unique(flat_ids("latents", latents, np.uint32))
    if len(ids) and ids[-1] >= index.n_latents:
        raise InputError(f"latent {ids[-1]}: the index has {index.n_latents} latents")
    n, seed = whole("n", n, 2**32), whole("seed", seed, 2**64)
    pool = _pool(index, max_windows, seed)
    if n < 1 or len(pool) < 2:
        raise InputError(
            f"`n` is {n}, of {len(pool)} windows of the score side; negatives by embedding need "
            "one of two at least"
        )
    owner, examples = _examples(index, ids, seed)
    with _kept(index, text, model, cache) as store:
        store.embed(np.union1d(pool, examples), progress)
        rows = store.rows(pool)
        queries = np.zeros((len(ids), rows.shape[1]), np.float32)
        bounds = np.searchsorted(owner, ids, side="left"), np.searchsorted(owner, ids, side="right")
        for row, (first, end) in enumerate(zip(*(bound.tolist() for bound in bounds), strict=True)):
            if first < end:
                queries[row] = store.rows(examples[first:end]).mean(axis=0)
    n = min(n, len(pool) - 1)
    if not len(ids):
        windows = np.zeros((0, n), np.uint64)
        return NearestWindows(
            latents=ids, windows=windows, index_hash=index.hash, model=_name(model)
        )
    places, _ = search(_unit(queries), rows, n, "nearest", progress)
    there = places != NO_NEIGHBOUR
    windows = np.full(places.shape, NO_WINDOW, np.uint64)
    windows[there] = pool[places[there]]
    return NearestWindows(latents=ids, windows=windows, index_hash=index.hash, model=_name(model))


def _pool(index: Index, most: int, seed: int) -> npt.NDArray[np.uint64]:
    """Numbers of at most so many eligible windows of the score side, ascending."""
    found = np.flatnonzero(index.eligible() & (index.sides() == 1))
    if len(found) > most:
        found = np.sort(np.random.default_rng(seed).permutation(found)[:most])
    return found.astype(np.uint64)


def _first(index: Index) -> np.uint64:
    """What stands before the index's window 0, in windows: positions count from context 0."""
    return np.uint64(index.first_context * index.context_length // index.window)


def _examples(
    index: Index, ids: npt.NDArray[np.uint32], seed: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]:
    """Latent and window number of the examples that make the queries, by latent."""
    owners, windows = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint64)]
    for begin in range(0, len(ids), _LATENTS):
        drawn = index.sample(ids[begin : begin + _LATENTS], _QUERY, seed)
        order = np.argsort(drawn.latent, kind="stable")
        owners.append(drawn.latent[order])
        windows.append(drawn.start[order] // np.uint64(index.window) - _first(index))
    return np.concatenate(owners), np.concatenate(windows)


def _unit(vectors: Array) -> npt.NDArray[np.float32]:
    """Rows of norm 1; those of zeros as they are."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(wide, norms, out=wide, where=norms > 0).astype("f4")
    return unit


# --- what is kept ------------------------------------------------------------------------------


class _Store:
    """Embeddings of windows in a folder: a row once for each window, added in chunks.

    `about.json` says of what; `windows.bin` holds u64 window number and f32[e] for each. What a
    killed process wrote of a row is cut off by the next one that adds.
    """

    def __init__(self, folder: Path, about: dict[str, Any], texts: _Texts, model: _Model) -> None:
        self._folder, self._about, self._texts, self._model = folder, about, texts, model
        self._rows: Array = np.zeros(0, self._dtype(0))
        self._order = np.zeros(0, np.int64)
        self._read()

    @staticmethod
    def _dtype(width: int) -> np.dtype[np.void]:
        return np.dtype([("window", "<u8"), ("vector", "<f4", (width,))])

    def _read(self) -> None:
        about, file = self._folder / "about.json", self._folder / "windows.bin"
        try:
            known = json.loads(about.read_text(encoding="utf-8"))
            dtype = self._dtype(int(known.pop("width")))
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{about}: cannot be read ({error}); remove the folder") from error
        if known != self._about:
            raise InputError(f"{about}: of another index or model; remove the folder")
        whole_rows = file.stat().st_size // dtype.itemsize if file.exists() else 0
        self._rows = np.zeros(0, dtype)
        if whole_rows:
            self._rows = np.memmap(file, dtype, "r", shape=(whole_rows,))
        self._order = np.argsort(self._rows["window"], kind="stable")

    def rows(self, windows: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """The embeddings of windows that were embedded, [n, e]."""
        places = np.searchsorted(self._rows["window"], windows, sorter=self._order)
        found: npt.NDArray[np.float32] = self._rows["vector"][self._order[places]]
        return found

    def embed(self, windows: npt.NDArray[np.uint64], progress: Progress) -> None:
        """Embed those of some windows (ascending) that are not there yet."""
        missing = np.setdiff1d(windows, self._rows["window"], assume_unique=True)
        if not len(missing):
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (
                FileLock(self._folder / "lock", timeout=0),
                progress.stage("embed", len(windows), "windows") as bar,
            ):
                self._read()  # Another process may have added some meanwhile.
                missing = np.setdiff1d(missing, self._rows["window"], assume_unique=True)
                bar.advance(len(windows) - len(missing))
                for begin in range(0, len(missing), _CHUNK):
                    chunk = missing[begin : begin + _CHUNK]
                    self._add(chunk, self._model(self._texts(chunk)))
                    bar.advance(len(chunk))
        except Timeout as error:
            raise RunLockedError(
                f"{self._folder}: another process is embedding into it; wait for it"
            ) from error
        except OSError as error:
            raise InputError(
                f"{self._folder}: cannot be written ({error.strerror or error}); name a folder "
                "with `cache=`, or free space: what was embedded is kept"
            ) from error
        self._read()

    def _add(self, windows: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]) -> None:
        dtype = self._dtype(vectors.shape[1])
        about = self._folder / "about.json"
        if not about.exists():
            with new_file(about) as file:
                file.write(json.dumps({**self._about, "width": vectors.shape[1]}).encode())
        elif len(self._rows) and self._rows.dtype != dtype:
            raise InputError(
                f"{self._folder}: holds embeddings of width {self._rows['vector'].shape[1]}, and "
                f"the model gives {vectors.shape[1]}; remove the folder"
            )
        added = np.empty(len(windows), dtype)
        added["window"], added["vector"] = windows, vectors
        with (self._folder / "windows.bin").open("ab") as file:
            file.truncate(file.tell() // dtype.itemsize * dtype.itemsize)
            file.write(added.tobytes())
            file.flush()
            os.fsync(file.fileno())


_Texts: TypeAlias = Callable[[npt.NDArray[np.uint64]], list[str]]


@contextmanager
def _kept(
    index: Index,
    text: TokenText,
    model: Model,
    cache: str | os.PathLike[str] | None,
) -> Iterator[_Store]:
    """The store of one index, tokenizer and model."""
    name = _name(model)
    about = {
        "version": _VERSION,
        "index_hash": index.hash,
        "tokenizer_hash": xxhash.xxh3_128_hexdigest(text.tokenizer.to_str().encode()),
        "model": name,
        "model_hash": _folder_hash(Path(model)) if isinstance(model, str | os.PathLike) else "",
    }

    def texts(windows: npt.NDArray[np.uint64]) -> list[str]:
        starts = (windows + _first(index)) * np.uint64(index.window)
        return [shown.text for shown in show_windows(starts, index, text)]

    slug = re.sub(r"[^\w.-]+", "-", name.rpartition("/")[2])[:40]
    folder = f"embeddings-{slug}-{content_id(about)[:12]}"
    if cache is None and not isinstance(model, str | os.PathLike):
        with tempfile.TemporaryDirectory() as scratch:
            yield _Store(Path(scratch, folder), about, texts, _Model(model))
        return
    above = Path(index.path).parent if cache is None else Path(cache)
    yield _Store(above / folder, about, texts, _Model(model))


# --- the model ---------------------------------------------------------------------------------


def encoder(model: Model) -> Callable[[list[str]], npt.NDArray[np.float32]]:
    """Texts to rows of norm 1; a model of a name is loaded when the first text comes."""
    return _Model(model)


class _Model:
    def __init__(self, model: Model) -> None:
        self._name = _name(model)
        self._encode: Encoder | None = None
        if not isinstance(model, str | os.PathLike):
            self._encode = getattr(model, "encode", model)

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        if self._encode is None:
            self._encode = _sentence_encoder(self._name)
        vectors = to_numpy("embeddings", self._encode(texts))
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
            raise InputError(
                f"model `{self._name}`: gave embeddings of shape {list(vectors.shape)} for "
                f"{len(texts)} texts; it must give one row for each"
            )
        if vectors.dtype.kind not in "fiu" or not np.isfinite(vectors).all():
            raise InputError(f"model `{self._name}`: gave embeddings with NaN or infinity")
        return _unit(vectors)


def _name(model: Model) -> str:
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return str(getattr(model, "__qualname__", type(model).__qualname__))


def _folder_hash(folder: Path) -> str:
    """Of the content of a model's folder; empty where the model has only a name."""
    if not folder.is_dir():
        return ""
    digest = xxhash.xxh3_128()
    try:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 22):
                    digest.update(block)
    except OSError as error:
        raise InputError(f"model `{folder}`: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def refuse_missing(model: Model) -> None:
    """Refuse a model whose package is not installed; loads nothing.

    Raises:
        InputError: names the package and the extra.
    """
    if isinstance(model, str | os.PathLike) and not find_spec(_PACKAGE):
        raise _missing(_PACKAGE)


def _missing(package: str | None) -> InputError:
    return InputError(
        f"embeddings: the package `{package}` is not installed; "
        "run `pip install 'glossator[embeddings]'`"
    )


def _sentence_encoder(name: str) -> Encoder:
    """A model of the package `sentence-transformers`.

    Raises:
        InputError: the package or the model is not there.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ModuleNotFoundError as error:
        raise _missing(error.name) from error
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(
            f"model `{name}`: no sentence-transformers model here or on the hub ({line}); name a "
            "folder that holds one"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]

    def encode(texts: list[str]) -> npt.ArrayLike:
        vectors: npt.ArrayLike = model.encode(
            texts, batch_size=64, convert_to_numpy=True, show_progress_bar=False
        )
        return vectors

    return encode
