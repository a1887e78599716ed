"""The language models that explain and score, behind one protocol.

    with Replay("answers.db") as replay:
        judge = open_judge("http://127.0.0.1:8000/v1", "NAME", replay=replay)
        run_sync(judge.check(), judge, "judge.check")
        results = gl.score(index, explanations, judge=judge, ...)

Several URLs are several servers of one model. `glossator.judges.local.local_judge` starts one on
this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from glossator.judges.replay import Replay, ReplayJudge

__all__ = [
    "Answer",
    "Capabilities",
    "Failure",
    "Judge",
    "Prompt",
    "Reading",
    "Replay",
    "ReplayJudge",
    "Usage",
    "open_judge",
    "run_sync",
]


def open_judge(
    urls: str | Sequence[str],
    model: str | None = None,
    *,
    extra: Mapping[str, Any] | None = None,
    concurrency: int = 32,
    timeout: float = 120.0,
    replay: Replay | None = None,
    **options: Any,  # noqa: ANN401 - those of OpenAIJudge
) -> Judge:
    """A judge behind OpenAI-compatible servers; nothing is sent yet.

    Args:
        urls: base URL of the server, or of several that serve the same model; none at all for
            what is in `replay`.
        model: the model's name there; None takes the only one that it serves.
        extra: further fields of every request's body (`{"reasoning_effort": "none"}`, say).
        concurrency: requests in flight to one server at most; fewer where it does not keep up.
        timeout: seconds after which an attempt is given up.
        replay: a store of answers: what is in it is not asked again.
        options: further arguments of `glossator.judges.openai_server.OpenAIJudge`.

    Raises:
        InputError: a URL is none or stands there twice, there is nothing to ask, or the extra
            `judge` is not installed.
        JudgeError: no URL, and the store has answers of no model, or of several.
    """
    places = [urls] if isinstance(urls, str) else list(urls)
    if not places:
        if replay is None:
            raise InputError("judge: no server is named and no store of answers; give --judge URL")
        return ReplayJudge(None, replay, model=model, extra=extra)
    try:
        from glossator.judges.openai_server import OpenAIJudge
        from glossator.judges.pool import Pool
    except ModuleNotFoundError as error:
        raise InputError(
            f"judge `{places[0]}`: the package `{error.name}` is not installed; "
            "run `pip install 'glossator[judge]'`"
        ) from error
    given = {"extra": extra, "concurrency": concurrency, "timeout": timeout, **options}
    if len(places) > 1:
        # Another server is there: sooner asked than a lost one waited for.
        given.setdefault("lost_attempts", 2)
    servers = [OpenAIJudge(url, model, **given) for url in places]
    judge: Judge = servers[0] if len(servers) == 1 else Pool(servers)
    return judge if replay is None else ReplayJudge(judge, replay, extra=extra)
