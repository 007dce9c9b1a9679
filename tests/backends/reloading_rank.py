"""A rank that saves or loads a table, run as ``python reloading_rank.py save|load FOLDER``; prints megabytes.

It shares no memory with other ranks, so that what it uses is its own.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import distgnn
from distgnn import EmbeddingSpec
from distgnn.backends.pyg.backend import PygBackend
from distgnn.checkpoint import Checkpoint
from distgnn.optim import SGD
from distgnn.storage.toolkit.initial import initial_rows
from distgnn.train.session import Session

if TYPE_CHECKING:
    from distgnn.backends.pyg.stores import PygEmbeddingStore

LARGE = EmbeddingSpec("large", 400_000, 64)  # 98 MB


def megabytes(field: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 2**10


def opened(backend: PygBackend, spec: EmbeddingSpec) -> tuple[PygEmbeddingStore, Checkpoint]:
    store = backend.open_embedding(spec)
    return store, Checkpoint(Session(backend), {}, {"table": store})


def main() -> None:
    work, folder = sys.argv[1:]
    torch.set_num_threads(1)
    with distgnn.use("pyg", timeout=30, share_memory=False) as backend:
        assert isinstance(backend, PygBackend)
        small, _ = opened(backend, EmbeddingSpec("small", 99, 64))
        small.apply_gradients(torch.arange(9), torch.ones(9, 64), SGD())  # what libraries keep is not counted
        Path("/proc/self/clear_refs").write_text("5")
        before = megabytes("VmRSS")
        store, checkpoint = opened(backend, replace(LARGE, seed=1 if work == "load" else 0))
        getattr(checkpoint, work)(Path(folder) / "one")
        peak = megabytes("VmHWM") - before
        own = store.own_rows
        assert torch.equal(store.export_rows(own.start, own.stop)["rows"], initial_rows(LARGE, own.start, own.stop))
        print("megabytes", peak, len(own) * 256 / 2**20)  # noqa: T201  # the test reads it


if __name__ == "__main__":
    main()
