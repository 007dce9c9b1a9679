"""GINE, forward and backward: the sum over edge-conditioned messages and the whole layer, beside PyG's and DGL's.

Edge features either are data or need gradients themselves, as those do that come from an embedding or a linear map.
Then backward returns a gradient an edge, which is part of everybody's memory. Writes gine.json and gine.png into --out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import harness
import torch
from gin import mlp
from torch import Tensor
from torch.nn import Identity, Module
from torch_geometric.nn import GINEConv

from distgnn.nn import DistributedGINEConv

if TYPE_CHECKING:
    from collections.abc import Callable


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


def main() -> None:
    """Measure all graphs and widths."""
    arguments = harness.parse(__doc__)
    dgl = harness.load_dgl()
    groups = {}
    for kind in arguments.graphs:
        edge_index = harness.GRAPHS[kind](arguments.nodes, arguments.edges)
        for dim in arguments.dims:
            x = torch.randn(arguments.nodes, dim, requires_grad=True)
            slopes = torch.randn(arguments.nodes, dim)
            for learned in (False, True):
                edge_attr = torch.randn(arguments.edges, dim, requires_grad=learned)
                for part, nn in (("sum", Identity), ("layer", partial(mlp, dim))):
                    group = (
                        f"{part}, {kind} graph, {dim} columns, {'learned edge features' if learned else 'edge data'}"
                    )
                    cases = layers(edge_index, x, edge_attr, slopes, dgl, nn)
                    groups[group] = harness.measure(cases, arguments.rounds)
    title = f"GINE forward + backward, {arguments.nodes:,} nodes, {arguments.edges:,} edges: times PyG's speed"
    harness.report(harness.sized("gine", arguments), groups, title, arguments.out)


if __name__ == "__main__":
    main()
