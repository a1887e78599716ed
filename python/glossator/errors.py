"""The errors that a caller may catch.

Every error that a user can mend is a `GlossatorError`: its text is one line that names the file,
the field and the remedy. The CLI prints that line and exits 2; any other exception is a bug.

    try:
        index = gl.Index.open("run/index")
    except gl.GlossatorError as error:
        print(error)
"""

from __future__ import annotations

from glossator._core import CorruptIndexError, GlossatorError, InputError

__all__ = ["CorruptIndexError", "GlossatorError", "InputError", "JudgeError", "RunLockedError"]


class JudgeError(GlossatorError):
    """A judge cannot be used at all: refused connection, bad key, unknown model.

    A single request that fails is not an error but a `Failure` in its `Answer`.
    """


class RunLockedError(GlossatorError):
    """Another process is writing to this run directory."""
