"""PyG's loaders over stores, equally long on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch_geometric.loader import LinkLoader, NodeLoader

from distgnn.errors import ConfigError
from distgnn.graph.sampling.batches import Batches
from distgnn.graph.sampling.loader_options import (
    check_names,
    edge_seeds,
    graph_and_features,
    named_features,
    node_seeds,
    other_options,
)
from distgnn.graph.sampling.neighbor_sampler import NeighborSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike
    from torch import Tensor
    from torch_geometric.data import Data, FeatureStore
    from torch_geometric.sampler import NegativeSampling

    from distgnn.graph.feature_store import Rows, StoreFeatures
    from distgnn.storage.protocols import Backend, GraphStore, TensorStore

    Stores: TypeAlias = Rows | Mapping[str, Rows]
    Source: TypeAlias = Data | tuple[FeatureStore | Stores | None, GraphStore]
    Ids: TypeAlias = Tensor | ArrayLike | range
    Transform: TypeAlias = Callable[[Data], Data]


def neighbor_loader(
    data: Source,
    num_neighbors: Sequence[int],
    input_nodes: Ids | None = None,
    *,
    batch_size: int = 1,
    shuffle: bool = False,
    drop_last: bool = False,
    subgraph_type: str = "directional",
    disjoint: bool = False,
    in_degrees: TensorStore | None = None,
    edge_features: Stores | None = None,
    transform: Transform | None = None,
    seed: int = 0,
    per_rank: bool = False,
    backend: Backend | None = None,
    **kwargs: Any,
) -> NodeLoader:
    """Make a :class:`torch_geometric.loader.NodeLoader` that samples neighborhoods from a graph store.

    To be used as PyG's :class:`~torch_geometric.loader.NeighborLoader`, and its batches have the same attributes. On
    several ranks all of them make the loader, and all go through it together: every rank gets the same number of
    batches, some of them empty where it has fewer seeds. The seeds of a batch depend on (``seed``, epoch, batch) alone,
    not on the world size, and so do the outputs of a model for them where all hops have one number of neighbors;
    ``loader.batch_sampler.set_epoch(e)`` starts the next pass there.

    Args:
        data: Features of the nodes, and the graph. The features are PyG's, a store or a tensor (then called ``x``), or
            several by name; None has none. Or a :class:`~torch_geometric.data.Data` that every rank has, whose graph
            is then sampled in each process by itself.
        num_neighbors: How many in-edges a node brings in each hop, at most; -1 takes all.
        input_nodes: The seeds, ids ``[K]`` or a mask over all nodes; None is every node. The same on every rank.
        batch_size: Seeds a batch, over all ranks.
        shuffle: Go through the seeds in another order each epoch.
        drop_last: Leave out a last batch that is not full.
        subgraph_type: See :class:`NeighborSampler`.
        disjoint: See :class:`NeighborSampler`.
        in_degrees: What :func:`open_in_degrees` gives. Batches then have ``edge_weight [E]``, the in-degree of an
            edge's destination over the number of its sampled in-edges: a sum of messages over the sample, times these
            weights, is an unbiased estimate of the sum over all in-edges. See :func:`weighted_messages`.
        edge_features: A store (then called ``edge_attr``), or stores by name, whose rows of the sampled edges become
            attributes of the batch.
        transform: Changes each batch.
        seed: Of the order and of the samples.
        per_rank: ``input_nodes`` and ``batch_size`` are those of this rank alone, other ones on each.
        backend: Whose ranks go through the loader; by default the one in use.
        kwargs: For :class:`torch_geometric.loader.NodeLoader` and :class:`torch.utils.data.DataLoader`.

    Raises:
        ConfigError: Ranks ask for different loaders, or for workers; or workers are to outlive an epoch.
        ValueError: A number of neighbors below -1, or options that do not go together.
        IdRangeError: When a batch has a seed that is no node.
    """
    kept = other_options(NodeLoader, kwargs)
    joined, graph = graph_and_features(data)
    seeds, input_id = node_seeds(input_nodes, graph)
    sampler = NeighborSampler(graph, num_neighbors, subgraph_type=subgraph_type, disjoint=disjoint, seed=seed)
    attributes = _Attributes(sampler, joined, edge_features, in_degrees, transform)
    batches = Batches(
        sampler, len(seeds), seeds, batch_size, shuffle=shuffle, drop_last=drop_last, per_rank=per_rank, backend=backend
    )
    batches.check_workers(kept.get("num_workers", 0))
    return _NodeLoader(
        joined,
        sampler,
        seeds,
        transform=attributes,
        batch_sampler=batches,
        generator=torch.Generator().manual_seed(seed),  # PyTorch would draw a number from the global one
        **{"input_id": input_id, **kept},
    )


def link_neighbor_loader(
    data: Source,
    num_neighbors: Sequence[int],
    edge_label_index: Ids | None = None,
    edge_label: Tensor | None = None,
    *,
    neg_sampling: NegativeSampling | str | None = None,
    batch_size: int = 1,
    shuffle: bool = False,
    drop_last: bool = False,
    subgraph_type: str = "directional",
    disjoint: bool = False,
    in_degrees: TensorStore | None = None,
    edge_features: Stores | None = None,
    transform: Transform | None = None,
    seed: int = 0,
    per_rank: bool = False,
    backend: Backend | None = None,
    **kwargs: Any,
) -> LinkLoader:
    """Make a :class:`torch_geometric.loader.LinkLoader` that samples neighborhoods from a graph store.

    To be used as PyG's :class:`~torch_geometric.loader.LinkNeighborLoader`. Negative edges are drawn by PyG from
    PyTorch's global generator, by each rank for its own edges.

    Args:
        data: As for :func:`neighbor_loader`.
        num_neighbors: As for :func:`neighbor_loader`.
        edge_label_index: ``[2, K]``, the edges to start from. The same on every rank.
        edge_label: ``[K]``, their labels.
        neg_sampling: As in PyG.
        batch_size: Edges a batch, over all ranks.
        shuffle: As for :func:`neighbor_loader`.
        drop_last: As for :func:`neighbor_loader`.
        subgraph_type: See :class:`NeighborSampler`.
        disjoint: See :class:`NeighborSampler`.
        in_degrees: As for :func:`neighbor_loader`.
        edge_features: As for :func:`neighbor_loader`.
        transform: Changes each batch.
        seed: Of the order and of the samples.
        per_rank: ``edge_label_index`` and ``batch_size`` are those of this rank alone.
        backend: As for :func:`neighbor_loader`.
        kwargs: For :class:`torch_geometric.loader.LinkLoader` and :class:`torch.utils.data.DataLoader`.

    Raises:
        ConfigError: Ranks ask for different loaders, or for workers; or workers are to outlive an epoch.
        ValueError: A number of neighbors below -1, or options that do not go together.
    """
    kept = other_options(LinkLoader, kwargs)
    joined, graph = graph_and_features(data)
    seeds = edge_seeds(edge_label_index, graph)
    if edge_label is not None and len(edge_label) != seeds.size(1):
        raise ConfigError(f"edge_label has {len(edge_label)} labels for {seeds.size(1)} edges")
    sampler = NeighborSampler(graph, num_neighbors, subgraph_type=subgraph_type, disjoint=disjoint, seed=seed)
    attributes = _Attributes(sampler, joined, edge_features, in_degrees, transform)
    batches = Batches(
        sampler,
        seeds.size(1),
        seeds,
        batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        per_rank=per_rank,
        backend=backend,
    )
    batches.check_workers(kept.get("num_workers", 0))
    return _LinkLoader(
        joined,
        sampler,
        (None, seeds) if isinstance(joined, tuple) else seeds,
        edge_label,
        neg_sampling=neg_sampling,
        transform=attributes,
        batch_sampler=batches,
        generator=torch.Generator().manual_seed(seed),
        **kept,
    )


class _Sent:
    """A loader that reaches workers of a new interpreter, which a generator does not."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": None}


class _NodeLoader(_Sent, NodeLoader):
    pass


class _LinkLoader(_Sent, LinkLoader):
    pass


class _Attributes:
    """Gives a batch what PyG's loaders do not fetch from stores: features of edges, and weights."""

    def __init__(
        self,
        sampler: NeighborSampler,
        joined: Data | tuple[FeatureStore, GraphStore],
        edge_features: Stores | None,
        in_degrees: TensorStore | None,
        transform: Transform | None,
    ) -> None:
        if in_degrees is not None and sampler.subgraph_type.value != "directional":
            raise ConfigError(
                "in_degrees weigh the sampled edges: they need subgraph_type='directional', not "
                f"{sampler.subgraph_type.value!r}"
            )
        self._edge_features: StoreFeatures = named_features(edge_features, "edge_attr", sampler.graph.num_edges)
        self._in_degrees = in_degrees
        self._transform = transform
        added = [attr.attr_name for attr in self._edge_features.get_all_tensor_attrs()]
        check_names(joined, added if in_degrees is None else [*added, "edge_weight"])

    def __call__(self, batch: Data) -> Data:
        batch.num_nodes = batch.n_id.numel()
        for attribute in self._edge_features.get_all_tensor_attrs():
            attribute.index = batch.e_id
            batch[attribute.attr_name] = self._edge_features.get_tensor(attribute)
        if self._in_degrees is not None:
            ends = batch.edge_index[1]
            sampled = torch.bincount(ends, minlength=batch.num_nodes)
            reached = sampled.nonzero().flatten()
            weights = torch.zeros(batch.num_nodes)
            weights[reached] = self._in_degrees.read(batch.n_id[reached]) / sampled[reached]
            batch.edge_weight = weights.index_select(0, ends)
        return batch if self._transform is None else self._transform(batch)
