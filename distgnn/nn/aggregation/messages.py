"""Message sums of a layer, without messages where possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch

from distgnn.nn.aggregation.kernels import neighbor_relu_sum, neighbor_sum
from distgnn.nn.aggregation.layout import find_layout, find_split_layout, is_matrix
from distgnn.nn.halo import Extended

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch_geometric.nn import GINConv, GINEConv, Linear
    from torch_geometric.typing import Adj, OptPairTensor, Size

    from distgnn.nn.aggregation.layout import Layout
    from distgnn.nn.halo import Meanwhile


@runtime_checkable
class SumsOverHalo(Protocol):
    """A layer that sums over own nodes while the rows of the halo are on their way.

    Its forward takes ``x=(rows, own)`` with :class:`~distgnn.nn.halo.Extended` rows. A layer without this member is
    given them once they have arrived.
    """

    def sum_messages(
        self,
        x: tuple[Tensor | Extended, Tensor | None],
        edge_index: Adj,
        edge_attr: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> tuple[Tensor | None, OptPairTensor]:
        """Sum the messages into each node, as :func:`sum_messages` does."""
        ...


class EdgeRows(NamedTuple):
    """The features of edges, and what maps them to the width of the nodes'.

    Args:
        values: ``[E, D]``.
        lin: The map, or None.
    """

    values: Tensor | None
    lin: Linear | None


def sum_messages(
    conv: GINConv | GINEConv,
    message: Callable[..., Tensor],
    x: Any,
    edge_index: Adj,
    edges: EdgeRows | None,
    size: Size,
    weight: Tensor | None = None,
) -> tuple[Tensor | None, OptPairTensor]:
    """Sum the messages into each node.

    Args:
        conv: The layer.
        message: As for :func:`~distgnn.nn.aggregation.layout.find_layout`.
        x: Source and destination features; sources may be :class:`~distgnn.nn.halo.Extended`.
        edge_index: The edges.
        edges: Of GINE; GIN has none.
        size: As in ``propagate``.
        weight: ``[E]``, what messages are multiplied by; None is 1.

    Returns:
        The sums, or None where that is left to PyG; and ``x`` as PyG takes it, or without the destinations' features
        where these are in the sums.
    """
    sources, destinations = x
    taken = destinations is not None and not conv.eps.requires_grad and _stays(sources, conv.eps)
    if isinstance(sources, Extended):
        taken = taken and destinations is sources.own
        sums = _sum_in_two(conv, message, sources, edge_index, edges, weight, taken=taken)
        if sums is not None:
            return sums, (sources.own, None if taken else destinations)
        x = sources.together(), destinations
    layout = find_layout(conv, message, edge_index, x, size)
    if layout is None or not _fits(edges, weight, layout.edges.size(1), x[0]):
        return None, x
    taken = taken and destinations is x[0]
    sums = _sum(x[0], _mapped(edges), weight, layout, _times(conv, taken=taken))
    return sums, (x[0], None if taken else destinations)


def _sum_in_two(
    conv: GINConv | GINEConv,
    message: Callable[..., Tensor],
    sources: Extended,
    edge_index: Adj,
    edges: EdgeRows | None,
    weight: Tensor | None,
    *,
    taken: bool,
) -> Tensor | None:
    """Sum over own nodes while the rows of the halo are on their way, then over the halo."""
    split = find_split_layout(conv, message, edge_index, sources.own, sources.num_halo)
    if split is None or not _fits(edges, weight, split.num_edges, sources.own):
        return None
    times, edge_attr = _times(conv, taken=taken), _mapped(edges)
    inner, outer = (None, None) if edge_attr is None else edge_attr.tensor_split([split.count])
    within, across = (None, None) if weight is None else weight.tensor_split([split.count])
    sums, halo = sources.beside(lambda own, meanwhile: _sum(own, inner, within, split.inner, times, meanwhile))
    return sums.index_add_(0, split.entered, _sum(halo, outer, across, split.outer))


def _sum(
    x: Tensor,
    edge_attr: Tensor | None,
    weight: Tensor | None,
    layout: Layout,
    own: float = 0.0,
    meanwhile: Meanwhile | None = None,
) -> Tensor:
    if edge_attr is None:
        return neighbor_sum(x, layout, own, meanwhile, None if weight is None else weight.to(x.dtype))
    return neighbor_relu_sum(x, edge_attr, layout, own, meanwhile, weight)


def _stays(sources: Any, eps: Tensor) -> bool:
    """Tell whether sums have the type of the rows, where PyG's are those of rows and weights together."""
    rows = sources.own if isinstance(sources, Extended) else sources
    return bool(torch.promote_types(rows.dtype, eps.dtype) == rows.dtype)


def _times(conv: GINConv | GINEConv, *, taken: bool) -> float:
    """Return how many times the sums take a node's own row along."""
    return 1 + float(conv.eps) if taken else 0.0


def _mapped(edges: EdgeRows | None) -> Tensor | None:
    if edges is None or edges.values is None or edges.lin is None:
        return None if edges is None else edges.values
    mapped: Tensor = edges.lin(edges.values)
    return mapped


def _fits(edges: EdgeRows | None, weight: Tensor | None, num_edges: int, x: Tensor) -> bool:
    """Return whether features and weights of edges, where there are any, go with the rows ``x`` of nodes."""
    if weight is not None:
        # Where messages would be of a wider type than the rows, PyG makes them.
        plain = weight.dim() == 1 and is_matrix(weight.unsqueeze(1))
        if not plain or len(weight) != num_edges or torch.promote_types(x.dtype, weight.dtype) != x.dtype:
            return False
    if edges is None:
        return True
    if not is_matrix(edges.values) or edges.values.size(0) != num_edges:
        return False
    return x.size(1) == (edges.values.size(1) if edges.lin is None else edges.lin.out_channels)
