"""The ``fbgemm`` backend: tables of this process, whose row-wise Adagrad is FBGEMM's fused kernel."""

from __future__ import annotations

import distgnn
from distgnn_fbgemm.backend import FbgemmBackend

__all__ = ["FbgemmBackend", "distgnn_backend"]


@distgnn.hookimpl
def distgnn_backend() -> type[FbgemmBackend]:
    """Offer the backend of FBGEMM's kernels."""
    return FbgemmBackend
