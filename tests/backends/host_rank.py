"""What a rank does on a host of its own: run as ``python host_rank.py BACKEND WHAT``."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from typing import TYPE_CHECKING

import psutil
import torch

import distgnn
from distgnn import EmbeddingSpec, GraphSpec, PartitionBook, SupportsCheckpoint, TensorSpec
from distgnn.backends.memory import MemoryBackend
from distgnn.distributed.communicator import barrier, communicator_of
from distgnn.optim import Adam

if TYPE_CHECKING:
    from tests.faults.failing_rank import SpreadBackend


def opened(name: str, timeout: float) -> SpreadBackend:
    return distgnn.use(name, timeout=timeout).backend  # type: ignore[return-value]  # it has ranks


def start(backend: SpreadBackend) -> None:
    """Only meet the other."""


def compare(backend: SpreadBackend) -> None:
    """Call every store once with each rank's own numbers, and the memory backend with those of both."""
    memory = MemoryBackend()
    mine = slice(backend.rank, None, 2)
    numbers = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50_000, (20_000,), generator=numbers)
    rows = torch.randint(-8, 9, (20_000, 32), generator=numbers) / 8

    spec = EmbeddingSpec("words", 50_000, 32)
    table, expected_table = backend.open_embedding(spec), memory.open_embedding(spec)
    for _ in range(3):
        table.apply_gradients(ids[mine], rows[mine], Adam(lr=0.1))
        expected_table.apply_gradients(ids, rows, Adam(lr=0.1))
    torch.testing.assert_close(table.lookup(ids[mine]), expected_table.lookup(ids[mine]), rtol=1e-5, atol=1e-5)

    layer = TensorSpec("layer", (50_000, 32))
    tensor, expected_tensor = backend.open_tensor(layer), memory.open_tensor(layer)
    tensor.write(ids[mine], rows[mine], accumulate=True)
    expected_tensor.write(ids, rows, accumulate=True)
    assert torch.equal(tensor.read(ids[mine]), expected_tensor.read(ids[mine]))

    edges = torch.randint(0, 50_000, (2, 200_000), generator=numbers)
    shape = GraphSpec("graph", 50_000, 200_000)
    graph, expected_graph = backend.open_graph(shape, edges), memory.open_graph(shape, edges)
    got, expected = graph.in_neighbors(ids[mine], 3, seed=1), expected_graph.in_neighbors(ids[mine], 3, seed=1)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def place(backend: SpreadBackend) -> None:
    """Place rows by a book, and compare all of them, and those that each rank takes out."""
    memory, ranks = MemoryBackend(), backend.world_size
    mine, everything = slice(backend.rank, None, ranks), torch.arange(5000)
    numbers = torch.Generator().manual_seed(0)
    order = torch.randperm(5000, generator=numbers)
    ids = torch.randint(0, 5000, (3000,), generator=numbers)
    rows = torch.randint(-8, 9, (3000, 32), generator=numbers) / 8
    bounds = tuple(5000 * rank**2 // ranks**2 for rank in range(ranks + 1))
    for book in (PartitionBook(bounds, order), PartitionBook(bounds)):
        spec = EmbeddingSpec("words", 5000, 32, partition=book)
        table, expected = backend.open_embedding(spec), memory.open_embedding(spec)
        for _ in range(3):
            table.apply_gradients(ids[mine], rows[mine], Adam(lr=0.1))
            expected.apply_gradients(ids, rows, Adam(lr=0.1))
        found = table.lookup(everything)
        torch.testing.assert_close(found, expected.lookup(everything), rtol=1e-5, atol=1e-5)
        assert isinstance(table, SupportsCheckpoint)
        own = book.own(backend.rank)
        assert table.own_rows == own
        for begin, end in ((own.start, own.stop), (own.start + len(own) // 3, own.stop - len(own) // 3)):
            taken = table.export_rows(begin, end)
            assert torch.equal(taken["rows"], found[book.ids(begin, end)])
            moments = expected.export_rows(0, 5000)["adam/exp_avg"][book.ids(begin, end)]
            torch.testing.assert_close(taken["adam/exp_avg"], moments, rtol=1e-5, atol=1e-5)
        barrier(communicator_of(backend))
        table.import_rows(own.start, {name: one + 1 for name, one in table.export_rows(own.start, own.stop).items()})
        barrier(communicator_of(backend))
        assert torch.equal(table.lookup(everything), found + 1)
        tensor = backend.open_tensor(TensorSpec("layer", (5000, 32), partition=book))
        tensor.write(ids[mine], rows[mine], accumulate=True)
        assert torch.equal(tensor.read(everything), torch.zeros(5000, 32).index_add_(0, ids, rows))
        for store in (table, expected, tensor):
            store.close()


def lookups(backend: SpreadBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    for done in range(10**9):
        store.lookup(torch.randint(0, 1000, (500,)))
        if done == 20:
            sys.stdout.write("working\n")


def ports(_: SpreadBackend) -> None:
    """Tell where this process listens, and where its children do."""
    processes = [psutil.Process(), *psutil.Process().children()]
    found = [
        [one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        for process in processes
    ]
    sys.stdout.write(json.dumps([found[0], [port for ports in found[1:] for port in ports]]))


def main() -> None:
    faulthandler.dump_traceback_later(600, exit=True)
    name, what = sys.argv[1:]
    timeout = float(os.environ["PATIENCE"])
    if what != "start":
        opened(name, max(30.0, 3 * timeout)).close()  # processes start seconds apart on a busy machine
    backend = opened(name, timeout)
    try:
        globals()[what](backend)
    finally:
        backend.close()
        sys.stdout.write("closed\n")


if __name__ == "__main__":
    main()
