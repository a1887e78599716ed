"""The embedded defaults of `glossator demo`.

    from glossator.demo import default_config
    from glossator.pipeline import run

    run(default_config(), "run")

They are the defaults of every setting: the prose that Python carries, SmolLM2-135M after layer 6, a
TopK coder of 4,096 latents trained on the spot, rules as explanations.
"""

from __future__ import annotations

from glossator.config import RunConfig

__all__ = ["default_config"]


def default_config() -> RunConfig:
    """The settings of the demo."""
    return RunConfig()
