"""The hidden states of a corpus, computed once and kept in a file: what a coder is trained on.

hidden = collect_hidden(subject, contexts, "hidden.f32")     # killed, it goes on where it was
coder = train_coder(subject, contexts, lambda: hidden)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glossator.corpus import ContextSource
from glossator.errors import InputError
from glossator.folders import new_file
from glossator.progress import SILENT, Progress
from glossator.records import content_id

if TYPE_CHECKING:
    from glossator.coders import SparseCoder, TrainConfig
    from glossator.subjects import Subject

__all__ = ["collect_hidden", "train_coder"]

_KEPT_EVERY = 16
"""Batches between two points from which a killed pass goes on."""


def collect_hidden(
    subject: Subject, contexts: ContextSource, path: str | Path, progress: Progress = SILENT
) -> npt.NDArray[np.float32]:
    """The hidden states of all contexts, computed once and kept in one file.

    Args:
        subject: the model and its hookpoint.
        contexts: what it reads.
        path: a file of float32[n, S, d], little-endian, `4 · n · S · d` bytes; while it is being
            made it is called `path.partial`, with `path.json` beside it saying how far it is.
        progress: counts tokens.

    Returns:
        A read-only memory map, float32[n, S, d].

    Raises:
        InputError: the file is of another subject or corpus, or the disk is full.
    """
    path = Path(path)
    census = contexts.census()
    shape = (census.contexts, census.context_length, subject.width)
    identity = content_id(subject.hash, census.hash, shape)
    marker = path.with_name(f"{path.name}.json")
    partial = path.with_name(f"{path.name}.partial")
    done = _progress_of(marker, identity, whole=path.is_file())
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append_hidden(subject, contexts, partial, marker, identity, done, progress)
            partial.rename(path)
        except OSError as error:
            raise InputError(f"hidden states `{path}`: {error.strerror or error}") from error
    if path.stat().st_size != 4 * int(np.prod(shape)):
        raise InputError(f"hidden states `{path}`: not of the size of {shape}; remove the file")
    return np.memmap(path, dtype="<f4", mode="r", shape=shape)


def train_coder(
    subject: Subject,
    contexts: ContextSource,
    hidden: npt.NDArray[np.float32] | Callable[[], npt.NDArray[np.float32]],
    config: TrainConfig | None = None,
    *,
    cache_dir: str | Path | None = None,
    progress: Progress = SILENT,
) -> SparseCoder:
    """The autoencoder that this training gives at the subject's hookpoint: cached, or trained now.

    Args:
        subject: the model and its hookpoint.
        contexts: the corpus.
        hidden: the hidden states, as `collect_hidden` gives them, or a function that gives them and
            is called only to train.
        config: sizes, steps, rates, seed; `TrainConfig()` if None.
        cache_dir: where trained coders are kept; see `glossator.folders.cache_folder`.
        progress: counts steps.
    """
    from glossator.coders import TrainConfig, trained_coder

    census = contexts.census()

    def data() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        states = hidden() if callable(hidden) else hidden
        return states, np.concatenate([batch.mask for batch in contexts.batches()])

    return trained_coder(
        data,
        {"subject": subject.name, "subject_hash": subject.hash, "contexts_hash": census.hash},
        config or TrainConfig(),
        hookpoint=subject.hookpoint,
        cache_dir=cache_dir,
        progress=progress,
    )


def _append_hidden(
    subject: Subject,
    contexts: ContextSource,
    partial: Path,
    marker: Path,
    identity: str,
    done: int,
    progress: Progress,
) -> None:
    census = contexts.census()
    total = census.contexts * census.context_length
    row_bytes = 4 * census.context_length * subject.width
    with (
        partial.open("r+b" if done else "wb") as file,
        progress.stage("forward", total, "tokens") as bar,
    ):
        file.truncate(done * row_bytes)
        file.seek(0, os.SEEK_END)
        bar.advance(done * census.context_length)
        bar.note(f"{subject.name} in {subject.dtype}: {subject.dtype_reason}")
        for number, batch in enumerate(contexts.batches(start=done), start=1):
            states = subject.hidden(batch.tokens, batch.attended).cpu().numpy()
            file.write(np.ascontiguousarray(states, "<f4").data)
            done += len(batch)
            bar.advance(batch.tokens.size)
            if number % _KEPT_EVERY == 0 or done == census.contexts:
                file.flush()
                os.fsync(file.fileno())
                _keep(marker, identity, done)


def _progress_of(marker: Path, identity: str, *, whole: bool) -> int:
    """Contexts done, as the marker has it."""
    try:
        kept = json.loads(marker.read_text())
        known, done = kept["identity"], int(kept["contexts"])
    except FileNotFoundError:
        known, done = None, 0
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"hidden states `{marker}`: not readable ({error}); remove it") from error
    if known != identity and (whole or known is not None):
        raise InputError(
            f"hidden states `{marker}`: of another subject, hookpoint, dtype or corpus; "
            "remove them, or name another file"
        )
    return done


def _keep(marker: Path, identity: str, done: int) -> None:
    with new_file(marker) as file:
        file.write(json.dumps({"identity": identity, "contexts": done}).encode())
