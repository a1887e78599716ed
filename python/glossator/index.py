"""Every activation of every latent on a corpus: built by streaming, read by latent.

    with IndexWriter(path, n_latents=4096, context_length=256) as writer:
        writer.add(tokens, latents, activations, document_ids)
    index = Index.open(path)
    positions, activations = index.postings(17)
    examples = index.sample([17], SamplingPlan(), seed=0)

An index is a folder: segments (ranges of contexts) that never change, and a manifest that is
replaced atomically. A build that was killed is run again from the start: what is there already is
compared and skipped, and the result has the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from glossator import _core
from glossator.arrays import Array, flat_ids, to_ids, to_numpy, to_values, whole
from glossator.cooccurrence import Cooccurrence
from glossator.errors import InputError
from glossator.sampling import SPLITS, Examples, SamplingPlan, core_plan

__all__ = [
    "NO_DOCUMENT",
    "NO_LATENT",
    "Histogram",
    "Index",
    "IndexWriter",
    "Top",
    "compact",
    "document_sides",
    "join",
]

NO_DOCUMENT = 2**64 - 1
"""The document id of padding; such positions must be masked."""
NO_LATENT = 2**32 - 1
"""The latent id that means "no posting"."""


_DEFAULT = SamplingPlan()


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
    are then mappings with the same names.
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
        attributes: Mapping[str, str] | None = None,
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
            attributes: Free text kept with the index. `hookpoint` is passed on to examples.
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
            n_latents=[(str(name), whole("n_latents", n, 2**32)) for name, n in latents.items()],
            context_length=self._context_length,
            window=whole("window", window, 2**32),
            first_context=whole("first_context", first_context, 2**64),
            segment_contexts=segment_contexts
            and whole("segment_contexts", segment_contexts, 2**64),
            split_seed=whole("split_seed", split_seed, 2**64),
            lossless=bool(lossless),
            durable=bool(durable),
            text="text" if text is None else str(text),
            attributes={str(key): str(value) for key, value in (attributes or {}).items()},
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


class Top(NamedTuple):
    """The strongest windows of some latents: m rows, by latent, the strongest first."""

    latent: npt.NDArray[np.uint32]
    """[m] latent."""
    start: npt.NDArray[np.uint64]
    """[m] position of the window's first token."""
    activation: npt.NDArray[np.float32]
    """[m] the window's largest activation."""
    exact: npt.NDArray[np.bool_]
    """[m] True: exact in bf16, and ordered by it; else within 1/32, ordered by its 8-bit code, and
    of equal codes by position."""


class Histogram(NamedTuple):
    """How strong the windows of some latents are: m rows, by latent, the strongest first."""

    latent: npt.NDArray[np.uint32]
    """[m] latent."""
    code: npt.NDArray[np.uint16]
    """[m] 8-bit code of the windows' largest activations, 16 to an octave."""
    activation: npt.NDArray[np.float32]
    """[m] the activation that stands for the code, within 1/32."""
    windows: npt.NDArray[np.uint64]
    """[m] how many windows."""


class Index:
    """An open index; the files are mapped, not read.

    A file's checksum is compared when it is first looked at. Activations that its methods return
    have its `precision`, where nothing else is said.
    """

    path: str
    """The folder."""
    n_latents: int
    """Number of latents, L."""
    n_tokens: int
    """Number of unmasked tokens."""
    n_contexts: int
    """Number of contexts."""
    nnz: int
    """Number of postings."""
    context_length: int
    """Tokens in a context, S."""
    window: int
    """Tokens in a window, W."""
    split_seed: int
    """Seed of the division of documents into sides."""
    first_context: int
    """Number of the first context."""
    attributes: dict[str, str]
    """Free text that was given to the writer."""
    hash: str
    """A hash of the whole content and its division into segments, 16 hexadecimal digits."""
    complete: bool
    """Whether the build reached its end."""
    precision: str
    """Of activations: `bf16` in a lossless index, else `code, 1/32`: within 1/32 of the given."""

    def __init__(self, path: str | os.PathLike[str], *, unfinished: bool = False) -> None:
        """As `Index.open`."""
        self.path = os.fspath(path)
        self._unfinished = unfinished
        self._core = core = _core.Index.open(self.path, unfinished=unfinished)
        self.n_latents = core.n_latents
        self.n_tokens = core.n_tokens
        self.n_contexts = core.n_contexts
        self.nnz = core.nnz
        self.context_length = core.context_length
        self.window = core.window
        self.split_seed = core.split_seed
        self.first_context = core.first_context
        self.attributes = core.attributes
        self.hash = core.hash
        self.complete = core.complete
        self.precision = "bf16" if core.lossless else "code, 1/32"

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, unfinished: bool = False) -> Self:
        """Open the index in a folder.

        Args:
            path: The index folder.
            unfinished: Open what is committed of an index whose build has not reached its end.

        Raises:
            InputError: There is no index, it is not finished, or it is of a newer version.
            CorruptIndexError: A file is missing or has another size than the manifest says.
        """
        return cls(path, unfinished=unfinished)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), self.path, self._unfinished)

    def counts(self) -> npt.NDArray[np.uint64]:
        """Number of postings of each latent, [L]."""
        return self._core.counts()

    def postings(self, latent: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """Every activation of one latent: positions, ascending, and activations, each [count].

        Raises:
            InputError: The index has no such latent.
            CorruptIndexError: A file is damaged; so in every method that reads one.
        """
        return self._core.postings(self._latent(latent))

    def deciles(self) -> npt.NDArray[np.float32]:
        """Of each latent's n window maxima: minimum, nine boundaries, maximum, [L, 11].

        With the maxima ascending, v[0] to v[n - 1], column j is v[min(⌈j n / 10⌉, n - 1)]: column 0
        is the weakest, column j the weakest of decile j + 1, column 10 the strongest. NaN for a
        latent without windows. From the histograms alone: within 1/32 in a lossless index too.
        """
        return self._core.deciles()

    def windows(
        self, latent: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """The windows in which a latent is active, by position.

        Returns:
            Positions of their first tokens, their maxima, and their rank deciles over the whole
            index, each [n]: with rank r (0 the weakest) the decile is 1 + ⌊10 r / n⌋. Ranked by
            code; of equal codes the earlier window is the stronger.
        """
        return self._core.windows(self._latent(latent))

    def histogram(self, latents: npt.ArrayLike) -> Histogram:
        """How many windows have which largest activation, of one latent or of several.

        Raises:
            InputError: The index has no such latent.
        """
        return Histogram(**self._core.histogram(self._latents(latents)))

    def top(
        self,
        latents: npt.ArrayLike,
        n: int = 10,
        side: Literal["explain", "score"] | None = None,
    ) -> Top:
        """The n strongest windows of one latent or of each of several.

        The first 200 of a side are exact: in the order of their bf16, of equal ones by position.
        Where more are asked for, they follow by their codes; so do windows of neither side,
        where no side is named.

        Raises:
            InputError: The index has no such latent.
        """
        if side not in (None, *SPLITS):
            raise InputError(f"`side` is {side!r}; it must be one of {', '.join(SPLITS)}, or None")
        code = None if side is None else SPLITS.index(side)
        return Top(**self._core.top(self._latents(latents), whole("n", n, 2**32), code))

    def active(self, latent: int, positions: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether a latent is active in the windows that hold these positions, [n].

        Raises:
            InputError: The index has no such latent or position.
        """
        return self._core.active(self._latent(latent), flat_ids("positions", positions, np.uint64))

    def contexts(
        self, ids: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """Tokens, documents and mask of the contexts with these numbers, each [n, S].

        Raises:
            InputError: The index does not hold one of them.
        """
        numbers = flat_ids("ids", ids, np.uint64)
        tokens, documents, mask = self._core.contexts(numbers)
        shape = (len(numbers), self.context_length)
        return tokens.reshape(shape), documents.reshape(shape), mask.reshape(shape)

    def activations(
        self, latent: int, starts: npt.ArrayLike, length: int
    ) -> npt.NDArray[np.float32]:
        """A latent's activations on `length` tokens from each position on, [n, length]; 0: silent.

        Raises:
            InputError: A stretch is not in the index, or reaches beyond its context.
        """
        positions = flat_ids("starts", starts, np.uint64)
        length = whole("length", length, 2**32)
        values = self._core.activations(self._latent(latent), positions, length)
        return values.reshape(len(positions), length)

    def sides(self) -> npt.NDArray[np.uint8]:
        """The side of every window of the index, by position.

        0: explain, 1: score, 2: tokens of both, or none unmasked.
        """
        return self._core.sides()

    def eligible(self) -> npt.NDArray[np.bool_]:
        """Whether each window may be drawn for its side.

        A score-side window may not if it shares a run of 16 unmasked tokens with the explain side
        (the run lies in it or, where windows are shorter, it in the run); one of no side may not.
        """
        return self._core.eligible()

    def overlap_share(self) -> float:
        """The share of score-side windows that are not eligible; 0 where there are none."""
        return self._core.overlap_share()

    def summary(self) -> dict[str, Array]:
        """Counts of every latent, each [L].

        `count` postings; `windows` in which it is active; `windows_explain`, those on the explain
        side; `windows_scoring`, the eligible ones on the score side; `documents` in which it is
        active; `documents_explain` and `documents_scoring`, those in such windows;
        `max_activation`, 0 if dead.
        """
        return self._core.summary()

    def sample(
        self, latents: npt.ArrayLike, plan: SamplingPlan | None = None, seed: int = 0
    ) -> Examples:
        """Draw examples of some latents; one asked for twice is drawn once.

        Args:
            latents: [n] latent ids.
            plan: What to draw; `SamplingPlan()` if None.
            seed: Any seed from 0 to 2^64 - 1.

        Raises:
            InputError: The index has no such latent, or the plan's length is above a context's.
        """
        plan = _DEFAULT if plan is None else plan
        columns = self._core.sample(
            flat_ids("latents", latents, np.uint32), core_plan(plan), whole("seed", seed, 2**64)
        )
        return Examples(
            **columns,
            context_length=self.context_length,
            hookpoint=self.attributes.get("hookpoint", ""),
            precision=self.precision,
        )

    def cooccurrence(
        self,
        latents: npt.ArrayLike,
        top: int = 10,
        *,
        unit: Literal["token", "window"] = "token",
        memory: int = 2**32,
    ) -> Cooccurrence:
        """The latents that are most often active together with some latents, by Jaccard; exact.

        Args:
            latents: [n] latent ids; all are searched for neighbours.
            top: How many for each.
            unit: What is counted: tokens, or windows of the grid, which costs about ten times more.
            memory: Bytes that may be used beside the result. With 6 for each posting of `latents`
                (each pair of latent and window) the index is decoded once; with less, three times
                or more. At least 4 for each token (or window) and 2 for each posting of the most
                frequent latent.

        Raises:
            InputError: The index has no such latent, or `memory` is too little.
        """
        if unit not in ("token", "window"):
            raise InputError(f"`unit` is {unit!r}; it must be 'token' or 'window'")
        ids = flat_ids("latents", latents, np.uint32)
        top = whole("top", top, 2**32)
        memory = whole("memory", memory, 2**64)
        columns = self._core.cooccurrence(ids, top, unit == "window", memory)
        shape = (len(ids), top)
        return Cooccurrence(ids, **{name: flat.reshape(shape) for name, flat in columns.items()})

    def verify(self) -> None:
        """Compare the checksum of every file.

        Raises:
            CorruptIndexError: One differs; the text names the segment and the file.
        """
        self._core.verify()

    def _latent(self, latent: int) -> int:
        return whole("latent", latent, self.n_latents)

    def _latents(self, latents: npt.ArrayLike) -> Array:
        """One latent, or several."""
        return flat_ids("latents", np.atleast_1d(to_numpy("latents", latents)), np.uint32)


def join(
    parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, durable: bool = True
) -> None:
    """Join finished indices whose contexts follow one another into a new one.

    Nothing is written again: files get a second name in `out`, and are copied where the file system
    cannot do that. The parts may come in any order and stay as they are. Parts that are folders of
    several hookpoints are joined hookpoint by hookpoint.

    Raises:
        InputError: Contexts are missing or in two parts, parameters differ, a part is not finished,
            or `out` holds something.
        CorruptIndexError: A part is damaged.
    """
    _core.join([os.fspath(part) for part in parts], os.fspath(out), durable)


def compact(path: str | os.PathLike[str], *, durable: bool = True) -> None:
    """Merge the partial segments that `join` and later additions leave, up to the grid of segments.

    The index then has the bytes of one undisturbed build. It may be read meanwhile, not written to.

    Raises:
        InputError: There is no index, a writer is at work on it, or the disk is full.
        CorruptIndexError: It is damaged.
    """
    _core.compact(os.fspath(path), durable)


def _flat_values(activations: npt.ArrayLike) -> Array:
    """A list of activations."""
    values = to_values(activations)
    if values.ndim != 1:
        raise InputError(f"`activations` has shape {values.shape}; it must have one dimension")
    return values


def document_sides(document_ids: npt.ArrayLike, split_seed: int = 0) -> npt.NDArray[np.uint8]:
    """The side of each document, [n]: 0 explain, 1 score; one bit of a hash of id and seed."""
    ids = flat_ids("document_ids", document_ids, np.uint64)
    return _core.document_sides(ids, whole("split_seed", split_seed, 2**64))


def _reopen(kind: type[Index], path: str, unfinished: bool) -> Index:
    """An index is pickled as the path of its folder."""
    return kind(path, unfinished=unfinished)
