"""What went wrong with a request: its kind, whether it may pass, how long to wait, in one line.

    classify(error)  # "rate_limited", say
    is_retryable(error)
    wait_before(error, attempt=2, backoff=0.5, longest=30.0)

A fault without a kind means that the server is of no use at all.
"""

from __future__ import annotations

import email.utils
import math
import random
import time

import openai

from glossator.judges.base import TRANSIENT, FailureKind

__all__ = [
    "MalformedReplyError",
    "classify",
    "describe",
    "is_retryable",
    "status_of",
    "wait_before",
    "whole_characters",
]

_LONGEST_RETRY_AFTER = 600.0
_LONGEST_LINE = 300


class MalformedReplyError(Exception):
    """A reply with status 200 that is no chat completion, or another request's."""


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status, or None where there was no reply."""
    return error.status_code if isinstance(error, openai.APIStatusError) else None


def classify(error: BaseException) -> FailureKind | None:
    """The kind of a fault; None where no request to this server can succeed."""
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return "timeout"
    if isinstance(error, openai.APIConnectionError):
        return "connection"
    status = status_of(error)
    if status is None:
        return "server_error"  # no chat completion
    if status in (401, 402, 404) or _is_spent(error):
        return None
    if status == 429:
        return "rate_limited"
    if status in (408, 409) or status >= 500:
        return "server_error"
    # Gateways answer 403 where a filter stopped the prompt.
    return "refused" if status == 403 else "rejected"


def is_retryable(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    return classify(error) in TRANSIENT


def wait_before(error: BaseException | None, attempt: int, backoff: float, longest: float) -> float:
    """Seconds to wait after attempt number `attempt` (from 1).

    The server's `Retry-After` where it gives one (ten minutes at most), else twice as long each
    time, with a random quarter taken off so that many requests do not come back at once.
    """
    asked = _retry_after(error)
    if asked is not None:
        return min(asked, _LONGEST_RETRY_AFTER)
    spread: float = 1.0 - 0.25 * random.random()
    return min(backoff * 2.0 ** (attempt - 1), longest) * spread


def describe(error: BaseException) -> str:
    """One line about a fault, without the prompt; may hold what the server said."""
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return _one_line(str(cause) or type(cause).__name__)
    status = status_of(error)
    if status is not None:
        return _one_line(f"status {status}: {_said(error)}")
    return _one_line(str(error) or type(error).__name__)


def _said(error: BaseException) -> str:
    """What the server gave as the reason."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(getattr(error, "message", error))


def _is_spent(error: BaseException) -> bool:
    """Whether the account behind the key has nothing left: waiting does not help."""
    return getattr(error, "code", None) == "insufficient_quota"


def _retry_after(error: BaseException | None) -> float | None:
    if not isinstance(error, openai.APIStatusError):
        return None
    value = error.response.headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return None if math.isnan(seconds) else max(seconds, 0.0)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def whole_characters(text: str) -> str:
    """Text without lone surrogates, which JSON may hold and no database takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _one_line(text: str) -> str:
    line = " ".join(whole_characters(text).split())
    return line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 1] + "…"
