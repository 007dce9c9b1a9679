"""The graphs that layers are measured on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import harness
import torch
from torch import Tensor

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

NODES = 100_000
PARTS = ("sum", "layer")


def random_graph(nodes: int, edges: int) -> Tensor:
    """Draw both ends of every edge uniformly."""
    return torch.randint(nodes, (2, edges))


def power_law_graph(nodes: int, edges: int) -> Tensor:
    """Draw ends by the inverse square root of their rank, so that the degrees have a tail of exponent 3."""
    ranks = (torch.rand(2, edges, dtype=torch.float64).square() * nodes).long()
    return torch.stack([torch.randperm(nodes)[end] for end in ranks])


GRAPHS: dict[str, Callable[[int, int], Tensor]] = {"random": random_graph, "power law": power_law_graph}


def layer_options(description: str | None) -> argparse.Namespace:
    """Read the options of a benchmark of layers."""
    parser = harness.options(description, rounds=5)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--edges", type=int, default=10 * NODES)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=list(GRAPHS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="the sum alone, or with its MLP")
    parser.add_argument("--only", nargs="+", help="cases by name, where memory does not hold all of them")
    return harness.begin(parser)


def sized(name: str, arguments: argparse.Namespace) -> str:
    """Return the name of a benchmark's files, with the number of nodes where it is not the default."""
    return name if arguments.nodes == NODES else f"{name}_{arguments.nodes}"
