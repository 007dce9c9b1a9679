"""A rank's seeds, batch by batch."""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

from distgnn.distributed.communicator import all_gather_numbers, communicator_of
from distgnn.errors import ConfigError
from distgnn.storage.registry import get_backend
from distgnn.storage.toolkit.sampling import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from distgnn.distributed.communicator import Communicator
    from distgnn.graph.sampling.neighbor_sampler import NeighborSampler
    from distgnn.storage.protocols import Backend


class Batches(Sampler[list[int]]):
    """This rank's seeds of every batch, as positions.

    Args:
        sampler: Is told when an epoch begins.
        count: Number of seeds.
        seeds: What they are; compared between ranks.
        batch_size: Seeds a batch.
        shuffle: Another order in each epoch, by the sampler's seed.
        drop_last: Leave out a last batch that is not full.
        per_rank: The seeds are this rank's own.
        backend: Whose ranks take part; None is the one in use.

    Raises:
        ConfigError: Ranks have different arguments, or a batch has no seeds.
    """

    def __init__(
        self,
        sampler: NeighborSampler,
        count: int,
        seeds: Tensor,
        batch_size: int,
        *,
        shuffle: bool,
        drop_last: bool,
        per_rank: bool,
        backend: Backend | None,
    ) -> None:
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ConfigError(f"batch_size must be an integer of at least 1, not {batch_size!r}")
        self._sampler = sampler
        self._count, self._batch_size = count, batch_size
        self._shuffle = shuffle
        self._epoch = self._first = 0
        communicator = communicator_of(backend or get_backend())
        self._rank, self._world_size = communicator.rank, communicator.world_size
        self._own = self._length = count // batch_size if drop_last else -(-count // batch_size)
        self._several = self._world_size > 1
        if self._several:
            options = [sampler.num_neighbors, sampler.seed, sampler.disjoint, str(sampler.subgraph_type)]
            asked = repr([*options, shuffle, drop_last, per_rank, None if per_rank else batch_size]).encode()
            if not per_rank:
                asked += seeds.cpu().contiguous().numpy().tobytes()
            self._length = self._agree(communicator, zlib.crc32(asked))
        if per_rank:
            self._rank, self._world_size = 0, 1

    def check_workers(self, num_workers: int) -> None:
        """Refuse workers where calls of stores go to other ranks.

        Raises:
            ConfigError: There are workers, and other ranks.
        """
        if num_workers and self._several:
            raise ConfigError(
                f"num_workers={num_workers}: a worker process cannot call stores of several ranks; leave it at 0"
            )

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Make the next pass that of an epoch; without this call epochs count up.

        Args:
            epoch: Its number, from 0.
            first: How many of its batches are left out at its beginning, by a job that goes on within it.
        """
        self._epoch, self._first = epoch, first

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        # DataLoader's workers inherit the sampler, so the epoch begins here and not at the first batch. Where there are
        # workers DataLoader asks twice, so an epoch counts only when batches are taken.
        self._sampler.start_epoch(self._epoch, self._first)
        return itertools.islice(self._batches(self._epoch), self._first, None)

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        self._epoch, self._first = epoch + 1, 0
        order = torch.arange(self._count)
        if self._shuffle:
            order = torch.randperm(
                self._count, generator=torch.Generator().manual_seed(derive_seed(self._sampler.seed, epoch))
            )
        for start in range(0, self._own * self._batch_size, self._batch_size):
            yield order[start : start + self._batch_size][self._rank :: self._world_size].tolist()
        yield from ([] for _ in range(self._length - self._own))

    def _agree(self, communicator: Communicator, asked: int) -> int:
        """Return the largest number of batches of any rank, when all ask for the same loader."""
        answers = all_gather_numbers(communicator, [asked, self._own])
        for rank, (other, _) in enumerate(answers.tolist()):
            if other != answers[0, 0]:
                raise ConfigError(
                    f"ranks 0 and {rank} make different loaders: give every rank the same seeds and options, or each "
                    "its own seeds with per_rank=True"
                )
        return int(answers[:, 1].max())
