"""The bytes that a rank sends in a step of training, as the ``pyg`` backend's messages have them."""

from __future__ import annotations

import math
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
    rows, width = part.lookups * part.remote, FLOAT * job.embedding_dim
    embeddings = padded(rows, 0, ranks) + rows * width + padded(rows, width, ranks)
    halo = 0.0
    for channels in job.widths[1:-1]:
        width = FLOAT * channels
        # Sums of gradients are a store of each backward pass, whose messages have no room ahead.
        halo += padded(part.halo, 0, ranks) + part.halo * width + part.halo * (ID + width)
    return Traffic(embeddings, halo, 2 * FLOAT * job.parameters * (1 - 1 / ranks))


def padded(rows: float, width: float, ranks: int) -> float:
    """Return the bytes of messages with ids and ``rows`` rows: those have room for a few more than the last ones."""
    each = rows / (ranks - 1)
    room = min(BUFFER // ((ID + width) * ranks), each + each / 32 + 4 * math.sqrt(each))
    return (ranks - 1) * (room + max(0.0, each - room)) * (ID + width)
