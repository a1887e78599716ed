"""A planted run with explanations, verdicts and scores, as the exports read it."""

from __future__ import annotations

import json

from glossator.neighbours import Neighbours, neighbours
from glossator.records import table_of
from glossator.score import score
from glossator.store import Store
from glossator.triage import triage
from planted import HOOKPOINT, PlantedJudge, planted_explanations, planted_index, truth_of

LATENTS, SILENT = 6, 2


class ExportedRun:
    """What `glossator.export.material.Exported` asks for."""

    hookpoint = HOOKPOINT

    def __init__(self, folder, judge=None):
        import numpy as np

        self.index, self.text = planted_index(
            folder / "index", latents=LATENTS, per_decile=10, silent=SILENT
        )
        rows = np.random.default_rng(0).normal(size=(LATENTS + SILENT, 8)).astype(np.float32)
        self.neighbours = Neighbours(*neighbours(rows, k=3))
        self.precision = self.index.precision
        said = planted_explanations(range(LATENTS - 1))  # the last one is not explained
        # Deterministic errors, so that scores differ and verdicts disagree with the truth.
        judge = judge or PlantedJudge(lambda d, line: 0.9 if truth_of(d, line)[0] else 0.2)
        scored = score(
            self.index, said, judge=judge, text=self.text, scorers=["detection", "fuzzing"]
        )
        self.scored = scored
        facts = triage(self.index, min_windows=10, min_documents=5)
        facts["status"][1] = "rare"
        facts["status"][2] = "dense"
        logits = json.dumps([[1, 2.5], [2, 1.0]])  # token ids, as a run has them
        self.store = Store.open(folder / "run")
        self.store.add(
            "latents",
            table_of("latents", facts, hookpoint=HOOKPOINT, top_logits=logits),
        )
        self.store.add("explanations", said)
        self.store.add("protocols", [scored.protocol])
        for name in ("examples", "verdicts", "scores"):
            self.store.add(name, getattr(scored, name))

    def table(self, name):
        return self.store.table(name)
