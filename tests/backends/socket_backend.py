"""A backend of several ranks that has nothing of torch.distributed: every rank has all rows, and a socket joins them.

What changes rows goes to all ranks through a server of rank 0 on a Unix socket; each then does it by itself, in the
order of ranks.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import torch

import distgnn
from distgnn.distributed.communicator import all_gather_texts
from distgnn.storage.toolkit.local_stores import LocalEmbeddingStore, LocalGraphStore, LocalTensorStore
from distgnn.storage.toolkit.open_stores import OpenStores, edges_conflict_error, require_edges

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from distgnn.storage.specs import Spec

_HEAD = struct.Struct("<q")
_backends = itertools.count()  # every rank opens the same ones


def send(connection: socket.socket, *pieces: bytes) -> None:
    connection.sendall(b"".join(_HEAD.pack(len(piece)) + piece for piece in pieces))


def receive(connection: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            if not (some := connection.recv(min(count - len(found), 1 << 20))):
                raise ConnectionError("closed")
            found += some
        return bytes(found)

    return exactly(*_HEAD.unpack(exactly(_HEAD.size)))


def serve(listener: socket.socket, world_size: int, timeout: float) -> None:
    """Give everybody what everybody has sent, again and again; or the number of who does not send."""
    ranks: dict[int, socket.socket] = {}
    with listener, suppress(OSError):
        listener.settimeout(timeout)
        while len(ranks) < world_size:
            connection, _ = listener.accept()
            ranks[int(receive(connection))] = connection
        while True:
            messages: list[bytes] = []
            lost = -1
            for rank in range(world_size):
                try:
                    ranks[rank].settimeout(None if not messages and rank == 0 else timeout)
                    messages.append(receive(ranks[rank]))
                except OSError:  # noqa: PERF203  # it waits
                    lost = rank
                    break
            for connection in ranks.values():
                with suppress(OSError):
                    send(connection, b"%d" % lost, *([] if lost >= 0 else messages))
            if lost >= 0:
                break
    for connection in ranks.values():
        connection.close()


class SocketCommunicator:
    """Collectives written from one: everybody gets what everybody gives."""

    def __init__(self, timeout: float) -> None:
        self.rank, self.world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        address = f"\0distgnn-test/{os.environ.get('MASTER_PORT', os.getpid())}/{next(_backends)}"
        if self.rank == 0:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen(self.world_size)
            threading.Thread(target=serve, args=(listener, self.world_size, timeout), daemon=True).start()
        self._server = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + timeout
        while self._server.connect_ex(address) != 0:
            if time.monotonic() > deadline:
                raise distgnn.PeerLostError(f"rank 0 does not listen, found by rank {self.rank} in the start")
            time.sleep(0.01)
        self._server.settimeout(2 * timeout)  # the server tells whom it waits for
        send(self._server, b"%d" % self.rank)
        self._failure = ""

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        if op not in {"sum", "max"}:
            raise ValueError(f"op must be 'sum' or 'max', not {op!r}")
        found = torch.stack(self._exchange(tensor, "all-reduce"))
        return (found.sum(dim=0) if op == "sum" else found.amax(dim=0)).to(tensor.dtype)

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return self._exchange(tensor, "all-gather")

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        if not 0 <= source < self.world_size:
            raise ValueError(f"source must be a rank from 0 to {self.world_size - 1}, not {source}")
        return self._exchange(tensor, "broadcast")[source]

    def _exchange(self, tensor: Tensor, call: str) -> list[Tensor]:
        if self._failure:
            raise distgnn.PeerLostError(self._failure)
        content = io.BytesIO()
        torch.save(tensor.detach().clone(memory_format=torch.contiguous_format), content)
        try:
            send(self._server, content.getvalue())
            lost = int(receive(self._server))
            if lost < 0:
                messages = [receive(self._server) for _ in range(self.world_size)]
                return [torch.load(io.BytesIO(one), weights_only=True) for one in messages]
        except OSError:
            lost = 0
        self._failure = f"rank {lost} is gone or silent, noticed by rank {self.rank} in an {call}"
        raise distgnn.PeerLostError(self._failure)

    def close(self) -> None:
        self._server.close()


class SocketEmbeddingStore:
    def __init__(self, spec: distgnn.EmbeddingSpec, ranks: SocketCommunicator) -> None:
        self._all, self._ranks = LocalEmbeddingStore(spec, torch.device("cpu")), ranks
        self.spec, self.num_embeddings, self.embedding_dim = spec, spec.num_embeddings, spec.embedding_dim

    @property
    def closed(self) -> bool:
        return self._all.closed

    def lookup(self, ids: Tensor) -> Tensor:
        return self._all.lookup(ids)

    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: distgnn.UpdateRule) -> None:
        self._all.check_open()
        self.spec.check_gradients(ids, gradients, torch.device("cpu"))
        everyone, rows = (torch.cat(self._ranks.all_gather(each)) for each in (ids, gradients))
        self._all.apply_gradients(everyone, rows, rule)

    def close(self) -> None:
        self._all.close()


class SocketTensorStore:
    def __init__(self, spec: distgnn.TensorSpec, ranks: SocketCommunicator) -> None:
        self._all, self._ranks = LocalTensorStore(spec, torch.device("cpu")), ranks
        self.spec, self.shape, self.dtype = spec, spec.shape, spec.dtype

    @property
    def closed(self) -> bool:
        return self._all.closed

    def read(self, ids: Tensor) -> Tensor:
        return self._all.read(ids)

    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        self._all.check_open()
        self.spec.check_values(ids, values, torch.device("cpu"))
        everyone, rows = (torch.cat(self._ranks.all_gather(each)) for each in (ids, values))
        self._all.write(everyone, rows, accumulate=accumulate)

    def close(self) -> None:
        self._all.close()


_Store = TypeVar("_Store", SocketEmbeddingStore, SocketTensorStore, LocalGraphStore)


class SocketBackend(OpenStores):
    """Stores that every rank has whole.

    Args:
        timeout: Seconds that a rank waits for another.
    """

    name = "sockets"

    def __init__(self, *, timeout: float = 60.0) -> None:
        self.communicator = SocketCommunicator(timeout)
        self.rank, self.world_size = self.communicator.rank, self.communicator.world_size
        super().__init__()

    def open_embedding(self, spec: distgnn.EmbeddingSpec) -> SocketEmbeddingStore:
        store = self._agreed(spec, SocketEmbeddingStore)
        return store or self.keep(SocketEmbeddingStore(spec, self.communicator))

    def open_tensor(self, spec: distgnn.TensorSpec) -> SocketTensorStore:
        store = self._agreed(spec, SocketTensorStore)
        return store or self.keep(SocketTensorStore(spec, self.communicator))

    def open_graph(self, spec: distgnn.GraphSpec, edge_index: Tensor | None = None) -> LocalGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store = self._agreed(spec, LocalGraphStore)
        if store is None:
            return self.keep(LocalGraphStore(spec, require_edges(spec, edge_index), torch.device("cpu")))
        if edge_index is not None and not store.holds(edge_index):
            raise edges_conflict_error(spec)
        return store

    def close(self) -> None:
        super().close()
        self.communicator.close()

    def _agreed(self, spec: Spec, kind: type[_Store]) -> _Store | None:
        self.check_open(spec)
        for rank, asked in enumerate(all_gather_texts(self.communicator, str(spec))):
            if asked != str(spec):
                raise distgnn.NameConflictError(
                    f"ranks open different stores at once: rank {self.rank} asks for {spec}, rank {rank} for {asked}"
                )
        return self.attached(spec, kind)


def install(folder: Path) -> Path:
    """Install the backend as pip would, in a folder to look for modules in."""
    metadata = folder / "distgnn_sockets-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: distgnn-sockets\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[distgnn]\nsockets = {__name__}\n")
    return folder


@distgnn.hookimpl
def distgnn_backend() -> type[SocketBackend]:
    return SocketBackend
