"""Message sums of a layer, without messages where possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from distgnn.nn.aggregation.kernels import neighbor_relu_sum, neighbor_sum
from distgnn.nn.aggregation.layout import find_layout, find_split_layout, is_matrix
from distgnn.nn.halo import Extended

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch_geometric.nn import MessagePassing
    from torch_geometric.typing import Adj, OptPairTensor, Size

    from distgnn.nn.aggregation.layout import Layout
    from distgnn.nn.halo import Meanwhile


def sum_messages(
    conv: MessagePassing, message: Callable[..., Tensor], x: Any, edge_index: Adj, edge_attr: Tensor | None, size: Size
) -> tuple[Tensor | None, OptPairTensor]:
    """Sum the messages into each node.

    Args:
        conv: The layer.
        message: As for :func:`~distgnn.nn.aggregation.layout.find_layout`.
        x: Source and destination features; sources may be :class:`~distgnn.nn.halo.Extended`.
        edge_index: The edges.
        edge_attr: Of GINE; GIN has none.
        size: As in ``propagate``.

    Returns:
        The sums, or None where that is left to PyG; and ``x`` as PyG takes it, or without the destinations' features
        where these are in the sums.
    """
    sources, destinations = x
    taken = destinations is not None and not conv.eps.requires_grad and _stays(sources, conv.eps)
    if isinstance(sources, Extended):
        taken = taken and destinations is sources.own
        sums = _sum_in_two(conv, message, sources, edge_index, edge_attr, taken=taken)
        if sums is not None:
            return sums, (sources.own, None if taken else destinations)
        x = sources.together(), destinations
    layout = find_layout(conv, message, edge_index, x, size)
    if layout is None or not _fits(conv, edge_attr, layout.edges.size(1), x[0].size(1)):
        return None, x
    taken = taken and destinations is x[0]
    sums = _sum(x[0], _transformed(conv, edge_attr), layout, _times(conv, taken=taken))
    return sums, (x[0], None if taken else destinations)


def _sum_in_two(
    conv: MessagePassing,
    message: Callable[..., Tensor],
    sources: Extended,
    edge_index: Adj,
    edge_attr: Tensor | None,
    *,
    taken: bool,
) -> Tensor | None:
    """Sum over own nodes while the rows of the halo are on their way, then over the halo."""
    split = find_split_layout(conv, message, edge_index, sources.own, sources.num_halo)
    if split is None or not _fits(conv, edge_attr, split.num_edges, sources.own.size(1)):
        return None
    times, edge_attr = _times(conv, taken=taken), _transformed(conv, edge_attr)
    inner, outer = (None, None) if edge_attr is None else edge_attr.tensor_split([split.count])
    sums, halo = sources.beside(lambda own, meanwhile: _sum(own, inner, split.inner, times, meanwhile))
    return sums.index_add_(0, split.entered, _sum(halo, outer, split.outer))


def _sum(
    x: Tensor, edge_attr: Tensor | None, layout: Layout, own: float = 0.0, meanwhile: Meanwhile | None = None
) -> Tensor:
    if edge_attr is None:
        return neighbor_sum(x, layout, own, meanwhile)
    return neighbor_relu_sum(x, edge_attr, layout, own, meanwhile)


def _stays(sources: Any, eps: Tensor) -> bool:
    """Tell whether sums have the type of the rows, where PyG's are those of rows and weights together."""
    rows = sources.own if isinstance(sources, Extended) else sources
    return bool(torch.promote_types(rows.dtype, eps.dtype) == rows.dtype)


def _times(conv: MessagePassing, *, taken: bool) -> float:
    """Return how many times the sums take a node's own row along."""
    return 1 + float(conv.eps) if taken else 0.0


def _transformed(conv: MessagePassing, edge_attr: Tensor | None) -> Tensor | None:
    lin = getattr(conv, "lin", None)
    return edge_attr if edge_attr is None or lin is None else lin(edge_attr)


def _fits(conv: MessagePassing, edge_attr: Tensor | None, num_edges: int, width: int) -> bool:
    """Tell whether edge features, where a layer has any, are such as can be added to those of nodes."""
    if not hasattr(conv, "lin"):
        return True
    if not is_matrix(edge_attr) or edge_attr.size(0) != num_edges:
        return False
    return width == (edge_attr.size(1) if conv.lin is None else conv.lin.out_channels)
