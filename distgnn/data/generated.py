"""Generated graphs of any size, with communities and hubs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch_geometric.data import Data

from distgnn.data.splits import random_masks
from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ROUNDS = 50


def generate_graph(
    num_nodes: int,
    num_edges: int,
    *,
    num_classes: int = 8,
    homophily: float = 0.8,
    exponent: float = 2.5,
    seed: int = 0,
) -> Data:
    r"""Draw a random graph with communities and power-law in-degrees.

    A degree-corrected stochastic block model (`Karrer and Newman, 2011 <https://arxiv.org/abs/1008.3926>`_), drawn
    edge by edge: the source is uniform, the destination lies in the community of the source with probability
    ``homophily`` and is chosen there by a weight :math:`\propto \mathrm{rank}^{-1/(\gamma - 1)}`, so that in-degrees
    follow a power law with exponent :math:`\gamma`. A node's label is its community.

    Args:
        num_nodes: Number of nodes.
        num_edges: Number of directed edges. They are distinct, none is a self-loop, and they come in the order of
            :func:`torch_geometric.utils.coalesce`.
        num_classes: Number of communities.
        homophily: Share of the edges that stay in their community.
        exponent: :math:`\gamma`, above 1; less means larger hubs.
        seed: Same seed, same graph. No global random state is read or changed.

    Returns:
        ``edge_index [2, num_edges]``, ``y [num_nodes]`` and the masks of a 60/20/20 split; ``x`` is ``None``.

    Raises:
        ConfigError: An argument is out of its range, or there are not that many edges to be found.
    """
    if num_nodes < 1 or num_edges < 0 or num_classes < 1 or not 0 <= homophily <= 1 or exponent <= 1:
        raise ConfigError(
            f"cannot generate a graph with {num_nodes=}, {num_edges=}, {num_classes=}, {homophily=}, {exponent=}; "
            f"needed are num_nodes >= 1, num_edges >= 0, num_classes >= 1, 0 <= homophily <= 1 and exponent > 1"
        )
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_nodes)
    weights = rng.permutation(np.arange(1, num_nodes + 1) ** (-1 / (exponent - 1)))

    # An edge is one integer, so that sorting finds the doubles; what they leave open is drawn again.
    edges = np.empty(0, dtype=np.int64)
    for _ in range(MAX_ROUNDS):
        source = rng.integers(num_nodes, size=num_edges - len(edges))
        destination = _destinations(source, labels, weights, homophily, rng)
        drawn = (source * num_nodes + destination)[source != destination]
        edges = np.sort(np.concatenate([edges, drawn]))
        edges = edges[np.diff(edges, prepend=-1) > 0]
        if len(edges) == num_edges:
            break
    else:
        raise ConfigError(
            f"asked for {num_edges} distinct edges between {num_nodes} nodes and found only {len(edges)} in "
            f"{MAX_ROUNDS} rounds; ask for fewer edges, more nodes or a larger exponent"
        )

    y = torch.from_numpy(labels)
    edge_index = torch.from_numpy(np.stack([edges // num_nodes, edges % num_nodes]))
    return Data(edge_index=edge_index, y=y, num_nodes=num_nodes, **random_masks(y, seed=seed))


def _destinations(
    source: NDArray[np.int64],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    homophily: float,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Draw a destination for every source by weight: a point on a line on which the nodes lie class by class."""
    order = np.argsort(labels, kind="stable")
    line = np.cumsum(weights[order])
    length = np.bincount(labels, weights)
    start = np.cumsum(length) - length

    own_start, own_length = start[labels[source]], length[labels[source]]
    point = rng.random(len(source))
    elsewhere = point * (line[-1] - own_length)
    elsewhere += own_length * (elsewhere >= own_start)
    point = np.where(rng.random(len(source)) < homophily, own_start + point * own_length, elsewhere)
    position = torch.searchsorted(torch.from_numpy(line), torch.from_numpy(point), right=True).numpy()
    destination: NDArray[np.int64] = order[np.minimum(position, len(order) - 1)]
    return destination
