"""A run is a directory that explains itself: its settings, its tables, what each stage cost.

    with Run.open("run") as run:
        run.table("scores")
        run.index.postings(17)
        run.stages()

`config.toml` holds every setting, `run.db` the tables, `tokenizer.json` and `index/` what examples
are resolved with, `atlas.html` the page.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from glossator.config import RunConfig, load_config, save_config
from glossator.errors import InputError
from glossator.index import Index
from glossator.meter import Meter
from glossator.neighbours import Neighbours, refuse_other_coder
from glossator.records import content_id
from glossator.store import Store
from glossator.text import TokenText

__all__ = ["STAGES", "Run", "in_numbers_of", "runs_in"]

STAGES = (
    *("subject", "corpus", "forward", "coder", "gate", "shard"),
    *("harvest", "neighbours", "triage", "scramble"),
    *("explain", "explain-judge", "score", "embeddings", "score-judge", "atlas"),
)
"""The stages of a run, in their order."""

_READ = ("contexts", "hidden.f32", "hidden.f32.partial", "index")
"""What binds a run to its data: before any of these is there, every setting may be mended."""


class Run:
    """A run directory.

    Attributes:
        path: the directory.
        config: its settings.
        store: its tables.
    """

    def __init__(self, path: Path, config: RunConfig, store: Store) -> None:
        self.path = path
        self.config = config
        self.store = store
        self._index: Index | None = None
        self._text: TokenText | None = None
        self._neighbours: Neighbours | None = None
        self._inner: list[float] = []  # seconds of the stages within each stage that is under way

    @classmethod
    def create(cls, config: RunConfig, path: str | Path) -> Self:
        """Open a run for writing, making it where there is none.

        Raises:
            InputError: the directory holds something else, or a run over other data.
            RunLockedError: another process is writing to it.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; name a directory with --out")
        settings = path / "config.toml"
        if there := runs_in(path):
            raise InputError(
                f"{path}: holds the runs of several hookpoints; name one of them "
                f"(`{there[0]}`), or another --out"
            )
        if path.is_dir() and not settings.exists() and not (path / "run.db").exists():
            held = [entry.name for entry in path.iterdir() if entry.name != "run.lock"]
            if held:
                raise InputError(
                    f"{path}: not a run and not empty (`{held[0]}`); name another --out"
                )
        store = Store.open(path)
        try:
            if settings.exists() and _has_data(path):
                before = load_config(settings)
                config = in_numbers_of(before, config)
                _refuse_other_data(path, before, config)
            _sweep(path)
            run = cls(path, config, store)
            run._refuse_latents(config)
            save_config(config, settings)
        except BaseException:
            store.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> Self:
        """Open a run that is there.

        Raises:
            InputError: no run at `path`.
            RunLockedError: `write`, and another process is writing to it.
        """
        path = Path(path)
        if there := runs_in(path):
            raise InputError(
                f"{path}: holds the runs of several hookpoints; name one of them: "
                f"`{'`, `'.join(map(str, there))}`"
            )
        if not (path / "run.db").is_file():
            raise InputError(f"{path}: no run here (`run.db` is missing); name a run directory")
        store = Store.open(path, write=write)
        try:
            return cls(path, load_config(path / "config.toml"), store)
        except BaseException:
            store.close()
            raise

    def configure(self, config: RunConfig) -> None:
        """Change settings that leave the index as it is.

        Raises:
            InputError: the settings mean other data, or name a latent that is not in the index.
        """
        config = in_numbers_of(self.config, config)
        _refuse_other_data(self.path, self.config, config)
        self._refuse_latents(config)
        self.config = config
        save_config(config, self.path / "config.toml")

    def settle_dtype(self, dtype: str) -> None:
        """Write down the number format that a trial found: who runs this again takes the same."""
        subject = self.config.subject.model_copy(update={"dtype": dtype})
        self.config = self.config.model_copy(update={"subject": subject})
        save_config(self.config, self.path / "config.toml")

    def _refuse_latents(self, config: RunConfig) -> None:
        """Before the settings are written down: `glossator score RUN` reads them from there."""
        if config.explain.latents is not None and self.done("harvest"):
            config.refuse_latents(self.index.n_latents)

    @property
    def index(self) -> Index:
        """The index of the run.

        Raises:
            InputError: nothing was harvested yet.
        """
        if self._index is None:
            self.require("harvest")
            self._index = Index.open(self.path / "index")
        return self._index

    @property
    def text(self) -> TokenText:
        """The texts of the index's tokens."""
        if self._text is None:
            self._text = TokenText.open(self.path / "tokenizer.json")
        return self._text

    @property
    def neighbours(self) -> Neighbours | None:
        """The nearest latents of each by decoder direction, with co-activation.

        None in a run that was harvested before there were such.

        Raises:
            InputError: the file is damaged, or of another coder than the index.
        """
        path = self.path / "neighbours.parquet"
        if self._neighbours is None and path.is_file():
            found = Neighbours.read(path)
            refuse_other_coder(self.index, found.coder_hash, found.n_latents)
            self._neighbours = found
        return self._neighbours

    @property
    def hookpoint(self) -> str:
        """The module path whose latents the run explains."""
        return str(self.index.attributes["hookpoint"])

    @property
    def precision(self) -> str | None:
        """Of its activations, as `Index.precision`; None before the harvest."""
        found = self.stages().get("harvest", {}).get("precision")
        return None if found is None else str(found)

    def table(self, name: str) -> pa.Table:
        """A table of `glossator.records.TABLES`, as Arrow."""
        return self.store.table(name)

    def require(self, stage: str) -> None:
        """Refuse to go on without a stage.

        Raises:
            InputError: the stage is not done.
        """
        if not self.done(stage):
            raise InputError(
                f"{self.path}: stage `{stage}` is not done; run `glossator {stage}` on it first"
            )

    def done(self, stage: str) -> bool:
        """Whether a stage has finished with the settings that it depends on."""
        record = self.store.fact(f"stage:{stage}")
        return bool(record) and record["finished"] == self._fingerprint(stage)

    def _fingerprint(self, stage: str) -> str:
        """What a stage's result depends on."""
        parts: list[object] = [stage, self.config.data()]
        if stage == "gate":
            parts.append(self.config.coder.gate)
        if stage in ("explain", "score"):
            settings = self.config.explain.model_dump(mode="json", exclude={"judge"})
            parts += [settings, self.config.explain.judge.question(), self.config.judge.question()]
        if stage == "score":
            parts.append(self.config.score.model_dump(mode="json"))
            parts.append(self.table("explanations")["explanation_id"].to_pylist())
        return content_id(*parts)

    @contextmanager
    def stage(self, name: str, *, share: float = 1.0) -> Iterator[dict[str, Any]]:
        """Measure a stage and record it, also when it breaks off.

        Seconds add up over attempts; those of a stage within a stage count for the inner one alone.

        Args:
            name: one of `STAGES`.
            share: the part of its seconds that is this run's, where several runs do it together.

        Yields:
            A dictionary for more facts about the stage. A true value under `again` says that the
            stage is to be done again though it came to its end.
        """
        before = self.store.fact(f"stage:{name}") or {}
        facts: dict[str, Any] = {}
        finished = None
        self._inner.append(0.0)
        meter = Meter()

        def record() -> None:
            seconds = share * meter.seconds - self._inner.pop()
            if self._inner:
                self._inner[-1] += share * meter.seconds
            self.store.set_fact(
                f"stage:{name}",
                {
                    **before,
                    **facts,
                    "seconds": before.get("seconds", 0.0) + seconds,
                    "peak_bytes": max(before.get("peak_bytes", 0), meter.peak_bytes),
                    "finished": finished,
                },
            )

        try:
            with meter:
                yield facts
        except BaseException:
            # On a full disk the record cannot be written either: the first error says more.
            with suppress(InputError):
                record()
            raise
        if not facts.get("again"):
            finished = self._fingerprint(name)
        record()

    def stages(self) -> dict[str, dict[str, Any]]:
        """What is known of each stage, in the order in which they are done."""
        facts = {
            name.removeprefix("stage:"): value
            for name, value in self.store.facts().items()
            if name.startswith("stage:")
        }
        return {name: facts[name] for name in STAGES if name in facts}

    def description(self) -> dict[str, object]:
        """What the run is over, in words and numbers, by name."""
        stages = self.stages()
        subject, corpus, harvest = (
            stages.get(name, {}) for name in ("subject", "corpus", "harvest")
        )
        said: dict[str, object] = {}
        # A stage that broke off has seconds and nothing else.
        if "name" in subject:
            said["subject"] = f"{subject['name']} in {subject['dtype']}"
            said["hookpoint"] = subject["hookpoint"]
        if "tokens" in corpus:
            said["corpus"] = (
                f"{', '.join(corpus['source'])}: {corpus['tokens']:,} tokens of "
                f"{corpus['documents']:,} documents in {corpus['contexts']:,} contexts"
            )
        if "coder" in harvest:
            coder = harvest["coder"]
            said["coder"] = (
                f"{coder['rule']}, {coder['n_latents']:,} latents of width {coder['width']}, "
                f"{harvest['coder_source']}"
            )
            said["activations"] = f"{harvest['nnz']:,} over {harvest['n_tokens']:,} tokens"
            if self.precision is not None:
                said["activation precision"] = self.precision
        return said

    def notes(self) -> list[str]:
        """What a reader of the results should know."""
        stages = self.stages()
        notes = list(stages.get("corpus", {}).get("notes", []))
        if "overlap_share" in stages.get("harvest", {}):
            notes.append(
                f"{stages['harvest']['overlap_share']:.1%} of the score side's windows share 16 "
                "tokens in a row with the explain side and are not used"
            )
        gate = stages.get("gate", {})
        if gate.get("reason"):
            notes.append(f"the coder was not checked on real text: {gate['reason']}")
            if gate.get("verdict") == "misread":
                notes.append(f"an earlier check refused it: {gate['line']}")
        elif gate.get("verdict") == "warns":
            notes.append(gate["line"])
        declared = stages.get("harvest", {}).get("coder", {}).get("declared", {})
        notes += [f"the coder's files: {line}" for line in declared.get("warnings", ())]
        for name in ("neighbours", "scramble"):
            notes += stages.get(name, {}).get("notes", [])
        return notes

    def close(self) -> None:
        """Close the database and give the run's lock back."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def runs_in(path: Path) -> list[Path]:
    """The runs of several hookpoints that lie in a folder; none where it is a run, or nothing."""
    settings = path / "config.toml"
    if not settings.is_file() or (path / "run.db").exists():
        return []
    return [path / name for name in load_config(settings).each() if name]


def _has_data(path: Path) -> bool:
    return any((path / name).exists() for name in _READ)


def _sweep(path: Path) -> None:
    """Remove what a killed process was writing under names of no meaning."""
    for left in path.glob(".contexts.*"):
        shutil.rmtree(left)
    for left in path.glob("*.tmp"):
        left.unlink()


def in_numbers_of(old: RunConfig, new: RunConfig) -> RunConfig:
    """`new`, in the number format of `old` where it leaves the choice."""
    if new.subject.dtype != "auto":
        return new
    subject = new.subject.model_copy(update={"dtype": old.subject.dtype})
    return new.model_copy(update={"subject": subject})


def _refuse_other_data(path: Path, old: RunConfig, new: RunConfig) -> None:
    before, after = old.data(), new.data()
    if before == after:
        return
    changed = [
        f"{section}.{field}"
        for section, fields in before.items()
        if isinstance(fields, dict)
        for field in fields
        if fields[field] != after[section][field]
    ] + ["seed"] * (before["seed"] != after["seed"])
    raise InputError(
        f"{path}: this run is over other data (`{'`, `'.join(changed)}` differ); "
        "name another --out, or give the settings of its config.toml"
    )
