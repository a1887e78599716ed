"""A run in the formats of other tools.

    from glossator.export import Chosen, export_dataset, export_tables

    export_dataset(run, "labels", chosen=Chosen.of(run, include=("dense",)))

`tables` writes the run's own tables as Parquet, `postings` those of an index; `dataset` a Hugging
Face folder, `neuronpedia` its file tree and `upload` its batch API, `circuit_tracer` feature files,
`delphi` a results folder, `notes` what circuits and SAEBench read. `material` is what they share.
"""

from __future__ import annotations

from glossator.export.chosen import Chosen
from glossator.export.circuit_tracer import add_layer, export_circuit_tracer, read_feature
from glossator.export.dataset import export_dataset
from glossator.export.delphi import export_delphi
from glossator.export.neuronpedia import NeuronpediaSource, export_neuronpedia
from glossator.export.notes import export_notes, export_saebench
from glossator.export.postings import export_postings
from glossator.export.tables import export_tables

__all__ = [
    "Chosen",
    "NeuronpediaSource",
    "add_layer",
    "export_circuit_tracer",
    "export_dataset",
    "export_delphi",
    "export_neuronpedia",
    "export_notes",
    "export_postings",
    "export_saebench",
    "export_tables",
    "read_feature",
]
