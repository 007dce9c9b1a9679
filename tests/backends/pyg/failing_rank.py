"""What a rank does in ``test_pyg_failures``: run as ``python failing_rank.py WHAT TIMEOUT [network]``."""

from __future__ import annotations

import faulthandler
import sys
import time

import torch

from distgnn import EmbeddingSpec, NameConflictError, PeerLostError
from distgnn.backends.pyg import PygBackend
from distgnn.optim import SGD


def say(text: str) -> None:
    """Tell the test."""
    print(text)  # noqa: T201  # it reads the output


def start(backend: PygBackend) -> None:
    """Only meet the others."""


def lookups(backend: PygBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    for done in range(10**9):
        store.lookup(torch.randint(0, 1000, (500,)))
        if done == 20:
            say("working")


def updates(backend: PygBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    for done in range(10**9):
        store.apply_gradients(torch.randint(0, 1000, (500,)), torch.zeros(500, 16), SGD(lr=0.1))
        if done == 20:
            say("working")


def disagreements(backend: PygBackend) -> None:
    try:
        backend.open_embedding(EmbeddingSpec("words", 1000, 16 if backend.rank == 1 else 32))
    except NameConflictError as error:
        say(f"NameConflictError: {error}")
    words, tags = (backend.open_embedding(EmbeddingSpec(name, 100, 4)) for name in ("words", "tags"))
    words.lookup(torch.arange(3))
    for store in [tags, words] if backend.rank == 2 else [words, tags]:
        store.lookup(torch.arange(3))


def bad_ids(backend: PygBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    store.lookup(torch.arange(10))
    store.lookup(torch.tensor([1000 if backend.rank == 1 else 1]))


def late(backend: PygBackend) -> None:
    store = backend.open_embedding(EmbeddingSpec("words", 1000, 16))
    time.sleep(2 if backend.rank == 1 else 0)
    for _ in range(2):  # a message that waits for the late rank is good for one
        store.lookup(torch.arange(10))


def main() -> None:
    faulthandler.dump_traceback_later(60, exit=True)
    say("starting")
    if sys.argv[1] != "start":
        PygBackend(timeout=30).close()  # processes start seconds apart on a busy machine, and calls wait for less
    begin = time.monotonic()
    try:
        backend = PygBackend(timeout=float(sys.argv[2]), share_memory="network" not in sys.argv)
    except PeerLostError:
        say(f"waited {time.monotonic() - begin:.0f} s")
        raise
    try:
        globals()[sys.argv[1]](backend)
    finally:
        begin = time.monotonic()
        backend.close()
        say(f"closed in {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
