"""The memory of a rank, tensor by tensor and phase."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from distgnn.plan.job import FLOAT, ID
from distgnn.plan.traffic import BUFFER

if TYPE_CHECKING:
    from distgnn.plan.job import Job, Part

_INT32 = 2**31
_RUNNING = 25e6  # code that is loaded late, threads of gloo and autograd: what a job of 1,000 nodes takes


def memory(job: Job, part: Part, ranks: int) -> dict[str, float]:
    """Say what a rank needs at its peak, in bytes beyond a process that has imported everything and done nothing.

    Args:
        job: The run.
        part: What the rank has; the largest one.
        ranks: How many there are, each on a host of its own.

    Returns:
        What a ``process`` takes by running; ``rows`` of the table; the ``state`` beside them; the ``places`` of all its
        rows; the ``graph``, its labels and its order for sums; the ``stores`` of layers, ``buffers`` of messages, and
        the ``activations`` and rows that are on their way in the phase of the peak.
    """
    n, e, m = part.nodes, part.edges, part.lookups
    index = 4 if max(e, m) < _INT32 else 8
    # Edges and their ids, ids of nodes and their rows in stores, labels, masks, targets; then the edges in two orders.
    structure = 24 * e + 16 * m + 19 * n + FLOAT * job.num_features * m
    order = 16 * e + index * (n + m + 3 * e)
    remote = part.halo
    kept = {
        "rows": FLOAT * job.embedding_dim * n,
        "state": FLOAT * job.state_width * n,
        "places": 2 * (4 if job.nodes < _INT32 else 8) * job.nodes if ranks > 1 else 0.0,
        "graph": structure + order + 16 * n,
        "stores": FLOAT * (job.widths[-1] * n + 2 * sum(job.widths[1:-1]) * _border(part)),
        "buffers": _buffers(job, part, ranks, remote),
    }
    dense = 5 * FLOAT * job.parameters
    phases = [
        structure + 41 * e - sum(kept.values()),  # edges are numbered anew before anything else is there
        *_passes(job, part),
        _update(job, m, remote, ranks),
    ]
    return {"process": _RUNNING, **kept, "activations": dense + max(0.0, *phases)}


def _border(part: Part) -> float:
    """Number of nodes that other parts read: on average no more than each of them reads."""
    return min(part.nodes, part.halo)


def _buffers(job: Job, part: Part, ranks: int, remote: float) -> float:
    """Messages, of the largest call: what goes out, and what comes in with what this rank writes to itself."""
    row = ID + FLOAT * job.embedding_dim
    calls = [(remote * row, (part.lookups - remote) * row)]
    calls += [(0, part.nodes * (ID + FLOAT * job.widths[-1]))]
    for channels in job.widths[1:-1]:
        row = ID + FLOAT * channels
        calls += [(0, _border(part) * row), (part.halo * row, 0)]
    limit = BUFFER * (1 - 1 / ranks)
    total = min(limit, max(sent for sent, _ in calls)) + max(min(limit, sent) + own for sent, own in calls)
    return 1.125 * total if ranks > 1 else total


def _fetch(asked: float, remote: float, width: float) -> float:
    """Return the bytes that a lookup needs beside its result: rows for others, rows that came, and ids."""
    return 2 * remote * width + 5 * ID * remote + 2 * ID * asked


def _passes(job: Job, part: Part) -> list[float]:
    """Return what is alive at the peaks of the forward and the backward pass.

    The forward holds its input and every layer's output until it returns; autograd holds until backward the rows that a
    linear map widened, and of each layer the sums, what the MLP has between its maps, and behind it the output and the
    noise of the dropout.
    """
    n, m, h, b = part.nodes, part.lookups, part.halo, _border(part)
    rows, inputs = FLOAT * job.embedding_dim * m, FLOAT * job.num_features * m
    phases = [rows + max(2 * inputs, _fetch(m, part.halo, FLOAT * job.embedding_dim))]
    saved = rows if job.num_features not in {0, job.embedding_dim} else 0
    held = inputs or rows
    layers = [(FLOAT * width, FLOAT * out) for width, out in pairwise(job.widths)]
    before = 0.0  # rows of the halo, from the layer before
    for number, (width, out) in enumerate(layers):
        saved += n * (width + out)
        phases.append(saved + held + before + 2 * n * out)
        if number < job.num_layers - 1:
            saved += _behind(job, n * out)
            held += n * out if job.dropout else 0
            writing = 2 * b * out + 6 * ID * b
            phases.append(saved + held + before + max(writing, h * out + _fetch(h, h, out)))
            before = h * out
    for number, (width, out) in reversed(list(enumerate(layers))):
        if number < job.num_layers - 1:
            # The halo's gradients go to their owners: there they are grouped and summed, read, and set to zero.
            phases.append(saved + 3 * h * out + 3 * b * out)
            phases.append(saved + 3 * n * out)
            saved -= _behind(job, n * out)
        phases.append(saved + n * (2 * out + width))
        saved -= n * (width + out)
        phases.append(saved + (n + m) * width)
    return phases


def _behind(job: Job, size: float) -> float:
    return size * (2 if job.dropout else 1)


def _update(job: Job, m: float, remote: float, ranks: int) -> float:
    """Return what applying the gradients of embeddings needs: them, their sums, and what goes to the owners."""
    row = FLOAT * job.embedding_dim
    packed = remote * (ID + row)
    moving = 2 * packed + remote * row if ranks > 1 else 0
    return 2 * m * row + 5 * ID * m + moving
