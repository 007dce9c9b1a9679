"""The ranks of a training job, and their collectives."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from distgnn.distributed.agreement import check_agreement
from distgnn.distributed.communicator import all_gather_texts, communicator_of
from distgnn.distributed.process_group import started
from distgnn.distributed.rendezvous.cluster_file import Machine, join_ip_config, read_ip_config
from distgnn.distributed.rendezvous.launcher import launched_size
from distgnn.errors import ConfigError
from distgnn.nn.norm.sync_batch_norm import convert_sync_batch_norm
from distgnn.train.gradients import SummedGradients
from distgnn.train.timeline import Timeline, timed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor
    from torch.nn import Module

    from distgnn.storage.protocols import Backend

__all__ = ["Machine", "Session", "join_ip_config", "read_ip_config"]


class Session:
    """This process's part in a job.

    Args:
        backend: Its ranks are those of the job; a backend that knows of no ranks is a job of one.
        timeline: Notes what the rank does, where it is on; None notes nothing.

    Attributes:
        backend: The backend; with a timeline that is on, one that does the same and notes it.
        timeline: The timeline.
        communicator: The collectives of the backend's ranks.
        rank: This process's rank.
        world_size: How many ranks there are.

    Raises:
        ConfigError: A launcher started several processes, and the backend does not join them.
    """

    def __init__(self, backend: Backend, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline(on=False)
        self.backend = timed(backend, self.timeline)
        self.communicator = communicator_of(backend)
        self.rank, self.world_size = self.communicator.rank, self.communicator.world_size
        size, joined = started()
        if self.world_size not in {size, launched_size()}:
            who = "torch.distributed has joined" if joined else "a launcher started"
            raise ConfigError(
                f"{who} {size} processes, and backend {backend.name!r} joins {self.world_size}: start one process, "
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
            convert_sync_batch_norm(model, self.communicator)
        # What is left of backward then is to wait for the sums.
        return SummedGradients(
            model,
            self.communicator,
            find_unused_parameters=find_unused_parameters,
            before=lambda: self.timeline.turn_to("exchange"),
        )

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum numbers over ranks; collective."""
        with self._call():
            return [float(each) for each in self.communicator.all_reduce(torch.tensor(numbers, dtype=torch.float64))]

    def max(self, number: float) -> float:
        """Return the largest number of all ranks; collective."""
        with self._call():
            return float(self.communicator.all_reduce(torch.tensor(number, dtype=torch.float64), "max"))

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows ``[K, ...]`` of all ranks behind one another; collective, K may differ."""
        with self._call():
            return torch.cat(self.communicator.all_gather(rows))

    def texts(self, text: str) -> list[str]:
        """Return the text of every rank; collective."""
        with self._call():
            return all_gather_texts(self.communicator, text)

    def agree(self, facts: Mapping[str, object]) -> None:
        """Make sure that every rank says the same; collective.

        Args:
            facts: What must be the same, by name: what JSON can hold.

        Raises:
            ConfigError: Two ranks differ; the text names the first difference, both values and both ranks.
        """
        said = self.texts(json.dumps(facts, default=str))
        check_agreement({rank: json.loads(text) for rank, text in enumerate(said)})

    def from_main(self, rows: Tensor) -> Tensor:
        """Return what rank 0 gives; the others give a tensor of its shape and type. Collective."""
        with self._call():
            return self.communicator.broadcast(rows)

    def spent(self) -> dict[str, list[float]] | None:
        """Return what each rank spent its seconds on since :meth:`begin_epoch`, by kind; None without a timeline."""
        return self.timeline.close(self.gather, self.rank) if self.timeline.is_on else None

    def begin_epoch(self) -> None:
        """Let ranks count seconds from the same moment, where they do; collective."""
        if self.timeline.is_on:
            self.sum([0.0])
            self.timeline.begin()

    def _call(self) -> AbstractContextManager[None]:
        return self.timeline.span("exchange", collective=True) if self.world_size > 1 else nullcontext()
