"""A rank's part of a graph, as a batch of PyG's."""

from __future__ import annotations

import itertools
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch_geometric.data import Data

from distgnn.distributed.communicator import all_gather_numbers, communicator_of, rank_and_world_size
from distgnn.errors import ConfigError, DataFormatError, GraphInputError, RowsError, SpecError, StoreError
from distgnn.graph.partition.partitioner import check_graph, in_edges, rows_of
from distgnn.graph.partition.reader import open_partition, read_manifest
from distgnn.nn.embedding import default_name
from distgnn.nn.halo import Border, Halo
from distgnn.storage.capabilities import SupportsGraphParts
from distgnn.storage.registry import get_backend
from distgnn.storage.specs import GraphSpec, PartitionBook, TensorSpec
from distgnn.storage.toolkit.sampling import multiset_hash

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.protocols import Backend, GraphStore, TensorStore


def cut_part(graph: Data, parts: Tensor, part: int, num_parts: int) -> Data:
    """Take one part out of a graph that is in memory.

    Args:
        graph: ``edge_index`` and the number of nodes; tensors with a row for every node or edge are its features.
        parts: ``[N]``, the part of each node, as from :func:`~distgnn.graph.partition.assign.assign_nodes`.
        part: Which part, from 0: this rank's.
        num_parts: How many; some may be empty.

    Returns:
        The part, with its own n nodes first and behind them its halo, the h nodes of other parts that its edges come
        from: ``x`` ``[n + h, F]``, ``edge_index`` ``[2, e]``, whose edges end in own nodes, ``n_id`` ``[n + h]`` and
        ``e_id`` ``[e]``, the ids of nodes and edges in ``graph``, features of edges ``[e, ...]``, and ``halo``, which
        models take. Edges from own nodes come before those from the halo. Other features of nodes, as ``y`` and masks,
        are those of its own, ``[n, ...]``. ``halo.partition`` says which part has which nodes: given to
        ``set_num_embeddings(node_partition=...)``, it brings their embeddings to where they are.

    Raises:
        DataFormatError: The graph has no nodes, or edges that end outside it.
        RowsError: ``parts`` is not the part of each node.
        ConfigError: There is no such part.
    """
    check_graph(graph)
    if parts.shape != (graph.num_nodes,) or not 0 <= int(parts.min()) <= int(parts.max()) < num_parts:
        raise RowsError(f"parts must be [{graph.num_nodes}], the part from 0 to {num_parts - 1} of each node")
    if not 0 <= part < num_parts:
        raise ConfigError(f"there are parts 0 to {num_parts - 1}, not {part}")
    nodes = parts.argsort(stable=True)
    new = torch.empty_like(nodes)
    new[nodes] = torch.arange(nodes.numel())
    book = PartitionBook((0, *parts.bincount(minlength=num_parts).cumsum(0).tolist()), nodes)
    first, last = book.bounds[part : part + 2]
    sources, positions, edge_ids = in_edges(graph.edge_index, parts, new, part, first)
    remote = torch.unique(sources[(sources < first) | (sources >= last)])
    leaving, entered = parts[graph.edge_index]
    border = torch.unique(new[graph.edge_index[0, leaving != entered]])
    features, _ = rows_of(graph)
    own = {name: rows[nodes[first:last]] for name, rows in features["nodes"].items()}
    if "x" in own:
        own["x"] = torch.cat([own["x"], features["nodes"]["x"][nodes[remote]]])
    data = _as_data(
        torch.stack([sources, positions]),
        remote,
        book,
        part,
        torch.cat([nodes[first:last], nodes[remote]]),
        edge_ids,
        own,
        {name: rows[edge_ids] for name, rows in features["edges"].items()},
    )
    bounds = torch.searchsorted(border, torch.tensor(book.bounds)).tolist()
    mine = torch.arange(bounds[part], bounds[part + 1])
    exchanged = _border(border[mine] - first, torch.searchsorted(border, remote), bounds, part)
    data.halo = replace(data.halo, border=exchanged)
    return data


def load_part(folder: str | Path, *, backend: Backend | None = None) -> Data:
    """Load this rank's part of what :func:`~distgnn.graph.partition_graph` wrote; collective.

    No other part's files are read: the rows ``x`` of halo nodes come from the ranks that own them.

    Args:
        folder: The partition's folder, of as many parts as there are ranks.
        backend: Whose ranks they are; by default the one in use.

    Returns:
        As :func:`cut_part`, with the user's ids in ``n_id`` and ``e_id``.

    Raises:
        DatasetNotFoundError: The folder is no partition, or a file of the part is missing.
        DataFormatError: A file was cut off or changed.
        ConfigError: There are more parts than ranks, or fewer.
    """
    backend = backend or get_backend()
    rank, world_size = rank_and_world_size(backend)
    num_parts = len(read_manifest(Path(folder))["node_bounds"].bounds) - 1
    if num_parts != world_size:
        raise ConfigError(
            f"{folder} has {num_parts} parts, and backend {backend.name!r} has {world_size} ranks: start one rank a "
            "part, or partition the graph anew"
        )
    found = open_partition(folder, rank)
    book = _gathered_book(found.node_ids, found.nodes.bounds, folder, backend)
    edge_index = found.edge_index
    edge_index[1] -= found.nodes.bounds[rank]
    data = _as_data(
        edge_index,
        found.halo,
        book,
        rank,
        torch.cat([found.node_ids, found.halo_ids]),
        found.edge_ids,
        found.node_features,
        found.edge_features,
    )
    spec = TensorSpec(default_name("part_readers"), (data.halo.num_rows,), torch.int64, book)
    with closing(backend.open_tensor(spec)) as readers:
        readers.write(data.halo.remote, torch.ones_like(data.halo.remote), accumulate=True)
        places = readers.read(data.halo.own).nonzero().flatten()
        counts = all_gather_numbers(communicator_of(backend), [places.numel()])
        bounds = [0, *counts.flatten().cumsum(0).tolist()]
        readers.write(data.halo.own[places], torch.arange(bounds[rank], bounds[rank + 1]))  # in the place of the count
        data.halo = replace(data.halo, border=_border(places, readers.read(data.halo.remote), bounds, rank))
    if data.x is not None:
        spec = TensorSpec(default_name("part_x"), (data.halo.num_rows, *data.x.shape[1:]), data.x.dtype, book)
        with closing(backend.open_tensor(spec)) as store:
            store.write(data.halo.own, data.x)
            data.x = torch.cat([data.x, store.read(data.halo.remote)])
    return data


def open_part(
    part: Data, *, name: str | None = None, backend: Backend | None = None
) -> tuple[TensorStore | None, GraphStore]:
    """Put this rank's part of a graph into stores of the whole graph; collective. No rank has the whole graph for it.

    In the stores nodes and edges have the user's ids, as in the part's ``n_id`` and ``e_id``. So they are what loaders
    and layer-wise inference take, and what samples do not depend on how the graph was cut.

    Args:
        part: As :func:`cut_part` or :func:`load_part` made it, on every rank its own.
        name: Of the graph store; the features' is ``{name}_x``. By default new names.
        backend: Where they are opened; by default the one in use.

    Returns:
        The features ``x``, or None where there are none, and the graph. Close both when they are done with.

    Raises:
        RowsError: The ranks' parts are not those of one graph: an edge is in several of them, or in none.
        StoreError: The backend has several ranks, and opens none but whole graphs.
    """
    backend = backend or get_backend()
    name = name or default_name("graph")
    own = part.halo.own.numel()
    spec = GraphSpec(name, *_sizes(part, own, name, backend))
    edge_index = part.n_id[part.edge_index]
    if isinstance(backend, SupportsGraphParts):
        graph = backend.open_graph_part(spec, edge_index, part.e_id)
    elif rank_and_world_size(backend)[1] == 1:
        graph = backend.open_graph(spec, edge_index.index_select(1, part.e_id.argsort()))
    else:
        raise StoreError(
            f"backend {backend.name!r} opens a graph from all of its edges on every rank: give them to its "
            "open_graph(), or choose a backend with open_graph_part()"
        )
    if part.x is None:
        return None, graph
    features = backend.open_tensor(TensorSpec(f"{name}_x", (spec.num_nodes, *part.x.shape[1:]), part.x.dtype))
    features.write(part.n_id[:own], part.x[:own])
    return features, graph


def _sizes(part: Data, own: int, name: str, backend: Backend) -> tuple[int, int]:
    """Return the numbers of nodes and edges of all parts, after a look at whether each edge is there once."""
    communicator = communicator_of(backend)
    rank, world_size = communicator.rank, communicator.world_size
    given = part.e_id.numel()
    num_nodes, num_edges = all_gather_numbers(communicator, [own, given]).sum(dim=0).tolist()
    expected = np.arange(num_edges * rank // world_size, num_edges * (rank + 1) // world_size)
    difference = torch.tensor(multiset_hash(part.e_id.numpy())) - torch.tensor(multiset_hash(expected))  # wraps around
    if int(all_gather_numbers(communicator, [int(difference)]).sum()) != 0:
        raise RowsError(
            f"graph {name!r}: the parts have {num_edges} edges, and their e_id are not the ids 0 to {num_edges - 1}, "
            "each once: give every rank its own part of one graph"
        )
    return num_nodes, num_edges


def batch_halo(batch: Data, num_nodes: int) -> Halo:
    """Say where the nodes of a batch are in the stores of layers, to train on batches with the rows of earlier ones.

    A batch of ``neighbor_loader(..., num_neighbors=[-1])`` has its seeds, all their in-neighbors and the edges between
    them: a model with this halo computes the seeds' rows in each layer, and reads the others'.

    Args:
        batch: Of :func:`~distgnn.graph.neighbor_loader`, of one hop.
        num_nodes: Number of nodes of the graph.

    Returns:
        The halo of the nodes of the batch that are no seeds.

    Raises:
        GraphInputError: The batch does not have its seeds first, and one node once.
    """
    ids, seeds = batch.get("n_id"), batch.get("batch_size")
    hops = len(batch.get("num_sampled_nodes") or ()) - 1
    if ids is None or seeds is None or batch.get("batch") is not None or hops != 1:
        raise GraphInputError(
            "the halo of a batch needs n_id and batch_size as neighbor_loader gives them, of one hop and not disjoint: "
            "make it with num_neighbors=[-1]"
        )
    return Halo(ids[:seeds], ids[seeds:], num_nodes, history=True)


def edge_partition(part: Data, *, backend: Backend | None = None) -> PartitionBook:
    """Say which rank has which edges of a graph in parts; collective.

    Given to ``set_num_embeddings(edge_partition=...)``, it brings the embeddings of edges to where they are. It holds
    two numbers for every edge of the whole graph, on every rank.

    Args:
        part: As :func:`cut_part` or :func:`load_part` made it, on every rank its own.
        backend: Whose ranks they are; by default the one in use.

    Raises:
        RowsError: The ranks' parts are not those of one graph: an edge is in several of them, or in none.
    """
    gathered = communicator_of(backend or get_backend()).all_gather(part.e_id)
    bounds = (0, *itertools.accumulate(ids.numel() for ids in gathered))
    try:
        return PartitionBook(bounds, torch.cat(gathered))
    except SpecError as error:
        raise RowsError(f"the parts' e_id are not the ids of one graph's edges, each once: {error}") from error


def _gathered_book(node_ids: Tensor, bounds: tuple[int, ...], folder: str | Path, backend: Backend) -> PartitionBook:
    """Put the ids of the nodes of all parts in one book; collective."""
    ids = node_ids.to(torch.int32) if bounds[-1] <= torch.iinfo(torch.int32).max else node_ids  # there are many
    try:
        return PartitionBook(bounds, torch.cat(communicator_of(backend).all_gather(ids)))
    except SpecError as error:
        raise DataFormatError(f"{folder}: the parts' node_ids spoil it ({error}); partition the graph anew") from error


def _border(places: Tensor, remote: Tensor, bounds: list[int], part: int) -> Border:
    """Number the nodes that are in halos part by part.

    Args:
        places: ``[b]``, which of the part's own nodes they are.
        remote: ``[h]``, the numbers of its halo nodes.
        bounds: Where the numbers of each part begin, and end.
        part: Which part.
    """
    num_rows = max(1, bounds[-1])  # a store has a row, though none be exchanged
    own = torch.arange(bounds[part], bounds[part + 1])
    return Border(places, own, remote, num_rows, PartitionBook((*bounds[:-1], num_rows)))


def _as_data(
    edges: Tensor,
    remote: Tensor,
    book: PartitionBook,
    part: int,
    node_ids: Tensor,
    edge_ids: Tensor,
    node_features: dict[str, Tensor],
    edge_features: dict[str, Tensor],
) -> Data:
    """Number a part's nodes as they stand, and bring its edges from own nodes before those from the halo.

    Args:
        edges: ``[2, e]``, the new ids of sources above destinations counted from the part's first.
        remote: ``[h]``, the new ids of halo nodes, ascending.
        book: Which part owns which nodes: the new ids are its places.
        part: Which part.
        node_ids: ``[n + h]``, the user's ids of own and halo nodes.
        edge_ids: ``[e]``, the user's ids of edges.
        node_features: What else it has; ids that a graph carries with it, as those of a data set do, give way to these.
        edge_features: As in the order of ``edges``.
    """
    first, last = book.bounds[part : part + 2]
    inner = (edges[0] >= first) & (edges[0] < last)
    order = inner.logical_not().to(torch.uint8).argsort(stable=True)  # edges from own nodes first
    (sources, positions), inner = edges[:, order], inner[order]
    local = torch.where(inner, sources - first, torch.searchsorted(remote, sources) + last - first)
    own, others = node_ids.tensor_split([last - first])
    halo = Halo(own, others, book.num_rows, partition=book)
    named = {"n_id": node_ids, "e_id": edge_ids[order], "edge_index": torch.stack([local, positions]), "halo": halo}
    features = node_features | {name: rows[order] for name, rows in edge_features.items()}
    return Data(num_nodes=node_ids.numel(), **(features | named))
