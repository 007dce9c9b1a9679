"""Edges that are held out, and pairs of nodes that stand against them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch_geometric.data import Data

from distgnn.nn import Halo, StoredActivation
from distgnn.nn.embedding import default_name
from distgnn.storage.specs import TensorSpec
from distgnn.storage.toolkit.sampling import derive_seed, uniform
from distgnn.train.steps import Targets, check_sets

if TYPE_CHECKING:
    from contextlib import ExitStack

    from torch import Tensor

    from distgnn.storage.protocols import Backend, TensorStore
    from distgnn.train.session import Session

VAL, TEST = 0.1, 0.1  # shares of the edges


def split_edges(edge_index: Tensor, num_nodes: int, seed: int) -> dict[str, Tensor]:
    """Divide edges into those to train on and those that are held out.

    Which set an edge is in depends on the seed and on its two ends alone, whichever is the source: both directions of
    an undirected edge, and equal edges, are in the same set, on whichever ranks they are.

    Args:
        edge_index: ``[2, E]``, by the ids of the whole graph.
        num_nodes: Of the whole graph.
        seed: Of the division.

    Returns:
        Positions of the edges of ``"train"``, ``"val"`` and ``"test"``, ascending; about 80, 10 and 10 % of them.
    """
    low, high = torch.minimum(*edge_index), torch.maximum(*edge_index)
    places = uniform(low.mul_(num_nodes).add_(high).numpy(), derive_seed(seed, 1))
    names = np.searchsorted([VAL, VAL + TEST], places, side="right")
    return {
        part: torch.from_numpy(np.flatnonzero(names == number)) for number, part in enumerate(("val", "test", "train"))
    }


def draw_negatives(edge_ids: Tensor, num_nodes: int, seed: int, epoch: int) -> Tensor:
    """Draw a node to take the place of each edge's source, by (seed, epoch, edge) alone.

    It is any node, as in PyG's loaders: by chance an edge, or the destination itself.
    """
    drawn = uniform(edge_ids.numpy(), derive_seed(seed, 2, epoch)) * num_nodes
    return torch.from_numpy(drawn.astype(np.int64))


def with_negatives(ends: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return pairs ``[2, 2 K]``, the edges and behind them those with other sources, and their labels, 1 and 0."""
    pairs = torch.cat([ends, torch.stack([negatives, ends[1]])], dim=1)
    return pairs, torch.cat([torch.ones(ends.size(1)), torch.zeros(ends.size(1))])


def keep_edges(graph: Data, kept: Tensor) -> Data:
    """Return a graph, or a part of one, with some of its edges; labels are left out."""
    names = [name for name in ("x", "n_id", "halo", "num_nodes") if name in graph]
    edges = {name: graph[name][kept] for name in ("e_id", "edge_attr", "edge_weight") if graph.get(name) is not None}
    return Data(edge_index=graph.edge_index[:, kept], **{name: graph[name] for name in names}, **edges)


class Links:
    """The targets of link prediction: of a whole graph each rank takes its share of the edges, of its part all.

    Ends may be any rank's nodes; over parts, the outputs of those of other ranks are exchanged as a layer's are.

    Args:
        graph: The graph, or this rank's part of it.
        name: What it is called in errors.
        num_nodes: Nodes of the whole graph.
        session: The ranks.
        seed: Of the division and of the negative pairs.
        at_the_end: Closes the stores.

    Attributes:
        graph: The graph, or the part, without the edges that are held out.
    """

    def __init__(
        self,
        graph: Data,
        name: str,
        num_nodes: int,
        session: Session,
        seed: int,
        at_the_end: ExitStack,
    ) -> None:
        self._num_nodes, self._seed = num_nodes, seed
        edges = split_edges(graph.n_id[graph.edge_index], num_nodes, seed)
        self.graph = keep_edges(graph, edges["train"])
        counts = [float(len(positions)) for positions in edges.values()]
        self._parts = (
            _Parts(graph.halo, graph.n_id, num_nodes, session.backend, at_the_end) if "halo" in graph else None
        )
        if self._parts is not None:
            counts = session.sum(counts)
        else:
            edges = {part: everywhere[session.rank :: session.world_size] for part, everywhere in edges.items()}
        self._counts = dict(zip(edges, map(int, counts), strict=True))
        check_sets(self._counts, f"edges of {name}")
        self._edges = {part: (graph.edge_index[:, mine], graph.e_id[mine]) for part, mine in edges.items()}

    def __call__(self, part: str, epoch: int) -> Targets:
        """Return the edges of a set and as many negative pairs, new ones in each epoch; collective."""
        ends, edge_ids = self._edges[part]
        negatives = draw_negatives(edge_ids, self._num_nodes, self._seed, epoch)
        count = 2 * self._counts[part]
        if self._parts is None:
            return Targets(*with_negatives(ends, negatives), count)
        pairs, labels = with_negatives(self._parts.rows(ends), self._parts.rows_of(negatives))
        places, halo = self._parts.places(pairs)
        outputs = self._parts.outputs
        return Targets(places, labels, count, lambda rows: outputs.extend(rows, halo).together())


class _Parts:
    """Where the outputs of nodes are in a store that all parts exchange them through."""

    def __init__(self, halo: Halo, node_ids: Tensor, num_nodes: int, backend: Backend, at_the_end: ExitStack) -> None:
        self._halo = halo
        self._local = torch.cat([halo.own, halo.remote])
        self.outputs = StoredActivation(name=default_name("outputs"), backend=backend)
        self._rows: TensorStore = backend.open_tensor(TensorSpec(default_name("rows"), (num_nodes,), torch.int64))
        at_the_end.callback(self.outputs.close)
        at_the_end.callback(self._rows.close)
        self._rows.write(node_ids[: halo.own.numel()], halo.own)

    def rows(self, nodes: Tensor) -> Tensor:
        """Return the rows of nodes as the part numbers them."""
        return self._local[nodes]

    def rows_of(self, ids: Tensor) -> Tensor:
        """Return the rows of any nodes, by the ids of the whole graph; collective."""
        return self._rows.read(ids)

    def places(self, rows: Tensor) -> tuple[Tensor, Halo]:
        """Return where rows will stand behind one another, the part's own first, and the halo that brings the rest."""
        own = self._halo.own
        order = own.argsort()
        place = torch.searchsorted(own, rows, sorter=order).clamp(max=max(0, own.numel() - 1))
        mine = own[order][place] == rows if own.numel() else torch.zeros_like(rows, dtype=torch.bool)
        remote = torch.unique(rows[~mine])
        there = torch.searchsorted(remote, rows) + own.numel()
        here = order[place] if own.numel() else there
        return torch.where(mine, here, there), Halo(own, remote, self._halo.num_rows, partition=self._halo.partition)
