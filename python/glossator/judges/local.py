"""A judge on this machine: vLLM behind a loopback port, for as long as a `with` block lasts.

    with local_judge("SmolLM2-135M-Instruct/", log="run/judge.log") as judge:
        results = gl.score(index, explanations, judge=judge, ...)

The server ends with the block, and with this process however that ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from glossator.errors import InputError, JudgeError
from glossator.judges.connection import KEY_VARIABLES
from glossator.judges.openai_server import OpenAIJudge
from glossator.progress import SILENT, Progress

__all__ = ["local_judge", "refuse_missing"]

_GUARD = Path(__file__).with_name("guard.py")
_POLL_SECONDS = 0.25
_STOP_SECONDS = 20.0

# Measured on two cores: eager mode starts a minute sooner.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_SERVER = ("-m", "vllm.entrypoints.openai.api_server")


def _arguments(model_dir: Path, name: str, port: int) -> list[str]:
    constraints = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
    return [
        *("--model", str(model_dir)),
        *("--served-model-name", name),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--dtype", "float32"),
        *("--max-model-len", "8192"),
        # The cache works in whole blocks; the CPU's default of 128 tokens caches no short prefix.
        *("--block-size", "32"),
        *("--structured-outputs-config", constraints),
        "--enforce-eager",
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def local_judge(
    model_dir: str | Path,
    *,
    name: str | None = None,
    log: str | Path | None = None,
    concurrency: int = 8,
    timeout: float = 600.0,
    start_seconds: float = 600.0,
    threads: int | None = None,
    extra_arguments: Sequence[str] = (),
    server: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Iterator[OpenAIJudge]:
    """Start vLLM on a model directory and give the judge that it is.

    Args:
        model_dir: a Hugging Face model directory with weights, tokenizer and chat template.
        name: the model's name; the directory's by default.
        log: where the server's output goes, kept afterwards; a new temporary file by default.
        concurrency: requests in flight.
        timeout: seconds that one request may take; two cores are slow.
        start_seconds: how long the server may take to come up.
        threads: threads of the server; all cores but one by default.
        extra_arguments: further arguments of vLLM's server.
        server: arguments of Python that start the server; vLLM's module by default.
        progress: shows the seconds until the server is up.

    Yields:
        The judge, checked.

    Raises:
        InputError: vLLM is not installed, or there is no model at `model_dir`.
        JudgeError: the server ended or did not come up in time; the text names its log.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "config.json").is_file():
        raise InputError(f"{model_dir}: no model here (`config.json` is missing)")
    if server is None:
        refuse_missing()
    name = name or model_dir.resolve().name
    port = _free_port()
    command = [sys.executable, *(server or _SERVER), *_arguments(model_dir, name, port)]
    environment = _environment(threads)
    with _log_file(log) as (path, output):
        guard = subprocess.Popen(
            [sys.executable, str(_GUARD), *command, *extra_arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        _await_health(guard, port, path, start_seconds, progress)
        yield OpenAIJudge(
            f"http://127.0.0.1:{port}/v1", name, concurrency=concurrency, timeout=timeout
        )
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        try:
            guard.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()


def refuse_missing() -> None:
    """Refuse a machine without vLLM.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "judge `local`: vLLM is not installed here; run `make demo-judge`, "
            "or name a server with --judge URL"
        )


def _environment(threads: int | None) -> Mapping[str, str]:
    # The server needs none of the keys, and one of its own variables would make it ask for one.
    private = (*KEY_VARIABLES, "VLLM_API_KEY")
    environment = {key: value for key, value in os.environ.items() if key not in private}
    environment.update(_ENVIRONMENT)
    # One core is left to the server's other processes and to ours: threads that wait for each other
    # spin, and one that has to share its core holds all of them up, by a factor of ten or more.
    threads = threads or max(len(os.sched_getaffinity(0)) - 1, 1)
    environment["OMP_NUM_THREADS"] = str(threads)
    return environment


@contextmanager
def _log_file(log: str | Path | None) -> Iterator[tuple[Path, int]]:
    if log is None:
        descriptor, found = tempfile.mkstemp(prefix="glossator-judge-", suffix=".log")
        path = Path(found)
    else:
        path = Path(log)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        yield path, descriptor
    finally:
        os.close(descriptor)


def _await_health(
    guard: subprocess.Popen[bytes], port: int, log: Path, seconds: float, progress: Progress
) -> None:
    """Wait until the server answers.

    Raises:
        JudgeError: it ended, or did not answer in time.
    """
    # A proxy from the environment does not reach this machine's own ports.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    begun = time.monotonic()
    shown = 0
    with progress.stage("judge", unit="s") as bar:
        while True:
            code = guard.poll()
            if code is not None:
                raise JudgeError(
                    f"{log}: the judge's server ended with code {code} before it answered: "
                    f"{_last_line(log)}"
                )
            try:
                with opener.open(f"http://127.0.0.1:{port}/health", timeout=5.0):
                    return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                waited = time.monotonic() - begun
            if waited > seconds:
                raise JudgeError(
                    f"{log}: the judge's server did not answer within {seconds:.0f} s: "
                    f"{_last_line(log)}"
                )
            bar.advance(int(waited) - shown)
            shown = int(waited)
            time.sleep(_POLL_SECONDS)


def _last_line(log: Path) -> str:
    """The last line that names an error, else the last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["nothing was written"])[-1][:300]
