"""The ranks that share a backend's stores, for code that knows no backend by name."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import torch

from distgnn.protocols import SupportsRanks
from distgnn.specs import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from distgnn.protocols import Backend


def rank_and_world_size(backend: Backend) -> tuple[int, int]:
    """Return this process's rank and how many there are; a backend that knows of no ranks is a world of one."""
    return (backend.rank, backend.world_size) if isinstance(backend, SupportsRanks) else (0, 1)


def gather_numbers(backend: Backend, name: str, numbers: Sequence[int]) -> Tensor:
    """Return the whole numbers of every rank, ``[world_size, len(numbers)]`` int64. Collective.

    Args:
        backend: Whose ranks they are.
        name: Of the tensor store that brings them; not open, and closed afterwards.
        numbers: As many on each rank, and at least one.
    """
    rank, world_size = rank_and_world_size(backend)
    with closing(backend.open_tensor(TensorSpec(name, (world_size, len(numbers)), torch.int64))) as store:
        store.write(torch.tensor([rank]), torch.tensor([list(numbers)]))
        return store.read(torch.arange(world_size))
