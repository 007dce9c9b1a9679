"""The bytes that a rank sends in a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from distgnn.plan.job import FLOAT, ID

if TYPE_CHECKING:
    from distgnn.plan.job import Job, Part

BUFFER = 64 << 20  # the backend's buffer_bytes


class Traffic(NamedTuple):
    """Bytes that a rank sends in a step.

    Args:
        embeddings: Rows of embeddings and their gradients, with their ids.
        halo: Rows of hidden layers and their gradients, with their ids.
        dense: Gradients of the layers, which all ranks sum.
    """

    embeddings: float
    halo: float
    dense: float

    @property
    def stores(self) -> float:
        """What goes through stores."""
        return self.embeddings + self.halo


def traffic(job: Job, part: Part, ranks: int) -> Traffic:
    """Say what a rank sends in a step. Tables lie where the parts are, so only the rows of halos move."""
    if ranks == 1:
        return Traffic(0, 0, 0)
    halo = sum(_there_and_back(part, channels) for channels in job.widths[1:-1])
    return Traffic(_there_and_back(part, job.embedding_dim), halo, 2 * FLOAT * job.parameters * (1 - 1 / ranks))


def _there_and_back(part: Part, channels: int) -> float:
    """Return the bytes of ids, and of gradients with ids, for the halo, and of the rows that others ask for.

    Messages have no more, as their numbers stay the same.
    """
    row = FLOAT * channels
    return part.halo * (ID + ID + row) + part.asked * row
