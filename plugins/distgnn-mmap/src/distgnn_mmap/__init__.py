"""The ``mmap`` backend: tables on disk, larger than memory, in memory-mapped sparse files of one process."""

from __future__ import annotations

import distgnn
from distgnn_mmap.backend import MmapBackend

__all__ = ["MmapBackend", "distgnn_backend"]


@distgnn.hookimpl
def distgnn_backend() -> type[MmapBackend]:
    """Offer the backend of mapped files."""
    return MmapBackend
