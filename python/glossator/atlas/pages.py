"""What the page of a latent says beside its examples: explanations, scores, logits, neighbours.

    chosen = choose_pages(rows, pages=None, max_pages=10_000, seed=0)
    rules = running_rules(explanations, known)
    meta, arrays = page_data(chosen, rows, explanations, scores, protocols, text)
    near, arrays = near_data(chosen, neighbours)

Names of tokens are stored once; the rows of the table of scores become arrays, grouped by
explanation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glossator.atlas.columns import Explainer, LatentColumns
from glossator.atlas.firing import AtlasText
from glossator.atlas.pack import shorten
from glossator.errors import InputError
from glossator.neighbours import RELATIONS, Neighbours
from glossator.records import Near, Rule

__all__ = ["choose_pages", "near_data", "page_data", "running_rules"]

Array = npt.NDArray[Any]

_NEAR = 8
"""Neighbours that a page names."""


def choose_pages(
    rows: LatentColumns, *, pages: Sequence[int] | None, max_pages: int, seed: int
) -> Array:
    """Which latents have a page.

    Args:
        rows: the latents.
        pages: ids, or None: all of them where they are no more than `max_pages`, else so many live
            ones (rare and dense ones after them) drawn by seed.
        max_pages: how many one file may hold.
        seed: of the draw.

    Returns:
        uint32 ids, ascending.

    Raises:
        InputError: an id out of range, or more ids than `max_pages`.
    """
    L = len(rows.status)
    if pages is not None:
        chosen = np.unique(np.asarray(list(pages), np.int64))
        if len(chosen) and (chosen[0] < 0 or chosen[-1] >= L):
            bad = chosen[0] if chosen[0] < 0 else chosen[-1]
            raise InputError(f"atlas: field `pages`: no latent {bad}; ids go from 0 to {L - 1}")
        if len(chosen) > max_pages:
            raise InputError(
                f"atlas: field `pages`: {len(chosen)} latents, and one file holds `max_pages` = "
                f"{max_pages}; name fewer or raise `max_pages`"
            )
        return chosen.astype(np.uint32)
    if max_pages >= L:
        return np.arange(L, dtype=np.uint32)
    order = np.random.default_rng(seed).permutation(L)
    other = ~rows.of("live") * 1 + (rows.of("dead") | rows.of("unknown")) * L
    return np.sort(order[np.argsort(other[order], kind="stable")][:max_pages]).astype(np.uint32)


class _Names:
    """Printable names, each stored once."""

    def __init__(self, text: AtlasText) -> None:
        self._text = text
        self._of_token: dict[int, int] = {}
        self._of_name: dict[str, int] = {}

    def name(self, name: str) -> int:
        return self._of_name.setdefault(name, len(self._of_name))

    def token(self, token: int) -> int:
        if token not in self._of_token:
            self._of_token[token] = self.name(self._text.name(token))
        return self._of_token[token]

    def near(self, near: Near | None) -> dict[str, object] | None:
        if near is None:
            return None
        tokens = [self.token(token) for token in near.tokens]
        return {"tokens": tokens, "before": near.before, "after": near.after}

    def rule(self, rule: Rule | None) -> dict[str, object] | None:
        if rule is None:
            return None
        return {
            "tokens": [self.token(token) for token in rule.tokens],
            "require": self.near(rule.require),
            "exclude": self.near(rule.exclude),
        }

    def logits(self, field: str, latent: int, stored: str | None) -> list[list[float]]:
        """Pairs of a name's number and a logit, from JSON pairs of a token and a logit."""
        if stored is None:
            return []
        try:
            pairs = [
                [self.name(token) if isinstance(token, str) else self.token(int(token)), value]
                for token, value in json.loads(stored)
            ]
            return [[number, float(f"{value:.4g}")] for number, value in pairs]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"table latents: field `{field}` of latent {latent}: not a JSON list of pairs of a "
                f"token and a logit ({error})"
            ) from error

    def all(self) -> list[str]:
        return list(self._of_name)


def _rule(stored: str | None) -> Rule | None:
    return None if stored is None else Rule.model_validate_json(stored)


def running_rules(explanations: pa.Table, known: Iterable[Explainer]) -> dict[int, Rule]:
    """The rule of each latent that has one: of several that in the table of the better F1."""
    f1 = {
        key: value
        for explainer in known
        for key, value in zip(explainer.explanation, explainer.metrics["f1"].tolist(), strict=True)
        if key is not None and value == value  # not NaN
    }
    best: dict[int, tuple[float, str]] = {}
    ruled = explanations.filter(pc.is_valid(explanations["rule"]))
    for key, latent, rule in zip(
        ruled["explanation_id"].to_pylist(),
        ruled["latent"].to_pylist(),
        ruled["rule"].to_pylist(),
        strict=True,
    ):
        value = f1.get(key, -1.0)
        if latent not in best or value > best[latent][0]:
            best[latent] = (value, rule)
    return {latent: Rule.model_validate_json(rule) for latent, (_, rule) in best.items()}


def _labels(protocols: pa.Table | None) -> dict[str, str]:
    """A name for each protocol: its judge, and its preset."""
    if protocols is None:
        return {}
    return {
        key: " · ".join(part for part in (judge, preset) if part)
        for key, judge, preset in zip(
            protocols["protocol_id"].to_pylist(),
            protocols["judge"].to_pylist(),
            protocols["preset"].to_pylist(),
            strict=True,
        )
    }


def _codes(column: pa.ChunkedArray, none: str = "") -> tuple[list[str], Array]:
    """Distinct strings and each row's number among them."""
    encoded = pc.fill_null(column, none).combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices).astype(np.uint32)


def _float(column: pa.ChunkedArray) -> Array:
    return shorten(np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.float32))


def _count(column: pa.ChunkedArray) -> Array:
    filled = np.asarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False))
    return filled.clip(0, 2**32 - 1).astype(np.uint32)


def _scores(
    ids: pa.Array, scores: pa.Table, labels: dict[str, str]
) -> tuple[dict[str, object], dict[str, Array]]:
    """The scores of some explanations, in their order, and then in the table's."""
    row = pc.index_in(scores["explanation_id"], value_set=ids)
    mine = scores.append_column("row", row).filter(pc.is_valid(row))
    mine = mine.take(pa.array(np.argsort(_count(mine["row"]), kind="stable")))
    protocols, protocol = _codes(mine["protocol_id"])
    scorers, scorer = _codes(mine["scorer"])
    metrics, metric = _codes(mine["metric"])
    kinds, kind = _codes(mine["kind"])
    reasons, reason = _codes(mine["reason"])
    kinds_of_score, group = np.unique(
        np.stack([protocol, scorer, metric, kind], axis=1).reshape(-1, 4),
        axis=0,
        return_inverse=True,
    )
    meta: dict[str, object] = {
        "groups": [
            {
                "protocol": labels.get(protocols[p], protocols[p][:8]),
                "scorer": scorers[s],
                "metric": metrics[m],
                "kind": kinds[k],
            }
            for p, s, m, k in kinds_of_score.tolist()
        ],
        "reasons": reasons,
    }
    bounds = np.searchsorted(_count(mine["row"]), np.arange(len(ids) + 1))
    return meta, {
        "score_bounds": bounds.astype(np.uint32),
        "score_group": group.reshape(-1).astype(np.uint16),
        "score_decile": _count(mine["decile"]).astype(np.uint8),
        "score_reason": reason.astype(np.uint16),
        "score_value": _float(mine["value"]),
        "score_low": _float(mine["low"]),
        "score_high": _float(mine["high"]),
        "score_null": _float(mine["null_value"]),
        "score_q": _float(mine["q_value"]),
        "score_n": _count(mine["n"]),
        "score_missing": _count(mine["n_missing"]),
    }


def page_data(
    chosen: Array,
    rows: LatentColumns,
    explanations: pa.Table,
    scores: pa.Table,
    protocols: pa.Table | None,
    text: AtlasText,
) -> tuple[dict[str, object], dict[str, Array]]:
    """The JSON and the arrays of the pages, examples apart.

    Args:
        chosen: uint32 ids of the latents, ascending.
        rows: the latents.
        explanations: the table of one hookpoint.
        scores: the table of scores; those of other explanations are left out.
        protocols: the table of protocols, which names the judges, or None.
        text: names the tokens of rules and logits.

    Raises:
        InputError: a latent's logits are no JSON list of pairs.
    """
    page = pc.index_in(explanations["latent"], value_set=pa.array(chosen.astype(np.int64)))
    mine = explanations.append_column("page", page).filter(pc.is_valid(page))
    mine = mine.take(pa.array(np.argsort(_count(mine["page"]), kind="stable")))
    who, explainer = _codes(mine["explainer"])
    names = _Names(text)
    written = mine["text"].to_pylist()
    rules = [names.rule(_rule(rule)) for rule in mine["rule"].to_pylist()]
    logits = {
        field: [names.logits(field, latent, stored[latent]) for latent in chosen.tolist()]
        for field, stored in rows.logits.items()
    }
    ids = mine["explanation_id"].combine_chunks()
    meta, arrays = _scores(ids, scores, _labels(protocols))
    meta |= {
        "explainers": who,
        "explanations": [
            {"by": by, "text": said, **({"rule": rule} if rule else {})}
            for by, said, rule in zip(explainer.tolist(), written, rules, strict=True)
        ],
        "logits": logits,
        "names": names.all(),
    }
    bounds = np.searchsorted(_count(mine["page"]), np.arange(len(chosen) + 1))
    return meta, {"page_latent": chosen, "page_explanations": bounds.astype(np.uint32), **arrays}


def near_data(
    chosen: Array, neighbours: Neighbours | None
) -> tuple[dict[str, object], dict[str, Array]]:
    """The JSON and the arrays of each page's nearest latents; no arrays where none are known.

    `near_id` (2^32 - 1: none), `near_cosine` and `near_relation`, `near` of each for each page.
    """
    if neighbours is None:
        return {"near": 0, "relations": []}, {}
    rows = chosen.astype(np.int64)
    ids = neighbours.ids[rows, :_NEAR]
    arrays = {
        "near_id": ids,
        "near_cosine": shorten(np.nan_to_num(neighbours.cosines[rows, :_NEAR])),
    }
    if neighbours.relation is not None:
        arrays["near_relation"] = neighbours.relation[rows, :_NEAR]
    return {"near": ids.shape[1], "relations": list(RELATIONS)}, arrays
