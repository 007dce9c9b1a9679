"""Opening stores on all ranks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from distgnn.backends.pyg.ranks import Ranks
from distgnn.backends.pyg.router import Router
from distgnn.backends.pyg.stores import PygEmbeddingStore, PygGraphStore, PygTensorStore
from distgnn.errors import NameConflictError
from distgnn.open_stores import OpenStores, needed_edges, other_edges
from distgnn.specs import EmbeddingSpec, GraphSpec, PartitionBook, Spec, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

_Store = TypeVar("_Store", PygEmbeddingStore, PygTensorStore, PygGraphStore)


class PygBackend(OpenStores):
    """Stores over the ranks of this job.

    Args:
        timeout: Seconds that a rank waits for another before :class:`~distgnn.PeerLostError`.
        buffer_bytes: How much a rank sends at once, about; larger requests are cut in rounds.
    """

    name = "pyg"

    def __init__(self, *, timeout: float = 60.0, buffer_bytes: int = 64 << 20) -> None:
        self._ranks: Ranks | None = Ranks(timeout)
        self._buffer_bytes = buffer_bytes
        super().__init__()

    @property
    def rank(self) -> int:
        return self._ranks.rank if self._ranks is not None else 0

    @property
    def world_size(self) -> int:
        return self._ranks.size if self._ranks is not None else 1

    def open_embedding(self, spec: EmbeddingSpec) -> PygEmbeddingStore:
        store = self._agreed(spec, PygEmbeddingStore)
        return store or self._keep(PygEmbeddingStore(spec, *self._placed(spec.num_embeddings)))

    def open_tensor(self, spec: TensorSpec) -> PygTensorStore:
        store = self._agreed(spec, PygTensorStore)
        return store or self._keep(PygTensorStore(spec, *self._placed(spec.shape[0])))

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> PygGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store = self._agreed(spec, PygGraphStore)
        if store is None:
            edges = needed_edges(spec, edge_index)
            return self._keep(PygGraphStore(spec, edges, *self._placed(spec.num_nodes)))
        assert self._ranks is not None
        other = edge_index is not None and not store.holds(edge_index)
        # A rank compares the edges of its own nodes; all of them must refuse, or none.
        if "other" in self._ranks.gather_texts("other" if other else "same", f"opening of {spec}"):
            raise other_edges(spec)
        return store

    def close(self) -> None:
        super().close()
        if self._ranks is not None:
            self._ranks.close()
        self._ranks = None

    def _agreed(self, spec: Spec, kind: type[_Store]) -> _Store | None:
        self._check_open(spec)
        assert self._ranks is not None
        for rank, asked in enumerate(self._ranks.gather_texts(str(spec), f"opening of {spec}")):
            if asked != str(spec):
                raise NameConflictError(
                    f"ranks open different stores at once: rank {self._ranks.rank} asks for {spec}, rank {rank} for "
                    f"{asked}; every rank must open the same stores in the same order"
                )
        return self._attached(spec, kind)

    def _placed(self, num_rows: int) -> tuple[Router, int, int]:
        assert self._ranks is not None
        book = PartitionBook.even(num_rows, self._ranks.size)
        start, stop = book.bounds[self._ranks.rank : self._ranks.rank + 2]
        return Router(self._ranks, book, self._buffer_bytes), start, stop
