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
    """Say what a rank sends in a step; another rank sends as much to it."""
    if ranks == 1:
        return Traffic(0, 0, 0)
    rows = part.lookups * part.remote
    embeddings = _there_and_back(rows, job.embedding_dim)
    halo = sum(_there_and_back(part.halo, channels) for channels in job.widths[1:-1])
    return Traffic(embeddings, halo, 2 * FLOAT * job.parameters * (1 - 1 / ranks))


def _there_and_back(rows: float, channels: int) -> float:
    """Return the bytes of ids, of their rows, and of these rows' gradients with ids; no more, as they stay the same."""
    return rows * 2 * (ID + FLOAT * channels)
