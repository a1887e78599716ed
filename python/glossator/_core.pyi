# Written by rust/python/stubs.py from the Rust sources: change those.

"""The compiled core of glossator; `glossator.index` and its neighbours are its documented face."""

from collections.abc import Callable
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

__version__: Final[str]

@final
class Index:
    """An open index."""
    def activations(
        self, /, latent: int, starts: NDArray[np.uint64], length: int
    ) -> NDArray[np.float32]:
        """One latent's activations on `length` tokens from each start on, flat."""
    def active(self, /, latent: int, positions: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether a latent is active in the windows that hold these positions."""
    @property
    def attributes(self, /) -> dict[str, str]:
        """Free text that describes the index."""
    def coactivation(
        self, /, latents: NDArray[np.uint32], neighbours: NDArray[np.uint32]
    ) -> dict[str, NDArray[Any]]:
        """The figures of some latents and `k` neighbours of each, flat."""
    @property
    def complete(self, /) -> bool:
        """Whether the build reached its end."""
    @property
    def context_length(self, /) -> int:
        """Tokens in a context."""
    def contexts(
        self, /, ids: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.bool_]]:
        """Tokens, documents and mask of some contexts, flat."""
    def cooccurrence(
        self, /, latents: NDArray[np.uint32], top: int, windows: bool, memory: int
    ) -> dict[str, NDArray[Any]]:
        """The columns of the neighbours by co-occurrence, flat."""
    def counts(self, /) -> NDArray[np.uint64]:
        """Postings of each latent."""
    def deciles(self, /) -> NDArray[np.float32]:
        """Minimum, nine boundaries and maximum of each latent's window maxima."""
    def decode(self, /, latents: NDArray[np.uint32]) -> int:
        """Decode some latents' postings in stored order; returns how many. For measuring."""
    def eligible(self, /) -> NDArray[np.bool_]:
        """Whether each window may be drawn for its side."""
    @property
    def first_context(self, /) -> int:
        """Number of the first context."""
    @property
    def hash(self, /) -> str:
        """A hash of the whole content, 16 hexadecimal digits."""
    def histogram(self, /, latents: NDArray[np.uint32]) -> dict[str, NDArray[Any]]:
        """Latents, codes, their activations and counts of windows."""
    @property
    def lossless(self, /) -> bool:
        """Whether every activation is kept in bf16."""
    @property
    def n_contexts(self, /) -> int:
        """Number of contexts."""
    @property
    def n_latents(self, /) -> int:
        """Number of latents."""
    @property
    def n_segments(self, /) -> int:
        """Number of segments."""
    @property
    def n_tokens(self, /) -> int:
        """Number of unmasked tokens."""
    @property
    def nnz(self, /) -> int:
        """Number of postings."""
    @staticmethod
    def open(path: str, *, unfinished: bool) -> Index:
        """Open the index in a folder; one whose build has not reached its end only if `unfinished`."""
    def overlap_share(self, /) -> float:
        """The share of score-side windows that are not eligible."""
    def postings(self, /, latent: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Positions and activations of one latent."""
    def sample(
        self,
        /,
        latents: NDArray[np.uint32],
        plan: Plan,
        seed: int,
        neighbours: tuple[NDArray[np.uint32], NDArray[np.uint8] | None] | None,
        nearest: tuple[NDArray[np.uint32], NDArray[np.uint64]] | None,
    ) -> dict[str, Any]:
        """The columns of the examples that a plan draws."""
    @property
    def segment_contexts(self, /) -> int:
        """Contexts in a full segment."""
    def sides(self, /) -> NDArray[np.uint8]:
        """The side of every window."""
    @property
    def split_seed(self, /) -> int:
        """Seed of the division of documents into sides."""
    def summary(self, /) -> dict[str, NDArray[Any]]:
        """Counts of every latent, by name."""
    def top(
        self, /, latents: NDArray[np.uint32], n: int, side: int | None
    ) -> dict[str, NDArray[Any]]:
        """The `n` strongest windows of each latent, of one side or of all."""
    def verify_segment(self, /, segment: int) -> None:
        """Compare the checksum of every file of a segment."""
    @property
    def window(self, /) -> int:
        """Tokens in a window."""
    def windows(
        self, /, latent: int
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.uint8]]:
        """Starts, maxima and deciles of one latent's windows."""

@final
class IndexWriter:
    """Builds an index in a folder, or goes on with one; or those of several hookpoints at once."""
    def __new__(
        cls,
        /,
        path: str,
        *,
        hookpoints: list[tuple[str, int, dict[str, str]]],
        context_length: int,
        window: int,
        first_context: int,
        segment_contexts: int | None,
        split_seed: int,
        lossless: bool,
        durable: bool,
        text: str,
    ) -> IndexWriter:
        """
        Open the folder; the arguments are those of `glossator.index.IndexWriter`.

        `hookpoints` is a hookpoint's name, its latents and its attributes, for each; an index without
        a folder of its own has the name "".
        """
    def abandon(self, /) -> None:
        """Drop what is still in memory, and let go of the folder."""
    def add(
        self,
        /,
        tokens: NDArray[np.uint32],
        entries: list[tuple[NDArray[np.uint32], NDArray[np.float32] | NDArray[np.uint16]]],
        document_ids: NDArray[np.uint64],
        mask: NDArray[np.bool_] | None,
        context: int | None,
    ) -> None:
        """
        Add contexts with the same number of entries for every token.

        One pair of latents and activations (float32, or the bits of bfloat16) per hookpoint.
        Documents are one per token, and all arrays C-contiguous.
        """
    def add_coo(
        self,
        /,
        tokens: NDArray[np.uint32],
        entries: list[tuple[Any, ...]],
        document_ids: NDArray[np.uint64],
        mask: NDArray[np.bool_] | None,
        context: int | None,
    ) -> None:
        """
        Add contexts with one entry per activation, in any order.

        One tuple of rows, offsets, latents and activations per hookpoint.
        """
    def add_sorted(
        self,
        /,
        tokens: NDArray[np.uint32],
        entries: list[tuple[Any, ...]],
        document_ids: NDArray[np.uint64],
        mask: NDArray[np.bool_] | None,
        context: int | None,
    ) -> None:
        """
        Add contexts whose entries are ordered by latent and, within one, by position.

        One tuple of starts, positions and activations per hookpoint.
        """
    @property
    def cursor(self, /) -> int:
        """Where the next batch goes, unless it says so itself."""
    def finish(self, /) -> None:
        """Commit what is left, mark the index complete, and let go of the folder."""
    @property
    def next_context(self, /) -> int:
        """The first context that the index has not been given yet."""
    @property
    def segment_contexts(self, /) -> int:
        """Contexts in a segment."""

@final
class Plan:
    """A plan, read once."""
    @staticmethod
    def read(json: str) -> Plan:
        """From the JSON of `glossator.sampling.SamplingPlan`."""

@final
class RuleChecker:
    """Counts what rules get right and wrong on every eligible window of the score side."""
    def __new__(cls, /, index: Index) -> RuleChecker:
        """Collect where each token stands on the score side."""
    def check(
        self, /, latents: NDArray[np.uint32], rules: list[str]
    ) -> dict[str, NDArray[np.uint64]]:
        """
        Outcomes of rule `i` (JSON) for latent `i`, by column.

        For each unit, `window` and `token`: `tp`, `fp`, `fn`, `tn`; the sums over documents of
        the products of two of the first three (`tp_tp` to `fp_fn`); and the documents in which
        something is predicted, active, or either. Then `decile_windows` and `decile_hits`, ten
        values a rule: the latent's windows of that decile, and those in which the rule fires.
        """
    @property
    def documents(self, /) -> int:
        """Documents with a token in them."""
    @property
    def tokens(self, /) -> int:
        """Unmasked tokens in them."""
    @property
    def windows(self, /) -> int:
        """Eligible windows of the score side."""

@final
class RuleLearner:
    """Learns a rule for each latent from the explain side of an index."""
    def __new__(
        cls,
        /,
        index: Index,
        *,
        max_tokens: int,
        max_context_tokens: int,
        reach: int,
        look_ahead: bool,
        min_gain: float,
    ) -> RuleLearner:
        """Lay the explain side out for learning; the arguments are those of `learn_rules`."""
    def learn(self, /, latents: NDArray[np.uint32]) -> list[str | None]:
        """One rule a latent, in JSON; None for a latent that is silent on the explain side."""

@final
class Selector:
    """An encoder's weights and rule: what is active, of products that are only nearly right."""
    def __new__(
        cls,
        /,
        weight: NDArray[np.float32] | NDArray[np.uint16],
        bias: NDArray[np.float32],
        *,
        k: int | None = None,
        threshold: NDArray[np.float32] | None = None,
        scale: NDArray[np.float32] | None = None,
        magnitude: NDArray[np.float32] | None = None,
        rounded: bool = True,
        portable: bool = False,
    ) -> Selector:
        """
        `weight` is kept and read, never copied: what is exact, float32 or the bits of bf16.

        One of `k`, `threshold` and both of `scale` and `magnitude` is given. `rounded` says that
        products are of operands rounded to bf16, and stored as its bits.
        """
    def select(
        self, /, x: NDArray[np.float32], proposed: NDArray[np.float32] | NDArray[np.uint16]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32], NDArray[np.uint32], int]:
        """
        The active latents of rows `x`, rounded to what is exact, by their products without bias.

        Returns starts int64[N + 1], latents uint32 and activations float32, row by row the strongest
        first; rows refused because they, or their pre-activations, hold NaN or infinity; and how many
        pre-activations were computed again.
        """

def add_statistics(
    latents: NDArray[np.uint32],
    activations: NDArray[np.float32],
    histogram: NDArray[np.uint32],
    maximum: NDArray[np.float32],
    total: NDArray[np.int64],
) -> None:
    """
    Adds activations to latents' histograms, maxima and sums (in units of 2⁻²⁰), in place.

    Bin `(bits >> 19) - (119 << 4)` of an activation, from 0 to 255: 16 an octave. Entries of latent
    0xFFFFFFFF, and activations that are not positive, are none.
    """

def compact(path: str, durable: bool) -> None:
    """Merge the adjacent partial segments of an index up to the grid of its segments."""

def document_sides(document_ids: NDArray[np.uint64], split_seed: int) -> NDArray[np.uint8]:
    """The side of each document: 0 explain, 1 score."""

def holds(
    index: Index, tokens: NDArray[np.uint32], positions: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Whether the windows that hold these positions hold one of some tokens."""

def join(parts: list[str], out: str, durable: bool) -> None:
    """
    Join finished indices whose contexts follow one another into a new one, without writing their
    data again.
    """

def latent_figures(index: Index, max_tokens: int, strongest: int) -> dict[str, NDArray[Any]]:
    """
    The figures that tell the types of all latents, by name.

    Over latents: those of `Index.summary`, `position_information`; and for each of `own`, `before` and
    `pairs` (`own << 32 | before`) `_windows`, `_distinct`, `_commonest`, `_active` and
    `_occurrences`, with the few in `_keys` and `_counts` from `_starts` on. Of the text: `offsets`,
    `frequency`, `followed`.
    """

def neighbours(
    rows: NDArray[np.float32],
    other: NDArray[np.float32] | None,
    k: int,
    progress: Callable[[int, int], object] | None = None,
    *,
    portable: bool = False,
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """
    The `k` nearest rows by cosine of each of `rows`, among the others or among `other`; exact.

    `progress` is called with the pairs of blocks done and all of them, ten times a second; what it
    raises ends the search. `portable` keeps to instructions that every processor has.
    """

def silent_strata(index: Index, latents: NDArray[np.uint32], seed: int) -> dict[str, NDArray[Any]]:
    """
    Commonest peak tokens of all latents, how many each has, and its silent windows that hold one or
    none.
    """

class GlossatorError(Exception):
    """An error whose one line names the file, the field and the remedy."""

class InputError(GlossatorError):
    """Something that the caller can mend: an argument, a file, a setting."""

class CorruptIndexError(GlossatorError):
    """A file of an index is not what its manifest says it is."""
