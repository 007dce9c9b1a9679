"""The ranks of a training job: how they find each other, and what they do together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from distgnn.distributed.cluster_file import Machine, join_ip_config, read_ip_config
from distgnn.distributed.launcher import launched_size
from distgnn.errors import ConfigError
from distgnn.nn.sync_batch_norm import convert_sync_batch_norm
from distgnn.ranks import rank_and_world_size
from distgnn.train.gradients import GradientSums
from distgnn.train.timeline import Timeline, timed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor
    from torch.nn import Module

    from distgnn.protocols import Backend

__all__ = ["Machine", "Session", "join_ip_config", "read_ip_config"]
_TEXT_BYTES = 1000


class Session:
    """This process's part in a job.

    Args:
        backend: Its ranks are those of the job; a backend that knows of no ranks is a job of one.
        timeline: Notes what the rank does, where it is on; None notes nothing.

    Attributes:
        backend: The backend; with a timeline that is on, one that does the same and notes it.
        timeline: The timeline.
        rank: This process's rank.
        world_size: How many ranks there are.

    Raises:
        ConfigError: A launcher started several processes, and the backend does not join them.
    """

    def __init__(self, backend: Backend, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline(on=False)
        self.backend = timed(backend, self.timeline)
        self.rank, self.world_size = rank_and_world_size(backend)
        joined = dist.is_initialized()
        started = dist.get_world_size() if joined else launched_size()
        if started != self.world_size:
            who = "torch.distributed has joined" if joined else "a launcher started"
            raise ConfigError(
                f"{who} {started} processes, and backend {backend.name!r} joins {self.world_size}: start one process, "
                "or choose a backend of several ranks (see: distgnn backends)"
                + (", and open it after init_process_group" if joined else "")
            )

    @property
    def is_main(self) -> bool:
        """Whether this rank shows progress and writes files."""
        return self.rank == 0

    def wrap(self, model: Module, *, sync_batch_norm: bool, find_unused_parameters: bool = False) -> Module:
        """Return ``model`` such that gradients are summed over ranks in backward.

        They are summed, not averaged as DistributedDataParallel does by itself, so that dense parameters and stored
        embeddings see the gradient of the same loss: the sum of the ranks' losses.

        Args:
            model: The same on every rank.
            sync_batch_norm: Normalize over all ranks' rows.
            find_unused_parameters: Some parameters are not part of every loss, as the last layers of node types that
                have no labels; as in DistributedDataParallel.
        """
        if self.world_size == 1:
            return model
        if sync_batch_norm:
            convert_sync_batch_norm(model)
        wrapped = DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)
        # What is left of backward then is to wait for the sums.
        sums = GradientSums(model, before=lambda: self.timeline.turn_to("exchange"))
        wrapped.register_comm_hook(None, lambda _state, bucket: sums.add(bucket))
        return wrapped

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum numbers over ranks; collective."""
        if self.world_size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        with self._call():
            dist.all_reduce(total)
        return [float(number) for number in total]

    def max(self, number: float) -> float:
        """Return the largest number of all ranks; collective."""
        if self.world_size == 1:
            return number
        largest = torch.tensor(number, dtype=torch.float64)
        with self._call():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows ``[K, ...]`` of all ranks behind one another; collective, K may differ."""
        if self.world_size == 1:
            return rows
        counts = torch.zeros(self.world_size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        with self._call():
            dist.all_reduce(counts)
        padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
        padded[: len(rows)] = rows
        everywhere = [torch.empty_like(padded) for _ in range(self.world_size)]
        with self._call():
            dist.all_gather(everywhere, padded)
        return torch.cat([part[:count] for part, count in zip(everywhere, counts.tolist(), strict=True)])

    def texts(self, text: str) -> list[str]:
        """Return the text of every rank, of each the first 1,000 bytes; collective."""
        content = bytearray(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES))
        found = self.gather(torch.frombuffer(content, dtype=torch.uint8)[None])
        return [bytes(one.tolist()).decode(errors="ignore").rstrip() for one in found]

    def from_main(self, rows: Tensor) -> Tensor:
        """Return what rank 0 gives; the others give a tensor like it, which is overwritten. Collective."""
        if self.world_size > 1:
            with self._call():
                dist.broadcast(rows, 0)
        return rows

    def spent(self) -> dict[str, list[float]] | None:
        """Return what each rank spent its seconds on since :meth:`begin_epoch`, by kind; None without a timeline."""
        return self.timeline.close(self.gather, self.rank) if self.timeline.is_on else None

    def begin_epoch(self) -> None:
        """Let ranks count seconds from the same moment, where they do; collective."""
        if self.timeline.is_on:
            self.sum([0.0])
            self.timeline.begin()

    def _call(self) -> AbstractContextManager[None]:
        return self.timeline.span("exchange", collective=True)
