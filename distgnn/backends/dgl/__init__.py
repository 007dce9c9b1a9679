"""The ``dgl`` backend: DGL's tensors and embeddings, on its servers.

Each host has one server, which the first rank there starts; alone, without a launcher, rows are in this process. Ranks
read the rows of their own host in its shared memory, and ask servers for the others. An update is one request that is
acknowledged, the same from all ranks: it was measured several times faster than DGL's own, which takes five pulls, four
pushes that nobody acknowledges and five to seven collectives, and it gives the sums that the contract asks for, where
DGL takes the mean over duplicates.
"""

from __future__ import annotations

from distgnn.graphbolt import import_dgl
from distgnn.storage.hookspecs import hookimpl

import_dgl()

from distgnn.backends.dgl.backend import DGLBackend  # noqa: E402  # DGL can now be imported everywhere

__all__ = ["DGLBackend", "distgnn_backend"]


@hookimpl
def distgnn_backend() -> type[DGLBackend]:
    """Offer the backend of DGL's servers."""
    return DGLBackend
