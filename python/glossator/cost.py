"""What explaining and scoring costs: tokens and seconds by method, and dollars per million latents.

    spent = methods(run.table("ledger"))       # a line for each explainer and scorer
    spent[0].prompt.mean, spent[0].seconds.mean
    for line in costs(spent, load_prices()):   # a line for each method and price
        print(line.method, line.price, line.dollars)

The two tables are those of "Open Source Automated Interpretability for Sparse Autoencoder
Features" (Juang et al., 2024), with one column more: how many verdicts a row pays for. Its scoring
rows pay for five of the seventy that its own protocol asks for.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationError

from glossator.errors import InputError
from glossator.records import Record

__all__ = [
    "PRICES",
    "ApiPrice",
    "Cost",
    "MachinePrice",
    "Method",
    "Prices",
    "Spread",
    "costs",
    "load_prices",
    "methods",
]

PRICES = Path(__file__).with_name("prices.toml")
"""The prices that come with the package."""
_MILLION = 1_000_000


class ApiPrice(Record):
    """What a provider takes for a million tokens, in US dollars."""

    name: str = Field(min_length=1)
    """Model and provider."""
    prompt: float = Field(ge=0)
    """For prompt tokens."""
    completion: float = Field(ge=0)
    """For completion tokens."""
    cached: float | None = Field(default=None, ge=0)
    """For prompt tokens that it had cached; as any other if None."""


class MachinePrice(Record):
    """What an hour of a machine costs, in US dollars."""

    name: str = Field(min_length=1)
    """Which machine."""
    hour: float = Field(ge=0)
    """An hour of it."""


class Prices(Record):
    """A file of prices."""

    date: datetime.date
    """When they were read."""
    api: tuple[ApiPrice, ...] = ()
    """Of providers."""
    machine: tuple[MachinePrice, ...] = ()
    """Of machines."""


def load_prices(path: str | Path = PRICES) -> Prices:
    """Read a file of prices; the package's own by default.

    Raises:
        InputError: no such file, not TOML, or a field that is missing, unknown or out of range.
    """
    path = Path(path)
    try:
        return Prices.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: field `{field}`: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean and how far single latents are from it."""

    mean: float
    """The mean."""
    deviation: float | None = None
    """Standard deviation over latents; None where there are not two of them."""

    def __str__(self) -> str:
        mean = f"{self.mean:,.1f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:,.1f}"


@dataclass(frozen=True, slots=True)
class Method:
    """What an explainer or a scorer took for one latent."""

    stage: str
    """`explain` or `score`."""
    name: str
    """The explainer or scorer."""
    latents: int
    """Latents that it was asked about; 0 where the ledger does not tell them apart."""
    requests: Spread
    """Requests for one latent."""
    verdicts: Spread
    """Verdicts, or explanations, that these gave."""
    prompt: Spread
    """Tokens sent."""
    unique: Spread
    """Tokens sent that were in no cache."""
    cached: Spread
    """Tokens sent that were."""
    completion: Spread
    """Tokens received."""
    seconds: Spread
    """Wall time of this machine, shared out over what was under way at the same time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a million latents cost by one method at one price."""

    method: str
    """The explainer or scorer."""
    price: str
    """Whose price."""
    dollars: float
    """US dollars for a million latents."""
    hours: float | None
    """Hours of the machine for a million latents; None for a provider's price."""
    verdicts: float
    """How many verdicts, or explanations, of each latent they pay for."""


_COLUMNS = {
    "requests": "requests",
    "verdicts": "verdicts",
    "prompt": "prompt_tokens",
    "unique": "unique_prompt_tokens",
    "cached": "cached_tokens",
    "completion": "completion_tokens",
    "seconds": "seconds",
}


def methods(ledger: pa.Table) -> list[Method]:
    """What each explainer and scorer took for one latent.

    Args:
        ledger: the run's table `ledger`.

    Returns:
        A line for each stage and scorer that made requests, in that order.
    """
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in ledger.to_pylist():
        if row["requests"]:
            rows.setdefault((row["stage"], row["scorer"]), []).append(row)
    return [_method(stage, name, rows[stage, name]) for stage, name in sorted(rows)]


def _method(stage: str, name: str, rows: Sequence[dict[str, float]]) -> Method:
    latents = len({row["latent"] for row in rows} - {-1})
    spreads = {}
    for field, column in _COLUMNS.items():
        values = np.array([row[column] for row in rows], np.float64)
        of_latents = [row["latent"] != -1 for row in rows]
        spreads[field] = Spread(
            float(values.sum()) / max(latents, 1),
            float(values[of_latents].std(ddof=1)) if latents > 1 else None,
        )
    return Method(stage, name, latents, **spreads)


def costs(spent: Iterable[Method], prices: Prices) -> list[Cost]:
    """What a million latents cost by each method at each price.

    A provider is paid for tokens, cached ones at their own price where it has one; a machine for
    the seconds that the ledger says.
    """
    lines = []
    for method in spent:
        for api in prices.api:
            cached = 0.0 if api.cached is None else method.cached.mean
            dollars = (
                (method.prompt.mean - cached) * api.prompt
                + cached * (api.cached or 0.0)
                + method.completion.mean * api.completion
            )
            # Dollars for a million tokens times tokens are dollars for a million latents.
            lines.append(Cost(method.name, api.name, dollars, None, method.verdicts.mean))
        for machine in prices.machine:
            hours = method.seconds.mean * _MILLION / 3600
            lines.append(
                Cost(method.name, machine.name, hours * machine.hour, hours, method.verdicts.mean)
            )
    return lines
