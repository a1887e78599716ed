"""What does a latent do on the corpus? Every question that an index answers.

index = Index.open(path)
positions, activations = index.postings(17)
index.top([17, 42], n=5)
examples = index.sample([17], SamplingPlan(), seed=0)
"""

from __future__ import annotations

import os
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from glossator import _core
from glossator.arrays import Array, flat_ids, matrix_ids, to_numpy, whole
from glossator.cooccurrence import Coactivation, Cooccurrence
from glossator.errors import InputError
from glossator.index.answers import Histogram, Top
from glossator.index.files import Segment, bits_per_posting, read_segments, sizes
from glossator.progress import SILENT, Progress
from glossator.sampling import (
    SPLITS,
    Examples,
    NearestWindows,
    NeighbourTable,
    SamplingPlan,
    core_nearest,
    core_neighbours,
    core_plan,
)

__all__ = ["Index", "document_sides"]

_DEFAULT = SamplingPlan()


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
        self,
        latents: npt.ArrayLike,
        plan: SamplingPlan | None = None,
        seed: int = 0,
        *,
        neighbours: NeighbourTable | None = None,
        nearest: NearestWindows | None = None,
    ) -> Examples:
        """Draw examples of some latents; one asked for twice is drawn once.

        Args:
            latents: [n] latent ids.
            plan: What to draw; `SamplingPlan()` if None.
            seed: Any seed from 0 to 2^64 - 1.
            neighbours: For negatives of the decoder kinds.
            nearest: For negatives of kind `embedding`.

        Raises:
            InputError: The index has no such latent, the plan's length is above a context's, or
                a table that the plan needs is missing, too small, or of another coder or index.
        """
        plan = _DEFAULT if plan is None else plan
        columns = self._core.sample(
            flat_ids("latents", latents, np.uint32),
            core_plan(plan),
            whole("seed", seed, 2**64),
            core_neighbours(neighbours, self.attributes.get("coder_hash", "")),
            core_nearest(nearest, self.hash),
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

    def coactivation(self, latents: npt.ArrayLike, neighbours: npt.ArrayLike) -> Coactivation:
        """How often some latents are active together with given neighbours, per window; exact.

        Args:
            latents: [n] latent ids.
            neighbours: [n, k] latent ids; `NO_NEIGHBOUR`: none.

        Raises:
            InputError: The index has no such latent, or the shapes do not match.
        """
        ids = flat_ids("latents", latents, np.uint32)
        others = matrix_ids("neighbours", neighbours, np.uint32)
        columns = self._core.coactivation(ids, others)
        return Coactivation(**{name: flat.reshape(others.shape) for name, flat in columns.items()})

    def segments(self) -> list[Segment]:
        """The segments, in the order of their contexts, with the sizes of their files.

        Raises:
            InputError: The index was changed since it was opened.
        """
        return read_segments(self.path, self.hash)

    def describe(self) -> dict[str, Any]:
        """What the index is and what it takes on the disk: numbers, texts, lists, mappings of them.

        `latents` counts those with a posting as `active`, the others as `dead`. `files` has bytes
        and bits per posting by kind of file, `segments/lists.bin` for all lists.

        Raises:
            InputError: The index was changed since it was opened.
            CorruptIndexError: A list is damaged.
        """
        segments = self.segments()
        active = int(np.count_nonzero(self.counts()))
        n_bytes = sum(segment.n_bytes for segment in segments)
        return {
            "path": self.path,
            "complete": self.complete,
            "hash": self.hash,
            "precision": self.precision,
            "n_latents": self.n_latents,
            "context_length": self.context_length,
            "window": self.window,
            "first_context": self.first_context,
            "segment_contexts": self._core.segment_contexts,
            "split_seed": self.split_seed,
            "attributes": self.attributes,
            "n_contexts": self.n_contexts,
            "n_tokens": self.n_tokens,
            "nnz": self.nnz,
            "latents": {"active": active, "dead": self.n_latents - active},
            "bytes": n_bytes,
            "bits_per_posting": bits_per_posting(n_bytes, self.nnz),
            "files": sizes(segments, self.nnz),
            "segments": [
                {
                    "first_context": segment.first_context,
                    "contexts": segment.contexts,
                    "n_tokens": segment.n_tokens,
                    "nnz": segment.nnz,
                    "bytes": segment.n_bytes,
                }
                for segment in segments
            ],
        }

    def verify(self, *, progress: Progress = SILENT) -> None:
        """Compare the checksum of every file.

        Args:
            progress: counts segments.

        Raises:
            CorruptIndexError: One differs; the text names the segment and the file.
        """
        segments = self._core.n_segments
        with progress.stage("verify", total=segments, unit="segments") as bar:
            for segment in range(segments):
                self._core.verify_segment(segment)
                bar.advance(1)

    def _latent(self, latent: int) -> int:
        return whole("latent", latent, self.n_latents)

    def _latents(self, latents: npt.ArrayLike) -> Array:
        """One latent, or several."""
        return flat_ids("latents", np.atleast_1d(to_numpy("latents", latents)), np.uint32)


def document_sides(document_ids: npt.ArrayLike, split_seed: int = 0) -> npt.NDArray[np.uint8]:
    """The side of each document, [n]: 0 explain, 1 score; one bit of a hash of id and seed."""
    ids = flat_ids("document_ids", document_ids, np.uint64)
    return _core.document_sides(ids, whole("split_seed", split_seed, 2**64))


def _reopen(kind: type[Index], path: str, unfinished: bool) -> Index:
    """An index is pickled as the path of its folder."""
    return kind(path, unfinished=unfinished)
