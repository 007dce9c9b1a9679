"""Undoing the bias that sampling brings into sums over neighbors."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

from distgnn.distributed.communicator import rank_and_world_size
from distgnn.errors import GraphInputError
from distgnn.nn.embedding import default_name
from distgnn.storage.registry import get_backend
from distgnn.storage.specs import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.nn import Module

    from distgnn.storage.protocols import Backend, GraphStore, TensorStore


def open_in_degrees(
    graph: GraphStore, *, name: str | None = None, backend: Backend | None = None, block: int = 2**16
) -> TensorStore:
    """Count the in-edges of every node, into a tensor store ``[num_nodes]`` of int64. Close it when it is done with.

    Each rank counts those of a part of the nodes. Every edge is looked at once.

    Args:
        graph: The graph.
        name: Name of the store; by default a new one.
        backend: Where it is opened; by default the one in use.
        block: Nodes asked for at a time.
    """
    backend = backend or get_backend()
    rank, world_size = rank_and_world_size(backend)
    store = backend.open_tensor(TensorSpec(name or default_name("in_degrees"), (graph.num_nodes,), torch.int64))
    for start in range(0, graph.num_nodes, block * world_size):
        nodes = torch.arange(start, min(start + block * world_size, graph.num_nodes)).tensor_split(world_size)[rank]
        ends = graph.in_neighbors(nodes).destinations
        first = int(nodes[0]) if nodes.numel() else 0
        store.write(nodes, torch.bincount(ends - first, minlength=nodes.numel()))
    return store


@contextmanager
def weighted_messages(model: Module, edge_weight: Tensor) -> Iterator[None]:
    """Multiply the messages of every layer by a weight for each edge, within a ``with`` block.

    For layers that sum, such as GIN's, and edges given as ``edge_index``; PyG's layers that know weights themselves
    take ``batch.edge_weight`` as it is.

    Args:
        model: Its :class:`torch_geometric.nn.MessagePassing` layers are those that are meant.
        edge_weight: ``[E]``, or ``[E, 1]``, in the order of ``edge_index``.

    Raises:
        GraphInputError: It is of another shape, or a layer does not sum.
    """
    if edge_weight.dim() not in {1, 2} or (edge_weight.dim() == 2 and edge_weight.size(1) != 1):
        raise GraphInputError(f"edge_weight of shape {list(edge_weight.shape)}; an edge has one weight: give [E]")
    weights = edge_weight.view(-1, 1)
    layers = [layer for layer in model.modules() if isinstance(layer, MessagePassing)]
    for layer in layers:
        if not isinstance(layer.aggr_module, SumAggregation):
            raise GraphInputError(
                f"{layer} aggregates by {layer.aggr_module}, and weights of edges make sums over samples unbiased: "
                "leave them out (rescale); the mean over a sample is an estimate of that over all neighbors as it is"
            )
    with ExitStack() as hooks:
        for layer in layers:
            hook = layer.register_message_forward_hook(lambda _layer, _inputs, messages: messages * weights)
            hooks.callback(hook.remove)
        yield
