"""glossator explains and scores every latent of a sparse autoencoder or transcoder."""

from __future__ import annotations

from glossator._core import __version__

__all__ = ["__version__"]
