"""The way to one server: its address, its key, and one request with a deadline.

    connection = Connection("http://127.0.0.1:8000/v1", timeout=120.0)
    reply = await connection.post("/chat/completions", body, request_id="a-1")
    await connection.close()

The key comes from the environment alone (`GLOSSATOR_JUDGE_API_KEY`, else `OPENAI_API_KEY`) and
stands in no message, no `repr` and no file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import openai

from glossator.errors import InputError
from glossator.judges.faults import MalformedReplyError

__all__ = ["FAULTS", "KEY_VARIABLES", "Connection"]

KEY_VARIABLES = ("GLOSSATOR_JUDGE_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key, the first one set winning."""

FAULTS = (openai.APIError, TimeoutError, MalformedReplyError)
"""What `Connection.post` raises."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Connection:
    """A server, and the client that speaks to it in the running event loop.

    Attributes:
        url: base URL of the server.
    """

    def __init__(self, url: str, timeout: float) -> None:
        """Describe the server; nothing is sent.

        Args:
            url: base URL; `/v1` is added where it has no path.
            timeout: seconds after which a request is given up.

        Raises:
            InputError: `url` is no URL, or holds a password.
        """
        self.url = _checked_url(url)
        self._key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "")
        self._timeout = timeout
        self._client: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def renew(self) -> bool:
        """Whether this event loop is another than that of the last request.

        Connections cannot move from one loop to another: there is a new client then.
        """
        loop = asyncio.get_running_loop()
        if self._client is not None and self._loop is loop:
            return False
        local = urlsplit(self.url).hostname in _LOOPBACK
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            max_retries=0,
            # This bounds the silence between two bytes, `post` the whole.
            timeout=2 * self._timeout,
            # A proxy from the environment does not reach this machine's own ports.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if local else None,
        )
        self._loop = loop
        return True

    async def post(self, path: str, body: Mapping[str, Any], request_id: str) -> Mapping[str, Any]:
        """Send one request and give the JSON object that comes back.

        Args:
            path: under the base URL.
            body: JSON.
            request_id: a name for this attempt, which some servers repeat in their reply.

        Raises:
            openai.APIError: refused, dropped, or a status that is no success.
            TimeoutError: no answer in time.
            MalformedReplyError: no JSON object.
        """
        self.renew()
        assert self._client is not None
        try:
            async with asyncio.timeout(self._timeout):
                # The typed call checks and copies every field: 0.7 ms a request more.
                reply: Any = await self._client.post(
                    path,
                    cast_to=object,
                    body=body,
                    options={"headers": {"X-Request-Id": request_id}},
                )
        except (ValueError, RecursionError) as error:
            raise MalformedReplyError("the reply is no JSON") from error
        if not isinstance(reply, dict):
            raise MalformedReplyError("the reply is no JSON object")
        return reply

    async def models(self) -> list[str] | None:
        """Names of the models that it serves; None where it does not list them.

        Raises:
            openai.APIError, TimeoutError, MalformedReplyError: as `post`.
        """
        self.renew()
        assert self._client is not None
        try:
            async with asyncio.timeout(self._timeout):
                page: Any = await self._client.get("/models", cast_to=object)
        except (openai.NotFoundError, ValueError, RecursionError):
            return None
        listed = page.get("data") if isinstance(page, dict) else None
        if not isinstance(listed, list):
            return []
        return [m["id"] for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)]

    async def close(self) -> None:
        """Close the connections; the next request opens them again."""
        client, self._client, self._loop = self._client, None, None
        if client is not None:
            await client.close()

    def scrub(self, text: str) -> str:
        """Text without the key, which a server may echo."""
        return text.replace(self._key, "[key]") if self._key else text


def _checked_url(url: str) -> str:
    """The base URL without a trailing slash; `/v1` where no path is given."""
    try:
        parts = urlsplit(url)
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_number = False
    if not port_is_number or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"judge `{url}`: not a URL; give the server's base URL, http://127.0.0.1:8000/v1 say"
        )
    if parts.username or parts.password:
        raise InputError(
            f"judge at {parts.hostname}: the URL holds a name or password; "
            f"put the key into {KEY_VARIABLES[0]} instead"
        )
    url = url.rstrip("/")
    return url if parts.path.strip("/") else url + "/v1"
