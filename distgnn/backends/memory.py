"""The ``memory`` backend: every row in this process. The default, the reference, and the double in unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from distgnn.errors import NameConflictError, RowsError, StoreClosedError
from distgnn.hookspecs import hookimpl
from distgnn.protocols import InEdges
from distgnn.shards import EmbeddingShard, GraphShard, TensorShard
from distgnn.specs import EmbeddingSpec, GraphSpec, Spec, TensorSpec, check_same_spec

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.protocols import UpdateRule


class MemoryEmbeddingStore(EmbeddingShard):
    """A whole table."""

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def lookup(self, ids: Tensor) -> Tensor:
        self.check_open()
        self.spec.check_ids(ids, self._device)
        return self.gather(ids)

    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        self.check_open()
        self.spec.check_gradients(ids, gradients, self._device)
        self.update(ids, gradients, rule)


class MemoryTensorStore(TensorShard):
    """A whole tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        self.check_open()
        self.spec.check_ids(ids, self._device)
        return self.gather(ids)

    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        self.check_open()
        self.spec.check_values(ids, values, self._device)
        if accumulate:
            self.add(ids, values)
        else:
            self.replace(ids, values)


class MemoryGraphStore(GraphShard):
    """A whole graph."""

    @property
    def num_nodes(self) -> int:
        return self.spec.num_nodes

    @property
    def num_edges(self) -> int:
        return self.spec.num_edges

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        self.check_open()
        self.spec.check_query(nodes, fanout, self._device)
        sources, edge_ids, degrees = self.in_edges(nodes, fanout, seed)
        return InEdges(sources, nodes.repeat_interleave(degrees, output_size=edge_ids.numel()), edge_ids)


_Store = TypeVar("_Store", MemoryEmbeddingStore, MemoryTensorStore, MemoryGraphStore)


class MemoryBackend:
    """Stores in this process.

    Args:
        device: Where the rows live, for example ``"cpu"`` or ``"cuda:0"``.
    """

    name = "memory"

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        # The device of a tensor carries an index, "cuda" alone does not.
        self._device = torch.empty(0, device=device).device
        self._stores: dict[str, MemoryEmbeddingStore | MemoryTensorStore | MemoryGraphStore] | None = {}

    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        return self._attached(spec, MemoryEmbeddingStore) or self._keep(MemoryEmbeddingStore(spec, self._device))

    def open_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        return self._attached(spec, MemoryTensorStore) or self._keep(MemoryTensorStore(spec, self._device))

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store = self._attached(spec, MemoryGraphStore)
        if store is not None:
            if edge_index is not None and not store.holds(edge_index):
                raise NameConflictError(
                    f"the name {spec.name!r} is open as {spec} with other edges; choose another name"
                )
            return store
        if edge_index is None:
            raise RowsError(f"graph store {spec.name!r} is not open yet: give its edge_index of shape [2, E]")
        return self._keep(MemoryGraphStore(spec, edge_index, self._device))

    def close(self) -> None:
        for store in (self._stores or {}).values():
            store.close()
        self._stores = None

    def _attached(self, spec: Spec, kind: type[_Store]) -> _Store | None:
        if self._stores is None:
            raise StoreClosedError(f"the memory backend is closed, {spec} cannot be opened; call distgnn.use('memory')")
        store = self._stores.get(spec.name)
        if store is None or store.closed:
            return None
        check_same_spec(store.spec, spec)
        return store if isinstance(store, kind) else None

    def _keep(self, store: _Store) -> _Store:
        assert self._stores is not None
        self._stores[store.spec.name] = store
        return store


@hookimpl
def distgnn_backend() -> type[MemoryBackend]:
    """Offer the in-memory backend."""
    return MemoryBackend
