"""GIN, forward and backward: the sum over neighbors and the whole layer, beside PyG's and DGL's.

The limit reads the rows of all edges at random twice, as forward and backward must, and writes next to nothing. Writes
gin.json and gin.png into --out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import graphs
import harness
import torch
from torch import Tensor
from torch.nn import Linear, Module, ReLU, Sequential
from torch_geometric.nn import GINConv
from torch_geometric.utils import to_torch_csr_tensor

from distgnn.nn import DistributedGINConv
from distgnn.nn.aggregation.kernels import neighbor_sum
from distgnn.nn.aggregation.layout import find_layout

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def mlp(dim: int) -> Module:
    """Return the two layers that a GIN layer has in the paper."""
    return Sequential(Linear(dim, dim), ReLU(), Linear(dim, dim))


def sums(edge_index: Tensor, x: Tensor, slopes: Tensor, dgl: Any) -> dict[str, harness.Step]:
    """Return the ways of summing over neighbors."""
    nodes = x.size(0)
    pyg, ours = GINConv(torch.nn.Identity()), DistributedGINConv(torch.nn.Identity())
    adj_t = to_torch_csr_tensor(edge_index.flip(0), size=(nodes, nodes))
    bags, ends = torch.arange(0, edge_index.size(1) + 1, 1000), edge_index.clone()

    def through_pyg(edges: Tensor) -> Any:
        return pyg.propagate(edges, x=(x, x), size=None)

    def through_ours(edges: Tensor) -> Any:
        layout = find_layout(ours, GINConv.message, edges, (x, x), None)
        assert layout is not None
        return neighbor_sum(x, layout)

    def limit() -> None:
        for end, rows in ((ends[0], x.detach()), (ends[1], slopes)):
            torch.embedding_bag(rows, end, bags, False, 0, False, None, True)

    sums: dict[str, Callable[[], Any]] = {
        "PyG": lambda: through_pyg(edge_index),
        "PyG, edges sorted": partial(through_pyg, edge_index[:, edge_index[1].argsort(stable=True)]),
        "PyG, CSR": lambda: through_pyg(adj_t),
        "distgnn": lambda: through_ours(edge_index),
        "distgnn, first use": lambda: through_ours(edge_index.clone()),
    }
    if dgl is not None:
        for name, idtype in (("DGL copy_u_sum", torch.int64), ("DGL copy_u_sum, int32", torch.int32)):
            graph = dgl.graph(tuple(edge_index), num_nodes=nodes).astype(idtype).formats(["csc", "csr"])
            sums[name] = partial(dgl.ops.copy_u_sum, graph, x)
    return {name: step(forward, x, slopes) for name, forward in sums.items()} | {"limit": limit}


def layers(edge_index: Tensor, x: Tensor, slopes: Tensor, dgl: Any) -> dict[str, harness.Step]:
    """Return the whole layers, and the part of them that no aggregation can make faster."""
    dim = x.size(1)
    pyg, ours = GINConv(mlp(dim)), DistributedGINConv(mlp(dim))
    layers: dict[str, Callable[[], Any]] = {
        "PyG": partial(pyg, x, edge_index),
        "PyG, edges sorted": partial(pyg, x, edge_index[:, edge_index[1].argsort(stable=True)]),
        "distgnn": lambda: ours(x, edge_index),
        "the MLP alone": partial(mlp(dim), x),
    }
    if dgl is not None:
        graph = dgl.graph(tuple(edge_index), num_nodes=x.size(0)).formats(["csc", "csr"])
        layers["DGL"] = partial(dgl.nn.GINConv(mlp(dim), "sum"), graph, x)
    return {name: step(forward, x, slopes) for name, forward in layers.items()}


def step(forward: Callable[[], Any], x: Tensor, slopes: Tensor) -> harness.Step:
    """Return a forward and backward."""

    def run() -> None:
        forward().backward(slopes)
        x.grad = None

    return run


def asked(groups: dict[str, dict[str, harness.Result]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what is asked of sums and layers, and what they reached."""
    lines = []
    for dim in arguments.dims:
        parts = {
            part: {kind: groups.get(f"{part}, {kind} graph, {dim} columns", {}) for kind in arguments.graphs}
            for part in graphs.PARTS
        }
        size = f"{arguments.nodes:,} nodes, {dim} columns"
        least = 6 if dim > 64 else 10 if arguments.nodes <= graphs.NODES else 8
        own = "distgnn"
        lines += harness.line(f"GIN sum, {size}", "PyG", least, parts["sum"], own, "PyG")
        lines += harness.line(f"GIN sum, {size}", "DGL copy_u_sum", 1, parts["sum"], own, "DGL copy_u_sum")
        lines += harness.line(f"GIN sum, {size}", "limit: rows read at random", 0.6, parts["sum"], own, "limit")
        lines += harness.line(f"GIN sum, first use, {size}", "PyG", 3, parts["sum"], "distgnn, first use", "PyG")
        if dim == 64:
            lines += harness.line(f"GIN layer and MLP, {size}", "PyG", 3.5, parts["layer"], own, "PyG")
            lines += harness.line(f"GIN layer and MLP, {size}", "DGL", 1, parts["layer"], own, "DGL")
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
            for part in arguments.parts:
                cases = {"sum": sums, "layer": layers}[part](edge_index, x, slopes, dgl)
                groups[f"{part}, {kind} graph, {dim} columns"] = harness.measure(
                    cases, arguments.rounds, only=arguments.only
                )
    title = f"GIN forward + backward, {arguments.nodes:,} nodes, {arguments.edges:,} edges: times PyG's speed"
    harness.report(graphs.sized("gin", arguments), groups, title, arguments.out, asked(groups, arguments))


if __name__ == "__main__":
    main()
