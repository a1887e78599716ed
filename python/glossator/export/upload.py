"""Latents to Neuronpedia's batch API: what would be sent, what it would refuse, and sending.

    batches = payloads(run, source)
    refusals = dry_run(batches)                       # one line each; empty: all would be taken
    upload(batches, journal="run/upload.jsonl")       # NEURONPEDIA_API_KEY in the environment

`POST /api/feature/upload-batch` takes up to 128 latents, all of them or none. It has no keys for
explanations and activations: what is sent twice stands there twice. So a journal says before each
call what is about to be sent and after it that it arrived; where only the first is there, or a call
ended without an answer, the server is asked whether it has a latent before that is sent again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from glossator.errors import InputError
from glossator.export.chosen import Chosen, Exported
from glossator.export.journal import Journal
from glossator.export.material import Page, pages
from glossator.export.neuronpedia import NeuronpediaSource, quantile
from glossator.progress import SILENT, Progress
from glossator.records import content_id

__all__ = [
    "KEY_VARIABLE",
    "METHODS",
    "MODELS",
    "SERVER",
    "Sent",
    "dry_run",
    "payloads",
    "upload",
    "without_refused",
]

KEY_VARIABLE = "NEURONPEDIA_API_KEY"
"""The environment variable that holds the key."""
SERVER = "https://www.neuronpedia.org"
"""Neuronpedia itself."""
MOST = 128
"""Latents that a call may hold."""
_TEXT, _TOKENS, _LOGITS, _INDEX = 512, 1024, 20, 10_000_000
METHODS = (
    *("oai_token-act-pair", "oai_attention-head", "np_max-act", "np_max-act-logits"),
    *("np_acts-logits-general", "eleuther_acts_top20"),
)
"""Explanation types that its published data has."""
MODELS = (
    *("gpt-4o-mini", "gpt-4.1-nano", "gpt-5-nano", "gpt-5-mini"),
    *("gemini-2.0-flash", "gemini-2.0-flash-lite", "gemini-2.5-flash", "gemini-2.5-flash-lite"),
)
"""Explanation models that its published tools name."""

_Answer = TypeVar("_Answer")
_SET = re.compile(r"[0-9]+-[a-z0-9]+(-[a-z0-9]+)*(__[a-z0-9-]+)?")


@dataclass(frozen=True, slots=True)
class Sent:
    """What an upload came to, in latents."""

    sent: int
    """Sent in this call and taken."""
    before: int
    """There before."""


def payloads(
    run: Exported,
    source: NeuronpediaSource,
    *,
    chosen: Chosen | None = None,
    length: int | None = None,
    size: int = MOST,
    progress: Progress = SILENT,
) -> Iterator[dict[str, Any]]:
    """The bodies of the calls, each of up to `size` latents.

    Args:
        run: the run.
        source: where the latents stand.
        chosen: which latents; those of `Chosen.of(run)` if None.
        length: tokens of an example; the index's window if None.
        size: latents in a call, from 1 to 128.
        progress: counts latents.

    Raises:
        InputError: `size` is out of range.
    """
    if not 1 <= size <= MOST:
        raise InputError(f"size: is {size}; a call takes from 1 to {MOST} latents")
    chosen = Chosen.of(run) if chosen is None else chosen
    held: list[dict[str, Any]] = []
    for page in pages(run, chosen, length=length, progress=progress):
        held.append(_feature(page, source))
        if len(held) == size:
            yield _body(source, held)
            held = []
    if held:
        yield _body(source, held)


def _body(source: NeuronpediaSource, features: list[dict[str, Any]]) -> dict[str, Any]:
    return {"modelId": source.model, "source": source.source, "features": features}


def _feature(page: Page, source: NeuronpediaSource) -> dict[str, Any]:
    activations = []
    for one in page.examples:
        low, high, share = quantile(page, one)
        quantiles = (
            {}
            if share < 0
            else {"quantileMin": low, "quantileMax": high, "quantileFraction": share}
        )
        activations.append({"tokens": list(one.tokens), "values": list(one.values), **quantiles})
    return {
        "index": page.latent,
        "density": page.facts["density"],
        **{
            name: [{"token": token, "value": value} for token, value in listed[:_LOGITS]]
            for name, listed in (
                ("topLogits", page.promoted),
                ("bottomLogits", page.suppressed),
            )
        },
        "explanations": [
            {"text": one.text, "methodName": source.method, "modelName": source.explainer_model}
            for one in page.said
        ],
        "activations": activations,
    }


def dry_run(
    bodies: Iterable[dict[str, Any]],
    *,
    methods: Iterable[str] = METHODS,
    models: Iterable[str] = MODELS,
) -> list[str]:
    """What the server would refuse, one line each.

    Args:
        bodies: as `payloads` gives them.
        methods: explanation types that the server knows.
        models: explanation models that it knows.
    """
    methods, models = set(methods), set(models)
    found: dict[str, None] = {}
    for body in bodies:
        if not _SET.fullmatch(body["source"]):
            found[f"source `{body['source']}`: lower-case letters, digits and single hyphens"] = (
                None
            )
        if not 1 <= len(body["features"]) <= MOST:
            found[f"{len(body['features'])} latents in a call; it takes {MOST}"] = None
        for feature in body["features"]:
            found |= dict.fromkeys(_refused(feature, methods, models))
    return list(found)


def _refused(feature: dict[str, Any], methods: set[str], models: set[str]) -> Iterator[str]:
    latent = f"latent {feature['index']}"
    if feature["index"] > _INDEX:
        yield f"{latent}: its id is above {_INDEX:,}"
    if not feature["activations"]:
        yield f"{latent}: has no example"
    for one in feature["explanations"]:
        size = _length(one)
        if size > _TEXT:
            yield f"{latent}: its explanation has {size} characters; at most {_TEXT} are taken"
        if one["methodName"] is not None and one["methodName"] not in methods:
            known = ", ".join(sorted(methods))
            yield f"method `{one['methodName']}`: not known there; known are {known}"
        if one["modelName"] is not None and one["modelName"] not in models:
            known = ", ".join(sorted(models))
            yield f"model `{one['modelName']}`: not known there; known are {known}"
    for one in feature["activations"]:
        if len(one["tokens"]) > _TOKENS:
            size = len(one["tokens"])
            yield f"{latent}: an example has {size} tokens; at most {_TOKENS} are taken"
    for name in ("topLogits", "bottomLogits"):
        if any(not one["token"] for one in feature[name]):
            yield f"{latent}: `{name}` has an empty token"


def without_refused(bodies: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same without explanations that are too long, and without latents that no example shows.

    Args:
        bodies: as `payloads` gives them.
    """
    for body in bodies:
        features = []
        for one in body["features"]:
            said = [each for each in one["explanations"] if _length(each) <= _TEXT]
            shown = [each for each in one["activations"] if len(each["tokens"]) <= _TOKENS]
            if shown:
                features.append({**one, "explanations": said, "activations": shown})
        if features:
            yield {**body, "features": features}


def _length(explanation: dict[str, Any]) -> int:
    """As the server counts: in UTF-16 units."""
    return len(explanation["text"].encode("utf-16-le")) // 2


def upload(
    bodies: Iterable[dict[str, Any]],
    *,
    journal: str | Path,
    server: str = SERVER,
    attempts: int = 5,
    timeout: float = 120.0,
    wait: float = 1.0,
    progress: Progress = SILENT,
) -> Sent:
    """Send what was not sent before.

    Args:
        bodies: as `payloads` gives them.
        journal: a file that says what was sent; kept between calls.
        server: its address.
        attempts: for each call: too many requests, faults of the server or the way are tried again.
        timeout: seconds for a call.
        wait: seconds before the second attempt; doubled before each that follows.
        progress: counts calls.

    Raises:
        InputError: no key, a key that is refused, latents that the server refuses (its words
            follow), a latent that was sent before and is another now, or no answer after all
            attempts. What was sent stays sent: call again.
    """
    try:
        import httpx
    except ModuleNotFoundError as error:
        raise InputError("upload: needs httpx; install glossator[judge]") from error
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise InputError(f"upload: no key; put it into the environment as {KEY_VARIABLE}")
    book = Journal(journal)
    ask = partial(_patiently, attempts, wait)
    sent = before = 0
    # A proxy from the environment does not reach this machine's own ports.
    local = httpx.URL(server).host in ("127.0.0.1", "localhost", "::1")
    with (
        httpx.Client(
            base_url=server, headers={"x-api-key": key}, timeout=timeout, trust_env=not local
        ) as client,
        progress.stage("upload", unit="calls") as bar,
    ):
        for body in bodies:
            at = f"{client.base_url.netloc.decode()}/{body['modelId']}/{body['source']}"
            latents = {f"{at}/{one['index']}": one for one in body["features"]}
            own = {place: content_id(one) for place, one in latents.items()}
            for place in [place for place in own if place in book.begun and place not in book.sent]:
                # Sent, but whether it arrived is not known.
                if ask(_has, client, body, latents[place]["index"]):
                    book.write("sent", {place: book.begun[place]})
            for place in own:
                if book.sent.get(place, own[place]) != own[place]:
                    raise InputError(
                        f"{place}: was sent before with other examples or explanations, and the "
                        "server would keep both; name another --suffix, or remove it there and "
                        f"its lines in {book.path}"
                    )
            fresh = {place: content for place, content in own.items() if place not in book.sent}
            before += len(own) - len(fresh)
            if fresh:
                book.write("sending", fresh)
                features = [latents[place] for place in fresh]
                ask(_Send(client, {**body, "features": features}, key))
                book.write("sent", fresh)
                sent += len(fresh)
            bar.advance(1)
    return Sent(sent, before)


class _FaultError(Exception):
    """What may pass."""


def _patiently(attempts: int, wait: float, once: Callable[..., _Answer], *with_: Any) -> _Answer:  # noqa: ANN401
    import tenacity

    try:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_exponential(multiplier=wait, max=60),
            retry=tenacity.retry_if_exception_type(_FaultError),
            reraise=True,
        )(once, *with_)
    except _FaultError as error:
        raise InputError(
            f"upload: no success after {attempts} attempts ({error}); what was sent is in the "
            "journal, so run the same command again"
        ) from error


class _Send:
    """One call; where it is made again, only if the first did not arrive."""

    def __init__(self, client: Any, body: dict[str, Any], key: str) -> None:  # noqa: ANN401
        self._client, self._body, self._key, self._tried = client, body, key, False

    def __call__(self) -> None:
        import httpx

        if self._tried and _has(self._client, self._body, self._body["features"][0]["index"]):
            return
        self._tried = True
        try:
            reply = self._client.post("/api/feature/upload-batch", json=self._body)
        except httpx.HTTPError as error:
            raise _FaultError(type(error).__name__) from error
        if reply.status_code == 429 or reply.status_code >= 500:
            raise _FaultError(f"status {reply.status_code}: {_words(reply, self._key)}")
        if reply.status_code >= 400:
            raise InputError(
                f"upload: {self._client.base_url} refused ({_words(reply, self._key)})"
            )


def _words(reply: Any, key: str) -> str:  # noqa: ANN401 - a response of httpx
    try:
        said = str(reply.json().get("error", ""))
    except (ValueError, AttributeError):
        said = reply.text
    line = " ".join(said.split())[:200].replace(key, "[key]")
    return f"{reply.status_code} {line}".strip()


def _has(client: Any, body: dict[str, Any], latent: int) -> bool:  # noqa: ANN401
    import httpx

    try:
        reply = client.get(f"/api/feature/{body['modelId']}/{body['source']}/{latent}")
    except httpx.HTTPError as error:
        raise _FaultError(type(error).__name__) from error
    if reply.status_code == 404:
        return False
    if reply.status_code >= 400:
        raise _FaultError(f"status {reply.status_code}")
    return True
