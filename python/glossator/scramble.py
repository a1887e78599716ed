"""Is a latent active on its token whatever stands around it? The scramble test.

    kinds = latent_types(index)
    unigrams = np.flatnonzero(kinds["type"] == "unigram")
    test = scramble_test(kinds, unigrams, token_activations(subject, coder), seen)
    test["share"][0] > 0.9                  # the first of them is free of context

Each of a latent's few peak tokens is planted twice among 19 random tokens, and the subject model
reads the result (Juang et al., 2024, "Unigram features"). One scramble of a token serves every
latent that peaks on it, so that the cost grows with the distinct tokens alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glossator.corpus import Contexts, lone_contexts
from glossator.errors import InputError
from glossator.feeding import active_latents
from glossator.harvest import bos_for, refuse_misfit
from glossator.progress import SILENT, Progress

if TYPE_CHECKING:
    # `import glossator` loads no torch.
    from glossator.coders import SparseCoder
    from glossator.subjects import Subject

__all__ = ["SCRAMBLE_THRESHOLDS", "scramble_test", "token_activations"]

SCRAMBLE_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of scrambles above which latents are counted; above the last the post calls a latent free
of context."""

_AT_ONCE = 256
"""Scrambles in a batch: about five thousand tokens."""

Array = npt.NDArray[Any]
TokenSource = Callable[[npt.NDArray[np.uint32]], tuple[Array, Array, Array]]


def scramble_test(
    kinds: Mapping[str, Array],
    latents: Sequence[int] | npt.NDArray[np.integer],
    activations: TokenSource,
    vocabulary: npt.NDArray[np.integer],
    *,
    repeats: int = 2,
    around: int = 19,
    most: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Array]:
    """Plant the peak tokens of latents among random ones, and encode them again.

    Tokens are planted as ids, not as text: a harvest knows its corpus by ids, the subject reads
    ids, and no tokenizer can cut a scramble into other tokens than were planted. (It need not be
    what a tokenizer would make of any text: no row of random tokens is.) The planted token is never
    the first: many models attend to that one whatever it is. The scrambles of a token depend on
    `seed`, the token and the repeat alone, whichever latents ask for it.

    Args:
        kinds: what `latent_types` gave; `peak_ids` says which tokens.
        latents: which latents, [n]; those of type `unigram`, say.
        activations: reads rows of tokens, uint32[m, around + 1], and gives the active latents as
            three arrays: row, offset in it, latent; `token_activations` makes one.
        vocabulary: tokens to draw from, [V]: those that the corpus has, say.
        repeats: how often each token is planted.
        around: random tokens around it.
        most: tokens of scrambles to be read at most. If all tokens of all latents take more, only
            so many of each latent's are planted as fit, by seed: the same for all latents that
            share them. If not even one of each latent's fits, only some latents are tested.
        seed: of the drawing.
        progress: counts tokens.

    Returns:
        Columns over those latents [n]: `latent`; `tokens`, how many of its peak tokens were
        planted; `scrambles`, how many were read; `share` of them in which the latent is active
        anywhere, as in the post, and `share_on_token`, on the planted token (NaN without
        scrambles); `over_50` to `over_90`, whether `share` is above each of `SCRAMBLE_THRESHOLDS`.

    Raises:
        InputError: a latent whose peak tokens are not few, or nothing to draw from.
    """
    if repeats < 1 or around < 1 or not len(vocabulary):
        raise InputError(
            "the scramble test: `repeats`, `around` and `vocabulary` must not be empty"
        )
    given = np.asarray(latents, np.int64)
    asking, back = np.unique(given, return_inverse=True)
    for latent in asking.tolist():
        if not len(kinds["peak_ids"][latent]):
            raise InputError(
                f"latent {latent}: the scramble test needs a latent that peaks on few tokens; "
                f"it is of type `{kinds['type'][latent]}`"
            )
    room = None if most is None else most // (repeats * (around + 1))
    owners, wanted = _fitting([kinds["peak_ids"][latent] for latent in asking], room, seed)
    tokens, own = np.unique(wanted, return_inverse=True)
    drawn = [
        _scramble(token, repeat, vocabulary, around, seed)
        for token in tokens.tolist()
        for repeat in range(repeats)
    ]
    found = _read(drawn, repeats, own, asking[owners], activations, progress)
    planted = np.bincount(owners, minlength=len(asking))
    columns: dict[str, Array] = {"latent": given, "tokens": planted[back]}
    columns["scrambles"] = columns["tokens"] * repeats
    for name, active in zip(("share", "share_on_token"), found, strict=True):
        counted = np.bincount(owners, weights=active.sum(axis=1), minlength=len(asking))[back]
        with np.errstate(invalid="ignore"):
            columns[name] = counted / columns["scrambles"]
    for threshold in SCRAMBLE_THRESHOLDS:
        columns[f"over_{threshold * 100:.0f}"] = columns["share"] > threshold
    return columns


def token_activations(subject: Subject, coder: SparseCoder) -> TokenSource:
    """The subject and its coder as a function of rows of tokens, each a context of its own.

    What stands before and behind a text in the corpus, such as a BOS token, does so here; where
    nothing does, a line break takes the first place, whose activations never count.

    Args:
        subject: the model and its hookpoint.
        coder: encodes what the hookpoint's module gives.

    Returns:
        A function of uint32[m, s] that gives row, offset and latent of each activation, int64.

    Raises:
        InputError: the subject's width or hookpoint is not the coder's.
    """
    refuse_misfit(subject, coder)
    lone = lone_contexts(["a"], subject.tokenizer, 64, bos_for(subject, coder))
    live = np.flatnonzero(lone.mask[0])
    prefix, suffix = lone.tokens[0, : live[0]], lone.tokens[0, live[-1] + 1 :]

    def activations(tokens: npt.NDArray[np.uint32]) -> tuple[Array, Array, Array]:
        n, length = tokens.shape
        before, behind = (np.tile(part, (n, 1)) for part in (prefix, suffix))
        rows = np.concatenate([before, tokens, behind], axis=1, dtype=np.uint32)
        mask = np.zeros(rows.shape, bool)
        mask[:, len(prefix) : len(prefix) + length] = True
        batch = Contexts(rows, np.zeros(rows.shape, np.uint64), mask)
        active, _ = active_latents(coder, subject.hidden(rows, batch.attended), batch)
        # Of the tokens that count, which are the rows that were given.
        places, offsets = np.divmod(active.tokens().cpu().numpy(), length)
        return places, offsets, active.latents.cpu().numpy()

    return activations


def _fitting(peaks: Sequence[Sequence[int]], room: int | None, seed: int) -> tuple[Array, Array]:
    """Pairs of an asking latent's place and a token of its, so many that the tokens fit."""
    owners = np.repeat(np.arange(len(peaks)), [len(few) for few in peaks])
    tokens = np.array([token for few in peaks for token in few], np.int64)
    if room is None or len(np.unique(tokens)) <= room:
        return owners, tokens
    # One order of all tokens: latents that share some then plant the same.
    rng = np.random.default_rng(seed)
    distinct, place = np.unique(tokens, return_inverse=True)
    order = np.lexsort((rng.permutation(len(distinct))[place], owners))
    owners, tokens = owners[order], tokens[order]
    nth = np.arange(len(owners)) - np.searchsorted(owners, owners)
    for each in range(int(nth.max()), 0, -1):
        if len(np.unique(tokens[nth < each])) <= room:
            return owners[nth < each], tokens[nth < each]
    owners, tokens = owners[nth == 0], tokens[nth == 0]
    drawn = rng.permutation(len(owners))
    _, first = np.unique(tokens[drawn], return_index=True)
    new = np.zeros(len(drawn), np.int64)
    new[first] = 1
    kept = np.sort(drawn[np.cumsum(new) <= room])
    return owners[kept], tokens[kept]


def _read(
    drawn: Sequence[tuple[npt.NDArray[np.uint32], int]],
    repeats: int,
    own: Array,
    latents: Array,
    activations: TokenSource,
    progress: Progress,
) -> tuple[Array, Array]:
    """Whether each pair's latent is active anywhere, and on the planted token.

    A pair is a planted token, by its place among them (`own`), and a latent that asks for it.

    Returns:
        Two of bool[pairs, repeats].
    """
    anywhere, on_token = np.zeros((2, len(own), repeats), bool)
    several = int(latents.max(initial=0)) + 1
    keys = own * several + latents
    order = np.argsort(keys)
    with progress.stage("scramble", sum(len(row) for row, _ in drawn), "tokens") as bar:
        for begin in range(0, len(drawn), _AT_ONCE):
            part = drawn[begin : begin + _AT_ONCE]
            rows, offsets, active = activations(np.stack([row for row, _ in part]))
            planted = np.array([at for _, at in part])[rows] == offsets
            token, repeat = np.divmod(rows + begin, repeats)
            asked = active < several
            sought = token[asked] * several + active[asked]
            at = np.searchsorted(keys, sought, sorter=order)
            pairs = order[np.minimum(at, len(order) - 1)]
            held = keys[pairs] == sought
            pairs, repeat, planted = pairs[held], repeat[asked][held], planted[asked][held]
            anywhere[pairs, repeat] = True
            on_token[pairs[planted], repeat[planted]] = True
            bar.advance(sum(len(row) for row, _ in part))
    return anywhere, on_token


def _scramble(
    token: int, repeat: int, vocabulary: Array, around: int, seed: int
) -> tuple[npt.NDArray[np.uint32], int]:
    """The tokens, and where among them the planted one is."""
    rng = np.random.default_rng([seed, token, repeat])
    at = int(rng.integers(1, around + 1))
    others = rng.choice(vocabulary, around).astype(np.uint32)
    return np.insert(others, at, token), at
