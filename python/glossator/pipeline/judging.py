"""The language models of a run: started when first asked for, ended with the block.

with Judging(run, progress) as judging:
judging.judge       # scores
judging.explainer   # explains: the judge itself, where the settings name no other
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from glossator import embeddings
from glossator.config import ModelConfig
from glossator.errors import InputError
from glossator.judges.base import run_sync
from glossator.progress import Progress
from glossator.runs import Run

if TYPE_CHECKING:
    from glossator.judges import Judge

__all__ = ["Judging"]


class Judging:
    """The judge and the explainer of a run."""

    def __init__(self, run: Run, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self._stack = ExitStack()
        self._judge: Judge | None = None
        self._explainer: Judge | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def judge(self) -> Judge:
        """The judge that the run's settings name.

        Raises:
            InputError: none is named, or what it needs is not installed.
            JudgeError: the local server did not come up.
        """
        if self._judge is None:
            self._judge = self._opened(self._run.config.judge)
        return self._judge

    @property
    def explainer(self) -> Judge:
        """The language model that explains; the same errors."""
        settings = self._run.config.explain.judge
        if not settings.url:
            return self.judge
        if self._explainer is None:
            self._explainer = self._opened(settings)
        return self._explainer

    def _opened(self, settings: ModelConfig) -> Judge:
        from glossator.judges import open_judge

        if not settings.url:
            raise InputError("judge: none is named; give --judge URL or --judge local")
        if settings.is_local:
            from glossator.judges.local import local_judge
            from glossator.subjects import smollm2_path

            judge = self._stack.enter_context(
                local_judge(
                    smollm2_path(progress=self._progress),
                    log=self._run.path / "judge.log",
                    progress=self._progress,
                )
            )
        else:
            judge = open_judge(
                settings.url[0],
                settings.model,
                concurrency=settings.concurrency,
                timeout=settings.timeout,
            )
        # A model that the settings do not name has its name from here on.
        run_sync(judge.check(), judge, "judge.check")
        return judge

    def check(self) -> None:
        """Refuse a judge that cannot be used before anything else is done for it.

        A local one is started only when it is asked, but must be installed; so must what embeds.

        Raises:
            InputError: what is needed is not installed.
            JudgeError: the server is not there, or refuses the key or the model.
        """
        settings = self._run.config
        if "embedding" in settings.score.kinds():
            embeddings.refuse_missing(settings.score.embedding_model)
        if settings.judge.is_local:
            from glossator.judges.local import refuse_missing

            refuse_missing()
        else:
            _ = self.judge
