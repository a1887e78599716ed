"""What a run is asked to do: one TOML file, checked before anything starts.

    config = load_config("run.toml")
    config.corpus.tokens
    save_config(config, Path("run/config.toml"))

A run directory keeps the resolved file, every default written out, so that
`glossator run RUN/config.toml` does the same again.
"""

from __future__ import annotations

import tomllib
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

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
    "ModelConfig",
    "NegativeConfig",
    "RunConfig",
    "ScoreConfig",
    "SubjectConfig",
    "load_config",
    "only",
    "save_config",
]


def _one_needs_no_brackets(value: object) -> object:
    return (value,) if isinstance(value, str) else () if value is None else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_needs_no_brackets)]
"""Texts, of which one may stand alone."""


class CorpusConfig(Record):
    """The text that is read."""

    source: tuple[str, ...] = ("stdlib",)
    """`stdlib`, `packages`, `hf:NAME[:SPLIT]`, or paths of text, JSONL or Parquet files. Or one
    source of tokens: a `.npy` or `.npz` file, or a Parquet file or dataset behind `tokens:`."""
    column: str | None = None
    """Field of rows that holds the text, `text` if None, or the tokens, `input_ids` if None."""
    separator: int | None = Field(default=None, ge=0, lt=2**32)
    """Of tokens: the one behind which a document ends."""
    special: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = ()
    """Of tokens: further ones that are read and never count."""
    tokens: int = Field(default=300_000, ge=0)
    """Take the leading documents that fit whole into so many tokens; 0 takes all."""
    context_length: int = Field(default=128, gt=0, multiple_of=32)
    """Tokens in one context."""


class SubjectConfig(Record):
    """The language model under study."""

    name: str = "smollm2"
    """`smollm2`, or a Hugging Face name or path."""
    hookpoint: Names = ()
    """Module path whose output is encoded; the coder's or the subject's default if none. Of
    several each has a run of its own, and all come from one pass over the corpus."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: the one that a probe finds faster."""
    device_map: str | dict[str, int | str] | None = None
    """How layers are spread over devices: `auto`, `balanced`, …, or a device for each module."""
    max_memory: dict[str, int | str] = Field(default_factory=dict)
    """What each device may hold: `{ 0 = "20GiB", cpu = "60GiB" }`."""

    def spread(self) -> dict[str, Any]:
        """The two as `load_subject` takes them, GPUs by number."""
        limits = {int(k) if k.isdigit() else k: limit for k, limit in self.max_memory.items()}
        return {"device_map": self.device_map, "max_memory": limits or None}


class CoderConfig(Record):
    """The sparse coder."""

    path: Names = ()
    """Folder or name of a coder; none trains a TopK one, or takes the one trained before. Of
    several there is one for each hookpoint, or each is read where it says itself."""
    latents: int = Field(default=4_096, gt=0)
    """Latents of a coder to be trained."""
    k: int = Field(default=32, gt=0)
    """Latents active on a token of a coder to be trained."""
    steps: int | None = Field(default=None, ge=0)
    """Training steps; None takes the trainer's default, 0 leaves the directions random."""
    gate: bool = True
    """Refuse a coder whose figures on real text show that a convention was read wrongly."""


class IndexConfig(Record):
    """What is kept of the activations."""

    lossless: bool = False
    """Keep every activation as bfloat16; otherwise within 1/32, in three bits less."""


class ModelConfig(Record):
    """A language model and where it is."""

    url: Names = ()
    """Base URLs of OpenAI-compatible servers that serve the same model; or `local`: vLLM on the
    built-in model; or `vllm:NAME_OR_PATH`: vLLM in this process. One needs no brackets."""
    model: str | None = None
    """The model's name at the servers; None takes the only one they serve."""
    concurrency: int | None = Field(default=None, gt=0)
    """Requests in flight at most, at each server or engine; 32, or 256 with `vllm:`, if None."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds that one request may take."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request's body."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Arguments of vLLM's engine, with `vllm:`."""
    replicas: int = Field(default=1, gt=0)
    """Engines side by side, with `vllm:`."""

    @field_validator("url")
    @classmethod
    def _urls_hold_no_secret(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        # Checked here, since a run's settings are written down before the judge is asked.
        for url in urls:
            if "@" in urlsplit(url).netloc:
                raise ValueError(
                    "the URL holds a name or password; "
                    "put the key into GLOSSATOR_JUDGE_API_KEY instead"
                )
            if len(urls) > 1 and (url == "local" or url.startswith("vllm:")):
                raise ValueError(f"`{url}` stands alone; only servers can be several")
        return urls

    @property
    def is_local(self) -> bool:
        """Whether it is the built-in model."""
        return self.url == ("local",)

    @property
    def in_process(self) -> str | None:
        """The model that vLLM runs in this process; None where it is elsewhere."""
        first = self.url[0] if self.url else ""
        return first.removeprefix("vllm:") if first.startswith("vllm:") else None

    def question(self) -> tuple[object, ...]:
        """What decides what is answered; the rest decides only how fast."""
        return (list(self.url), self.model, *([self.extra] if self.extra else ()))


class JudgeConfig(ModelConfig):
    """The language model that scores, and explains where `explain.judge` names no other."""

    max_latents: int | None = Field(default=None, gt=0)
    """Latents that the judge is asked about, drawn by seed; 64, or 4 with `local`, if None."""
    answers: str | None = None
    """File in which every answer is kept, and looked up before anything is sent; the run's own
    `answers.db` if None."""
    replay: bool = False
    """Ask nobody: every answer comes from that file."""

    def question(self) -> tuple[object, ...]:
        """As of any model, and about how many latents it is asked."""
        return (*super().question(), self.bound)

    @property
    def asks(self) -> bool:
        """Whether there is anything that answers."""
        return bool(self.url) or self.replay

    @property
    def bound(self) -> int:
        """How many latents the judge is asked about at most."""
        if self.max_latents is not None:
            return self.max_latents
        return 4 if self.is_local else 64


LatentType = Literal[
    "dead",
    "positional",
    "dense",
    "duplicate",
    "bigram",
    "unigram",
    "next-token",
    "say",
    "rare",
    "other",
]
"""The type of a latent, of those that hold the first here; `glossator.latent_types` tells it."""


class ExplainConfig(Record):
    """What is explained, and by whom."""

    latents: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] | None = None
    """Ids of the latents that are explained; None takes all live ones."""
    skip_types: tuple[LatentType, ...] = ()
    """Latents of these types are not asked of the language model."""
    explainers: tuple[str, ...] | None = None
    """Names of explainers; None takes `rules`, and the preset's where a judge is named."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Their settings, by name: `[explain.settings.delimited]`."""
    judge: ModelConfig = ModelConfig()
    """The language model that explains; the judge if it names none."""


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
    even: bool = False
    """Each window of the kind `peak_token` equally likely, so that it can be weighed."""

    @model_validator(mode="after")
    def _ranks_ascend(self) -> NegativeConfig:
        if self.ranks[0] > self.ranks[1]:
            raise ValueError(f"ranks: {list(self.ranks)} runs backwards; give first, last")
        return self


class ScoreConfig(Record):
    """How explanations are scored."""

    preset: str = "glossator"
    """`glossator`, `post`, `delphi` or `saebench`: what is drawn, shown and asked."""
    scorers: tuple[str, ...] | None = None
    """Names of scorers; those of the preset if None."""
    null: int = Field(default=1_000, ge=0)
    """Latents that are also judged by another latent's explanation: what a score is worth."""
    negatives: tuple[NegativeConfig, ...] | None = None
    """Silent windows, kind by kind; those of the preset if None."""
    embedding_model: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Name or folder of the model behind the kind `embedding`."""
    embedding_windows: int = Field(default=50_000, ge=2)
    """Windows that it embeds, beside the examples of the latents."""

    def kinds(self) -> set[str]:
        """The kinds of negatives that are asked for."""
        return {one.kind for one in self.negatives or () if one.n}


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
    def _as_many_coders_as_hookpoints(self) -> RunConfig:
        hookpoints, coders = self.subject.hookpoint, self.coder.path
        if len(coders) > 1 and len(hookpoints) not in (0, 1, len(coders)):
            raise ValueError(
                f"coder.path: {len(coders)} coders for {len(hookpoints)} hookpoints; give one for "
                "all of them, or one for each"
            )
        pairs = _pairs(hookpoints, coders)
        if twice := [pair for at, pair in enumerate(pairs) if pair in pairs[:at]]:
            named = " at ".join(f"`{one[0]}`" for one in twice[0][::-1] if one)
            raise ValueError(f"{named} is named twice; name each hookpoint or coder once")
        return self

    @model_validator(mode="after")
    def _coder_fits(self) -> RunConfig:
        if not self.coder.path and self.coder.k >= self.coder.latents:
            raise ValueError("coder.k: must be smaller than coder.latents")
        if not self.coder.path:
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

    def each(self) -> dict[str, RunConfig]:
        """The settings of each hookpoint's run, by the name of its folder.

        That is the hookpoint, or where one has several coders the part of the coders' paths in
        which they differ. Of one hookpoint the settings are these, and the name is empty.
        """
        hookpoints, coders = self.subject.hookpoint, self.coder.path
        pairs = _pairs(hookpoints, coders)
        names = [""]
        if len(pairs) > 1:
            names = _names(hookpoints if len(set(hookpoints)) == len(pairs) else coders)
        return {
            name: self.model_copy(
                update={
                    "subject": self.subject.model_copy(update={"hookpoint": hookpoint}),
                    "coder": self.coder.model_copy(update={"path": path}),
                }
            )
            for name, (hookpoint, path) in zip(names, pairs, strict=True)
        }

    def data(self) -> dict[str, Any]:
        """The part that determines the index: changing it means another run."""
        sections = {"corpus", "subject", "coder", "index", "seed"}
        # Where the model runs and whether it is checked leave the index as it is.
        elsewhere: dict[str, set[str]] = {
            "coder": {"gate"},
            "subject": {"device_map", "max_memory"},
        }
        return self.model_dump(mode="json", include=sections, exclude=elsewhere)


def only(values: tuple[str, ...]) -> str | None:
    """The hookpoint or the coder's path of one run's settings; None where nothing is named.

    Raises:
        InputError: there are several.
    """
    if len(values) > 1:
        raise InputError(f"`{values[0]}`, `{values[1]}`, …: name one, or take `RunConfig.each`")
    return values[0] if values else None


def _pairs(
    hookpoints: tuple[str, ...], coders: tuple[str, ...]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Hookpoint and coder of each run; one, or none, stands for all."""
    n = max(len(hookpoints), len(coders), 1)
    first, second = (
        [(one,) for one in given] if len(given) == n else [given] * n
        for given in (hookpoints, coders)
    )
    return list(zip(first, second, strict=True))


def _names(several: tuple[str, ...]) -> list[str]:
    """Names of folders: paths without what all begin with, and without slashes."""
    parts = [PurePath(one).parts for one in several]
    shared = next(
        (at for at, column in enumerate(zip(*parts, strict=False)) if len(set(column)) > 1),
        min(map(len, parts)) - 1,
    )
    return ["--".join(one[shared:]).replace("/", "--") for one in parts]


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
