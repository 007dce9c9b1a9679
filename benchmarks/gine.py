"""GINE, forward and backward: the sum over edge-conditioned messages and the whole layer, beside PyG's and DGL's.

Edge features either are data or need gradients themselves, as those do that come from an embedding or a linear map.
Then backward returns a gradient an edge, which is part of everybody's memory. Writes gine.json and gine.png into --out.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import graphs
import harness
import torch
from gin import mlp
from torch import Tensor
from torch.nn import Identity, Module
from torch_geometric.nn import GINEConv

from distgnn.nn import DistributedGINEConv

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

FEATURES = {False: "edge data", True: "learned edge features"}


def layers(
    edge_index: Tensor, x: Tensor, edge_attr: Tensor, slopes: Tensor, dgl: Any, nn: Callable[[], Module]
) -> dict[str, harness.Step]:
    """Return the layers, with what ``nn`` makes behind the sum."""
    pyg, ours = GINEConv(nn()), DistributedGINEConv(nn())
    order = edge_index[1].argsort(stable=True)
    by_destination = edge_index[:, order]
    sorted_attr = edge_attr.detach()[order].requires_grad_(edge_attr.requires_grad)

    def step(layer: Any, *inputs: Any) -> harness.Step:
        def run() -> None:
            layer(*inputs).backward(slopes)
            x.grad = edge_attr.grad = sorted_attr.grad = None

        return run

    cases = {
        "PyG": step(pyg, x, edge_index, edge_attr),
        "PyG, edges sorted": step(pyg, x, by_destination, sorted_attr),
        "distgnn": step(ours, x, edge_index, edge_attr),
        "distgnn, edges sorted": step(ours, x, by_destination, sorted_attr),
        "distgnn, first use": step(
            lambda x, edges, features: ours(x, edges.clone(), features), x, edge_index, edge_attr
        ),
    }
    if dgl is not None:
        graph = dgl.graph(tuple(edge_index), num_nodes=x.size(0)).formats(["coo", "csc", "csr"])
        cases["DGL"] = step(dgl.nn.GINEConv(nn()), graph, x, edge_attr)
    return cases


def asked(groups: dict[str, dict[str, harness.Result]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is asked of the sum, and what it reached; of its memory without outputs and gradients."""
    lines = []
    for dim in arguments.dims:
        sums, returned = {}, {}
        for kind, learned in itertools.product(arguments.graphs, FEATURES):
            name = f"{kind}, {'learned' if learned else 'data'}"
            sums[name] = groups.get(f"sum, {kind} graph, {dim} columns, {FEATURES[learned]}", {})
            rows = 2 * arguments.nodes + (arguments.edges if learned else 0)
            returned[name] = rows * dim * 4 / 2**20
        what, by_destination = f"GINE sum, {arguments.nodes:,} nodes, {dim} columns", ", edges sorted"
        lines += harness.line(what, "PyG", 5, sums, "distgnn", "PyG")
        lines += harness.line(
            what + by_destination, "PyG, edges sorted", 4, sums, "distgnn, edges sorted", "PyG, edges sorted"
        )
        lines += harness.line(what, "DGL", 4, sums, "distgnn", "DGL")
        lines += harness.line(f"{what}: extra memory", "PyG", 0.06, sums, "distgnn", "PyG", returned)
        lines += harness.line(f"{what}, first use", "PyG", 3, sums, "distgnn, first use", "PyG")
    return lines


def main() -> None:
    """Measure all graphs and widths."""
    arguments = graphs.layer_options(__doc__)
    dgl = harness.load_dgl()
    groups = {}
    for kind in arguments.graphs:
        edge_index = graphs.GRAPHS[kind](arguments.nodes, arguments.edges)
        for dim in arguments.dims:
            x = torch.randn(arguments.nodes, dim, requires_grad=True)
            slopes = torch.randn(arguments.nodes, dim)
            for learned in (False, True):
                edge_attr = torch.randn(arguments.edges, dim, requires_grad=learned)
                for part in arguments.parts:
                    nn: Callable[[], Module] = Identity if part == "sum" else partial(mlp, dim)
                    group = f"{part}, {kind} graph, {dim} columns, {FEATURES[learned]}"
                    cases = layers(edge_index, x, edge_attr, slopes, dgl, nn)
                    groups[group] = harness.measure(cases, arguments.rounds, only=arguments.only)
    title = f"GINE forward + backward, {arguments.nodes:,} nodes, {arguments.edges:,} edges: times PyG's speed"
    harness.report(graphs.sized("gine", arguments), groups, title, arguments.out, asked(groups, arguments))


if __name__ == "__main__":
    main()
