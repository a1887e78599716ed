"""The log probabilities of given words, found in what vLLM says of a prompt's tokens.

    found = reading_of(reply, "The sky is blue.", alternatives=5)   # Reading fields, or Failure
    found.tokens, found.logprobs, found.alternatives

The words are the last of the prompt: they are looked for from its end, and must come out to the
letter. What a server makes of a byte that is no whole character differs; vLLM gives it no text and
the whole character to the last of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glossator.judges.base import Failure

__all__ = ["Weighed", "reading_of"]


@dataclass(frozen=True, slots=True)
class Weighed:
    """As in `Reading`."""

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    alternatives: tuple[Mapping[str, float], ...]


def reading_of(reply: Mapping[str, Any], words: str, alternatives: int) -> Weighed | Failure:
    """The tokens of `words` with their log probabilities.

    Args:
        reply: of a request whose last turn is `words`.
        words: not empty.
        alternatives: so many of the likeliest tokens at each place.

    Returns:
        A failure of the kind `malformed` where the tokens joined are not `words`: a template that
        trims the turn or writes on after it, a tokenizer that loses characters, another's reply.
    """
    places = reply.get("prompt_logprobs")
    if not isinstance(places, list):
        return Failure("malformed", "the server sent no log probabilities of the prompt")
    ids = reply.get("prompt_token_ids")
    if not isinstance(ids, list) or len(ids) != len(places):
        ids = [None] * len(places)
    texts: list[str] = []
    weights: list[float] = []
    at, length = len(places), 0
    # Tokens without text before a character of several bytes are its beginning.
    begun = False
    while at > 0 and (length < len(words) or (begun and _is_empty(places[at - 1], ids[at - 1]))):
        at -= 1
        own = _own(places[at], ids[at])
        if own is None:
            return Failure("malformed", "a token of the answer has no log probability")
        texts.append(own[0])
        weights.append(own[1])
        length += len(own[0])
        begun = not own[0].isascii() or (begun and not own[0])
    texts.reverse()
    weights.reverse()
    joined = "".join(texts)
    # A first token may begin with the white space that ends the template.
    if not joined.endswith(words) or joined.removesuffix(words).strip():
        return Failure("malformed", "the prompt's last tokens are not the words that were given")
    texts[0] = texts[0][length - len(words) :]
    return Weighed(
        tokens=tuple(_whole_characters(texts)),
        logprobs=tuple(weights),
        alternatives=tuple(_likeliest(place, alternatives) for place in places[at:])
        if alternatives
        else (),
    )


def _own(place: object, token_id: object) -> tuple[str, float] | None:
    """Text and log probability of the token that stands in the prompt."""
    if not isinstance(place, dict) or not place:
        return None
    # Without ids: the prompt's token comes first, those that are likelier after it.
    entry = place.get(str(token_id)) if token_id is not None else next(iter(place.values()))
    if not isinstance(entry, dict):
        return None
    text, logprob = entry.get("decoded_token"), entry.get("logprob")
    if not isinstance(text, str | None) or not isinstance(logprob, int | float):
        return None
    return text or "", float(logprob)


def _is_empty(place: object, token_id: object) -> bool:
    own = _own(place, token_id)
    return own is not None and not own[0]


def _whole_characters(texts: list[str]) -> list[str]:
    """The same texts, but a character of several tokens stands at the first of them.

    How many bytes a token holds is not known: where tokens hold pieces of several characters, all
    of these stand at the first.
    """
    moved, empty = list(texts), None
    for at, text in enumerate(texts):
        if not text:
            empty = at if empty is None else empty
            continue
        if empty is not None and not text.isascii():
            end = 1 + max(i for i, character in enumerate(text) if not character.isascii())
            moved[empty], moved[at] = text[:end], text[end:]
        empty = None
    return moved


def _likeliest(place: Mapping[str, Any], number: int) -> dict[str, float]:
    """The likeliest tokens by text; those of equal text, pieces of characters say, together."""
    found = [own for token_id in place if (own := _own(place, token_id)) is not None]
    found.sort(key=lambda own: -own[1])
    by_text: dict[str, float] = {}
    for text, logprob in found[:number]:
        before = by_text.get(text)
        by_text[text] = logprob if before is None else _added(before, logprob)
    return by_text


def _added(a: float, b: float) -> float:
    """Logarithm of the sum of two probabilities."""
    high, low = max(a, b), min(a, b)
    return high if high == -math.inf else high + math.log1p(math.exp(low - high))
