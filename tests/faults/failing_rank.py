"""What a rank does when others fail: run as ``python failing_rank.py BACKEND WHAT TIMEOUT``."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Protocol

import torch

import distgnn
from distgnn import EmbeddingSpec, GraphSpec, NameConflictError, PeerLostError, TensorSpec
from distgnn.optim import SGD


class SpreadBackend(distgnn.Backend, distgnn.SupportsRanks, Protocol):
    """A backend of several ranks."""


def opened(name: str, timeout: float, **options: int) -> SpreadBackend:
    backend = distgnn.use(name, timeout=timeout, **options).backend
    assert isinstance(backend, distgnn.SupportsRanks)
    return backend


def say(text: str) -> None:
    """Tell the test."""
    print(text)  # noqa: T201  # it reads the output


def start(backend: SpreadBackend) -> None:
    """Only meet the others."""


def lookups(backend: SpreadBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    for done in range(10**9):
        store.lookup(torch.randint(0, 1000, (500,)))
        if done == 20:
            say("working")


def updates(backend: SpreadBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    for done in range(10**9):
        store.apply_gradients(torch.randint(0, 1000, (500,)), torch.zeros(500, 16), SGD(lr=0.1))
        if done == 20:
            say("working")


def writes(backend: SpreadBackend) -> None:
    store = backend.open_tensor(TensorSpec("layer", (1000, 16)))
    for done in range(10**9):
        store.write(torch.randint(0, 1000, (500,)), torch.ones(500, 16), accumulate=True)
        if done == 20:
            say("working")


def openings(backend: SpreadBackend) -> None:
    for done in range(10**9):
        backend.open_embedding(EmbeddingSpec(f"words-{done}", 1000, 16)).lookup(torch.arange(3))
        if done == 3:
            say("working")


def saves(backend: SpreadBackend) -> None:
    """Save to the folder ``SAVES`` again and again."""
    from distgnn.checkpoint import Checkpoint, prune_checkpoints  # the other ranks start without PyG
    from distgnn.train.session import Session

    store = backend.open_embedding(EmbeddingSpec("words", 20_000, 16))
    checkpoint = Checkpoint(Session(backend), {"layer": torch.nn.Linear(2, 2)}, {"words": store})
    for done in range(10**9):
        checkpoint.save(Path(os.environ["SAVES"], f"step-{done}"))
        if backend.rank == 0:
            prune_checkpoints(os.environ["SAVES"], 2)
        if done == 2:
            say("working")


def gradients(backend: SpreadBackend) -> None:
    from distgnn.train.session import Session

    wrapped = Session(backend).wrap(torch.nn.Linear(64, 64), sync_batch_norm=False)
    for done in range(10**9):
        wrapped(torch.randn(8, 64)).sum().backward()
        if done == 5:
            say("working")


def normalization(backend: SpreadBackend) -> None:
    from distgnn.nn.norm.sync_batch_norm import convert_sync_batch_norm

    norm = convert_sync_batch_norm(torch.nn.BatchNorm1d(8), backend.communicator)
    for done in range(10**9):
        norm(torch.randn(5, 8)).square().sum().backward()
        if done == 5:
            say("working")


def session_calls(backend: SpreadBackend) -> None:
    from distgnn.train.session import Session

    session = Session(backend)
    for done in range(10**9):
        session.sum([1.0])
        session.gather(torch.ones(3, 2))
        session.texts("words")
        session.from_main(torch.ones(4))
        if done == 5:
            say("working")


def barriers(backend: SpreadBackend) -> None:
    from distgnn.distributed.communicator import barrier

    for done in range(10**9):
        barrier(backend.communicator)
        if done == 20:
            say("working")


def samples_and_barriers(backend: SpreadBackend) -> None:
    """Rank 0 asks a server, and the others wait for rank 0."""
    from distgnn.distributed.communicator import barrier

    graph = backend.open_graph(GraphSpec("graph", 100, 500), torch.randint(0, 100, (2, 500)))
    for done in range(10**9):
        if backend.rank == 0:
            graph.in_neighbors(torch.arange(50), 3, seed=done)
        barrier(backend.communicator)
        if done == 20:
            say("working")


def works(backend: SpreadBackend) -> None:
    """Wait for rank 0, which works for longer than the timeout, and then on and on."""
    from distgnn.distributed.work import work_of_one

    timeout = float(sys.argv[3])
    work_of_one(backend.communicator, lambda: time.sleep(1.5 * timeout), "a long work")
    say("working")
    work_of_one(backend.communicator, lambda: time.sleep(1e6), "a longer work")


def jumps(backend: SpreadBackend) -> None:
    """Work on while this process's clock jumps by days, to and fro."""
    store = backend.open_embedding(EmbeddingSpec("words", 50, 4, std=0.0))
    wall = time.time
    for done in range(200):
        days = 2 if done % 2 else -2
        time.time = lambda days=days: wall() + 86_400 * days  # type: ignore[misc]
        store.apply_gradients(torch.arange(50), torch.ones(50, 4), SGD(lr=1.0))
    assert (store.lookup(torch.arange(50)) == -200.0 * backend.world_size).all()
    say("ended")


def huge(backend: SpreadBackend) -> None:
    # Should nothing stop it before, this does: the kernel would end processes of others for the sake of the memory.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
    backend.open_embedding(EmbeddingSpec("words", 1 << 40, 64))


def disagreements(backend: SpreadBackend) -> None:
    try:
        backend.open_embedding(EmbeddingSpec("words", 1000, 16 if backend.rank == 1 else 32))
    except NameConflictError as error:
        say(f"NameConflictError: {error}")
    words, tags = (backend.open_embedding(EmbeddingSpec(name, 100, 4)) for name in ("words", "tags"))
    words.lookup(torch.arange(3))
    for store in [tags, words] if backend.rank == 2 else [words, tags]:
        store.lookup(torch.arange(3))


def bad_ids(backend: SpreadBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    store.lookup(torch.arange(10))
    store.lookup(torch.tensor([1000 if backend.rank == 1 else 1]))


def late(backend: SpreadBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    time.sleep(2 if backend.rank == 1 else 0)
    for _ in range(2):  # a message that waits for the late rank is good for one
        store.lookup(torch.arange(10))


def late_update(backend: SpreadBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    time.sleep(2 if backend.rank == 1 else 0)
    store.apply_gradients(torch.arange(10), torch.zeros(10, 16), SGD())


def bad_update(backend: SpreadBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    store.apply_gradients(torch.tensor([1000 if backend.rank == 1 else 1]), torch.zeros(1, 16), SGD())


def main() -> None:
    faulthandler.dump_traceback_later(600, exit=True)
    say("starting")
    name, what, timeout = sys.argv[1], sys.argv[2], float(sys.argv[3])
    if what != "start":
        opened(
            name, max(30.0, 3 * timeout)
        ).close()  # processes start seconds apart on a busy machine, and calls wait for less
    begin = time.monotonic()
    try:
        backend = opened(name, timeout, **json.loads(os.environ.get("OPTIONS", "{}")))
    except PeerLostError:
        say(f"waited {time.monotonic() - begin:.0f} s")
        raise
    try:
        globals()[what](backend)
    finally:
        begin = time.monotonic()
        backend.close()
        say("closed at once" if time.monotonic() - begin < timeout else "closed late")


if __name__ == "__main__":
    main()
