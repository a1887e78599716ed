"""The language models of a run: started when first asked for, ended with the block.

    with Judging(run.config, run.path, progress) as judging:
        judging.judge       # scores
        judging.explainer   # explains: the judge itself, where the settings name no other

Runs of one set share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from glossator import embeddings
from glossator.config import ModelConfig, RunConfig
from glossator.errors import InputError
from glossator.judges import Judge, Replay, ReplayJudge, open_judge, run_sync
from glossator.progress import SILENT, Progress
from glossator.runs import Run

__all__ = ["ATTEMPTS", "Judging", "own_or"]

ATTEMPTS = 2
"""How often a question is asked before what asks it has done with it."""


class Judging:
    """The judge and the explainer of a run, or of several with the same ones."""

    def __init__(self, config: RunConfig, folder: Path, progress: Progress = SILENT) -> None:
        """Nothing is started yet.

        Args:
            config: names them.
            folder: for their answers, and what a local one says.
            progress: shows that it starts.
        """
        self._config, self._folder, self._progress = config, folder, progress
        self._stack = ExitStack()
        self._judge: ReplayJudge | None = None
        self._explainer: ReplayJudge | None = None
        self._answers: Replay | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def judge(self) -> ReplayJudge:
        """The judge that the run's settings name.

        Raises:
            InputError: none is named, or what it needs is not installed.
            JudgeError: the local server did not come up.
        """
        if self._judge is None:
            self._judge = self._opened(self._config.judge)
        return self._judge

    @property
    def explainer(self) -> ReplayJudge:
        """The language model that explains; the same errors."""
        settings = self._config.explain.judge
        if not settings.url and not settings.model:
            return self.judge
        if self._explainer is None:
            self._explainer = self._opened(settings)
        return self._explainer

    def _opened(self, settings: ModelConfig) -> ReplayJudge:
        if self._config.judge.replay:
            judge = ReplayJudge(None, self.answers, model=settings.model, extra=settings.extra)
        elif not settings.url:
            raise InputError("judge: none is named; give --judge URL or --judge local")
        else:
            judge = ReplayJudge(self._asked(settings), self.answers, extra=settings.extra)
        # A model that the settings do not name has its name from here on.
        run_sync(judge.check(), judge, "judge.check")
        return judge

    def _asked(self, settings: ModelConfig) -> Judge:
        """The model itself, with no store of answers before it."""
        if settings.is_local:
            from glossator.judges.local import local_judge
            from glossator.subjects import smollm2_path

            return self._stack.enter_context(
                local_judge(
                    smollm2_path(progress=self._progress),
                    log=self._folder / "judge.log",
                    progress=self._progress,
                )
            )
        given: dict[str, Any] = {}
        if settings.concurrency is not None:
            given["concurrency"] = settings.concurrency
        if settings.in_process is not None:
            from glossator.judges.engine import EngineJudge

            return self._stack.enter_context(
                EngineJudge(
                    settings.in_process,
                    engine=settings.engine,
                    replicas=settings.replicas,
                    extra=settings.extra,
                    **given,
                )
            )
        return open_judge(
            settings.url, settings.model, extra=settings.extra, timeout=settings.timeout, **given
        )

    @property
    def answers(self) -> Replay:
        """Every answer that the run's models gave.

        Raises:
            InputError: nothing is to be asked and there is no such file, or it is another file.
        """
        if self._answers is None:
            settings = self._config.judge
            path = Path(settings.answers or self._folder / "answers.db")
            if settings.replay and not path.is_file():
                raise InputError(
                    f"{path}: there are no answers to replay; name the file with --answers"
                )
            self._answers = self._stack.enter_context(Replay(path))
        return self._answers

    def check(self) -> None:
        """Refuse a judge that cannot be used before anything else is done for it.

        A local one is started only when it is asked, but must be installed; so must what embeds.

        Raises:
            InputError: what is needed is not installed.
            JudgeError: the server is not there, or refuses the key or the model.
        """
        settings = self._config
        if "embedding" in settings.score.kinds():
            embeddings.refuse_missing(settings.score.embedding_model)
        for model in (settings.judge, settings.explain.judge):
            if model.is_local and not settings.judge.replay:
                from glossator.judges.local import refuse_missing

                refuse_missing()
            elif model.url or settings.judge.replay:
                _ = self.judge if model is settings.judge else self.explainer


@contextmanager
def own_or(judging: Judging | None, run: Run, progress: Progress) -> Iterator[Judging]:
    """What was given, or a `Judging` for as long as the block lasts."""
    if judging is not None:
        yield judging
        return
    with Judging(run.config, run.path, progress) as own:
        yield own
