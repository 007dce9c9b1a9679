"""Neighbor sampling from the memory backend, beside DGL's sample_neighbors + to_block in C++.

One process, one thread, the same graph and the same seed nodes; rounds of both alternate, and medians are shown. Both
sample uniformly without replacement, give edge ids, and number the nodes of a batch anew. They differ in one thing: to
DGL a node that is a seed of the first hop is one of the second too, so that its batches have more edges; the table has
seeds and edges a second. DGL's library of compiled samplers, GraphBolt, does not load beside this torch; an empty
module takes its place, and the functions that are measured do without. Writes sampling.json and sampling.png into
--out.
"""

import argparse
import json
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch_geometric.sampler import NodeSamplerInput

import distgnn
from distgnn import GraphSpec
from distgnn.data import generate_graph
from distgnn.graph import NeighborSampler
from distgnn.graphbolt import import_dgl

mpl.use("Agg")
from matplotlib import pyplot as plt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    dgl = import_dgl()

Sampler = Callable[[torch.Tensor], int]
FANOUTS = ((10, 10), (15, 10, 5), (25, 10))


def ours(edge_index: torch.Tensor, num_nodes: int, fanout: tuple[int, ...]) -> Sampler:
    """Return a function that samples a batch and gives its number of edges."""
    name = "x".join(map(str, fanout))
    spec = GraphSpec(f"graph-{name}", num_nodes, edge_index.size(1))
    sampler = NeighborSampler(distgnn.get_backend("memory").open_graph(spec, edge_index), fanout)

    def sample(seeds: torch.Tensor) -> int:
        return int(sampler.sample_from_nodes(NodeSamplerInput(None, seeds)).row.numel())

    return sample


def dgls(graph: Any, fanout: tuple[int, ...]) -> Sampler:
    """Return the same by DGL, as its own NeighborSampler does it."""

    def sample(seeds: torch.Tensor) -> int:
        edges = 0
        for count in fanout:
            block = dgl.to_block(dgl.sampling.sample_neighbors(graph, seeds, count), seeds)
            seeds = block.srcdata[dgl.NID]
            edges += block.num_edges()
        return edges

    return sample


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return seconds and edges a batch, of each round, by fanout and sampler."""
    data = generate_graph(arguments.nodes, arguments.edges)
    graph = dgl.graph(tuple(data.edge_index), num_nodes=arguments.nodes).formats("csc")
    generator = torch.Generator().manual_seed(0)
    results: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(dict)
    for fanout in FANOUTS:
        samplers = {"distgnn": ours(data.edge_index, arguments.nodes, fanout), "DGL": dgls(graph, fanout)}
        case = results[str(list(fanout))] = {name: {"seconds": [], "edges": []} for name in samplers}
        for number in track(range(arguments.rounds + 1), f"fanout {list(fanout)}"):
            batches = [torch.randperm(arguments.nodes, generator=generator)[: arguments.seeds] for _ in range(8)]
            for name, sample in samplers.items():
                seconds, edges = [], []
                for batch in batches:
                    begin = time.perf_counter()
                    edges.append(sample(batch))
                    seconds.append(time.perf_counter() - begin)
                if number:  # the first round warms up
                    case[name]["seconds"].append(statistics.median(seconds))
                    case[name]["edges"].append(statistics.mean(edges))
    return results


def main() -> None:
    """Measure, and show and draw the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--seeds", type=int, default=1024, help="seed nodes a batch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    results = measure(arguments)
    (arguments.out / "sampling.json").write_text(json.dumps(results, indent=2) + "\n")

    table = Table("fanout", "sampler", "seeds / s", "edges / s", "seeds: distgnn / DGL", "edges: distgnn / DGL")
    rates: dict[str, list[float]] = defaultdict(list)
    for fanout, case in results.items():
        speeds = {
            name: np.array([arguments.seeds, statistics.mean(each["edges"])]) / statistics.median(each["seconds"])
            for name, each in case.items()
        }
        for name, (seeds, edges) in speeds.items():
            ratios = [f"{ratio:.2f}" for ratio in speeds["distgnn"] / speeds["DGL"]] if name == "distgnn" else []
            table.add_row(fanout, name, f"{seeds:,.0f}", f"{edges:,.0f}", *ratios)
            rates[name].append(seeds)
    Console().print(table)
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for number, (name, heights) in enumerate(rates.items()):
        bars = axes.bar(np.arange(len(results)) + 0.36 * (number - 0.5), np.array(heights) / 1e3, 0.34, label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.set_xticks(np.arange(len(results)), list(results))
    axes.set_xlabel("fanout")
    axes.set_ylabel("thousand seeds a second")
    axes.set_title(
        f"{arguments.seeds:,} seeds a batch, {arguments.nodes:,} nodes, {arguments.edges:,} edges, one thread"
    )
    axes.legend()
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(arguments.out / "sampling.png", dpi=150)


if __name__ == "__main__":
    main()
