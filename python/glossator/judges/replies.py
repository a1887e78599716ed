"""What a chat completion says: its text or why it has none, its tokens, its probabilities.

    text_of(completion, choices=None, max_tokens=64)  # str or Failure
    usage_of(completion)
    probabilities_of(completion, ("yes", "no"))  # {"yes": 0.8, "no": 0.2}

Servers add and leave out fields: nothing is taken for granted but the list of choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from glossator.judges.base import Failure, Usage

__all__ = ["probabilities_of", "text_of", "usage_of"]


def text_of(completion: Any, choices: Sequence[str] | None, max_tokens: int) -> str | Failure:  # noqa: ANN401 - servers add and leave out fields
    """The words of a completion, or the failure that it stands for.

    A choice is whole however the server says that it ended; any other text cut off by `max_tokens`
    is a failure.
    """
    choice = completion.choices[0]
    message = choice.message
    text = getattr(message, "content", None)
    refusal = getattr(message, "refusal", None)
    if refusal or choice.finish_reason == "content_filter":
        return Failure("refused", "the model or a filter declined")
    if choices is not None:
        said = (text or "").strip()
        if said in choices:
            return said
        return Failure("malformed", f"the answer is none of {', '.join(choices)}")
    if choice.finish_reason == "length":
        return Failure("truncated", f"the answer was cut off at {max_tokens} tokens")
    if not isinstance(text, str) or not text.strip():
        return Failure("empty", "the answer holds no text")
    return text


def usage_of(completion: Any) -> Usage:  # noqa: ANN401 - as above
    """Tokens as the server counts them; zeros where it does not."""
    usage = getattr(completion, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Usage(
        prompt=_count(usage, "prompt_tokens"),
        cached=_count(details, "cached_tokens"),
        completion=_count(usage, "completion_tokens"),
    )


def _count(holder: object, name: str) -> int:
    value = getattr(holder, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def probabilities_of(completion: Any, choices: Sequence[str]) -> dict[str, float] | None:  # noqa: ANN401 - as above
    """Probability of each choice from the alternatives of the first token, adding up to 1.

    The first token of a choice may be a piece of it (`Y` of `Yes`): a token counts for the only
    choice that begins with it. None where the server sent no alternatives or none tells the
    choices apart.
    """
    logprobs = getattr(completion.choices[0], "logprobs", None)
    positions = getattr(logprobs, "content", None)
    if not positions:
        return None
    weights = dict.fromkeys(choices, 0.0)
    for alternative in positions[0].top_logprobs:
        piece = alternative.token.strip()
        begun = [choice for choice in choices if piece and choice.startswith(piece)]
        if len(begun) == 1:
            weights[begun[0]] += math.exp(alternative.logprob)
    total = sum(weights.values())
    if not total > 0.0:
        return None
    return {choice: weight / total for choice, weight in weights.items()}
