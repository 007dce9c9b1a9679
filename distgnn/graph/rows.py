"""Tensor stores of rows that every rank has whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.distributed.communicator import rank_and_world_size
from distgnn.nn.embedding import default_name
from distgnn.storage.registry import get_backend
from distgnn.storage.specs import PartitionBook, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.protocols import Backend, TensorStore


def open_rows(rows: Tensor, *, name: str | None = None, backend: Backend | None = None) -> TensorStore:
    """Put rows into a new tensor store, of which each rank writes its share; collective.

    Args:
        rows: ``[N, ...]``, the same on every rank, such as features of all nodes.
        name: Of the store; by default a new one.
        backend: Where it is opened; by default the one in use.

    Returns:
        The store; close it when it is done with.
    """
    backend = backend or get_backend()
    rank, world_size = rank_and_world_size(backend)
    own = slice(*PartitionBook.even(len(rows), world_size).bounds[rank : rank + 2])
    store = backend.open_tensor(TensorSpec(name or default_name("rows"), tuple(rows.shape), rows.dtype))
    store.write(torch.arange(own.start, own.stop), rows[own])
    return store
