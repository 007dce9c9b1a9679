"""The ``memory`` backend: every row in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.storage.hookspecs import hookimpl
from distgnn.storage.toolkit import LocalBackend, LocalEmbeddingStore, LocalGraphStore, LocalTensorStore

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.specs import EmbeddingSpec, GraphSpec, TensorSpec


class MemoryEmbeddingStore(LocalEmbeddingStore):
    """A whole table."""


class MemoryTensorStore(LocalTensorStore):
    """A whole tensor."""


class MemoryGraphStore(LocalGraphStore):
    """A whole graph."""


class MemoryBackend(LocalBackend[MemoryEmbeddingStore, MemoryTensorStore]):
    """Stores in this process.

    Args:
        device: Where the rows live, for example ``"cpu"`` or ``"cuda:0"``.
    """

    name = "memory"

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        # The device of a tensor carries an index, "cuda" alone does not.
        self._device = torch.empty(0, device=device).device
        super().__init__()

    def new_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        return MemoryEmbeddingStore(spec, self._device)

    def new_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        return MemoryTensorStore(spec, self._device)

    def new_graph(self, spec: GraphSpec, edge_index: Tensor) -> MemoryGraphStore:
        return MemoryGraphStore(spec, edge_index, self._device)


@hookimpl
def distgnn_backend() -> type[MemoryBackend]:
    """Offer the in-memory backend."""
    return MemoryBackend
