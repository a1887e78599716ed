"""Explanations that run: one rule a latent, learned without a language model.

    explanations = learn_rules(index, [3, 17], names=TokenText.open("run/tokenizer.json"))
    explanations[0].text               # "Activates on the token “␣least” in the context of “␣at” …"
    explanations[0].rule.tokens
    rule_positions(explanations[0].rule, tokens)     # where it fires in a text of one's own

A rule is the formal grammar of EleutherAI's post, made to run: the tokens on which a latent is
active, one of the tokens that must stand near, and the tokens that must not. It is learned from
the explain side of the index alone, for the best F1 over windows at the natural firing rate; a
clause of context stays only if it raises F1 on explain documents that had no part in choosing it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from glossator import _core
from glossator.arrays import flat_ids
from glossator.errors import InputError
from glossator.explain.explainers import Explainer
from glossator.index import Index
from glossator.progress import SILENT, Progress
from glossator.records import Explanation, Near, Rule

__all__ = ["RuleOptions", "TokenNames", "learn_rules", "rule_positions", "rule_text"]

# Latents between two steps of the progress bar, and between two looks for Ctrl-C.
_CHUNK = 256


class TokenNames(Protocol):
    """Whatever can name a token in print; `glossator.text.TokenText` can."""

    def name(self, token: int) -> str:
        """A printable name."""


class RuleOptions(Explainer):
    """How rules are learned."""

    label: ClassVar[str] = "rules"

    max_tokens: int = Field(default=32, ge=1)
    """The most tokens that a rule fires on."""
    max_context_tokens: int = Field(default=16, ge=1)
    """The most tokens of each clause."""
    reach: int = Field(default=8, ge=1, lt=2**16)
    """The furthest that a clause looks, in tokens; 1 and 3 are tried too."""
    look_ahead: bool = False
    """Whether clauses may look at what follows: True for encoders, whose latents can."""
    min_gain: float = Field(default=0.02, ge=0.0)
    """What a clause must add to F1 on explain documents that did not choose it."""

    def name(self, judge: str = "", chooser: str = "") -> str:
        """`rules`, with the settings that are not the default ones.

        Whether clauses look ahead is the subject's nature, not a choice.
        """
        if self.look_ahead:
            return self.model_copy(update={"look_ahead": False}).name()
        return super().name()


def learn_rules(
    index: Index,
    latents: npt.ArrayLike,
    *,
    names: TokenNames,
    options: RuleOptions | None = None,
    hookpoint: str | None = None,
    sink: Callable[[Explanation], None] | None = None,
    progress: Progress = SILENT,
) -> list[Explanation]:
    """Learn the best rule of each latent.

    The same index and options give the same rules, on any number of threads.

    Args:
        index: the activations; only its explain side is read.
        latents: ids; one asked for twice is learned once.
        names: names the tokens in the explanations.
        options: how rules are learned.
        hookpoint: the latents' module path; the index's own by default.
        sink: called with each explanation as it is made.
        progress: shows how many are done.

    Returns:
        Explanations by explainer `rules`, in the order of `latents`; a latent without activity on
        the explain side has none.

    Raises:
        InputError: a latent is not in the index.
        CorruptIndexError: the index is damaged.
    """
    options = RuleOptions() if options is None else options
    explainer = options.name()
    hookpoint = index.attributes.get("hookpoint", "") if hookpoint is None else hookpoint
    ids = flat_ids("latents", latents, np.uint32)
    ids = np.fromiter(dict.fromkeys(ids.tolist()), np.uint32)
    explanations: list[Explanation] = []
    with progress.stage("rules", total=len(ids), unit="latents") as bar:
        learner = _core.RuleLearner(index._core, **options.model_dump())
        for first in range(0, len(ids), _CHUNK):
            chunk = ids[first : first + _CHUNK]
            for latent, learned in zip(chunk.tolist(), learner.learn(chunk), strict=True):
                if learned is None:
                    continue
                rule = Rule.model_validate_json(learned)
                text = rule_text(rule, names)
                explanation = Explanation.of(hookpoint, latent, explainer, text, rule=rule)
                explanations.append(explanation)
                if sink is not None:
                    sink(explanation)
            bar.advance(len(chunk))
    return explanations


def rule_text(rule: Rule, names: TokenNames) -> str:
    """A rule as one English sentence."""
    noun = "token" if len(rule.tokens) == 1 else "tokens"
    text = f"Activates on the {noun} {_listed(rule.tokens, names, ', ')}"
    if rule.require is not None:
        listed = _listed(rule.require.tokens, names, " or ")
        text += f" in the context of {listed} ({_reach(rule.require)})"
    if rule.exclude is not None:
        listed = _listed(rule.exclude.tokens, names, " or ")
        text += f", but not near {listed} ({_reach(rule.exclude)})"
    return text + "."


def _listed(tokens: Sequence[int], names: TokenNames, between: str) -> str:
    return between.join(f"“{names.name(token)}”" for token in tokens)


def _reach(near: Near) -> str:
    def within(n: int, side: str) -> str:
        return f"right {side} it" if n == 1 else f"at most {n} tokens {side} it"

    if near.before == near.after:
        return f"at most {near.before} token{'s' * (near.before != 1)} away"
    sides = [(near.before, "before"), (near.after, "after")]
    return " or ".join(within(n, side) for n, side in sides if n)


def rule_positions(
    rule: Rule, tokens: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> npt.NDArray[np.bool_]:
    """Where a rule fires, in text of one's own.

    It fires at an unmasked position whose token is in `rule.tokens`, if some token of
    `rule.require` stands unmasked in the positions around it, itself excepted and within the same
    row, and none of `rule.exclude` does.

    Args:
        rule: the rule.
        tokens: [S] or [B, S] token ids, a row for each context.
        mask: the same shape, bool; False is not looked at. All True by default.

    Returns:
        Booleans of the shape of `tokens`.

    Raises:
        InputError: the shapes disagree.
    """
    ids = np.asarray(tokens)
    seen = np.ones(ids.shape, np.bool_) if mask is None else np.asarray(mask, np.bool_)
    if ids.ndim not in (1, 2) or seen.shape != ids.shape:
        raise InputError(
            f"`tokens` has shape {ids.shape} and `mask` {seen.shape}; "
            "they must be one shape, (S,) or (B, S)"
        )
    fires = seen & np.isin(ids, rule.tokens)
    if rule.require is not None:
        fires &= _near(rule.require, ids, seen)
    if rule.exclude is not None:
        fires &= ~_near(rule.exclude, ids, seen)
    return fires


def _near(
    near: Near, ids: npt.NDArray[np.integer], seen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Whether one of the tokens stands around each position."""
    stands = seen & np.isin(ids, near.tokens)
    found = np.zeros(ids.shape, np.bool_)
    length = ids.shape[-1]
    for step in range(1, min(near.before, length - 1) + 1):
        found[..., step:] |= stands[..., :-step]
    for step in range(1, min(near.after, length - 1) + 1):
        found[..., :-step] |= stands[..., step:]
    return found
