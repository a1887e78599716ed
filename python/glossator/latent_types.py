"""What can be said of each latent without a language model: its type, and the figures behind it.

    kinds = latent_types(index, neighbours=near, logits=LogitWeights.of(decoder, unembedding))
    kinds["type"][17], kinds["peak_tokens"][17]      # "unigram", 3
    explained = np.flatnonzero(np.isin(kinds["type"], ["other", "say"]))

One pass over the lists in Rust counts; the rules that make types of the counts are here, one each.
The heuristics are those of "Open Source Automated Interpretability for Sparse Autoencoder Features"
(Juang et al., 2024); each also asks whether chance would do as much, so that a latent of few
windows is not on "few tokens" for want of windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from glossator import _core
from glossator.config import LatentType
from glossator.errors import InputError
from glossator.index import Index
from glossator.logit_weights import LogitWeights
from glossator.neighbours import NO_NEIGHBOUR, Neighbours, coder_hash_of, refuse_other_coder
from glossator.triage import triage

__all__ = ["TYPES", "latent_types"]

TYPES: tuple[LatentType, ...] = get_args(LatentType)
"""What a latent can be; of those that hold, the first is its `type`."""

POSITION_INFORMATION = 0.05
"""Mutual information of activity and position, in nats, from which a latent is positional.

The post's filter, from Voita et al. (2023, arXiv 2309.04827)."""
POSITION_SHARE = 0.5
"""So is one whose position tells more than this share of the entropy of its being active.

One that is active at exactly one of 128 positions has 0.046 nats, all that there are."""
STRONGEST = 80
"""Per cent of a latent's windows, the strongest, whose peaks are looked at (the post)."""
BEYOND_CHANCE = 2.0
"""How many times more telling than chance a figure has to be."""
PAIR_GAIN = 1.25
"""How many times as often as on one of its tokens a latent is active on the pair, to be a bigram's.

Where "Los" is nearly always before "Angeles" the corpus cannot tell the pair from its tokens."""
DUPLICATE_COSINE = 0.9
"""Above this cosine of their decoder rows two latents write the same."""
DUPLICATE_JACCARD = 0.5
"""Above this share of the windows of either, which are of both, they are active in the same.

Of what is left beyond chance: two latents that are each active in most windows share many."""
_NEIGHBOURS = 8
_ASYMPTOTIC = 50.0

Array = npt.NDArray[Any]


def latent_types(
    index: Index,
    *,
    decoder: Any = None,  # noqa: ANN401 - NumPy, torch, or a coder
    neighbours: Neighbours | None = None,
    logits: LogitWeights | None = None,
    max_tokens: int = 20,
    min_peaks: int = 10,
    min_windows: int = 50,
    min_documents: int = 20,
    dense: float = 0.10,
) -> dict[str, Array]:
    """Tell the type of every latent; in the order of `TYPES`, the first that holds.

    - `dead`, `dense`, `rare`: as `triage` says.
    - `positional`: mutual information of being active and the offset in the context above
      `POSITION_INFORMATION`, or above `POSITION_SHARE` of the entropy of being active; and more
      than `BEYOND_CHANCE` times what as many activations at random places have.
    - `duplicate`: a latent that is more frequent has a decoder row of cosine above
      `DUPLICATE_COSINE`, and windows of a Jaccard index more than `DUPLICATE_JACCARD` of the way
      from what chance gives to 1. Of a group one latent, the most frequent, is not a duplicate:
      explaining it explains the others.
    - `unigram`, `next-token`, `bigram`: at most `max_tokens` distinct tokens at the peaks, before
      the peaks, or pairs of both, among the strongest `STRONGEST` % of its windows. One of the
      three at most: `bigram` if the latent is active at `PAIR_GAIN` times as large a share of
      its pairs' occurrences in the corpus as of its tokens', else that on whose occurrences it is
      active more often. At least `min_peaks` such windows are needed, with `BEYOND_CHANCE` times
      fewer distinct tokens than as many tokens at random have.
    - `say`: the logit weights are concentrated on at most `max_tokens` tokens: see `LogitWeights`.

    Args:
        index: the activations.
        decoder: float[L, d] or a coder: for duplicates, where `neighbours` is not given.
        neighbours: those of the latents, with or without co-activation.
        logits: the weights of the latents' directions on the output tokens; without, none is `say`.
        max_tokens: how many tokens are few.
        min_peaks: windows, of the strongest, below which nothing is said of tokens.
        min_windows: as `triage`, as the next two.
        min_documents: what a side needs.
        dense: share of tokens.

    Returns:
        Columns over latents [L]: those of `triage`; `type` and `types` (all that hold, apart by
        commas); `position_information` (nats), `position_share` (of the entropy of being active;
        NaN where that is 0), `position_chance` (nats expected of random places); `peak_windows`,
        the strongest windows; for each of `peak`, `previous` and `pair`: `_tokens`, how many
        distinct ones (of pairs `max_tokens + 1` stands for all above), `_share`, the commonest
        one's share of the windows (NaN where it is not known), `_recall`, the share of their
        occurrences in the corpus on which the latent is active (NaN where they are not few), and
        `_ids`, lists of the few, the commonest first (of pairs as [previous, peak]);
        `peak_chance`, distinct tokens of as many random places; `logit_z`, `logit_tokens` as in
        `LogitWeights` (NaN and 0 without); `duplicate_of` (int64, -1: of none),
        `duplicate_cosine`, `duplicate_jaccard` and `duplicate_chance`, the Jaccard index of as many
        windows at random.

    Raises:
        InputError: a bound out of range, or `decoder`, `neighbours` or `logits` of other latents.
    """
    for name, bound in (("max_tokens", max_tokens), ("min_peaks", min_peaks)):
        if bound < 1:
            raise InputError(f"`{name}` is {bound}; it must be 1 at least")
    if logits is not None and len(logits.top) != index.n_latents:
        raise InputError(
            f"`logits` is of {len(logits.top)} latents; the index has {index.n_latents}"
        )
    figures = _core.latent_figures(index._core, max_tokens, STRONGEST)
    bounds = {"min_windows": min_windows, "min_documents": min_documents}
    kinds = triage(index, **bounds, dense=dense, summary=figures)
    holds = {name: kinds["status"] == name for name in ("dead", "dense", "rare")}
    holds["positional"] = _positions(index, figures, kinds)
    holds |= _tokens(figures, kinds, max_tokens, min_peaks)
    holds["say"] = _says(logits, index.n_latents, max_tokens, kinds)
    near = _near(index, decoder, neighbours)
    holds["duplicate"] = _duplicates(index, near, kinds)
    holds["other"] = ~np.any(list(holds.values()), axis=0)
    all_of = [
        [name for name, held in zip(TYPES, row, strict=True) if held]
        for row in zip(*(holds[name].tolist() for name in TYPES), strict=True)
    ]
    kinds["type"] = np.array([names[0] for names in all_of], dtype=object)
    kinds["types"] = np.array([",".join(names) for names in all_of], dtype=object)
    return kinds


def _positions(index: Index, figures: Mapping[str, Array], kinds: dict[str, Array]) -> Array:
    count, n = figures["count"].astype(np.float64), max(index.n_tokens, 1)
    information = figures["position_information"]
    share = count / n
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(share > 0, share * np.log(share), 0.0)
        entropy -= np.where(share < 1, (1 - share) * np.log1p(-share), 0.0)
        known = information / entropy
    kinds["position_information"] = information
    kinds["position_share"] = known
    chance = _position_chance(figures["count"], int((figures["offsets"] > 0).sum()), n)
    kinds["position_chance"] = chance
    found: Array = (information > POSITION_INFORMATION) | (known > POSITION_SHARE)
    return found & (information > BEYOND_CHANCE * chance)


def _position_chance(count: Array, offsets: int, n: int) -> Array:
    """Nats of mutual information that `count` activations at random have with the position.

    With K the activations at one of S offsets, Poisson of mean c / S: S / N · E[K ln(K S / c)],
    which is (S - 1) / 2N for many, and up to c ln(S) / N for few.
    """
    different, place = np.unique(count, return_inverse=True)
    mean = different / max(offsets, 1)
    each = np.where(mean > 0, 0.5, 0.0)
    some = np.flatnonzero((mean > 0) & (mean < _ASYMPTOTIC))
    for begin in range(0, len(some), 1_024):
        part = some[begin : begin + 1_024]
        means = mean[part][:, None]
        k = np.arange(1, int(mean[part[-1]] + 10 * mean[part[-1]] ** 0.5) + 20)
        likely = np.exp(k * np.log(means) - means - gammaln(k + 1))
        each[part] = (likely * k * np.log(k / means)).sum(axis=1)
    found: Array = (each * offsets / n)[place]
    return found


def _tokens(
    figures: Mapping[str, Array], kinds: dict[str, Array], max_tokens: int, min_peaks: int
) -> dict[str, Array]:
    """Adds the figures of tokens; which latents are on few."""
    few: dict[str, Array] = {}
    windows = figures["windows"]
    kinds["peak_windows"] = (windows * STRONGEST + 99) // 100
    for name, kind in (("peak", "own"), ("previous", "before"), ("pair", "pairs")):
        part = {
            column: figures[f"{kind}_{column}"]
            for column in ("windows", "distinct", "commonest", "active", "occurrences")
        }
        distinct, seen = part["distinct"], part["windows"].astype(np.float64)
        are_few = (distinct > 0) & (distinct <= max_tokens)
        with np.errstate(divide="ignore", invalid="ignore"):
            share, recall = part["commonest"] / seen, part["active"] / part["occurrences"]
        kinds[f"{name}_tokens"] = distinct
        kinds[f"{name}_share"] = np.where(part["commonest"] > 0, share, np.nan)
        kinds[f"{name}_recall"] = np.where(are_few, recall, np.nan)
        kinds[f"{name}_ids"] = _lists(figures[f"{kind}_keys"], figures[f"{kind}_starts"], kind)
        frequency = figures["followed" if kind == "before" else "frequency"]
        chance = np.full(len(seen), np.nan)
        # A peak at the beginning of a context has no token before it: too many say nothing.
        told = seen >= np.maximum(min_peaks, 0.5 * kinds["peak_windows"])
        asked = are_few & told
        chance[asked] = _expected_distinct(frequency, seen[asked])
        few[name] = asked & (distinct * BEYOND_CHANCE <= chance)
        if name == "peak":
            kinds["peak_chance"] = chance
    peak, previous, pair = (
        np.where(few[name], kinds[f"{name}_recall"], -1.0) for name in ("peak", "previous", "pair")
    )
    bigram = few["pair"] & (pair >= PAIR_GAIN * np.maximum(peak, previous))
    bigram &= few["peak"] & few["previous"]
    return {
        "bigram": bigram,
        "unigram": few["peak"] & ~bigram & (peak >= previous),
        "next-token": few["previous"] & ~bigram & (previous > peak),
    }


def _lists(keys: Array, starts: Array, kind: str) -> Array:
    """One list for each latent, as objects."""
    pairs = kind == "pairs"
    values = np.stack([keys & 0xFFFF_FFFF, keys >> 32], axis=1) if pairs else keys
    flat, edges = values.tolist(), starts.tolist()
    lists = np.empty(len(edges) - 1, dtype=object)
    for latent in range(len(lists)):
        lists[latent] = flat[edges[latent] : edges[latent + 1]]
    return lists


def _expected_distinct(frequency: Array, draws: Array) -> Array:
    """How many distinct tokens as many random tokens of the corpus have, on average."""
    counts, tokens = np.unique(frequency[frequency > 0].astype(np.float64), return_counts=True)
    different, place = np.unique(draws, return_inverse=True)
    # Where there is one token alone, it is in every draw: -∞.
    with np.errstate(divide="ignore"):
        silent = np.log1p(-counts / (counts @ tokens))
    expected = np.empty(len(different))
    for begin in range(0, len(different), 256):
        part = slice(begin, begin + 256)
        expected[part] = -np.expm1(different[part][:, None] * silent) @ tokens
    found: Array = expected[place]
    return found


def _says(
    logits: LogitWeights | None, n_latents: int, max_tokens: int, kinds: dict[str, Array]
) -> Array:
    if logits is None:
        kinds["logit_z"] = np.full(n_latents, np.nan)
        kinds["logit_tokens"] = np.zeros(n_latents, np.int64)
        return np.zeros(n_latents, bool)
    kinds["logit_z"], kinds["logit_tokens"] = logits.z, logits.tokens
    few = logits.tokens <= min(max_tokens, logits.top.shape[1] - 1)
    found: Array = few & (logits.z > BEYOND_CHANCE * logits.chance)
    return found


def _near(index: Index, decoder: Any, neighbours: Neighbours | None) -> Neighbours | None:  # noqa: ANN401
    if neighbours is None and decoder is not None and index.n_latents > 1:
        neighbours = Neighbours.of(decoder, min(_NEIGHBOURS, index.n_latents - 1))
    if neighbours is not None:
        coder = coder_hash_of(decoder) if decoder is not None else neighbours.coder_hash
        refuse_other_coder(index, coder, neighbours.n_latents)
    return neighbours


def _duplicates(index: Index, near: Neighbours | None, kinds: dict[str, Array]) -> Array:
    """Adds whose duplicate each latent is; the most frequent of a group is nobody's."""
    L = index.n_latents
    of = kinds["duplicate_of"] = np.full(L, -1, np.int64)
    figures = {name: np.full(L, np.nan) for name in ("cosine", "jaccard", "chance")}
    kinds |= {f"duplicate_{name}": figure for name, figure in figures.items()}
    if near is None:
        return of >= 0
    close = (near.ids != NO_NEIGHBOUR) & (near.cosines > DUPLICATE_COSINE)
    rows = np.flatnonzero(close.any(axis=1)).astype(np.uint32)
    ids = np.where(close, near.ids, NO_NEIGHBOUR)[rows].astype(np.uint32)
    if not len(rows):
        return of >= 0
    jaccard = index.coactivation(rows, ids).jaccard
    share = kinds["windows"] / (index.n_contexts * index.context_length // index.window)
    own, others = share[rows][:, None], share[np.minimum(ids, L - 1)]
    with np.errstate(invalid="ignore"):
        chance = own * others / (own + others - own * others)
        same = jaccard - chance > DUPLICATE_JACCARD * (1 - chance)
    # A pair may be in the list of one of the two alone.
    partners: dict[int, dict[int, tuple[float, float, float]]] = {}
    for row, rank in np.argwhere(same & (ids != NO_NEIGHBOUR)).tolist():
        latent, other = int(rows[row]), int(ids[row, rank])
        cosine = float(near.cosines[latent, rank])
        pair = float(jaccard[row, rank]), cosine, float(chance[row, rank])
        partners.setdefault(latent, {})[other] = pair
        partners.setdefault(other, {})[latent] = pair
    count = kinds["count"]
    for latent in sorted(partners, key=lambda latent: (-int(count[latent]), latent)):
        kept = [
            (pair, -other)
            for other, pair in partners[latent].items()
            if of[other] < 0 and (int(count[other]), -other) > (int(count[latent]), -latent)
        ]
        if kept:
            pair, other = max(kept)
            of[latent] = -other
            for name, value in zip(("jaccard", "cosine", "chance"), pair, strict=True):
                figures[name][latent] = value
    return of >= 0
