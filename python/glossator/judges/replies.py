"""What a chat completion says: its text or why it has none, its tokens, its probabilities.

    reply = checked(json)                       # raises where it is no chat completion
    text_of(reply, max_tokens=64)               # str or Failure
    usage_of(reply)
    probabilities_of(reply, ("yes", "no"))      # {"yes": 0.8, "no": 0.2}

Servers add and leave out fields: nothing is taken for granted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from glossator.judges.base import Failure, Usage
from glossator.judges.faults import MalformedReplyError, whole_characters

__all__ = [
    "checked",
    "counts_cached",
    "has_logprobs",
    "probabilities_of",
    "text_of",
    "thinking_of",
    "usage_of",
]

Reply = Mapping[str, Any]

# A turn ended by these was given up by the server, not by the model.
_BROKEN_OFF = ("error", "abort", "cancelled")
# What may stand before and after a choice: the quotes of JSON, and what models write unconstrained.
_AROUND = ' \n\t"'
_AROUND_LOOSELY = _AROUND + "'`*.,:;!"
# A token this unlikely leaves the probabilities as they are, whatever it begins.
_NEGLIGIBLE = 1e-6


def checked(reply: Reply) -> Reply:
    """The reply, if it is a chat completion.

    Raises:
        MalformedReplyError: it is something else, or was broken off.
    """
    choices = reply.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        first = choices[0]
        if isinstance(first.get("message"), dict) and len(choices) == 1:
            if first.get("finish_reason") in _BROKEN_OFF:
                raise MalformedReplyError("the server broke the answer off")
            return reply
    # Gateways send an upstream server's error with status 200.
    error = reply.get("error")
    said = error.get("message") if isinstance(error, dict) else None
    raise MalformedReplyError(
        f"the reply is no chat completion{f': {said}' if isinstance(said, str) else ''}"
    )


def text_of(reply: Reply, max_tokens: int, *, whole: bool = False) -> str | Failure:
    """The words of a completion, or the failure that it stands for.

    Thoughts that stand before the answer are left out.

    Args:
        reply: a checked one.
        max_tokens: what was allowed, for the message.
        whole: the caller can tell by itself whether the text is cut off.
    """
    choice = reply["choices"][0]
    message = choice["message"]
    text, finish = message.get("content"), choice.get("finish_reason")
    if message.get("refusal") or finish == "content_filter":
        return Failure("refused", "the model or a filter declined")
    if isinstance(text, str) and text.lstrip().startswith("<think>"):
        _, closed, text = text.partition("</think>")
        if not closed:
            return Failure("truncated", f"still thinking after {max_tokens} tokens")
    if finish == "length" and not whole:
        return Failure("truncated", f"the answer was cut off at {max_tokens} tokens")
    if not isinstance(text, str) or not text.strip():
        return Failure("empty", "the answer holds no text")
    return whole_characters(text)


def thinking_of(reply: Reply) -> bool:
    """Whether the model thought before it answered, or instead."""
    message = reply["choices"][0]["message"]
    text = message.get("content")
    if message.get("reasoning_content") or message.get("reasoning"):
        return True
    return isinstance(text, str) and ("<think>" in text or "</think>" in text)


def usage_of(reply: Reply) -> Usage:
    """Tokens as the server counts them; zeros where it does not."""
    usage = reply.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return Usage(
        prompt=_count(usage, "prompt_tokens"),
        cached=_count(details, "cached_tokens"),
        completion=_count(usage, "completion_tokens"),
    )


def counts_cached(reply: Reply) -> bool:
    """Whether the server says how many tokens its prefix cache had."""
    usage = reply.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return isinstance(details, dict) and isinstance(details.get("cached_tokens"), int)


def has_logprobs(reply: Reply) -> bool:
    """Whether the first token comes with alternatives."""
    places = _places(reply)
    return bool(places) and isinstance(places[0], dict) and bool(_alternatives(places[0]))


def _count(holder: object, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int) and value > 0 else 0


def probabilities_of(
    reply: Reply, choices: Sequence[str], *, loosely: bool = False
) -> dict[str, float] | None:
    """Probability of each choice, adding up to 1.

    The first token of a choice may be a piece of it (`Y` of `Yes`), and quotes may stand before it:
    the answer's tokens are followed to where the choices part.

    Args:
        reply: a checked one.
        choices: texts, of which the answer is one.
        loosely: the model was not held to them: case does not count.

    Returns:
        None where the server sent no alternatives, or where they do not tell the choices apart.
    """
    places = _places(reply)
    said = {choice: choice.casefold() if loosely else choice for choice in choices}
    around = _AROUND_LOOSELY if loosely else _AROUND
    weights = dict.fromkeys(choices, 0.0)
    # How likely the answer's own tokens were up to here, and what they say.
    reached, before = 1.0, ""
    for place in places:
        if not isinstance(place, dict):
            return None
        own = _word(before, place.get("token"), around)
        for token, weight in _alternatives(place):
            word = _word(before, token, around)
            fits = _fitting(word, said, around)
            if not fits and before:
                fits = [choice for choice in choices if said[choice] == before]  # it ends here
            if len(fits) == 1:
                weights[fits[0]] += reached * weight
            elif word and len(fits) > 1 and word != own and weight > _NEGLIGIBLE:
                return None  # several begin with it, and nothing says how it would have gone on
        if own and len(_fitting(own, said, around)) < 2:
            break
        reached *= _probability(place.get("logprob"))
        before = own
    else:
        for choice in choices:
            if said[choice] == before:
                weights[choice] += reached
    total = sum(weights.values())
    if not 0.0 < total < math.inf:
        return None
    return {choice: weight / total for choice, weight in weights.items()}


def _places(reply: Reply) -> list[Any]:
    """The answer's tokens with their alternatives; empty where there are none."""
    logprobs = reply["choices"][0].get("logprobs")
    places = logprobs.get("content") if isinstance(logprobs, dict) else None
    return places if isinstance(places, list) else []


def _word(before: str, token: object, around: str) -> str:
    """What was said with one token more, without what stands before its first letter."""
    word = before + token if isinstance(token, str) else before
    word = word if before else word.lstrip(around)
    return word.casefold() if around is _AROUND_LOOSELY else word


def _fitting(word: str, said: Mapping[str, str], around: str) -> list[str]:
    """The choices that begin with a word, or that it is, but for what stands after it."""
    if not word:
        return list(said)
    ended = word.rstrip(around)
    return [choice for choice, text in said.items() if text.startswith(word) or text == ended]


def _alternatives(place: Reply) -> list[tuple[str, float]]:
    """Tokens that could have stood here, with their probabilities."""
    found = place.get("top_logprobs")
    weighed = []
    for alternative in found if isinstance(found, list) else ():
        if not isinstance(alternative, dict):
            continue
        token, weight = alternative.get("token"), _probability(alternative.get("logprob"))
        if isinstance(token, str) and weight > 0.0:
            weighed.append((token, weight))
    return weighed


def _probability(logprob: object) -> float:
    """Of a token; 0 where there is no number. Rounding may lift a logarithm above 0."""
    valid = isinstance(logprob, int | float) and logprob <= 1e-3
    return math.exp(logprob) if valid else 0.0  # type: ignore[arg-type]
