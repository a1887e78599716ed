"""The runs of one pass over a corpus: one for each hookpoint, side by side in a folder.

    with RunSet.create(load_config("run.toml"), "out") as runs:
        harvest_set(runs)
    with RunSet.open("out") as runs:
        [run.hookpoint for run in runs]

A run's folder is named after its hookpoint; where there is one hookpoint alone, the folder is the
run. `contexts` and `index` lie beside the runs, and each run has links to its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from glossator.config import RunConfig, load_config, save_config
from glossator.errors import InputError
from glossator.runs import Run, in_numbers_of, runs_in

__all__ = ["RunSet"]

_SHARED = ("contexts", "index")
"""What lies beside the runs of a set."""


class RunSet:
    """Runs that are made in one pass, open together.

    Attributes:
        path: the directory: of the run where there is one, else that of their directories.
        runs: the runs, in the order of the settings.
    """

    def __init__(self, path: Path, runs: list[Run]) -> None:
        self.path = path
        self.runs = runs

    @classmethod
    def create(cls, config: RunConfig, path: str | Path) -> Self:
        """Open the runs that the settings describe for writing, making what is not there.

        Raises:
            InputError: the directory holds something else, or runs over other data.
            RunLockedError: another process is writing to one of them.
        """
        path, each = Path(path), config.each()
        if len(each) == 1:
            return cls(path, [Run.create(config, path)])
        if taken := [name for name in each if name in (*_SHARED, "config.toml")]:
            raise InputError(f"`{taken[0]}`: is no name for a run's folder; name it otherwise")
        settings = path / "config.toml"
        if settings.is_file() and not (path / "run.db").exists():
            before = load_config(settings)
            config = in_numbers_of(before, config)
            if (there := list(before.each())) != list(each):
                raise InputError(
                    f"{path}: holds runs of `{'`, `'.join(there)}`; name another --out, or give "
                    "the settings of its config.toml"
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: is not empty and no folder of runs; name another --out")
        with ExitStack() as broken_off:
            try:
                path.mkdir(parents=True, exist_ok=True)
                save_config(config, settings)
                runs = [
                    broken_off.enter_context(Run.create(one, path / name))
                    for name, one in each.items()
                ]
                for name in each:
                    _link(path / name / "contexts", Path("..", "contexts"))
                    _link(path / name / "index", Path("..", "index", name))
            except OSError as error:
                raise InputError(f"{path}: {error.strerror or error}") from error
            broken_off.pop_all()
        return cls(path, runs)

    @classmethod
    def open(cls, path: str | Path, *, write: bool = False) -> Self:
        """Open the run, or the runs, that are there.

        Raises:
            InputError: no run at `path`.
            RunLockedError: `write`, and another process is writing to one of them.
        """
        path = Path(path)
        with ExitStack() as broken_off:
            runs = [
                broken_off.enter_context(Run.open(one, write=write))
                for one in runs_in(path) or [path]
            ]
            broken_off.pop_all()
        return cls(path, runs)

    @property
    def names(self) -> list[str]:
        """The names of the runs' folders in `path`; one that is empty where there is one run."""
        return [run.path.relative_to(self.path).name for run in self.runs]

    @property
    def config(self) -> RunConfig:
        """The settings of the first run, which all have but for hookpoint and coder."""
        return self.runs[0].config

    def done(self, stage: str) -> bool:
        """Whether all runs have finished a stage."""
        return all(run.done(stage) for run in self.runs)

    @contextmanager
    def stage(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """Measure a stage that is done for all runs at once; each books its share of the time.

        Yields:
            A dictionary for further facts of each run, as `Run.stage` does.
        """
        share = 1 / len(self.runs)
        with ExitStack() as stack:
            yield [stack.enter_context(run.stage(name, share=share)) for run in self.runs]

    def settle_dtype(self, dtype: str) -> None:
        """Write down the number format that a trial found, as `Run.settle_dtype` does."""
        for run in self.runs:
            run.settle_dtype(dtype)
        if len(self.runs) > 1:
            whole = load_config(self.path / "config.toml")
            subject = whole.subject.model_copy(update={"dtype": dtype})
            save_config(whole.model_copy(update={"subject": subject}), self.path / "config.toml")

    def close(self) -> None:
        """Close every run."""
        for run in self.runs:
            run.close()

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _link(link: Path, to: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(to)
