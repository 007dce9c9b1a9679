"""PyG's own loaders over our stores, with the same number of batches on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch_geometric.data import FeatureStore
from torch_geometric.loader import LinkLoader, NodeLoader

from distgnn.graph.batches import Batches
from distgnn.graph.feature_store import as_feature_store
from distgnn.graph.neighbor_sampler import NeighborSampler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from torch_geometric.data import Data
    from torch_geometric.sampler import NegativeSampling

    from distgnn.protocols import Backend, EmbeddingStore, GraphStore, TensorStore

    Stores: TypeAlias = TensorStore | EmbeddingStore | Mapping[str, TensorStore | EmbeddingStore]
    Features: TypeAlias = FeatureStore | Stores
    Transform: TypeAlias = Callable[[Data], Data]


def neighbor_loader(
    data: tuple[Features | None, GraphStore],
    num_neighbors: Sequence[int],
    input_nodes: Tensor | None = None,
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
        data: Features of the nodes, and the graph. The features are PyG's, a store (then called ``x``), or stores by
            name; None has none.
        num_neighbors: How many in-edges a node brings in each hop, at most; -1 takes all.
        input_nodes: The seeds, ids or a mask over all nodes; None is every node. The same on every rank.
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
    features, graph = data
    _check_weighted(in_degrees, subgraph_type)
    sampler = NeighborSampler(graph, num_neighbors, subgraph_type=subgraph_type, disjoint=disjoint, seed=seed)
    nodes = torch.arange(graph.num_nodes) if input_nodes is None else input_nodes
    count = int(nodes.sum()) if nodes.dtype == torch.bool else nodes.numel()
    batches = Batches(
        sampler, count, nodes, batch_size, shuffle=shuffle, drop_last=drop_last, per_rank=per_rank, backend=backend
    )
    workers = {name: kwargs[name] for name in ("num_workers", "persistent_workers") if name in kwargs}
    batches.check_workers(**workers)
    return NodeLoader(
        (_features(features), graph),
        sampler,
        nodes,
        transform=_Attributes(edge_features, in_degrees, transform),
        batch_sampler=batches,
        **{
            "generator": torch.Generator().manual_seed(seed),
            **kwargs,
        },  # PyTorch would draw a number from the global one
    )


def link_neighbor_loader(
    data: tuple[Features | None, GraphStore],
    num_neighbors: Sequence[int],
    edge_label_index: Tensor,
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
    features, graph = data
    _check_weighted(in_degrees, subgraph_type)
    sampler = NeighborSampler(graph, num_neighbors, subgraph_type=subgraph_type, disjoint=disjoint, seed=seed)
    count = edge_label_index.size(1)
    batches = Batches(
        sampler,
        count,
        edge_label_index,
        batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        per_rank=per_rank,
        backend=backend,
    )
    workers = {name: kwargs[name] for name in ("num_workers", "persistent_workers") if name in kwargs}
    batches.check_workers(**workers)
    return LinkLoader(
        (_features(features), graph),
        sampler,
        (None, edge_label_index),
        edge_label,
        neg_sampling=neg_sampling,
        transform=_Attributes(edge_features, in_degrees, transform),
        batch_sampler=batches,
        **{
            "generator": torch.Generator().manual_seed(seed),
            **kwargs,
        },  # PyTorch would draw a number from the global one
    )


class _Attributes:
    """Gives a batch what PyG's loaders do not fetch from stores: features of edges, and weights."""

    def __init__(
        self,
        edge_features: Stores | None,
        in_degrees: TensorStore | None,
        transform: Transform | None,
    ) -> None:
        self._edge_features = as_feature_store({} if edge_features is None else edge_features, attr_name="edge_attr")
        self._in_degrees = in_degrees
        self._transform = transform

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


def _features(features: Features | None) -> FeatureStore:
    return features if isinstance(features, FeatureStore) else as_feature_store({} if features is None else features)


def _check_weighted(in_degrees: TensorStore | None, subgraph_type: str) -> None:
    if in_degrees is not None and subgraph_type != "directional":
        raise ValueError(
            f"in_degrees weigh the sampled edges: they need subgraph_type='directional', not {subgraph_type!r}"
        )
