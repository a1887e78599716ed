"""How do activations become an index? Batch by batch, in bounded memory, whatever interrupts it.

with IndexWriter(path, n_latents=4096, context_length=256) as writer:
    writer.add(tokens, latents, activations, document_ids)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from glossator import _core
from glossator.arrays import Array, flat_ids, to_ids, to_numpy, to_values, whole
from glossator.errors import InputError

__all__ = ["NO_DOCUMENT", "NO_LATENT", "IndexWriter"]

NO_DOCUMENT = 2**64 - 1
"""The document id of padding; such positions must be masked."""
NO_LATENT = 2**32 - 1
"""The latent id that means "no posting"."""


class IndexWriter:
    """Builds an index in a folder, or goes on with one; or those of several hookpoints in one pass.

    The folder is made if it is not there. If it holds an index, finished or not, its parameters
    must be the same; contexts that it holds are compared by hash when they are added again, and
    skipped. So the same program run again completes the same index, whatever interrupted it; a
    program that can begin anywhere jumps with `add(..., context=writer.next_context)`.

    As a context manager it finishes at the end of the block; after an exception it keeps what is on
    disk, which another writer goes on with. One writer per folder at a time. Memory is bounded
    whatever the number of contexts: what is added is spilled to the folder until its segment is
    full.

    With several hookpoints, `n_latents` is a mapping from their names to their numbers of latents.
    Each has the index `path/<name>`; the text is stored once. `latents`, `activations` and the like
    are then mappings with the same names; so may `attributes` be.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_latents: int | Mapping[str, int],
        context_length: int,
        window: int = 32,
        first_context: int = 0,
        segment_contexts: int | None = None,
        split_seed: int = 0,
        attributes: Mapping[str, str] | Mapping[str, Mapping[str, str]] | None = None,
        lossless: bool = False,
        durable: bool = True,
        text: str | None = None,
    ) -> None:
        """Open the folder.

        Args:
            path: The index folder, or that of the hookpoints' index folders.
            n_latents: Number of latents L; ids run from 0 to L - 1. Or that of each hookpoint.
            context_length: Tokens in a context, S; a multiple of `window`.
            window: Tokens in a window, the unit of ranks and of scores; at most 65,536.
            first_context: Number of the first context, for a part of a corpus.
            segment_contexts: Segments end where the context number is a multiple of this; about
                16.8 million tokens where it is None.
            split_seed: Seed of the division of documents into an explain and a score side.
            attributes: Free text kept with the index. `hookpoint` is passed on to examples; of
                several hookpoints it is the name if it is not given. The same for all, or for each.
            lossless: Keep every activation as bfloat16; without it, as a code within 1/32, and the
                strongest windows' maxima as bfloat16. Activations are rounded to bfloat16 first.
            durable: Whether what is committed survives a loss of power; False is quicker.
            text: `"../text"` to share the text with the neighbouring index folders, which must have
                been given the same text; in the index folder where it is None.

        Raises:
            InputError: A parameter is out of range or differs from the index that is there, the
                folder holds something else, or another writer is at work on it.
            CorruptIndexError: The index that is there is damaged.
        """
        self._context_length = whole("context_length", context_length, 2**32)
        self._hookpoints = [str(n) for n in n_latents] if isinstance(n_latents, Mapping) else None
        if self._hookpoints is not None and text is not None:
            raise InputError("`text` is set for several hookpoints already; leave it out")
        latents = n_latents if isinstance(n_latents, Mapping) else {"": n_latents}
        self._core = _core.IndexWriter(
            os.fspath(path),
            hookpoints=[
                (name, whole("n_latents", n, 2**32), self._attributes(name, attributes or {}))
                for name, n in ((str(name), n) for name, n in latents.items())
            ],
            context_length=self._context_length,
            window=whole("window", window, 2**32),
            first_context=whole("first_context", first_context, 2**64),
            segment_contexts=segment_contexts
            and whole("segment_contexts", segment_contexts, 2**64),
            split_seed=whole("split_seed", split_seed, 2**64),
            lossless=bool(lossless),
            durable=bool(durable),
            text="text" if text is None else str(text),
        )
        self._closed = False

    @property
    def next_context(self) -> int:
        """The first context that the index has not been given yet."""
        return self._core.next_context

    def add(
        self,
        tokens: npt.ArrayLike,
        latents: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        activations: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        document_ids: npt.ArrayLike,
        mask: npt.ArrayLike | None = None,
        *,
        context: int | None = None,
    ) -> None:
        """Add B contexts with K entries for every token.

        An entry is no posting if its latent is `NO_LATENT`, its activation 0, or its position
        masked (what stands there is not looked at). The order of a token's entries does not matter.
        NumPy arrays and torch tensors of any device are taken. A batch with a bad row is refused
        whole.

        Args:
            tokens: [B, S] token ids, any integer dtype.
            latents: [B, S, K] latent ids, any integer dtype.
            activations: [B, S, K] float16, bfloat16 or float32; not negative, finite.
            document_ids: [B] or [B, S] document ids, any integer dtype, not negative.
            mask: [B, S] bool. False: padding, BOS, sinks; in the text, but not in `n_tokens` and
                without postings.
            context: Number of the first context; by default the one after the last batch's, and
                `first_context` for a writer's first batch.

        Raises:
            InputError: A shape, a dtype or a value is refused (the text names the context and the
                offset), or a context is not the one that the index holds under its number.
        """
        first = self._core.cursor if context is None else whole("context", context, 2**64)
        text = self._text(tokens, document_ids, mask, first)
        shape = text[0].shape
        live = None if text[2] is None else text[2][:, :, None]
        entries = []
        for given in self._each(latents=latents, activations=activations):
            ids, values = to_numpy("latents", given["latents"]), to_values(given["activations"])
            for name, array in (("latents", ids), ("activations", values)):
                if array.ndim != 3 or array.shape[:2] != shape:
                    raise InputError(
                        f"`{name}` has shape {array.shape}; with `tokens` {shape} it must be "
                        f"({shape[0]}, {shape[1]}, K)"
                    )
            if ids.shape != values.shape:
                raise InputError(
                    f"`latents` has shape {ids.shape} and `activations` {values.shape}; they must "
                    "agree"
                )
            entries.append((to_ids("latents", ids, np.uint32, first, live), values))
        self._core.add(text[0], entries, text[1], text[2], first)

    def add_coo(
        self,
        tokens: npt.ArrayLike,
        rows: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        offsets: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        latents: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        activations: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        document_ids: npt.ArrayLike,
        mask: npt.ArrayLike | None = None,
        *,
        context: int | None = None,
    ) -> None:
        """Add B contexts with one entry per activation, n of them in any order.

        Args:
            tokens: [B, S] token ids.
            rows: [n] which of the B contexts.
            offsets: [n] which of its S tokens.
            latents: [n] latent ids.
            activations: [n] activations.
            document_ids: [B] or [B, S] document ids.
            mask: [B, S] bool, as in `add`.
            context: Number of the first context, as in `add`.

        Raises:
            InputError: As in `add`.
        """
        first = self._core.cursor if context is None else whole("context", context, 2**64)
        text = self._text(tokens, document_ids, mask, first)
        entries = [
            (
                flat_ids("rows", given["rows"], np.uint64),
                flat_ids("offsets", given["offsets"], np.uint64),
                flat_ids("latents", given["latents"], np.uint32),
                _flat_values(given["activations"]),
            )
            for given in self._each(
                rows=rows, offsets=offsets, latents=latents, activations=activations
            )
        ]
        self._core.add_coo(text[0], entries, text[1], text[2], first)

    def add_sorted(
        self,
        tokens: npt.ArrayLike,
        starts: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        positions: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        activations: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        document_ids: npt.ArrayLike,
        mask: npt.ArrayLike | None = None,
        *,
        context: int | None = None,
    ) -> None:
        """Add B contexts with one entry per activation, ordered by latent, then position.

        The quickest way in: nothing has to be sorted but batches that are smaller than a chunk.

        Args:
            tokens: [B, S] token ids.
            starts: [L + 1] where each latent's entries begin; the last is n.
            positions: [n] position in the batch, `row * S + offset`; ascending within a latent.
            activations: [n] activations.
            document_ids: [B] or [B, S] document ids.
            mask: [B, S] bool, as in `add`.
            context: Number of the first context, as in `add`.

        Raises:
            InputError: As in `add`, or positions do not ascend.
        """
        first = self._core.cursor if context is None else whole("context", context, 2**64)
        text = self._text(tokens, document_ids, mask, first)
        entries = [
            (
                flat_ids("starts", given["starts"], np.uint64),
                flat_ids("positions", given["positions"], np.uint32),
                _flat_values(given["activations"]),
            )
            for given in self._each(starts=starts, positions=positions, activations=activations)
        ]
        self._core.add_sorted(text[0], entries, text[1], text[2], first)

    def finish(self) -> None:
        """Commit what is left, mark the index complete, and let go of the folder.

        Raises:
            InputError: The disk is full, or the writer was abandoned.
        """
        self._core.finish()
        self._closed = True

    def abandon(self) -> None:
        """Drop what is not on disk, and let go of the folder; the index can be gone on with."""
        self._core.abandon()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abandon()
        elif not self._closed:
            self.finish()

    def _attributes(self, name: str, given: Mapping[str, Any]) -> dict[str, str]:
        """Those of one hookpoint."""
        if self._hookpoints is None:
            return {str(key): str(value) for key, value in given.items()}
        own: dict[str, Any] = {**given, "hookpoint": name}
        if any(isinstance(value, Mapping) for value in given.values()):
            each = self._each(attributes=given)
            own = {"hookpoint": name, **each[self._hookpoints.index(name)]["attributes"]}
        return {str(key): str(value) for key, value in own.items()}

    def _each(self, **given: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - whatever they have
        """The arguments of each hookpoint."""
        if self._hookpoints is None:
            return [given]
        for name, value in given.items():
            if not isinstance(value, Mapping) or set(value) != set(self._hookpoints):
                names = ", ".join(f"`{hookpoint}`" for hookpoint in self._hookpoints)
                raise InputError(f"`{name}` must be a mapping with the hookpoints {names}")
        return [{name: given[name][point] for name in given} for point in self._hookpoints]

    def _text(
        self,
        tokens: npt.ArrayLike,
        document_ids: npt.ArrayLike,
        mask: npt.ArrayLike | None,
        first: int,
    ) -> tuple[Array, Array, Array | None]:
        """Tokens and documents [B, S], and the mask."""
        ids = to_numpy("tokens", tokens)
        if ids.ndim != 2 or ids.shape[1] != self._context_length:
            raise InputError(
                f"`tokens` has shape {ids.shape}; it must be (B, {self._context_length})"
            )
        documents = to_ids("document_ids", to_numpy("document_ids", document_ids), np.uint64, first)
        if documents.shape == ids.shape[:1]:
            documents = np.broadcast_to(documents[:, None], ids.shape)
        if documents.shape != ids.shape:
            raise InputError(
                f"`document_ids` has shape {documents.shape}; with `tokens` {ids.shape} it must "
                f"be {ids.shape[:1]} or {ids.shape}"
            )
        live = None
        if mask is not None:
            live = np.ascontiguousarray(to_numpy("mask", mask))
            if live.shape != ids.shape or live.dtype != np.bool_:
                raise InputError(
                    f"`mask` is {live.dtype} of shape {live.shape}; it must be bool of shape "
                    f"{ids.shape}"
                )
        return to_ids("tokens", ids, np.uint32, first), np.ascontiguousarray(documents), live


def _flat_values(activations: npt.ArrayLike) -> Array:
    """A list of activations."""
    values = to_values(activations)
    if values.ndim != 1:
        raise InputError(f"`activations` has shape {values.shape}; it must have one dimension")
    return values
