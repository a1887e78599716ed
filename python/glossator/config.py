"""What a run is asked to do: one TOML file, checked before anything starts.

    config = load_config("run.toml")
    config.corpus.tokens
    save_config(config, Path("run/config.toml"))

A run directory keeps the resolved file, every default written out, so that
`glossator run RUN/config.toml` does the same again.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from glossator.errors import InputError
from glossator.folders import new_file
from glossator.records import Record

__all__ = [
    "AtlasConfig",
    "CoderConfig",
    "CorpusConfig",
    "ExplainConfig",
    "IndexConfig",
    "JudgeConfig",
    "NegativeConfig",
    "RunConfig",
    "ScoreConfig",
    "SubjectConfig",
    "load_config",
    "save_config",
]


class CorpusConfig(Record):
    """The text that is read."""

    source: tuple[str, ...] = ("stdlib",)
    """`stdlib`, `packages`, `hf:NAME[:SPLIT]`, or paths of text, JSONL or Parquet files."""
    column: str = "text"
    """Field of JSONL or Parquet rows that holds the text."""
    tokens: int = Field(default=300_000, ge=0)
    """Take the leading documents that fit whole into so many tokens; 0 takes all."""
    context_length: int = Field(default=128, gt=0, multiple_of=32)
    """Tokens in one context."""


class SubjectConfig(Record):
    """The language model under study."""

    name: str = "smollm2"
    """`smollm2`, or a Hugging Face name or path."""
    hookpoint: str | None = None
    """Module path whose output is encoded; the coder's or the subject's default if None."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: the one that a probe finds faster."""


class CoderConfig(Record):
    """The sparse coder."""

    path: str | None = None
    """Folder of a coder; None trains a TopK one, or takes the one trained before."""
    latents: int = Field(default=4_096, gt=0)
    """Latents of a coder to be trained."""
    k: int = Field(default=32, gt=0)
    """Latents active on a token of a coder to be trained."""
    steps: int | None = Field(default=None, gt=0)
    """Training steps; None takes the trainer's default."""


class IndexConfig(Record):
    """What is kept of the activations."""

    lossless: bool = False
    """Keep every activation as bfloat16; otherwise within 1/32, in three bits less."""


class ExplainConfig(Record):
    """What is explained."""

    latents: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] | None = None
    """Ids of the latents that are explained; None takes all live ones."""


class JudgeConfig(Record):
    """The language model that explains and scores, where there is one."""

    url: str | None = None
    """Base URL of an OpenAI-compatible server, or `local`: vLLM on the built-in model."""
    model: str | None = None
    """The model's name at that server; None takes the only one it serves."""
    max_latents: int | None = Field(default=None, gt=0)
    """Latents that the judge is asked about, drawn by seed; 64, or 4 with `local`, if None."""
    concurrency: int = Field(default=32, gt=0)
    """Requests in flight."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that one request may take."""

    @field_validator("url")
    @classmethod
    def _url_holds_no_secret(cls, url: str | None) -> str | None:
        # Checked here, since a run's settings are written down before the judge is asked.
        if url is not None and "@" in urlsplit(url).netloc:
            raise ValueError(
                "the URL holds a name or password; put the key into GLOSSATOR_JUDGE_API_KEY instead"
            )
        return url

    def question(self) -> tuple[object, ...]:
        """What decides who is asked about how many latents; the rest decides only how fast."""
        return (self.url, self.model, self.bound)

    @property
    def bound(self) -> int:
        """How many latents the judge is asked about at most."""
        if self.max_latents is not None:
            return self.max_latents
        return 4 if self.url == "local" else 64


class NegativeConfig(Record):
    """Silent windows of one kind; the fields are those of `NegativePlan`."""

    kind: Literal[
        "random", "peak_token", "near_token", "embedding", "decoder", "decoder_unfiltered"
    ] = "random"
    """What makes such a window hard; see `NegativePlan`."""
    n: int = Field(default=20, ge=0, lt=2**32)
    """Windows for each latent."""
    margin: int = Field(default=0, ge=0, lt=2**32)
    """Tokens around a window on which the latent must be silent too."""
    ranks: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 10)
    """First and last rank of the neighbours, for the kinds `decoder` and `decoder_unfiltered`."""
    pool: int | None = Field(default=None, ge=1, lt=2**32)
    """Only among so many of a neighbour's strongest windows, for the same kinds."""

    @model_validator(mode="after")
    def _ranks_ascend(self) -> NegativeConfig:
        if self.ranks[0] > self.ranks[1]:
            raise ValueError(f"ranks: {list(self.ranks)} runs backwards; give first, last")
        return self


class ScoreConfig(Record):
    """What the judge is asked about."""

    negatives: tuple[NegativeConfig, ...] = (NegativeConfig(),)
    """Silent windows, kind by kind."""
    embedding_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Name or folder of the model behind the kind `embedding`."""
    embedding_windows: int = Field(default=50_000, ge=2)
    """Windows that it embeds, beside the examples of the latents."""

    def kinds(self) -> set[str]:
        """The kinds of negatives that are asked for."""
        return {one.kind for one in self.negatives if one.n}


class AtlasConfig(Record):
    """The page."""

    max_pages: int = Field(default=10_000, gt=0)
    """Above so many latents the file holds the pages of a seeded choice."""


class RunConfig(Record):
    """A whole run."""

    corpus: CorpusConfig = CorpusConfig()
    subject: SubjectConfig = SubjectConfig()
    coder: CoderConfig = CoderConfig()
    index: IndexConfig = IndexConfig()
    explain: ExplainConfig = ExplainConfig()
    judge: JudgeConfig = JudgeConfig()
    score: ScoreConfig = ScoreConfig()
    atlas: AtlasConfig = AtlasConfig()
    seed: int = Field(default=0, ge=0)
    """Seed of every draw."""
    max_failed: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of explanations or verdicts that may be missing before the exit code says so."""

    @model_validator(mode="after")
    def _coder_fits(self) -> RunConfig:
        if self.coder.path is None and self.coder.k >= self.coder.latents:
            raise ValueError("coder.k: must be smaller than coder.latents")
        if self.coder.path is None:
            self.refuse_latents(self.coder.latents)
        return self

    def refuse_latents(self, n_latents: int) -> None:
        """Refuse latents to explain that a coder of `n_latents` does not have.

        Raises:
            InputError: names the first one.
        """
        for latent in self.explain.latents or ():
            if latent >= n_latents:
                raise InputError(
                    f"--latents: {latent} is not in the index; its latents are 0 to {n_latents - 1}"
                )

    def data(self) -> dict[str, Any]:
        """The part that determines the index: changing it means another run."""
        sections = {"corpus", "subject", "coder", "index", "seed"}
        return self.model_dump(mode="json", include=sections)


def config_from(values: dict[str, Any], source: str) -> RunConfig:
    """Check a mapping of settings.

    Args:
        values: nested settings, as TOML gives them.
        source: where they come from, for the error.

    Raises:
        InputError: an unknown field or a value out of range; the text names the field.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "settings"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{source}: field `{field}`: {message}{more}") from error


def load_config(path: str | Path) -> RunConfig:
    """Read a TOML file.

    Raises:
        InputError: no such file, not TOML, an unknown field or a value out of range.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML ({error})") from error
    return config_from(values, str(path))


def save_config(config: RunConfig, path: Path) -> None:
    """Write every setting, defaults included; what is None is left out, as TOML has no null."""
    values = config.model_dump(mode="json", exclude_none=True)
    with new_file(path) as file:
        tomli_w.dump(values, file)
