"""Opening stores on all ranks at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from distgnn.backends.pyg.prefetch import Prefetcher, Turns
from distgnn.backends.pyg.ranks import Ranks
from distgnn.backends.pyg.router import Router
from distgnn.backends.pyg.stores import PygEmbeddingStore, PygGraphStore, PygTensorStore
from distgnn.distributed.process_group import check_met_before
from distgnn.errors import NameConflictError, StoreClosedError
from distgnn.storage.specs import EmbeddingSpec, GraphSpec, PartitionBook, Spec, TensorSpec
from distgnn.storage.toolkit.open_stores import OpenStores, already_open_error, edges_conflict_error, require_edges
from distgnn.storage.toolkit.row_shard import book_for

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.distributed.communicator import Communicator

_CLOSING = 1.0  # seconds that close() waits for a prefetch which nobody ended

_Store = TypeVar("_Store", PygEmbeddingStore, PygTensorStore, PygGraphStore)


class PygBackend(OpenStores):
    """Stores over the ranks of this job.

    Args:
        timeout: Seconds that a rank waits for another before :class:`~distgnn.PeerLostError`.
        buffer_bytes: How much a rank sends at once, about; larger requests are cut in rounds.
        share_memory: Whether ranks of one host exchange rows through shared memory, which is faster than its network.
    """

    name = "pyg"

    def __init__(self, *, timeout: float = 60.0, buffer_bytes: int = 64 << 20, share_memory: bool = True) -> None:
        self._new_ranks = partial(Ranks, timeout, share_memory=share_memory)
        self._ranks: Ranks | None = self._new_ranks()
        self._background: Ranks | None = None  # for the threads that prefetch
        self._turns = Turns()
        self._buffer_bytes = buffer_bytes
        super().__init__()

    @property
    def communicator(self) -> Communicator:
        if self._ranks is None:
            raise StoreClosedError("the pyg backend is closed, it has no communicator; call distgnn.use('pyg')")
        return self._ranks.communicator

    @property
    def rank(self) -> int:
        return self._ranks.rank if self._ranks is not None else 0

    @property
    def world_size(self) -> int:
        return self._ranks.size if self._ranks is not None else 1

    @property
    def bytes_sent(self) -> int:
        return sum(ranks.bytes_sent for ranks in (self._ranks, self._background) if ranks is not None)

    def open_embedding(self, spec: EmbeddingSpec) -> PygEmbeddingStore:
        store = self._agreed(spec, PygEmbeddingStore)
        return store or self.keep(PygEmbeddingStore(spec, self._router_of, self._prefetcher))

    def open_tensor(self, spec: TensorSpec) -> PygTensorStore:
        store = self._agreed(spec, PygTensorStore)
        return store or self.keep(PygTensorStore(spec, self._router_of(spec)))

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> PygGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store = self._agreed(spec, PygGraphStore)
        if store is None:
            edges = require_edges(spec, edge_index)
            return self.keep(PygGraphStore(spec, edges, self._router_of_nodes(spec)))
        assert self._ranks is not None
        other = edge_index is not None and not store.holds(edge_index)
        # A rank compares the edges of its own nodes; all of them must refuse, or none.
        if "other" in self._ranks.gather_texts("other" if other else "same", f"opening of {spec}"):
            raise edges_conflict_error(spec)
        return store

    def open_graph_part(self, spec: GraphSpec, edge_index: Tensor, edge_ids: Tensor) -> PygGraphStore:
        spec.check_edges(edge_index, edge_ids)
        if self._agreed(spec, PygGraphStore) is not None:
            raise already_open_error(spec)
        return self.keep(PygGraphStore(spec, edge_index, self._router_of_nodes(spec), edge_ids=edge_ids))

    def close(self) -> None:
        super().close()
        self._turns.wait(_CLOSING)
        for ranks in (self._background, self._ranks):
            if ranks is not None:
                ranks.close()
        self._ranks = self._background = None

    def _agreed(self, spec: Spec, kind: type[_Store]) -> _Store | None:
        self.check_open(spec)
        assert self._ranks is not None
        check_met_before(self._ranks.size, self.name)
        for rank, asked in enumerate(self._ranks.gather_texts(str(spec), f"opening of {spec}")):
            if asked != str(spec):
                raise NameConflictError(
                    f"ranks open different stores at once: rank {self._ranks.rank} asks for {spec}, rank {rank} for "
                    f"{asked}; every rank must open the same stores in the same order"
                )
        return self.attached(spec, kind)

    def _router_of(self, spec: EmbeddingSpec | TensorSpec) -> Router:
        assert self._ranks is not None
        return Router(self._ranks, book_for(spec, self._ranks.size), self._buffer_bytes)

    def _router_of_nodes(self, spec: GraphSpec) -> Router:
        assert self._ranks is not None
        return Router(self._ranks, PartitionBook.even(spec.num_nodes, self._ranks.size), self._buffer_bytes)

    def _prefetcher(self, router: Router, rows: Tensor) -> Prefetcher:
        if self._background is None:
            assert self._ranks is not None
            self._background = self._new_ranks(peers=self._ranks.peers)
        background = Router(self._background, router.book, self._buffer_bytes)
        return Prefetcher(router, background, self._turns, rows)
