"""Stores and backends of one process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch

from distgnn.storage.protocols import EmbeddingStore, GraphStore, InEdges, TensorStore
from distgnn.storage.toolkit.graph_shard import GraphShard
from distgnn.storage.toolkit.open_stores import OpenStore, OpenStores, edges_conflict_error, require_edges
from distgnn.storage.toolkit.row_shard import EmbeddingShard, TensorShard, resized_spec

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.protocols import UpdateRule
    from distgnn.storage.specs import EmbeddingSpec, GraphSpec, TensorSpec

CPU = torch.device("cpu")


class LocalEmbeddingStore(EmbeddingShard):
    """A whole table in the memory of this process."""

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def resize(self, num_embeddings: int) -> None:
        self.check_open()
        larger = EmbeddingShard(resized_spec(self.spec, num_embeddings), self._device)
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


class LocalTensorStore(TensorShard):
    """A whole tensor in the memory of this process."""

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


class LocalGraphStore(GraphShard):
    """A whole graph in the memory of this process."""

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


class OpenEmbedding(EmbeddingStore, OpenStore, Protocol):
    """A table that a backend keeps among its open stores."""


class OpenTensor(TensorStore, OpenStore, Protocol):
    """A tensor that a backend keeps among its open stores."""


class OpenGraph(GraphStore, OpenStore, Protocol):
    """A graph that a backend keeps among its open stores."""

    def holds(self, edge_index: Tensor) -> bool:
        """Return whether the graph was made from these edges, ``[2, E]``."""
        ...


_Embedding = TypeVar("_Embedding", bound=OpenEmbedding)
_Tensor = TypeVar("_Tensor", bound=OpenTensor)


class LocalBackend(OpenStores, ABC, Generic[_Embedding, _Tensor]):
    """A backend of one process; a base class.

    A subclass has a ``name``, and makes stores; this class attaches to those that are open, and closes them.
    """

    @abstractmethod
    def new_embedding(self, spec: EmbeddingSpec) -> _Embedding:
        """Return a table of initial rows."""

    @abstractmethod
    def new_tensor(self, spec: TensorSpec) -> _Tensor:
        """Return a tensor of zeros."""

    def new_graph(self, spec: GraphSpec, edge_index: Tensor) -> OpenGraph:
        """Return a graph; it is in memory unless a subclass says otherwise."""
        return LocalGraphStore(spec, edge_index, CPU)

    def open_embedding(self, spec: EmbeddingSpec) -> _Embedding:
        store: _Embedding | None = self.attached(spec)
        return store or self.keep(self.new_embedding(spec))

    def open_tensor(self, spec: TensorSpec) -> _Tensor:
        store: _Tensor | None = self.attached(spec)
        return store or self.keep(self.new_tensor(spec))

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> GraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store: OpenGraph | None = self.attached(spec)
        if store is None:
            return self.keep(self.new_graph(spec, require_edges(spec, edge_index)))
        if edge_index is not None and not store.holds(edge_index):
            raise edges_conflict_error(spec)
        return store
