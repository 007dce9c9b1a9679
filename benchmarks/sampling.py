"""Neighbor sampling from the memory backend, beside DGL's sample_neighbors + to_block in C++.

One thread, the same graph and the same seed nodes; a step is eight batches. Both sample uniformly without replacement,
give edge ids, and number the nodes of a batch anew. They differ in one thing: to DGL a node that is a seed of the first
hop is one of the second too, so that its batches have more edges. DGL's library of compiled samplers, GraphBolt, does
not load beside this torch; an empty module takes its place, and the functions that are measured do without. Writes
sampling.json and sampling.png into --out.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import harness
import torch
from torch_geometric.sampler import NodeSamplerInput

import distgnn
from distgnn import GraphSpec
from distgnn.data import generate_graph
from distgnn.graph import NeighborSampler

if TYPE_CHECKING:
    from collections.abc import Callable

    Sampler = Callable[[torch.Tensor], int]

FANOUTS = ((10, 10), (15, 10, 5), (25, 10))
BATCHES = 8


def ours(edge_index: torch.Tensor, num_nodes: int, fanout: tuple[int, ...]) -> Sampler:
    """Return a function that samples a batch and gives its number of edges."""
    name = "x".join(map(str, fanout))
    spec = GraphSpec(f"graph-{name}", num_nodes, edge_index.size(1))
    sampler = NeighborSampler(distgnn.get_backend("memory").open_graph(spec, edge_index), fanout)

    def sample(seeds: torch.Tensor) -> int:
        return int(sampler.sample_from_nodes(NodeSamplerInput(None, seeds)).row.numel())

    return sample


def dgls(dgl: Any, graph: Any, fanout: tuple[int, ...]) -> Sampler:
    """Return the same by DGL, as its own NeighborSampler does it."""

    def sample(seeds: torch.Tensor) -> int:
        edges = 0
        for count in fanout:
            block = dgl.to_block(dgl.sampling.sample_neighbors(graph, seeds, count), seeds)
            seeds = block.srcdata[dgl.NID]
            edges += block.num_edges()
        return edges

    return sample


def main() -> None:
    """Measure all fanouts."""
    parser = harness.options(__doc__, rounds=9, threads=1)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--seeds", type=int, default=1024, help="seed nodes a batch")
    arguments = harness.begin(parser)
    dgl = harness.load_dgl()
    data = generate_graph(arguments.nodes, arguments.edges)
    graph = None if dgl is None else dgl.graph(tuple(data.edge_index), num_nodes=arguments.nodes).formats("csc")
    batches = [torch.randperm(arguments.nodes)[: arguments.seeds] for _ in range(4 * BATCHES)]
    groups = {}
    for fanout in FANOUTS:
        samplers = {} if dgl is None else {"DGL": dgls(dgl, graph, fanout)}
        samplers["distgnn"] = ours(data.edge_index, arguments.nodes, fanout)
        cases = {name: harness.in_turn(sample, batches, BATCHES) for name, sample in samplers.items()}
        group = groups[f"fanout {list(fanout)}"] = harness.measure(cases, arguments.rounds)
        for name, sample in samplers.items():
            group[name]["edges_a_batch"] = edges = statistics.mean(sample(batch) for batch in batches[:BATCHES])
            batches_a_second = 1e3 * BATCHES / group[name]["wall_ms"]
            seeds = arguments.seeds * batches_a_second
            harness.console.print(f"{name}, {fanout}: {seeds:,.0f} seeds/s, {edges * batches_a_second:,.0f} edges/s")
    title = f"{BATCHES} batches of {arguments.seeds:,} seeds, {arguments.nodes:,} nodes, {arguments.edges:,} edges"
    harness.report("sampling", groups, f"{title}: times DGL's speed", arguments.out)


if __name__ == "__main__":
    main()
