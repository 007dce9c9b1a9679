"""The ``pyg`` backend: rows over the ranks of torch.distributed.

Each rank owns a range of every store. A call brings ids to their owners and rows back by all-to-all collectives of
plain tensors over gloo, in a process group of its own. Alone, without a launcher, it is a job of one rank.
"""

from __future__ import annotations

from distgnn.backends.pyg.backend import PygBackend
from distgnn.storage.hookspecs import hookimpl

__all__ = ["PygBackend", "distgnn_backend"]


@hookimpl
def distgnn_backend() -> type[PygBackend]:
    """Offer the backend of PyTorch's ranks."""
    return PygBackend
