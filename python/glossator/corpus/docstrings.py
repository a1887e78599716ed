"""English prose that every Python carries: its help topics and its docstrings.

    for name, text in standard_library():
        print(name, len(text))

Modules are parsed, never imported, save the compiled ones, which have no source. One text per
object, in an order that depends on the installation alone.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

__all__ = ["installed_packages", "standard_library"]

MINIMUM_CHARACTERS = 40
"""Shorter docstrings say too little to be a document."""

_LEFT_OUT = frozenset(
    {"__pycache__", "idle_test", "site-packages", "dist-packages", "test", "tests"}
)
_COMPILED = (
    *("_asyncio", "_bisect", "_bz2", "_csv", "_ctypes", "_curses", "_datetime", "_decimal"),
    *("_elementtree", "_hashlib", "_heapq", "_json", "_lzma", "_multiprocessing", "_opcode"),
    *("_pickle", "_queue", "_random", "_socket", "_sqlite3", "_ssl", "_struct", "_zoneinfo"),
    *("array", "audioop", "binascii", "cmath", "fcntl", "grp", "math", "mmap", "ossaudiodev"),
    *("pyexpat", "readline", "resource", "select", "spwd", "syslog", "termios", "unicodedata"),
    "zlib",
)


def standard_library() -> Iterator[tuple[str, str]]:
    """The pydoc topics, then the docstrings of the library's sources, then of compiled modules."""
    topics = importlib.import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield f"topic {name}", topics[name]
    yield from _sources(Path(sysconfig.get_paths()["stdlib"]))
    yield from _compiled()


def installed_packages() -> Iterator[tuple[str, str]]:
    """The docstrings of every package in this interpreter's `site-packages`."""
    paths = sysconfig.get_paths()
    for root in dict.fromkeys((paths["purelib"], paths["platlib"])):
        yield from _sources(Path(root))


def _sources(root: Path) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for file in sorted(files):
            if file.endswith(".py"):
                path = Path(folder) / file
                yield from _source(path, ".".join(path.relative_to(root).with_suffix("").parts))


def _source(path: Path, module: str) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            # An odd escape in another's source is nothing to tell a reader of the corpus.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        # Templates and sources of other Python versions lie among the packages.
        return
    yield from _docstrings(tree, module.removesuffix(".__init__"))


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    # A lone surrogate, written as an escape in a docstring, is not text.
    if text and len(text) > MINIMUM_CHARACTERS and _is_text(text):
        yield name, text
    # Definitions are found in `if` and `try` too, but not looked for in expressions.
    pending: list[ast.AST] = list(reversed(node.body))
    while pending:
        child = pending.pop()
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            pending.extend(
                reversed(
                    [
                        inner
                        for inner in ast.iter_child_nodes(child)
                        if isinstance(inner, ast.stmt | ast.ExceptHandler | ast.match_case)
                    ]
                )
            )


def _compiled() -> Iterator[tuple[str, str]]:
    for name in sorted({*sys.builtin_module_names, *_COMPILED}):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = importlib.import_module(name)
        except ImportError:
            # Not every system builds every extension.
            continue
        yield from _objects(module)


def _objects(module: types.ModuleType) -> Iterator[tuple[str, str]]:
    yield from _object(module.__name__, module)
    for name in sorted(vars(module)):
        member = vars(module)[name]
        if isinstance(member, types.ModuleType):
            continue
        yield from _object(f"{module.__name__}.{name}", member)
        if isinstance(member, type):
            for inner in sorted(vars(member)):
                yield from _object(f"{module.__name__}.{name}.{inner}", vars(member)[inner])


def _object(name: str, thing: object) -> Iterator[tuple[str, str]]:
    text = getattr(thing, "__doc__", None)
    if text is type(thing).__doc__:
        return  # a plain value has no words of its own, only its type's
    if isinstance(text, str) and len(text) > MINIMUM_CHARACTERS:
        yield name, text


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
