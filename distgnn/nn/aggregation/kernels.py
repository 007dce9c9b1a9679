"""Neighbor sums of GIN and GINE on a CPU.

PyG writes one message an edge and adds the messages up. Here edges are brought into the order of their destinations
(see :mod:`distgnn.nn.aggregation.layout`), and rows are summed where they lie, by the loop that torch has for bags of
embeddings; backward is the same sum over the edges in the order of their sources.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from distgnn.storage.toolkit.threads import share_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distgnn.nn.aggregation.layout import Bags, Layout
    from distgnn.nn.halo import Meanwhile

Done = TypeVar("Done")

_CHUNK = 2**19  # numbers in the messages that a thread has in memory at a time


def neighbor_sum(x: Tensor, layout: Layout, own: float = 0.0, meanwhile: Meanwhile | None = None) -> Tensor:
    r"""Sum :math:`\mathbf{x}_j` over the edges :math:`(j, i)` into each node.

    Args:
        x: ``[num_sources, D]``.
        layout: The edges.
        own: How many times a node's own row is added to its sum; other than 0 only where sources are destinations.
        meanwhile: What is done while another thread sums.

    Returns:
        ``[num_destinations, D]``, differentiable any number of times.
    """
    out: Tensor = _NeighborSum.apply(x, layout, own, meanwhile, False)  # type: ignore[no-untyped-call]
    return out


class _NeighborSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: Layout, own: float, meanwhile: Meanwhile | None, reverse: bool) -> Tensor:
        ctx.rest = layout, own, meanwhile, not reverse
        bags = layout.outgoing if reverse else layout.incoming
        away = None if meanwhile is None else meanwhile.backward if reverse else meanwhile.forward
        return _beside(away, lambda: _add(_sum_bags(x.contiguous(), bags.neighbors, bags.offsets), x, own))

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _NeighborSum.apply(gradients, *ctx.rest), None, None, None, None  # type: ignore[no-untyped-call]


def neighbor_relu_sum(
    x: Tensor, edge_attr: Tensor, layout: Layout, own: float = 0.0, meanwhile: Meanwhile | None = None
) -> Tensor:
    r"""Sum :math:`\mathrm{ReLU}(\mathbf{x}_j + \mathbf{e}_{j,i})` over the edges :math:`(j, i)` into each node.

    Messages are computed a few thousand at a time, and again in backward.

    Args:
        x: ``[num_sources, D]``.
        edge_attr: ``[E, D]``, in the user's order.
        layout: The edges.
        own: As in :func:`neighbor_sum`.
        meanwhile: As in :func:`neighbor_sum`.

    Returns:
        ``[num_destinations, D]`` of the type that the sum of both has, differentiable any number of times.
    """
    dtype = torch.promote_types(x.dtype, edge_attr.dtype)
    out: Tensor = _NeighborReluSum.apply(  # type: ignore[no-untyped-call]
        x.to(dtype), edge_attr.to(dtype), layout, own, meanwhile
    )
    return out


class _NeighborReluSum(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, edge_attr: Tensor, layout: Layout, own: float, meanwhile: Meanwhile | None
    ) -> Tensor:
        ctx.layout, ctx.own, ctx.meanwhile = layout, own, meanwhile
        ctx.save_for_backward(x, edge_attr)
        x, edge_attr = x.contiguous(), edge_attr.contiguous()

        def messages(chunk: _Chunk) -> Tensor:
            return chunk.sum(chunk.neighbors_of(x).add_(chunk.edges_of(edge_attr)).relu_())

        away = None if meanwhile is None else meanwhile.forward
        return _beside(away, lambda: _add(_sum_chunks(messages, layout.incoming, x), x, own))

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, edge_attr = (saved.contiguous() for saved in ctx.saved_tensors)
        gradients, layout = gradients.contiguous(), ctx.layout
        of_x, of_edges = ctx.needs_input_grad[:2]

        def compute() -> tuple[Tensor | None, Tensor | None]:
            if not of_edges:
                return _relu_gradients_of_x(gradients, x, edge_attr, layout), None
            by_edge = _relu_gradients_of_edges(gradients, x, edge_attr, layout)
            if not of_x:
                return None, by_edge
            offsets, _, order = layout.outgoing
            order = torch.arange(by_edge.size(0), dtype=offsets.dtype) if order is None else order
            return _sum_bags(by_edge, order, offsets), by_edge

        away = None if ctx.meanwhile is None else ctx.meanwhile.backward
        differentiable = torch.is_grad_enabled()
        sums, by_edge = _relu_gradients(gradients, x, edge_attr, layout) if differentiable else _beside(away, compute)
        return None if sums is None else _add(sums, gradients, ctx.own), by_edge, None, None, None


def _add(sums: Tensor, rows: Tensor, own: float) -> Tensor:
    return sums.add_(rows, alpha=own) if own else sums


def _relu_gradients(gradients: Tensor, x: Tensor, edge_attr: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return what backward returns, by operations that autograd can follow."""
    sources, destinations = layout.edges
    passes = x.detach()[sources] + edge_attr.detach() > 0
    by_edge = torch.where(passes, gradients[destinations], 0)
    return torch.zeros_like(x).index_add(0, sources, by_edge), by_edge


def _relu_gradients_of_x(gradients: Tensor, x: Tensor, edge_attr: Tensor, layout: Layout) -> Tensor:
    """Return the gradients of ``x`` without memory for those of the edges."""

    def passed(chunk: _Chunk) -> Tensor:
        inputs = chunk.nodes_of(x).add_(chunk.edges_of(edge_attr))
        passing = chunk.neighbors_of(gradients)
        return chunk.sum(torch.ops.aten.threshold_backward.grad_input(passing, inputs, 0, grad_input=passing))

    return _sum_chunks(passed, layout.outgoing, x)


def _relu_gradients_of_edges(gradients: Tensor, x: Tensor, edge_attr: Tensor, layout: Layout) -> Tensor:
    """Return the gradients of the edges; in the user's order, so that they are written one after the other."""
    by_edge = torch.empty_like(edge_attr)
    sources, destinations = layout.edges
    step = _step(x.size(1))
    each = torch.arange(step + 1)

    def write(begin: int) -> None:
        edges = slice(begin, begin + step)
        inputs = _gather(x, sources[edges], each).add_(edge_attr[edges])
        passed = _gather(gradients, destinations[edges], each)
        torch.ops.aten.threshold_backward.grad_input(passed, inputs, 0, grad_input=by_edge[edges])

    share_work(write, range(0, by_edge.size(0), step), least=1)
    return by_edge


class _Chunk(NamedTuple):
    """Some edges of bags, one after the other, and the nodes that they belong to."""

    edges: slice
    nodes: slice
    offsets: Tensor
    bags: Bags
    each: Tensor

    def neighbors_of(self, x: Tensor) -> Tensor:
        """Return the row of the node at the other end of each edge."""
        return _gather(x, self.bags.neighbors[self.edges], self.each)

    def nodes_of(self, x: Tensor) -> Tensor:
        """Return the row of each edge's node."""
        return x[self.nodes].repeat_interleave(self.offsets.diff(), dim=0)

    def edges_of(self, edge_attr: Tensor) -> Tensor:
        """Return the row of each edge."""
        order = self.bags.order
        return edge_attr[self.edges] if order is None else _gather(edge_attr, order[self.edges], self.each)

    def sum(self, rows: Tensor) -> Tensor:
        """Sum a row an edge into one a node."""
        return _sum_bags(rows, self.each[: rows.size(0)], self.offsets)


def _sum_chunks(sums_of: Callable[[_Chunk], Tensor], bags: Bags, like: Tensor) -> Tensor:
    """Add up the sums of nodes that are given chunk by chunk; the edges of a node may lie in several."""
    out = like.new_zeros(bags.offsets.numel() - 1, like.size(1))
    chunks = list(_chunks(bags, like.size(1)))
    begun: dict[int, Tensor] = {}

    def add(number: int) -> None:
        chunk = chunks[number]
        sums = sums_of(chunk)
        out[chunk.nodes][1:] = sums[1:]
        begun[number] = sums[0].clone()  # the node may have begun in a chunk that another thread is at

    share_work(add, range(len(chunks)), least=1)
    for number, chunk in enumerate(chunks):
        out[chunk.nodes.start] += begun[number]
    return out


def _beside(away: Callable[[], None] | None, compute: Callable[[], Done]) -> Done:
    """Compute in another thread while this one is away: stores are called by the thread that opened them."""
    if away is None:
        return compute()
    inference = torch.is_inference_mode_enabled()

    def run() -> Done:
        with torch.inference_mode(inference), torch.no_grad():
            return compute()

    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(run)
        away()
    return computing.result()


def _chunks(bags: Bags, width: int) -> Iterator[_Chunk]:
    num_edges, step = bags.neighbors.numel(), _step(width)
    each = torch.arange(step + 1, dtype=bags.offsets.dtype)
    begins = torch.arange(0, num_edges, step)
    ends = (begins + step).clamp_(max=num_edges)
    first = torch.searchsorted(bags.offsets, begins, right=True) - 1
    last = torch.searchsorted(bags.offsets, ends)
    for begin, end, low, high in torch.stack((begins, ends, first, last), dim=1).tolist():
        offsets = (bags.offsets[low : high + 1] - begin).clamp_(0, end - begin)
        yield _Chunk(slice(begin, end), slice(low, high), offsets, bags, each)


def _step(width: int) -> int:
    return max(1, _CHUNK // max(1, width))


def _gather(rows: Tensor, indices: Tensor, each: Tensor) -> Tensor:
    if rows.dtype == torch.float64:
        return rows.index_select(0, indices)
    # As bags of one row: that loop fetches ahead, index_select does not.
    return _sum_bags(rows, indices, each[: indices.numel() + 1])


def _sum_bags(rows: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    # Not F.embedding_bag: its backward is slow. Rows that require gradients would make torch prepare for that one. A
    # padding_idx of -1, if given, would be the last row.
    return torch.embedding_bag(rows.detach(), indices, offsets, False, 0, False, None, True)[0]
