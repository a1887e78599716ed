"""Others' work, for indexing and scoring here.

    from glossator.imports import import_delphi, import_neuronpedia

    import_delphi("results/mine", "out", hookpoint="layers.5")     # out/index, explanations, scores
    import_neuronpedia("gpt2-small/6-res-jb", "labels.jsonl")      # for the explainer `file`

A CSV or JSONL of human explanations needs no import: the explainer `file` reads it.
"""

from __future__ import annotations

from glossator.imports.delphi import import_delphi, read_delphi_explanations, read_delphi_scores
from glossator.imports.neuronpedia import import_neuronpedia

__all__ = [
    "import_delphi",
    "import_neuronpedia",
    "read_delphi_explanations",
    "read_delphi_scores",
]
