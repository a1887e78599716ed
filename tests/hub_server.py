"""A Hugging Face hub on loopback: folders as repositories, as `huggingface_hub` asks for them.

    with HubServer({"owner/coders": folder}) as hub:
        done = in_a_client(hub.url, tmp_path, [["owner/coders/name", None]])
        hub.fetched                                   # the files whose bytes were sent, in order

Lists come in pages, as the hub's do, and large files by a redirect to another path. The client's
settings are read when it is imported, so what drives it runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "c0ffee" + "0" * 34
_PAGE = 40
_LARGE = (".safetensors", ".pt", ".pth", ".npz")  # what the hub keeps as LFS objects


class HubServer:
    """Serves until left.

    Attributes:
        url: what `HF_ENDPOINT` is to be.
        fetched: `owner/name/path` of every file that was sent.
        asked: method and path of every request.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.fetched: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repository: str) -> list[str]:
        root = self.repositories[repository]
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, send: bool) -> None:
            parsed = urlparse(self.path)
            hub.asked.append((self.command, parsed.path))
            parts = [unquote(part) for part in parsed.path.strip("/").split("/")]
            if parts[:2] == ["api", "models"] and len(parts) > 4:
                self._api("/".join(parts[2:4]), parts[4], parse_qs(parsed.query), send)
            elif parts[0] == "objects" or (len(parts) > 4 and parts[2] == "resolve"):
                path = parts[3:] if parts[0] == "objects" else parts[4:]
                owned = parts[1:3] if parts[0] == "objects" else parts[:2]
                self._file("/".join(owned), "/".join(path), parts[0] == "objects", send)
            else:
                self._refuse("EntryNotFound", send)

        def _api(self, repository: str, what: str, query: dict, send: bool) -> None:
            if repository not in hub.repositories:
                self._refuse("RepoNotFound", send)
                return
            if what == "revision":
                self._reply(json.dumps({"id": repository, "sha": COMMIT}).encode(), {}, send)
                return
            files, at = hub.files(repository), int(query.get("cursor", ["0"])[0])
            root = hub.repositories[repository]
            rows = [
                {
                    "type": "file",
                    "path": f,
                    "size": (root / f).stat().st_size,
                    "oid": _etag(root / f),
                }
                for f in files[at : at + _PAGE]
            ]
            more = f"<{hub.url}{urlparse(self.path).path}?recursive=True&cursor={at + _PAGE}>"
            link = {"Link": f'{more}; rel="next"'} if at + _PAGE < len(files) else {}
            self._reply(json.dumps(rows).encode(), link, send)

        def _file(self, repository: str, path: str, moved: bool, send: bool) -> None:
            if repository not in hub.repositories:
                self._refuse("RepoNotFound", send)
                return
            file = hub.repositories[repository] / path
            if not file.is_file():
                self._refuse("EntryNotFound", send)
                return
            data = file.read_bytes()
            headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT}
            if file.suffix in _LARGE and not moved:
                headers |= {
                    "X-Linked-Size": str(len(data)),
                    "X-Linked-ETag": f'"{_etag(file)}"',
                    "Location": f"{hub.url}/objects/{repository}/{path}",
                }
                self._reply(b"", headers, send, status=302)
                return
            if send:
                hub.fetched.append(f"{repository}/{path}")
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if part:
                data = data[int(part[1]) : int(part[2]) + 1]  # the last byte is included
            self._reply(data, headers, send, status=206 if part else 200)

        def _refuse(self, code: str, send: bool) -> None:
            self._reply(b"{}", {"X-Error-Code": code}, send, status=404)

        def _reply(self, body: bytes, headers: dict[str, str], send: bool, status=200) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if send:
                self.wfile.write(body)

    return Handler


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def client_environment(url: str, home: Path) -> dict[str, str]:
    """The environment of a process whose hub is the one at `url`, with a cache of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    return kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


_CLIENT = """
import json, sys
from glossator.coders import load_coder
from glossator.errors import InputError
for path, hookpoint in json.loads(sys.stdin.read()):
    try:
        said = {"hash": load_coder(path, hookpoint).hash}
    except InputError as error:
        said = {"error": str(error)}
    print(json.dumps(said), flush=True)
"""


def in_a_client(url: str, home: Path, asked: list[list[str | None]]) -> list[dict[str, str]]:
    """What `load_coder` gives for each path and hookpoint: its `hash`, or an `error`."""
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT],
        input=json.dumps(asked),
        env=client_environment(url, home),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
