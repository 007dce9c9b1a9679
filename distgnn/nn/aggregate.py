"""The sums over neighbors in GIN and GINE, on a CPU several times faster than by messages.

PyG writes one message an edge and adds the messages up. Here edges are brought into the order of their destinations
once, and rows are summed where they lie, by the loop that torch has for bags of embeddings; backward is the same sum
over the edges in the order of their sources. What is known of an ``edge_index`` is kept for as long as it lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import Parameter
from torch.utils.weak import WeakIdKeyDictionary
from torch_geometric import EdgeIndex, is_compiling
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import SumAggregation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch_geometric.typing import Adj, OptPairTensor, Size

_FLOATS = {torch.float32, torch.float64, torch.bfloat16, torch.float16}
_MAX_INT32 = 2**31 - 1
_CHUNK = 4096  # edges whose messages are in memory at a time


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


class Layout:
    """The edges of a graph in the order of their destinations and, once a backward asks, of their sources.

    Args:
        edges: ``[2, E]``, sources and destinations in the user's order, or what the user has in place of it.
        incoming: The edges by destination.
        num_sources: Number of nodes that edges may come from.
    """

    def __init__(self, edges: tuple[Tensor, Tensor], incoming: Bags, num_sources: int) -> None:
        self.edges = edges
        self.incoming = incoming
        self._num_sources = num_sources
        self._outgoing: Bags | None = None

    @property
    def outgoing(self) -> Bags:
        """The edges by source."""
        if self._outgoing is None:
            offsets, neighbors, order = self.incoming
            if order is None:
                order = torch.arange(neighbors.numel(), dtype=offsets.dtype)
            offsets, neighbors, order = _transpose(offsets, neighbors, order, self._num_sources)
            self._outgoing = Bags(offsets, neighbors, _unless_sorted(order))
        return self._outgoing


def neighbor_sum(x: Tensor, layout: Layout) -> Tensor:
    r"""Sum :math:`\mathbf{x}_j` over the edges :math:`(j, i)` into each node.

    Args:
        x: ``[num_sources, D]``.
        layout: The edges.

    Returns:
        ``[num_destinations, D]``, differentiable any number of times.
    """
    out: Tensor = _NeighborSum.apply(x, layout, False)  # type: ignore[no-untyped-call]
    return out


class _NeighborSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout, reverse: bool) -> Tensor:
        ctx.layout, ctx.reverse = layout, reverse
        bags = layout.outgoing if reverse else layout.incoming
        return _sum_bags(x.contiguous(), bags.neighbors, bags.offsets)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None]:
        return _NeighborSum.apply(gradients, ctx.layout, not ctx.reverse), None, None  # type: ignore[no-untyped-call]


def neighbor_relu_sum(x: Tensor, edge_attr: Tensor, layout: Layout) -> Tensor:
    r"""Sum :math:`\mathrm{ReLU}(\mathbf{x}_j + \mathbf{e}_{j,i})` over the edges :math:`(j, i)` into each node.

    Messages are computed a few thousand at a time, and again in backward.

    Args:
        x: ``[num_sources, D]``.
        edge_attr: ``[E, D]``, in the user's order.
        layout: The edges.

    Returns:
        ``[num_destinations, D]`` of the type that the sum of both has, differentiable any number of times.
    """
    dtype = torch.promote_types(x.dtype, edge_attr.dtype)
    out: Tensor = _NeighborReluSum.apply(  # type: ignore[no-untyped-call]
        x.to(dtype), edge_attr.to(dtype), layout
    )
    return out


class _NeighborReluSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, edge_attr: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        ctx.save_for_backward(x, edge_attr)
        x, edge_attr, bags = x.contiguous(), edge_attr.contiguous(), layout.incoming
        out = x.new_zeros(bags.offsets.numel() - 1, x.size(1))
        for chunk in _chunks(bags):
            messages = _gather(x, bags.neighbors[chunk.edges]).add_(chunk.rows_of(edge_attr, bags.order)).relu_()
            chunk.add_to(out, messages)
        return out

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, edge_attr = (saved.contiguous() for saved in ctx.saved_tensors)
        layout: Layout = ctx.layout
        if torch.is_grad_enabled():
            return *_relu_gradients(gradients, x, edge_attr, layout), None
        gradients = gradients.contiguous()
        if not ctx.needs_input_grad[1]:
            return _relu_gradients_of_x(gradients, x, edge_attr, layout), None, None
        sources, destinations = layout.edges
        by_edge = torch.empty_like(edge_attr)
        for begin in range(0, by_edge.size(0), _CHUNK):
            edges = slice(begin, begin + _CHUNK)
            inputs = _gather(x, sources[edges]).add_(edge_attr[edges])
            passed = _gather(gradients, destinations[edges])
            torch.ops.aten.threshold_backward.grad_input(passed, inputs, 0, grad_input=by_edge[edges])
        if not ctx.needs_input_grad[0]:
            return None, by_edge, None
        offsets, _, order = layout.outgoing
        order = torch.arange(by_edge.size(0), dtype=offsets.dtype) if order is None else order
        return _sum_bags(by_edge, order, offsets), by_edge, None


def _relu_gradients_of_x(gradients: Tensor, x: Tensor, edge_attr: Tensor, layout: Layout) -> Tensor:
    """Return the first of what backward returns, without the memory for the second."""
    bags = layout.outgoing
    by_node = torch.zeros_like(x)
    for chunk in _chunks(bags):
        inputs = chunk.repeat(x).add_(chunk.rows_of(edge_attr, bags.order))
        passed = _gather(gradients, bags.neighbors[chunk.edges])
        chunk.add_to(by_node, torch.ops.aten.threshold_backward(passed, inputs, 0))
    return by_node


def _relu_gradients(gradients: Tensor, x: Tensor, edge_attr: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return what backward returns, by operations that autograd can follow."""
    sources, destinations = layout.edges
    passes = x.detach()[sources] + edge_attr.detach() > 0
    by_edge = torch.where(passes, gradients[destinations], 0)
    return torch.zeros_like(x).index_add(0, sources, by_edge), by_edge


class _Chunk(NamedTuple):
    """Some edges of bags, and the nodes that they belong to."""

    edges: slice
    nodes: slice
    offsets: Tensor

    def rows_of(self, edge_attr: Tensor, order: Tensor | None) -> Tensor:
        """Return the features of the edges."""
        return edge_attr[self.edges] if order is None else _gather(edge_attr, order[self.edges])

    def repeat(self, x: Tensor) -> Tensor:
        """Return the row of its node for each edge."""
        return x[self.nodes].repeat_interleave(self.offsets.diff(), dim=0)

    def add_to(self, out: Tensor, rows: Tensor) -> None:
        """Add the rows of the edges to those of their nodes."""
        out[self.nodes].add_(_sum_bags(rows, torch.arange(rows.size(0), dtype=self.offsets.dtype), self.offsets))


def _chunks(bags: Bags) -> Iterator[_Chunk]:
    num_edges = bags.neighbors.numel()
    begins = torch.arange(0, num_edges, _CHUNK)
    ends = (begins + _CHUNK).clamp_(max=num_edges)
    first = torch.searchsorted(bags.offsets, begins, right=True) - 1
    last = torch.searchsorted(bags.offsets, ends)
    for begin, end, low, high in torch.stack((begins, ends, first, last), dim=1).tolist():
        offsets = (bags.offsets[low : high + 1] - begin).clamp_(0, end - begin)
        yield _Chunk(slice(begin, end), slice(low, high), offsets)


def _gather(rows: Tensor, indices: Tensor) -> Tensor:
    if rows.dtype == torch.float64:
        return rows.index_select(0, indices)
    # In bags of one: this loop fetches ahead, which index_select does not.
    return _sum_bags(rows, indices, torch.arange(indices.numel() + 1, dtype=indices.dtype))


def _sum_bags(rows: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    # F.embedding_bag saves for a slower backward of its own. A padding_idx of -1 given here would be the last row.
    return torch.embedding_bag(rows, indices, offsets, False, 0, False, None, True)[0]


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
    function transforms, forward derivatives), and for inputs that are not rows of floating point numbers on a CPU.

    Args:
        conv: The layer.
        message: The method ``message`` that the sum stands for; a layer with another is left to PyG.
        edge_index: The edges in any form that PyG takes. Tensors ``[2, E]``, EdgeIndex among them, and CSR matrices
            of ones have layouts. A layout is kept while the object lives, and made anew when its numbers have changed.
        x: Source and destination features.
        size: As in ``propagate``.
    """
    if is_compiling() or torch.jit.is_tracing() or not _sums(conv, message):
        return None
    sources, destinations = x
    if not is_matrix(sources) or not isinstance(edge_index, Tensor) or edge_index.device.type != "cpu":
        return None
    if conv.flow != "source_to_target" and (sources is not destinations or edge_index.layout != torch.strided):
        return None
    edges: tuple[Tensor, ...]
    if isinstance(edge_index, EdgeIndex):
        size, edges = edge_index.sparse_size(), (edge_index.as_tensor(),)
    elif edge_index.layout == torch.sparse_csr:
        values = edge_index.values()
        if values.requires_grad or values.dtype != sources.dtype or not bool((values == 1).all()):
            return None
        size, edges = (edge_index.size(1), edge_index.size(0)), (edge_index.crow_indices(), edge_index.col_indices())
    elif edge_index.layout == torch.strided and edge_index.dim() == 2:
        edges = (edge_index,)
    else:
        return None
    num_sources = sources.size(0)
    rows, columns = (None, None) if size is None else size
    num_destinations = num_sources if columns is None else columns
    if destinations is not None:
        num_destinations = destinations.size(-2)
    if rows not in {None, num_sources} or columns not in {None, num_destinations}:
        return None
    return _layout_of(edge_index, edges, conv.flow, num_sources, num_destinations)


def is_matrix(x: Tensor | None) -> bool:
    """Tell whether these are plain rows of floating point numbers on a CPU."""
    return type(x) in {Tensor, Parameter} and x.dim() == 2 and x.dtype in _FLOATS and x.device.type == "cpu"


def _sums(conv: MessagePassing, message: Callable[..., Tensor]) -> bool:
    """Tell whether all that the layer does to messages is to sum them, unseen."""
    summing = conv.aggr_module
    return (
        getattr(conv.message, "__func__", None) is message
        and getattr(conv.aggregate, "__func__", None) is MessagePassing.aggregate
        and getattr(conv.update, "__func__", None) is MessagePassing.update
        # PyG makes a propagate of its own for a layer unless it is overridden, explained or decomposed.
        and conv.propagate.__module__.endswith("_propagate")
        and type(summing) is SumAggregation
        and conv.node_dim in {-2, 0}
        and not (
            conv._propagate_forward_pre_hooks  # noqa: SLF001  # PyG has no other way to ask
            or conv._propagate_forward_hooks  # noqa: SLF001
            or conv._message_forward_pre_hooks  # noqa: SLF001
            or conv._message_forward_hooks  # noqa: SLF001
            or conv._aggregate_forward_pre_hooks  # noqa: SLF001
            or conv._aggregate_forward_hooks  # noqa: SLF001
            or conv._message_and_aggregate_forward_pre_hooks  # noqa: SLF001
            or conv._message_and_aggregate_forward_hooks  # noqa: SLF001
            or summing._forward_pre_hooks  # noqa: SLF001
            or summing._forward_hooks  # noqa: SLF001
            or torch._C._are_functorch_transforms_active()  # noqa: SLF001
            or forward_ad._current_level >= 0  # noqa: SLF001
        )
    )


class _Known(NamedTuple):
    edges: tuple[Tensor, ...]
    flow: str
    num_sources: int
    num_destinations: int
    layout: Layout


_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _layout_of(
    key: Tensor, edges: tuple[Tensor, ...], flow: str, num_sources: int, num_destinations: int
) -> Layout | None:
    """Return the layout of edges; None if an end is no node.

    Numbers are compared, since a version counter misses what is written through ``.data`` or numpy, and inference
    tensors have none. This takes about a hundredth of the time of the sum.
    """
    known: _Known | None = _known.get(key)
    if (
        known is not None
        and known[1:4] == (flow, num_sources, num_destinations)
        and all(map(torch.equal, known.edges, edges))
    ):
        return known.layout
    with torch.inference_mode(False):
        make = _from_matrix if len(edges) == 2 else _from_edges
        incoming = make(*edges, flow, num_sources, num_destinations)
        if incoming is None:
            return None
        copies = tuple(edge.clone() for edge in edges)
        layout = Layout(tuple(copies[0]), incoming, num_sources)
        _known[key] = _Known(copies, flow, num_sources, num_destinations, layout)
    return layout


def _from_edges(edge_index: Tensor, flow: str, num_sources: int, num_destinations: int) -> Bags | None:
    if edge_index.dtype != torch.int64 or edge_index.dim() != 2 or edge_index.size(0) != 2:
        return None
    sources, destinations = edge_index if flow == "source_to_target" else edge_index.flip(0)
    if not (_within(sources, num_sources) and _within(destinations, num_destinations)):
        return None
    dtype = _index_dtype(sources.numel(), num_sources, num_destinations)
    # A matrix with a row an edge and a column a node.
    offsets = torch.arange(sources.numel() + 1, dtype=dtype)
    offsets, order, neighbors = _transpose(offsets, destinations.to(dtype), sources.to(dtype), num_destinations)
    return Bags(offsets, neighbors, _unless_sorted(order))


def _from_matrix(offsets: Tensor, columns: Tensor, flow: str, num_sources: int, num_destinations: int) -> Bags | None:
    del flow, num_destinations
    steps = offsets.diff()
    if offsets[0] != 0 or offsets[-1] != columns.numel() or not _within(columns, num_sources) or bool((steps < 0).any()):
        return None
    dtype = _index_dtype(columns.numel(), num_sources, offsets.numel())
    return Bags(offsets.to(dtype, copy=True), columns.to(dtype, copy=True), None)


def _within(ends: Tensor, count: int) -> bool:
    if ends.numel() == 0:
        return True
    low, high = ends.aminmax()
    return bool(low >= 0) and bool(high < count)


def _index_dtype(*counts: int) -> torch.dtype:
    return torch.int32 if max(counts) <= _MAX_INT32 else torch.int64


def _transpose(offsets: Tensor, columns: Tensor, values: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets, rows and values by column of a matrix by row; scipy does so by counting, in order."""
    matrix = csr_array(
        (values.numpy(), columns.numpy(), offsets.numpy()), shape=(offsets.numel() - 1, num_columns)
    ).tocsc()
    by_column = (matrix.indptr, matrix.indices, matrix.data)
    new_offsets, rows, new_values = (torch.from_numpy(numbers).to(offsets.dtype) for numbers in by_column)
    return new_offsets, rows, new_values


def _unless_sorted(order: Tensor) -> Tensor | None:
    return None if torch.equal(order, torch.arange(order.numel(), dtype=order.dtype)) else order
