"""What the commands of all groups share: latents in every spelling, and help with examples.

parse_latents("3,17,40-49")  # (3, 17, 40, …, 49)
@app.command(epilog=examples("glossator inspect run"))
"""

from __future__ import annotations

import re
from pathlib import Path

import typer

from glossator.errors import InputError

__all__ = ["examples", "help_without_command", "parse_latents"]

_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")
_LONGEST_RANGE = 2**24


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def help_without_command(context: typer.Context) -> None:
    """What a group does alone."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def parse_latents(text: str | None, source: str = "--latents") -> tuple[int, ...] | None:
    """Latent ids from `3,17,40-49`, or from a file with ids apart by commas or white space.

    Args:
        text: What was given; None where nothing was.
        source: The option or argument, for the text of an error.

    Raises:
        InputError: neither a list of ids nor a file of them.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[0-9,\s-]+", text):
        given = text
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(
                f"{source}: `{given[:80]}` is neither a list of ids (3,17,40-49) nor a file of "
                f"them ({getattr(error, 'strerror', None) or error})"
            ) from error
        source = given
    ids: list[int] = []
    for part in text.replace(",", " ").split():
        found = _RANGE.fullmatch(part)
        if found is None:
            raise InputError(f"{source}: `{part[:80]}` is no latent id; give ids or ranges (40-49)")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last >= 2**32:
            raise InputError(f"{source}: `{part}` is no range of latent ids; give first-last")
        if last - first >= _LONGEST_RANGE:
            raise InputError(
                f"{source}: `{part}` is longer than {_LONGEST_RANGE:,} ids; name fewer"
            )
        ids.extend(range(first, last + 1))
    if not ids:
        raise InputError(f"{source}: no latent ids; give ids (3,17,40-49) or a file of them")
    return tuple(dict.fromkeys(ids))
