"""A run in the formats of other tools.

    from glossator.export import export_postings, export_tables

`tables` writes the run's own tables as Parquet, `postings` those of an index.
"""

from __future__ import annotations

from glossator.export.postings import export_postings
from glossator.export.tables import export_tables

__all__ = ["export_postings", "export_tables"]
