"""Opening stores on DGL's servers, on all ranks at once."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from distgnn.backends.dgl.alone import Alone
from distgnn.backends.dgl.cluster import Cluster
from distgnn.backends.dgl.rows import check_dtype
from distgnn.backends.dgl.stores import DGLEmbeddingStore, DGLGraphStore, DGLTensorStore
from distgnn.distributed.peers import PeerWatch
from distgnn.distributed.process_group import ProcessGroupCommunicator, check_met_before, new_gloo_group
from distgnn.distributed.rendezvous.join import connect_ranks, join_job
from distgnn.errors import StoreClosedError
from distgnn.storage.specs import GraphSpec
from distgnn.storage.toolkit.open_stores import OpenStores, already_open_error, edges_conflict_error, require_edges

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.backends.dgl.engine import Engine
    from distgnn.distributed.communicator import Communicator
    from distgnn.storage.specs import EmbeddingSpec, Spec, TensorSpec

_Store = TypeVar("_Store", DGLEmbeddingStore, DGLTensorStore, DGLGraphStore)
_engine: list[Engine] = []


class DGLBackend(OpenStores):
    """Stores on DGL's servers, one a host; alone, without a launcher, in this process.

    DGL has one client in a process. So the backends of a process share its servers, which end with the ranks.

    Args:
        timeout: Seconds that a rank waits for another, or for a server, before :class:`~distgnn.PeerLostError`.
        port: Where each host's server listens; 0 is any free port, of ``DISTGNN_PORTS`` where that is set.
    """

    name = "dgl"

    def __init__(self, *, timeout: float = 60.0, port: int = 0) -> None:
        self._engine = _joined(timeout, port)
        super().__init__()

    @property
    def communicator(self) -> Communicator:
        if self._stores is None:
            raise StoreClosedError("the dgl backend is closed, it has no communicator; call distgnn.use('dgl')")
        return self._engine.communicator

    @property
    def rank(self) -> int:
        return self._engine.rank

    @property
    def world_size(self) -> int:
        return self._engine.size

    def open_embedding(self, spec: EmbeddingSpec) -> DGLEmbeddingStore:
        store = self._agreed(spec, DGLEmbeddingStore)
        if store is None:
            check_dtype(spec)
            store = self.keep(DGLEmbeddingStore(spec, self._engine, self._engine.place(spec)))
        return store

    def open_tensor(self, spec: TensorSpec) -> DGLTensorStore:
        store = self._agreed(spec, DGLTensorStore)
        if store is None:
            check_dtype(spec)
            store = self.keep(DGLTensorStore(spec, self._engine, self._engine.place(spec)))
        return store

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> DGLGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        fingerprint = b"" if edge_index is None else _fingerprint(edge_index)
        store = self._agreed(spec, DGLGraphStore, fingerprint)
        if store is None:
            edges = require_edges(spec, edge_index)
            ranges = self._engine.new_ranges(spec.num_nodes)
            return self.keep(DGLGraphStore(spec, edges, fingerprint, self._engine, ranges))
        if edge_index is not None and fingerprint != store.fingerprint:
            raise edges_conflict_error(spec)
        return store

    def open_graph_part(self, spec: GraphSpec, edge_index: Tensor, edge_ids: Tensor) -> DGLGraphStore:
        spec.check_edges(edge_index, edge_ids)
        if self._agreed(spec, DGLGraphStore) is not None:
            raise already_open_error(spec)
        ranges = self._engine.new_ranges(spec.num_nodes)
        return self.keep(DGLGraphStore(spec, edge_index, b"", self._engine, ranges, edge_ids=edge_ids))

    def _agreed(self, spec: Spec, kind: type[_Store], fingerprint: bytes = b"") -> _Store | None:
        """Return the open store of that name, or None, when all ranks have asked for the same."""
        self.check_open(spec)
        check_met_before(self._engine.size, self.name)
        self._engine.together("open", (_sent(spec), fingerprint), f"opening of {spec}")
        return self.attached(spec, kind)


def _joined(timeout: float, port: int) -> Engine:
    """Return this process's engine, starting it for its first backend."""
    if not _engine:
        job = join_job(timeout, backend="dgl")
        if job.store is None:
            _engine.append(Alone())
        else:
            peers = PeerWatch(job.store, job.rank, job.size, timeout)
            with peers.connecting("the start of the job"):
                group = connect_ranks(job, timeout, lambda: new_gloo_group(timeout), peers.look)
                _engine.append(Cluster(job, timeout, port, peers))
            _engine[0].communicator = ProcessGroupCommunicator(group, peers=peers)
    _engine[0].set_timeout(timeout)
    _engine[0].check_alive("opening of the dgl backend")
    return _engine[0]


def _sent(spec: Spec) -> Spec:
    """Return what of a spec goes to servers: an order of ids may be large, and its digest is in the call's name."""
    return spec if isinstance(spec, GraphSpec) else replace(spec, partition=None)


def _fingerprint(edge_index: Tensor) -> bytes:
    return hashlib.blake2b(edge_index.cpu().contiguous().numpy().data, digest_size=16).digest()
