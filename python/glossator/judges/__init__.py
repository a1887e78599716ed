"""The language models that explain and score, behind one protocol.

    judge = open_judge("http://127.0.0.1:8000/v1", "NAME")
    run_sync(judge.check(), judge, "judge.check")
    results = gl.score(index, explanations, judge=judge, ...)

`glossator.judges.local.local_judge` starts one on this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glossator.errors import InputError
from glossator.judges.base import (
    Answer,
    Capabilities,
    Failure,
    Judge,
    Prompt,
    Reading,
    Usage,
    run_sync,
)

if TYPE_CHECKING:
    from glossator.judges.openai_server import OpenAIJudge

__all__ = [
    "Answer",
    "Capabilities",
    "Failure",
    "Judge",
    "Prompt",
    "Reading",
    "Usage",
    "open_judge",
    "run_sync",
]


def open_judge(url: str, model: str | None = None, **options: Any) -> OpenAIJudge:  # noqa: ANN401 - those of OpenAIJudge
    """A judge behind an OpenAI-compatible server; nothing is sent yet.

    Args:
        url: the server's base URL.
        model: the model's name there; None takes the only one that it serves.
        options: further arguments of `glossator.judges.openai_server.OpenAIJudge`.

    Raises:
        InputError: the URL is none, or the extra `judge` is not installed.
    """
    try:
        from glossator.judges.openai_server import OpenAIJudge
    except ModuleNotFoundError as error:
        raise InputError(
            f"judge `{url}`: the package `{error.name}` is not installed; "
            "run `pip install 'glossator[judge]'`"
        ) from error
    return OpenAIJudge(url, model, **options)
