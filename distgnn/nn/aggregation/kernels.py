"""Neighbor sums of GIN and GINE on a CPU.

PyG writes one message an edge and adds the messages up. Here edges are brought into the order of their destinations
(see :mod:`distgnn.nn.aggregation.layout`), and rows are summed where they lie, by the loop that torch has for bags of
embeddings; backward is the same sum over the edges in the order of their sources.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from distgnn.nn.aggregation.chunks import Chunk, gather, step_of, sum_bags, sum_chunks
from distgnn.storage.toolkit.threads import share_work

if TYPE_CHECKING:
    from collections.abc import Callable

    from distgnn.nn.aggregation.layout import Layout
    from distgnn.nn.halo import Meanwhile

Done = TypeVar("Done")


def neighbor_sum(
    x: Tensor, layout: Layout, own: float = 0.0, meanwhile: Meanwhile | None = None, weight: Tensor | None = None
) -> Tensor:
    r"""Sum :math:`w_{j,i} \, \mathbf{x}_j` over the edges :math:`(j, i)` into each node.

    Args:
        x: ``[num_sources, D]``.
        layout: The edges.
        own: How many times a node's own row is added to its sum; other than 0 only where sources are destinations.
        meanwhile: What is done while another thread sums.
        weight: ``[E]`` of the type of ``x``, in the user's order; None is 1 for each edge.

    Returns:
        ``[num_destinations, D]``, differentiable any number of times.
    """
    out: Tensor = _NeighborSum.apply(x, weight, layout, own, meanwhile, False)  # type: ignore[no-untyped-call]
    return out


class _NeighborSum(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        layout: Layout,
        own: float,
        meanwhile: Meanwhile | None,
        reverse: bool,
    ) -> Tensor:
        ctx.rest = layout, own, meanwhile, not reverse
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        bags = layout.outgoing if reverse else layout.incoming
        away = None if meanwhile is None else meanwhile.backward if reverse else meanwhile.forward

        def compute() -> Tensor:
            return _add(sum_bags(x.contiguous(), bags.neighbors, bags.offsets, bags.arrange(weight)), x, own)

        return _beside(away, compute)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        layout, reverse = ctx.rest[0], not ctx.rest[-1]
        sums = _NeighborSum.apply(gradients, weight, *ctx.rest) if of_x else None  # type: ignore[no-untyped-call]
        if not of_weight:
            return sums, None, None, None, None, None
        sources, destinations = layout.edges.flip(0) if reverse else layout.edges
        return sums, _dot_by_edge(x, sources, gradients, destinations), None, None, None, None


def neighbor_relu_sum(
    x: Tensor,
    edge_attr: Tensor,
    layout: Layout,
    own: float = 0.0,
    meanwhile: Meanwhile | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Sum :math:`w_{j,i} \, \mathrm{ReLU}(\mathbf{x}_j + \mathbf{e}_{j,i})` over the edges :math:`(j, i)` into a node.

    Messages are computed a few thousand at a time, and again in backward.

    Args:
        x: ``[num_sources, D]``.
        edge_attr: ``[E, D]``, in the user's order.
        layout: The edges.
        own: As in :func:`neighbor_sum`.
        meanwhile: As in :func:`neighbor_sum`.
        weight: ``[E]``, in the user's order; None is 1 for each edge.

    Returns:
        ``[num_destinations, D]`` of the type that the sum of both has, differentiable any number of times.
    """
    dtype = torch.promote_types(x.dtype, edge_attr.dtype)
    weight = None if weight is None else weight.to(dtype)
    out: Tensor = _NeighborReluSum.apply(  # type: ignore[no-untyped-call]
        x.to(dtype), edge_attr.to(dtype), weight, layout, own, meanwhile
    )
    return out


class _NeighborReluSum(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        edge_attr: Tensor,
        weight: Tensor | None,
        layout: Layout,
        own: float,
        meanwhile: Meanwhile | None,
    ) -> Tensor:
        ctx.layout, ctx.own, ctx.meanwhile = layout, own, meanwhile
        ctx.save_for_backward(x, edge_attr, weight)
        x, edge_attr = x.contiguous(), edge_attr.contiguous()

        def compute() -> Tensor:
            by_bag = layout.incoming.arrange(weight)

            def messages(chunk: Chunk) -> Tensor:
                return chunk.sum(chunk.neighbors_of(x).add_(chunk.edges_of(edge_attr)).relu_(), by_bag)

            return _add(sum_chunks(messages, layout.incoming, x), x, own)

        return _beside(None if meanwhile is None else meanwhile.forward, compute)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, edge_attr, weight = ctx.saved_tensors
        layout = ctx.layout
        if torch.is_grad_enabled():
            of_nodes, *of_both = _relu_gradients(gradients, x, edge_attr, weight, layout)
            return _add(of_nodes, gradients, ctx.own), *of_both, None, None, None
        x, edge_attr, gradients = x.contiguous(), edge_attr.contiguous(), gradients.contiguous()
        of_x, of_edges, of_weight = ctx.needs_input_grad[:3]

        def compute() -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            by_weight = _relu_gradients_of_weight(gradients, x, edge_attr, layout) if of_weight else None
            if not of_edges:
                sums = _relu_gradients_of_x(gradients, x, edge_attr, weight, layout) if of_x else None
                return sums, None, by_weight
            by_edge = _relu_gradients_of_edges(gradients, x, edge_attr, weight, layout)
            if not of_x:
                return None, by_edge, by_weight
            offsets, _, order = layout.outgoing
            order = torch.arange(by_edge.size(0), dtype=offsets.dtype) if order is None else order
            return sum_bags(by_edge, order, offsets), by_edge, by_weight

        away = None if ctx.meanwhile is None else ctx.meanwhile.backward
        sums, *by_edge = _beside(away, compute)
        return None if sums is None else _add(sums, gradients, ctx.own), *by_edge, None, None, None


def _add(sums: Tensor, rows: Tensor, own: float) -> Tensor:
    return sums.add_(rows, alpha=own) if own else sums


def _dot_by_edge(x: Tensor, sources: Tensor, gradients: Tensor, destinations: Tensor) -> Tensor:
    """Return the product of a row of each for every edge, ``[E]``."""
    if torch.is_grad_enabled():
        return (x[sources] * gradients[destinations]).sum(dim=1)
    x, gradients = x.contiguous(), gradients.contiguous()
    each = torch.arange(step_of(x.size(1)) + 1)

    def products(edges: slice) -> Tensor:
        return gather(x, sources[edges], each).mul_(gather(gradients, destinations[edges], each))

    return _numbers_by_edge(products, x, sources.numel())


def _numbers_by_edge(products: Callable[[slice], Tensor], x: Tensor, num_edges: int) -> Tensor:
    """Return the sum of each edge's products, which are computed for some edges at a time."""
    step, found = step_of(x.size(1)), x.new_empty(num_edges)

    def write(begin: int) -> None:
        edges = slice(begin, begin + step)
        found[edges] = products(edges).sum(dim=1)

    share_work(write, range(0, num_edges, step), least=1)
    return found


def _relu_gradients(
    gradients: Tensor, x: Tensor, edge_attr: Tensor, weight: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what backward returns, by operations that autograd can follow."""
    sources, destinations = layout.edges
    inputs, passing = x[sources] + edge_attr, gradients[destinations]
    passes = inputs.detach() > 0
    by_weight = None if weight is None else (torch.where(passes, inputs, 0) * passing).sum(dim=1)
    by_edge = torch.where(passes, passing if weight is None else passing * weight.unsqueeze(1), 0)
    return torch.zeros_like(x).index_add(0, sources, by_edge), by_edge, by_weight


def _relu_gradients_of_x(
    gradients: Tensor, x: Tensor, edge_attr: Tensor, weight: Tensor | None, layout: Layout
) -> Tensor:
    """Return the gradients of ``x`` without memory for those of the edges."""
    by_bag = layout.outgoing.arrange(weight)

    def passed(chunk: Chunk) -> Tensor:
        inputs = chunk.nodes_of(x).add_(chunk.edges_of(edge_attr))
        passing = chunk.neighbors_of(gradients)
        return chunk.sum(torch.ops.aten.threshold_backward.grad_input(passing, inputs, 0, grad_input=passing), by_bag)

    return sum_chunks(passed, layout.outgoing, x)


def _relu_gradients_of_edges(
    gradients: Tensor, x: Tensor, edge_attr: Tensor, weight: Tensor | None, layout: Layout
) -> Tensor:
    """Return the gradients of the edges; in the user's order, so that they are written one after the other."""
    by_edge = torch.empty_like(edge_attr)
    sources, destinations = layout.edges
    step = step_of(x.size(1))
    each = torch.arange(step + 1)

    def write(begin: int) -> None:
        edges = slice(begin, begin + step)
        inputs = gather(x, sources[edges], each).add_(edge_attr[edges])
        passed = gather(gradients, destinations[edges], each)
        if weight is not None:
            passed.mul_(weight[edges].unsqueeze(1))
        torch.ops.aten.threshold_backward.grad_input(passed, inputs, 0, grad_input=by_edge[edges])

    share_work(write, range(0, by_edge.size(0), step), least=1)
    return by_edge


def _relu_gradients_of_weight(gradients: Tensor, x: Tensor, edge_attr: Tensor, layout: Layout) -> Tensor:
    """Return the gradients of the edges' weights, ``[E]``."""
    sources, destinations = layout.edges
    each = torch.arange(step_of(x.size(1)) + 1)

    def products(edges: slice) -> Tensor:
        messages = gather(x, sources[edges], each).add_(edge_attr[edges]).relu_()
        return messages.mul_(gather(gradients, destinations[edges], each))

    return _numbers_by_edge(products, x, sources.numel())


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
