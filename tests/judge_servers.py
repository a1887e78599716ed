"""Real HTTP servers that speak the chat-completions dialect: honest, erring and hostile ones.

    with ChatServer(lambda request: Reply("yes")) as server:
        judge = OpenAIJudge(server.url, server.model)

What a server answers is a function of the request; every request is kept in `server.requests`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NUMBERED = re.compile(r"^Example (\d+): ?(.*)$", re.MULTILINE)
ALONE = re.compile(r"^Passage:\n(.*)\Z", re.MULTILINE)


def examples_of(question: str) -> list[str]:
    """The passages of a scorer's question: numbered ones, or the one that stands alone."""
    return ALONE.findall(question) or [text for _, text in NUMBERED.findall(question)]


@dataclass(frozen=True)
class Request:
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    number: int

    @property
    def question(self) -> str:
        return self.body["messages"][-1]["content"]

    @property
    def is_probe(self) -> bool:
        return any("start-up check" in turn["content"] for turn in self.body["messages"])

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The choices that it is held to, in either way."""
        given = self.body.get("structured_outputs", {}).get("choice")
        given = given or (self.schema or {}).get("enum")
        return given and tuple(given)

    @property
    def is_reading(self) -> bool:
        return "prompt_logprobs" in self.body

    @property
    def examples(self) -> list[str]:
        return examples_of(self.question)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        form = self.body.get("response_format")
        return form and form["json_schema"]["schema"]


@dataclass(frozen=True)
class Reply:
    text: str | None = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    finish: str = "stop"
    error: str = "no"
    code: str | None = None
    raw: bytes | None = None
    content_type: str = "application/json"
    logprobs: Mapping[str, float] | None = None
    prompt_logprobs: list[Any] | None = None
    id: str | None = None
    model: str | None = None
    reasoning: str | None = None
    prompt_tokens: int | None = None
    cached: int = 0
    stall: bool = False
    reset: bool = False
    promised: int | None = None


class ChatServer:
    """A server on a free loopback port, in threads of its own."""

    def __init__(
        self,
        reply: Callable[[Request], Reply],
        *,
        models: tuple[str, ...] = ("known",),
        key: str | None = None,
        port: int = 0,
        probe: Callable[[Request], Reply] | None = None,
        logprobs: bool = False,
        readings: bool = False,
    ) -> None:
        """Describe a server.

        `probe` answers the start-up questions: as vLLM does by default, with or without
        probabilities and readings.
        """
        self.reply, self.models, self.key = reply, models, key
        self.probe = probe or (lambda request: vllm_probe(request, logprobs, readings))
        self.requests: list[Request] = []
        self.at_once = self.most_at_once = self.probes = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if outer.refuses(self):
                    return
                models = [{"id": name, "object": "model"} for name in outer.models]
                outer.send(self, 200, {"object": "list", "data": models})

            def do_POST(self) -> None:
                outer.serve(self)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self.http = Quiet(("127.0.0.1", port), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.model = models[0] if models else "known"

    @property
    def asked(self) -> list[Request]:
        """The requests, start-up questions apart."""
        return [request for request in self.requests if not request.is_probe]

    def __enter__(self) -> ChatServer:
        # A short poll: shutting down waits for the end of one.
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def refuses(self, handler: BaseHTTPRequestHandler) -> bool:
        given = handler.headers.get("Authorization", "")
        if self.key is None or given == f"Bearer {self.key}":
            return False
        # As careless servers do, the refusal repeats what was sent.
        self.send(handler, 401, {"error": {"message": f"bad key: {given}", "code": None}})
        return True

    def send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        body: object,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.write(handler, status, json.dumps(body).encode(), "application/json", headers or {})

    def write(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        content_type: str,
        headers: Mapping[str, str],
        promised: int | None = None,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            handler.send_response(status)
            handler.send_header("Content-Type", content_type)
            handler.send_header("Content-Length", str(promised or len(data)))
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(data)
            if promised:
                handler.close_connection = True

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if self.refuses(handler):
            return
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self.lock:
            # All start-up questions together count as one.
            probes = self.probes
            request = Request(body, headers, len(self.requests) - probes + min(probes, 1))
            if request.is_probe:
                self.probes += 1
                request = Request(body, headers, 0)
            self.requests.append(request)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.respond(handler, body, request)
        finally:
            with self.lock:
                self.at_once -= 1

    def respond(self, handler, body, request) -> None:
        if self.models and body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist."
            self.send(handler, 404, {"error": {"message": message, "code": 404}})
            return
        reply = self.probe(request) if request.is_probe else self.reply(request)
        if reply.stall:
            self.over.wait(30.0)
        if reply.reset or reply.stall:
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
            handler.close_connection = True
            return
        if reply.raw is not None:
            self.write(
                handler, reply.status, reply.raw, reply.content_type, reply.headers, reply.promised
            )
            return
        if reply.status != 200:
            error = {"message": reply.error, "code": reply.code}
            self.send(handler, reply.status, {"error": error}, reply.headers)
            return
        self.send(handler, 200, completion(body, request, reply))


def completion(body: Mapping[str, Any], request: Request, reply: Reply) -> dict[str, Any]:
    logprobs = None
    if reply.logprobs is not None:
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in reply.logprobs.items()]
        logprobs = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
    sent = reply.prompt_tokens or sum(len(turn["content"].split()) for turn in body["messages"])
    received = len((reply.text or "").split())
    return {
        "id": reply.id or "chatcmpl-" + request.headers.get("x-request-id", str(request.number)),
        "object": "chat.completion",
        "created": 0,
        "model": reply.model or body["model"],
        "prompt_logprobs": reply.prompt_logprobs,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": reply.text,
                    "reasoning_content": reply.reasoning,
                },
                "finish_reason": reply.finish,
                "logprobs": logprobs,
            }
        ],
        "usage": {
            "prompt_tokens": sent,
            "completion_tokens": received,
            "total_tokens": sent + received,
            "prompt_tokens_details": {"cached_tokens": reply.cached},
        },
    }


def vllm_probe(request: Request, logprobs: bool = True, readings: bool = True) -> Reply:
    """What vLLM answers to a start-up question."""
    if request.is_reading:
        return reading(request.body["messages"][-1]["content"]) if readings else Reply("Yes")
    text = "[true, false, true]" if request.schema else "Hello."
    text = request.choices[0] if request.choices else text
    weighed = logprobs and request.body.get("logprobs")
    return Reply(text, logprobs={text: -0.1} if weighed else None)


def reading(words: str, before: str = "<s> user words assistant\n", logprob: float = -0.5) -> Reply:
    """vLLM's log probabilities of a prompt that ends in `words`, cut before each space."""
    tokens = re.findall(r"\s*\S+|\s+$", before) + re.findall(r" ?[^ ]+| +$", words)
    places: list[Any] = [None]
    for number, token in enumerate(tokens[1:], start=1):
        own = {"logprob": logprob, "rank": 2, "decoded_token": token}
        other = {"logprob": logprob / 2, "rank": 1, "decoded_token": " other"}
        places.append({str(number): own, "9999": other})
    return Reply("", prompt_logprobs=places)


def coin(rate: float, *parts: object) -> bool:
    """True for a share `rate` of all parts, the same for the same parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") < rate * 2**64


def dead_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
