"""vLLM inside this process: an engine with a thread and an event loop of its own.

    host = Host("SmolLM2-135M-Instruct/", {"max_model_len": 4096}, replicas=1)
    engine = await host.engine()                # vLLM's AsyncLLM
    output = await host.run(coroutine)          # on the engine's loop, from any other one
    host.stop()

An engine takes a minute to start and belongs to one event loop; callers come and go with theirs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import gc
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from glossator.errors import GlossatorError, InputError, JudgeError

__all__ = ["Host"]

_TETHER = Path(__file__).with_name("tether.py")
# Its processes take six seconds to end by themselves, and give back what they hold on devices and
# in shared memory.
_STOP_SECONDS = 20.0
_JOIN_SECONDS = 60.0

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # What a command prints stays its own.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    # Of its libraries, to those who write it.
    "PYTHONWARNINGS": "ignore",
    # This process has threads, which a fork would not survive.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Keeps the model in the engine's own process: half the time to start, no copy at every step.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
_ARGUMENTS: Mapping[str, Any] = {
    "enable_prefix_caching": True,
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
    # As many alternatives as there are ways to begin an answer; nobody else asks this engine.
    "max_logprobs": -1,
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
}
# Measured on two cores: eager mode starts a minute sooner, and the default block of 128 tokens
# caches no short prefix.
_ARGUMENTS_ON_CPU: Mapping[str, Any] = {
    "dtype": "float32",
    "block_size": 32,
    "enforce_eager": True,
}

_T = TypeVar("_T")


class Host:
    """A running engine."""

    def __init__(self, model: str, arguments: Mapping[str, Any], replicas: int) -> None:
        """Begin to start it.

        Args:
            model: directory or name.
            arguments: of vLLM's engine; they win over what is set here.
            replicas: engines, each on devices of its own.

        Raises:
            InputError: vLLM is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise InputError(
                f"judge `vllm:{model}`: vLLM is not installed here; "
                "run `pip install vllm`, or `make demo-judge` on a machine without a GPU"
            )
        self._model, self._arguments, self._replicas = model, dict(arguments), replicas
        self._engine: Any = None
        self._ready: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self.stopping = False
        self._tether = subprocess.Popen(
            [sys.executable, str(_TETHER), str(os.getpid())], stdin=subprocess.PIPE
        )
        # Not kept waiting for by an interpreter that ends: whoever owns the host stops it.
        self._thread = threading.Thread(target=self._live, name="glossator-engine", daemon=True)
        self._thread.start()

    async def engine(self) -> Any:  # noqa: ANN401 - vLLM's AsyncLLM
        """The engine, once it is up.

        Raises:
            InputError: an argument that vLLM does not know.
            JudgeError: it did not start.
        """
        # Shielded: a caller who is cancelled does not end the others' start.
        await asyncio.shield(asyncio.wrap_future(self._ready))
        return self._engine

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine on the engine's loop; cancelling this cancels it.

        Raises:
            JudgeError: the engine was stopped meanwhile.
        """
        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
        except asyncio.CancelledError:
            if self.stopping:
                raise JudgeError(f"judge `vllm:{self._model}`: was closed meanwhile") from None
            raise

    def stop(self) -> None:
        """End the engine and everything that belongs to it; a second call does nothing."""
        if self.stopping:
            return
        self.stopping = True
        with suppress(RuntimeError):  # it never came up
            self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(_JOIN_SECONDS)
        assert self._tether.stdin is not None
        with suppress(BrokenPipeError), self._tether.stdin as pipe:
            # Else it is still starting, or does not end: then its processes are killed.
            if not self._thread.is_alive():
                pipe.write(b"down\n")
        self._tether.wait(_JOIN_SECONDS)

    def _live(self) -> None:
        try:
            self._loop.run_until_complete(self._start_and_wait())
        finally:
            self._loop.close()

    async def _start_and_wait(self) -> None:
        try:
            self._engine = _started(self._model, self._arguments, self._replicas)
        except BaseException as error:
            self._ready.set_exception(error)
            return
        finally:
            assert self._tether.stdin is not None
            self._tether.stdin.write(b"up\n")
            self._tether.stdin.flush()
        # What is there by now, vLLM and torch above all, is left out of the garbage collector's
        # rounds, as in vLLM's own server: a third of a millisecond a prompt.
        gc.collect()
        gc.freeze()
        self._ready.set_result(None)
        await self._leave.wait()
        # Requests first, which tell the engine that they are given up.
        await self._end_tasks()
        self._engine.shutdown(timeout=_STOP_SECONDS)
        await self._end_tasks()
        gc.unfreeze()
        _end_context(self._engine)
        # While the interpreter still has all that its `__del__` calls.
        self._engine = None
        multiprocessing.active_children()  # what has ended is no zombie any more

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _end_context(engine: Any) -> None:  # noqa: ANN401 - vLLM's AsyncLLM
    """End the context of its sockets, which vLLM leaves to a `__del__` that warns of it."""
    context = getattr(getattr(engine.engine_core, "resources", None), "ctx", None)
    if context is not None:
        context.destroy(linger=0)


def _started(model: str, given: Mapping[str, Any], replicas: int) -> Any:  # noqa: ANN401 - vLLM's AsyncLLM
    """A new engine."""
    with warnings.catch_warnings(), _environment(_QUIET):
        # Of vLLM's imports; none is about what is asked of it here.
        warnings.simplefilter("ignore")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise JudgeError(f"judge `vllm:{model}`: vLLM cannot be loaded ({error})") from error
        known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
        on_cpu = current_platform.is_cpu()
        arguments = _merged(model, given, known, on_cpu, replicas)
        with _environment(_cpu_environment() if on_cpu else {}):
            try:
                return AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **arguments))
            except GlossatorError:
                raise
            except Exception as error:  # whatever vLLM and its libraries raise
                what = " ".join(str(error).split())[:500] or type(error).__name__
                raise JudgeError(
                    f"judge `vllm:{model}`: the engine did not start ({what}); its own words are "
                    "above, and more of them with VLLM_LOGGING_LEVEL=INFO"
                ) from error


def _merged(
    model: str, given: Mapping[str, Any], known: list[str], on_cpu: bool, replicas: int
) -> dict[str, Any]:
    """The engine's arguments: the user's win.

    Raises:
        InputError: one that vLLM does not know, or that has a place of its own.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"judge `vllm:{model}`: vLLM has no engine argument `{name}`{hint}")
    if "model" in given:
        raise InputError(f"judge `vllm:{model}`: the model is named already; leave out `model`")
    if replicas > 1 and "data_parallel_size" in given:
        raise InputError(
            f"judge `vllm:{model}`: `data_parallel_size` and replicas are the same; give one"
        )
    # Older releases lack some of what is set here.
    merged = {name: value for name, value in _ARGUMENTS.items() if name in known}
    if on_cpu:
        merged |= _ARGUMENTS_ON_CPU
    if replicas > 1:
        merged["data_parallel_size"] = replicas
    return merged | dict(given)


def _cpu_environment() -> dict[str, str]:
    # One core is left to this process: threads that wait for each other spin, and one that has to
    # share its core holds all of them up, by a factor of ten or more.
    threads = max(len(os.sched_getaffinity(0)) - 1, 1)
    return {**_ON_CPU, "OMP_NUM_THREADS": str(threads)}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for the engine's processes to inherit."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
