"""Saves one checkpoint after another until it is killed: run as ``python saving.py FOLDER FIRST``."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

from distgnn import EmbeddingSpec
from distgnn.backends.memory import MemoryBackend, MemoryEmbeddingStore
from distgnn.checkpoint import Checkpoint, prune_checkpoints
from distgnn.optim import SGD
from distgnn.train.session import Session

ROWS, COLUMNS = 100_000, 16


def saves() -> tuple[Checkpoint, torch.nn.Module, MemoryEmbeddingStore]:
    """Return a checkpoint of a parameter and of a table, and these; they are the step's number everywhere."""
    backend = MemoryBackend()
    model = torch.nn.Linear(1, 1)
    store = backend.open_embedding(EmbeddingSpec("table", ROWS, COLUMNS, std=0.0))
    return Checkpoint(Session(backend), {"model": model}, {"table": store}), model, store


if __name__ == "__main__":
    folder, first = Path(sys.argv[1]), int(sys.argv[2])
    checkpoint, model, table = saves()
    if first > 1:
        checkpoint.load(folder / f"step-{first - 1}")
    ids, ones = torch.arange(ROWS), torch.ones(ROWS, COLUMNS)
    print("ready", flush=True)  # noqa: T201  # for the test
    for step in itertools.count(first):
        table.apply_gradients(ids, -ones, SGD(lr=1.0))
        torch.nn.init.constant_(model.get_parameter("weight"), step)
        checkpoint.save(folder / f"step-{step}")
        prune_checkpoints(folder, 2)
