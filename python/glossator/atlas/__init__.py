"""The atlas: one self-contained HTML file of explained latents.

    from glossator.atlas import build_atlas

It opens from disk, offline, in any current browser.
"""

from __future__ import annotations

from glossator.atlas.build import build_atlas

__all__ = ["build_atlas"]
