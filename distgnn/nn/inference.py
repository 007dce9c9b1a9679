"""The outputs of all nodes, layer by layer, for graphs whose layers fit in no one memory."""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import torch
from rich.console import Console
from rich.progress import Progress
from torch.nn import Module

from distgnn.distributed.communicator import rank_and_world_size
from distgnn.errors import GraphInputError
from distgnn.nn.activations import StoredActivation
from distgnn.nn.embedding import default_name
from distgnn.nn.norm.norms import graph_norm
from distgnn.storage.protocols import EmbeddingStore
from distgnn.storage.registry import get_backend
from distgnn.storage.specs import PartitionBook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from distgnn.storage.protocols import Backend, GraphStore, TensorStore

    Rows = Callable[[Tensor], Tensor]


class LayeredModel(Protocol):
    """A module that can be run a layer at a time; what :func:`infer_by_layers` needs of it."""

    num_layers: int

    def input_rows(self, x: Tensor | None, node_ids: Tensor) -> Tensor:
        """Return what the first layer is given for these nodes."""
        ...

    def layer(
        self,
        index: int,
        h: tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None,
        edge_ids: Tensor,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Return a layer's output for destinations, from the rows of sources and of destinations.

        ``edge_weight`` is given where inference has ``edge_weights``.
        """
        ...

    def combine(self, layers: list[Tensor]) -> Tensor:
        """Return the model's output from the input rows and those of each layer, or of the last one alone."""
        ...

    @property
    def combines_layers(self) -> bool:
        """Whether the output needs the rows of other layers than the last."""
        ...


@torch.no_grad()
def infer_by_layers(
    model: LayeredModel,
    graph: GraphStore,
    features: TensorStore | EmbeddingStore | None = None,
    *,
    edge_features: TensorStore | EmbeddingStore | None = None,
    edge_weights: TensorStore | None = None,
    batch_size: int = 1024,
    backend: Backend | None = None,
    progress: bool | Progress = True,
    layers: Sequence[StoredActivation] = (),
) -> TensorStore:
    """Compute the outputs of all nodes, with all their neighbors, as a forward over the full graph would.

    Each layer goes through the nodes in batches, reads its inputs from the store of the layer before, and writes to a
    store of its own; the layer before is then freed, unless the model's output combines all layers. So a process holds
    the rows of a batch and of its in-neighbors, and its share of two stores. On several ranks each computes a range of
    the nodes, and all make the same number of steps.

    Args:
        model: A :class:`torch.nn.Module`; it is used in evaluation mode, and left as it was.
        graph: The graph.
        features: ``[num_nodes, in_channels]``; None where the model has stored embeddings alone.
        edge_features: ``[num_edges, edge_dim]``.
        edge_weights: ``[num_edges]``, given to ``model.layer(..., edge_weight=)``; it needs to take them.
        batch_size: Nodes a batch.
        backend: Where layers are stored, and whose ranks take part; by default the one in use.
        progress: Show a progress bar on stderr, on rank 0; or what to show it in.
        layers: Where the outputs of the first layers are kept, instead of in stores that are freed; none of the last
            layer unless the model's output combines layers.

    Returns:
        A new store ``[num_nodes, out_channels]``; close it when it is done with.

    Raises:
        GraphInputError: The model is no module, or normalizes over all nodes at once, which batches cannot do.
        ValueError: A batch of no nodes.
    """
    module = _checked(model, batch_size)
    backend = backend or get_backend()
    rank, world_size = rank_and_world_size(backend)
    bounds = PartitionBook.even(graph.num_nodes, world_size).bounds
    steps = math.ceil(max(end - start for start, end in pairwise(bounds)) / batch_size)
    own = torch.arange(bounds[rank], bounds[rank + 1])
    batches = [own[step * batch_size : (step + 1) * batch_size] for step in range(steps)]
    passes = model.num_layers + model.combines_layers
    kept = list(layers[: passes - 1])
    temporary = [StoredActivation(name=default_name("inference"), backend=backend) for _ in range(passes - len(kept))]
    stores = kept + temporary

    def inputs(ids: Tensor) -> Tensor:
        return model.input_rows(None if features is None else _reader(features)(ids), ids)

    def rows(index: int, nodes: Tensor) -> Tensor:
        if index == model.num_layers:
            return model.combine([inputs(nodes), *(_stored(store)(nodes) for store in stores[:-1])])
        before = _stored(stores[index - 1]) if index else inputs
        h = _layer(model, index, graph, nodes, before, (edge_features, edge_weights))
        return model.combine([h]) if index == passes - 1 else h

    with ExitStack() as at_the_end:
        at_the_end.enter_context(_evaluating(module))
        for store in temporary:
            at_the_end.callback(store.close)
        advance = at_the_end.enter_context(_shown(progress, passes * steps, rank))
        for index, output in enumerate(stores):
            for nodes in batches:
                output(rows(index, nodes), nodes, graph.num_nodes)
                advance()
            if index > len(kept) and not model.combines_layers:
                stores[index - 1].close()
        result, stores[-1].store = stores[-1].store, None  # it outlives the rest
    assert result is not None
    return result


def _checked(model: LayeredModel, batch_size: int) -> Module:
    """Return the model as the module that it must be, if it can be run in batches of nodes."""
    if not isinstance(model, Module):
        raise GraphInputError(
            f"a {type(model).__name__} is no torch.nn.Module: layer-wise inference takes a module with the members of "
            "distgnn.graph.inference.LayeredModel"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    norm = graph_norm(model.named_modules())
    if norm is not None:
        raise GraphInputError(
            f"{norm}, and inference has a batch of them: run the model on the whole graph, or train it with "
            "norm='batch_norm' or LayerNorm(mode='node')"
        )
    return model


def _layer(
    model: LayeredModel,
    index: int,
    graph: GraphStore,
    nodes: Tensor,
    before: Rows,
    of_edges: tuple[TensorStore | EmbeddingStore | None, TensorStore | None],
) -> Tensor:
    """Compute a layer's rows ``[B, width]`` of nodes; ``of_edges`` are the features and the weights of edges."""
    found = graph.in_neighbors(nodes)
    # Destinations come first among the sources, as PyG's layers expect that add loops to bipartite edges.
    others = torch.unique(found.sources)
    needed = torch.cat([nodes, others[~torch.isin(others, nodes)]])
    ascending, order = needed.sort()
    rows = before(needed)
    edge_index = torch.stack(
        [order[torch.searchsorted(ascending, found.sources)], torch.searchsorted(nodes, found.destinations)]
    )  # nodes ascend
    features, weights = of_edges
    edge_attr = None if features is None else _reader(features)(found.edge_ids)
    h = (rows, rows[: nodes.numel()])
    if weights is None:
        return model.layer(index, h, edge_index, edge_attr, found.edge_ids)
    return model.layer(index, h, edge_index, edge_attr, found.edge_ids, edge_weight=weights.read(found.edge_ids))


def _reader(store: TensorStore | EmbeddingStore) -> Rows:
    return store.lookup if isinstance(store, EmbeddingStore) else store.read


def _stored(layer: StoredActivation) -> Rows:
    assert layer.store is not None
    return layer.store.read


@contextmanager
def _shown(progress: bool | Progress, total: int, rank: int) -> Iterator[Callable[[], None]]:
    """Show a bar, and give what advances it."""
    if isinstance(progress, Progress):
        task = progress.add_task("inference", total=total)
        yield lambda: progress.advance(task)
        progress.remove_task(task)
        return
    with Progress(console=Console(stderr=True, quiet=not progress or rank > 0)) as bar:
        task = bar.add_task("inference", total=total)
        yield lambda: bar.advance(task)


@contextmanager
def _evaluating(model: Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
