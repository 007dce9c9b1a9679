"""Edges in the orders in which they are summed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import torch

# It counts, which is much faster than to sort. On a mini-batch the public way to it takes ten times as long.
from scipy.sparse._sparsetools import csr_tocsc
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils.weak import WeakIdKeyDictionary
from torch_geometric import EdgeIndex, is_compiling
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

from distgnn.nn.aggregation.weighted import Weighted

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch_geometric.typing import Adj, OptPairTensor, Size

_HOOKS = [
    f"_{step}_forward{when}_hooks"
    for step in ("propagate", "message", "aggregate", "message_and_aggregate")
    for when in ("_pre", "")
]
_FLOATS = {torch.float32, torch.float64, torch.bfloat16, torch.float16}
_MAX_INT32 = 2**31 - 1
_WORTHWHILE = 2**17  # with fewer numbers in all messages, the layout of a mini-batch takes the time that it saves


class Bags(NamedTuple):
    """Edges in the order of the node at one of their ends.

    Args:
        offsets: ``[N + 1]``, where the edges of each node begin.
        neighbors: ``[E]``, the node at the other end of each edge.
        order: ``[E]``, the place that each edge has for the user, or None where that is the same.
    """

    offsets: Tensor
    neighbors: Tensor
    order: Tensor | None

    def arrange(self, weight: Tensor | None) -> Tensor | None:
        """Return numbers of edges, ``[E]`` in the user's order, in that of the bags."""
        return weight if weight is None or self.order is None else weight.detach().index_select(0, self.order)


class Layout:
    """The edges of a graph by destination, and by source.

    Args:
        edges: ``[2, E]``, sources and destinations, within the numbers of nodes.
        num_sources: Number of nodes that edges may come from.
        num_destinations: Number of nodes that edges may go to.
    """

    def __init__(self, edges: Tensor, num_sources: int, num_destinations: int) -> None:
        self.edges = edges.clone(memory_format=torch.contiguous_format)
        self._sizes = num_sources, num_destinations
        small = max(edges.size(1), num_sources, num_destinations) <= _MAX_INT32
        sources, destinations = self.edges.to(torch.int32) if small else self.edges
        # A matrix with a row an edge and a column a node.
        offsets = torch.arange(edges.size(1) + 1, dtype=sources.dtype)
        offsets, order, neighbors = _transpose(offsets, destinations, sources, num_destinations)
        self.incoming = Bags(offsets, neighbors, _unless_counting(order))
        self._outgoing: Bags | None = None

    @property
    def outgoing(self) -> Bags:
        """The edges by source."""
        if self._outgoing is None:
            offsets, neighbors, order = self.incoming
            order = _count(neighbors) if order is None else order
            offsets, neighbors, order = _transpose(offsets, neighbors, order, self._sizes[0])
            self._outgoing = Bags(offsets, neighbors, _unless_counting(order))
        return self._outgoing

    def fits(self, edges: Tensor, num_sources: int, num_destinations: int) -> bool:
        """Tell whether this is the layout of these edges.

        Numbers are compared, since a version counter misses what is written through ``.data`` or numpy, and inference
        tensors have none. This takes about a hundredth of the time of a sum.
        """
        return self._sizes == (num_sources, num_destinations) and torch.equal(self.edges, edges)


class SplitLayout:
    """The edges of a part: from own nodes, then halo.

    Args:
        edges: ``[2, E]``, sources and destinations; own nodes are numbered first.
        num_own: Number of own nodes.
        num_halo: Number of nodes of the halo.

    Attributes:
        num_edges: Number of edges.
        count: How many of them come from own nodes.
        inner: The layout of these.
        outer: The layout of the others, with sources counted from the halo's first.
        entered: ``[K]``, the own nodes in which those end, as their layout numbers destinations.
    """

    def __init__(self, edges: Tensor, num_own: int, num_halo: int) -> None:
        self._sizes = num_own, num_halo
        self.num_edges = edges.size(1)
        self.count = int((edges[0] < num_own).sum())
        self.inner = Layout(edges[:, : self.count], num_own, num_own)
        self._others = edges[:, self.count :].clone(memory_format=torch.contiguous_format)
        self.entered, destinations = torch.unique(self._others[1], return_inverse=True)
        outer = torch.stack([self._others[0] - num_own, destinations])
        self.outer = Layout(outer, num_halo, self.entered.numel())

    def fits(self, edges: Tensor, num_own: int, num_halo: int) -> bool:
        """Tell whether this is the layout of these edges, as :meth:`Layout.fits` does."""
        return (
            self._sizes == (num_own, num_halo)
            and torch.equal(self.inner.edges, edges[:, : self.count])
            and torch.equal(self._others, edges[:, self.count :])
        )


def _transpose(offsets: Tensor, columns: Tensor, values: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, rows and values by column of a matrix by row, those of a column in the order of rows."""
    new_offsets, new_rows, new_values = (
        offsets.new_empty(num_columns + 1),
        torch.empty_like(columns),
        torch.empty_like(values),
    )
    tensors = (offsets, columns, values, new_offsets, new_rows, new_values)
    csr_tocsc(offsets.numel() - 1, num_columns, *(tensor.numpy() for tensor in tensors))
    return new_offsets, new_rows, new_values


def _unless_counting(order: Tensor) -> Tensor | None:
    return None if torch.equal(order, _count(order)) else order


def _count(edges: Tensor) -> Tensor:
    return torch.arange(edges.numel(), dtype=edges.dtype)


def find_layout(
    conv: MessagePassing,
    message: Callable[..., Tensor],
    edge_index: Adj,
    x: OptPairTensor,
    size: Size,
) -> Layout | None:
    """Return the layout by which a layer can sum over neighbors, or None where that is left to PyG.

    It is left to PyG, with its results and errors, where somebody looks into or changes the messages (hooks,
    explainers, overridden methods, other aggregations, decomposed layers), where torch does (compilation, tracing,
    function transforms, forward derivatives), and for inputs that are small, or no rows of floating point numbers on a
    CPU.

    Args:
        conv: The layer.
        message: The method ``message`` that the sum stands for; a layer with another is left to PyG.
        edge_index: The edges in any form that PyG takes. Tensors ``[2, E]``, EdgeIndex among them, and CSR matrices
            of ones have layouts. A layout is kept while the object lives, and made anew when its numbers have changed.
        x: Source and destination features.
        size: As in ``propagate``.
    """
    sources, destinations = x
    if is_compiling() or not is_matrix(sources) or not (destinations is None or is_matrix(destinations)):
        return None
    forward = conv.flow == "source_to_target"
    edges = _edges(edge_index, forward, sources.dtype)
    if edges is None or edges.size(1) * sources.size(1) < _WORTHWHILE or not _sums(conv, message):
        return None
    if not forward and sources is not destinations:
        return None
    if isinstance(edge_index, EdgeIndex):
        size = edge_index.sparse_size()
    elif edge_index.layout == torch.sparse_csr:
        size = edge_index.size(1), edge_index.size(0)
    num_sources = sources.size(0)
    rows, columns = (None, None) if size is None else size
    num_destinations = num_sources if columns is None else columns
    if destinations is not None:
        num_destinations = destinations.size(0)
    if rows not in {None, num_sources} or columns not in {None, num_destinations}:
        return None
    return _layout_of(edge_index, edges, num_sources, num_destinations)


def find_split_layout(
    conv: MessagePassing, message: Callable[..., Tensor], edge_index: Adj, own: Tensor, num_halo: int
) -> SplitLayout | None:
    """Return the layout by which a layer over a part sums in two steps, or None where it does not.

    It does where :func:`find_layout` finds a layout, and there are edges of both kinds in the order of
    :class:`SplitLayout`.

    Args:
        conv: As there.
        message: As there.
        edge_index: As there.
        own: The rows of own nodes, where all edges end.
        num_halo: Number of nodes of the halo.
    """
    if is_compiling() or not is_matrix(own) or num_halo == 0 or conv.flow != "source_to_target":
        return None
    edges = _edges(edge_index, True, own.dtype)
    if edges is None or edges.size(1) * own.size(1) < _WORTHWHILE or not _sums(conv, message):
        return None
    num_own = own.size(0)
    split = _known.get(edge_index)  # type: ignore[no-untyped-call]
    if isinstance(split, SplitLayout) and split.fits(edges, num_own, num_halo):
        return split
    outer = edges[0] >= num_own
    if (
        not 0 < int(outer.sum()) < outer.numel()
        or bool((outer[1:] < outer[:-1]).any())
        or edges.min() < 0
        or edges[0].max() >= num_own + num_halo
        or edges[1].max() >= num_own
    ):
        return None
    with torch.inference_mode(False):
        _known[edge_index] = split = SplitLayout(edges, num_own, num_halo)
    return split


def is_matrix(x: Tensor | None) -> TypeGuard[Tensor]:
    """Tell whether these are plain rows of floating point numbers on a CPU, and not empty."""
    if x is None or type(x) not in {Tensor, Parameter}:
        return False
    plain = x.layout == torch.strided and x.device.type == "cpu"
    return plain and x.dim() == 2 and x.numel() > 0 and x.dtype in _FLOATS


def _sums(conv: MessagePassing, message: Callable[..., Tensor]) -> bool:
    """Tell whether all that the layer does to messages is to sum them, unseen."""
    summing = conv.aggr_module
    return (
        getattr(conv.message, "__func__", None) is message
        and getattr(conv.aggregate, "__func__", None) in {MessagePassing.aggregate, Weighted.aggregate}
        and getattr(conv.update, "__func__", None) is MessagePassing.update
        # PyG makes a propagate of its own for a layer unless it is overridden, explained or decomposed.
        and conv.propagate.__module__.endswith("_propagate")
        and type(summing) is SumAggregation
        and conv.node_dim in {-2, 0}
        and not any(getattr(conv, hooks) for hooks in _HOOKS)
        and not (summing._forward_pre_hooks or summing._forward_hooks)  # noqa: SLF001  # there is no other way to ask
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()  # noqa: SLF001  # as above
        and forward_ad._current_level < 0  # noqa: SLF001  # as above
    )


def _edges(edge_index: Adj, forward: bool, dtype: torch.dtype) -> Tensor | None:
    """Return sources and destinations ``[2, E]``, if they are given in a form that has layouts."""
    if not isinstance(edge_index, Tensor) or edge_index.device.type != "cpu":
        return None
    if edge_index.layout == torch.sparse_csr:
        values = edge_index.values()
        if not forward or values.requires_grad or values.dtype != dtype or not bool((values == 1).all()):
            return None
        destinations = torch.repeat_interleave(edge_index.crow_indices().diff())
        return torch.stack((edge_index.col_indices().long(), destinations))
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    if (
        type(edge_index) is not Tensor
        or edge_index.layout != torch.strided
        or edge_index.dtype != torch.int64
        or edge_index.dim() != 2
        or edge_index.size(0) != 2
        or edge_index.size(1) == 0
    ):
        return None
    return edge_index if forward else edge_index.flip(0)


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _layout_of(key: Tensor, edges: Tensor, num_sources: int, num_destinations: int) -> Layout | None:
    layout = _known.get(key)  # type: ignore[no-untyped-call]
    if isinstance(layout, Layout) and layout.fits(edges, num_sources, num_destinations):
        return layout
    if edges.min() < 0 or edges[0].max() >= num_sources or edges[1].max() >= num_destinations:
        return None
    with torch.inference_mode(False):  # a training step may come later
        _known[key] = layout = Layout(edges, num_sources, num_destinations)
    return layout
