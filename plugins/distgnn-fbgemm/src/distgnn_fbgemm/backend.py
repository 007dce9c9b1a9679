"""Opening tables for FBGEMM, and tensors and graphs, which it does not have, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import distgnn
from distgnn_fbgemm.embeddings import FbgemmEmbeddingStore

if TYPE_CHECKING:
    from torch import Tensor

_Store = TypeVar("_Store")


class FbgemmBackend:
    """Tables that FBGEMM updates; tensors and graphs are those of a ``memory`` backend of its own."""

    name = "fbgemm"

    def __init__(self) -> None:
        self._memory: distgnn.Backend = type(distgnn.get_backend("memory"))()
        self._stores: dict[str, Any] = {}
        self._closed = False

    def open_embedding(self, spec: distgnn.EmbeddingSpec) -> FbgemmEmbeddingStore:
        attached: FbgemmEmbeddingStore | None = self._attached(spec)
        return attached or self._keep(spec.name, FbgemmEmbeddingStore(spec))

    def open_tensor(self, spec: distgnn.TensorSpec) -> distgnn.TensorStore:
        self._attached(spec)
        return self._keep(spec.name, self._memory.open_tensor(spec))

    def open_graph(self, spec: distgnn.GraphSpec, edge_index: Tensor | None = None) -> distgnn.GraphStore:
        self._attached(spec)
        return self._keep(spec.name, self._memory.open_graph(spec, edge_index))

    def close(self) -> None:
        self._closed = True
        self._memory.close()
        for store in self._stores.values():
            store.close()

    def _attached(self, spec: Any) -> Any:
        """Give the open store of that name, or None."""
        if self._closed:
            raise distgnn.StoreClosedError(f"the fbgemm backend is closed, {spec} cannot be opened")
        store = self._stores.get(spec.name)
        if store is None or store.closed:
            return None
        if store.spec != spec:
            raise distgnn.NameConflictError(f"the name {spec.name!r} is open as {store.spec}, not as {spec}")
        return store

    def _keep(self, name: str, store: _Store) -> _Store:
        self._stores[name] = store
        return store
