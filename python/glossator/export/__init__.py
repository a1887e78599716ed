"""A run in the formats of other tools.

    from glossator.export import export_tables

`tables` writes the run's own tables as Parquet.
"""

from __future__ import annotations

from glossator.export.tables import export_tables

__all__ = ["export_tables"]
