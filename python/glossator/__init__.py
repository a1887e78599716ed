"""glossator explains and scores every latent of a sparse autoencoder or transcoder.

    import glossator as gl

    run = gl.run(gl.RunConfig(), "run")  # corpus → subject → coder → index → rules → atlas
    run.table("scores")
    index = gl.Index.open("run/index")
    examples = index.sample([17, 42], gl.SamplingPlan(), seed=0)

The names below are what users may rely on. What needs torch or a client library is imported when it
is first used, so that the index, sampling and scores work with NumPy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glossator._core import __version__
from glossator.errors import (
    CorruptIndexError,
    GlossatorError,
    InputError,
    JudgeError,
    RunLockedError,
)

# These functions carry the name of their room. Importing a room binds its name here to the module,
# so they are imported at once: what is bound last stays.
from glossator.explain import aexplain, explain
from glossator.harvest import harvest
from glossator.latent_types import latent_types
from glossator.neighbours import neighbours
from glossator.score import ascore, score, scores_from, specificity_by_rank
from glossator.triage import triage

if TYPE_CHECKING:
    from glossator.atlas import build_atlas
    from glossator.coders import SparseCoder, TrainConfig, load_coder
    from glossator.config import RunConfig, load_config
    from glossator.corpus import open_corpus, open_tokens, pack
    from glossator.encode import Encoder, Gated, GroupMax, Threshold, TopK
    from glossator.gate import GateReport, check_coder, refuse_misread
    from glossator.harvest import harvest_each
    from glossator.hidden import collect_hidden, train_coder
    from glossator.index import Index, IndexWriter
    from glossator.judges import open_judge
    from glossator.logit_weights import LogitWeights
    from glossator.neighbours import Neighbours
    from glossator.pipeline import run, run_each
    from glossator.records import Explanation, Near, Rule, Score, Verdict, table_of
    from glossator.run_set import RunSet
    from glossator.runs import Run
    from glossator.sampling import Examples, ExplainPlan, NegativePlan, SamplingPlan
    from glossator.score.compare import compare
    from glossator.score.corpus import score_rules
    from glossator.scramble import scramble_test
    from glossator.statistics import ActivationStatistics
    from glossator.subjects import Subject, load_subject
    from glossator.text import TokenText
    from glossator.type_shares import type_shares

_ROOMS = {
    "atlas": ("build_atlas",),
    "coders": ("SparseCoder", "TrainConfig", "load_coder"),
    "config": ("RunConfig", "load_config"),
    "corpus": ("open_corpus", "open_tokens", "pack"),
    "encode": ("Encoder", "Gated", "GroupMax", "Threshold", "TopK"),
    "gate": ("GateReport", "check_coder", "refuse_misread"),
    "harvest": ("harvest_each",),
    "hidden": ("collect_hidden", "train_coder"),
    "index": ("Index", "IndexWriter"),
    "judges": ("open_judge",),
    "logit_weights": ("LogitWeights",),
    "neighbours": ("Neighbours",),
    "pipeline": ("run", "run_each"),
    "run_set": ("RunSet",),
    "runs": ("Run",),
    "records": ("Explanation", "Near", "Rule", "Score", "Verdict", "table_of"),
    "sampling": ("Examples", "ExplainPlan", "NegativePlan", "SamplingPlan"),
    "score.compare": ("compare",),
    "scramble": ("scramble_test",),
    "statistics": ("ActivationStatistics",),
    "type_shares": ("type_shares",),
    "score.corpus": ("score_rules",),
    "subjects": ("Subject", "load_subject"),
    "text": ("TokenText",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "ActivationStatistics",
    "CorruptIndexError",
    "Encoder",
    "Examples",
    "ExplainPlan",
    "Explanation",
    "GateReport",
    "Gated",
    "GlossatorError",
    "GroupMax",
    "Index",
    "IndexWriter",
    "InputError",
    "JudgeError",
    "LogitWeights",
    "Near",
    "NegativePlan",
    "Neighbours",
    "Rule",
    "Run",
    "RunConfig",
    "RunLockedError",
    "RunSet",
    "SamplingPlan",
    "Score",
    "SparseCoder",
    "Subject",
    "Threshold",
    "TokenText",
    "TopK",
    "TrainConfig",
    "Verdict",
    "__version__",
    "aexplain",
    "ascore",
    "build_atlas",
    "check_coder",
    "collect_hidden",
    "compare",
    "explain",
    "harvest",
    "harvest_each",
    "latent_types",
    "load_coder",
    "load_config",
    "load_subject",
    "neighbours",
    "open_corpus",
    "open_judge",
    "open_tokens",
    "pack",
    "refuse_misread",
    "run",
    "run_each",
    "score",
    "score_rules",
    "scores_from",
    "scramble_test",
    "specificity_by_rank",
    "table_of",
    "train_coder",
    "triage",
    "type_shares",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module 'glossator' has no attribute {name!r}")
    value = getattr(import_module(f"glossator.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
