"""The ``memory`` backend: every row in this process. The default, the reference, and the double in unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.hookspecs import hookimpl
from distgnn.open_stores import OpenStores, needed_edges, other_edges
from distgnn.protocols import InEdges
from distgnn.shards import EmbeddingShard, GraphShard, TensorShard, grown

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.protocols import UpdateRule
    from distgnn.specs import EmbeddingSpec, GraphSpec, TensorSpec


class MemoryEmbeddingStore(EmbeddingShard):
    """A whole table."""

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def resize(self, num_embeddings: int) -> None:
        self.check_open()
        larger = EmbeddingShard(grown(self.spec, num_embeddings), self._device)
        larger.reset_rule_states(self.rule_states())
        larger.import_rows(0, self.export_rows(0, self.num_embeddings))
        vars(self).update(vars(larger))

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


class MemoryBackend(OpenStores):
    """Stores in this process.

    Args:
        device: Where the rows live, for example ``"cpu"`` or ``"cuda:0"``.
    """

    name = "memory"

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        # The device of a tensor carries an index, "cuda" alone does not.
        self._device = torch.empty(0, device=device).device
        super().__init__()

    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        store = self._attached(spec, MemoryEmbeddingStore)
        return store or self._keep(MemoryEmbeddingStore(spec, self._device))

    def open_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        store = self._attached(spec, MemoryTensorStore)
        return store or self._keep(MemoryTensorStore(spec, self._device))

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store = self._attached(spec, MemoryGraphStore)
        if store is None:
            return self._keep(MemoryGraphStore(spec, needed_edges(spec, edge_index), self._device))
        if edge_index is not None and not store.holds(edge_index):
            raise other_edges(spec)
        return store


@hookimpl
def distgnn_backend() -> type[MemoryBackend]:
    """Offer the in-memory backend."""
    return MemoryBackend
