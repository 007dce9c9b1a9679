"""Neighbor sampling from a graph store, as PyG's loaders call for it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import get_worker_info
from torch_geometric.sampler import BaseSampler, EdgeSamplerInput, NegativeSampling, NodeSamplerInput, SamplerOutput
from torch_geometric.sampler.base import SubgraphType
from torch_geometric.sampler.neighbor_sampler import edge_sample, node_sample

from distgnn.errors import ConfigError, IdRangeError
from distgnn.graph.sampling.relabel import DirectAddress, SortedKeys
from distgnn.storage.toolkit.sampling import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from distgnn.storage.protocols import GraphStore

    Ids = NDArray[np.int64]

# Up to so many nodes a table of all of them, half a gigabyte, numbers the nodes of a batch.
_DIRECTLY = 2**27
_NO_TIMES = "a graph store has no times: leave input_time and edge_label_time out"


class NeighborSampler(BaseSampler):
    """Neighbor sampling from a :class:`~distgnn.GraphStore`, behind PyG's ``NodeLoader`` and ``LinkLoader``.

    The method of the `"Inductive Representation Learning on Large Graphs" <https://arxiv.org/abs/1706.02216>`_ paper.
    Its output is that of PyG's own sampler: nodes are numbered in the order in which they are met, seeds first; hop by
    hop the nodes that the hop before has met bring their sampled in-edges, grouped by destination. A hop of a batch is
    one call of the store, whoever owns the nodes.

    What a node brings depends on (seed, epoch, batch, node) and the hop's number of neighbors alone. So where all hops
    have one number, what a seed's neighborhood looks like does not depend on the other seeds of the batch, and a batch
    can be spread over ranks in any way.

    Args:
        graph: The graph, on the CPU.
        num_neighbors: How many in-edges a node brings in each hop, at most, drawn without replacement; -1 takes all.
        subgraph_type: ``"directional"``: the sampled edges. ``"bidirectional"``: these and their reverses.
            ``"induced"``: all edges between the sampled nodes, at the price of one more call that fetches every in-edge
            of theirs.
        disjoint: Grow a tree of its own from each seed; ``batch`` says which node belongs to which. A node that several
            trees reach has the same in-edges in all of them.
        seed: Of the samples.

    Raises:
        ConfigError: Numbers of neighbors that are no integers or below -1, or an induced subgraph that is disjoint.
        ValueError: No such type of subgraph.
    """

    def __init__(
        self,
        graph: GraphStore,
        num_neighbors: Sequence[int],
        *,
        subgraph_type: str = "directional",
        disjoint: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.num_neighbors = _fanouts(num_neighbors)
        self.subgraph_type = SubgraphType(subgraph_type)
        self.disjoint = disjoint
        self.seed = seed
        if disjoint and self.subgraph_type == SubgraphType.induced:
            raise ConfigError("an induced subgraph cannot be disjoint: choose subgraph_type='directional'")
        self._relabel: DirectAddress | SortedKeys = (
            SortedKeys() if disjoint or graph.num_nodes > _DIRECTLY else DirectAddress(graph.num_nodes)
        )
        self._epoch = self._first = self._calls = 0

    def start_epoch(self, epoch: int, first: int = 0) -> None:
        """Count batches from ``first`` on again, those of the epoch of that number."""
        self._epoch, self._first, self._calls = epoch, first, 0

    def sample_from_nodes(self, inputs: NodeSamplerInput) -> SamplerOutput:
        """Sample the neighborhood of nodes; PyG's loader calls it."""
        return self._shaped(node_sample(inputs, self._sample))

    def sample_from_edges(
        self, inputs: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> SamplerOutput:
        """Sample the neighborhood of the ends of edges, and of negative ones; PyG's loader calls it."""
        if inputs.time is not None:
            raise ConfigError(_NO_TIMES)
        if inputs.row.numel():
            return self._shaped(
                edge_sample(inputs, self._sample, self.graph.num_nodes, self.disjoint, None, neg_sampling)
            )
        out = self._sample(inputs.row)
        nothing = inputs.row
        if neg_sampling is not None and neg_sampling.is_triplet():
            out.metadata = (inputs.input_id, nothing, nothing, nothing, None)
        else:
            label = torch.empty(0) if inputs.label is None and neg_sampling is not None else inputs.label
            out.metadata = (inputs.input_id, nothing.expand(2, 0), label, None)
        return self._shaped(out)

    def _sample(self, seeds: Tensor, time: Tensor | None = None) -> SamplerOutput:
        if time is not None:
            raise ConfigError(_NO_TIMES)
        seed = derive_seed(self.seed, self._epoch, self._next_batch())
        num_nodes = self.graph.num_nodes
        frontier: Ids = seeds.long().numpy()
        if len(frontier) and not 0 <= frontier.min() <= frontier.max() < num_nodes:
            raise IdRangeError(
                f"seed nodes {frontier.min()} to {frontier.max()} were asked for, the graph has nodes 0 to "
                f"{num_nodes - 1}"
            )
        trees: Ids | None = np.arange(len(frontier)) if self.disjoint else None
        self._relabel.start(frontier if trees is None else trees * num_nodes + frontier)
        nodes, batch, rows, columns, edges = [frontier], [trees], [], [], []
        reached = 0
        for fanout in self.num_neighbors:
            found = self.graph.in_neighbors(torch.from_numpy(frontier), fanout, seed=seed)
            sources = found.sources.numpy()
            ends = self._places(frontier, found.destinations.numpy())
            # In a tree of its own a node is another one than in the next tree.
            keys = sources if trees is None else trees[ends] * num_nodes + sources
            numbers, new = self._relabel.add(keys)
            rows.append(numbers)
            columns.append(ends + reached)
            edges.append(found.edge_ids)
            reached += len(frontier)
            frontier = new if trees is None else new % num_nodes
            trees = None if trees is None else new // num_nodes
            nodes.append(frontier)
            batch.append(trees)
        return SamplerOutput(
            node=_joined(nodes),
            row=_joined(rows),
            col=_joined(columns),
            edge=torch.cat(edges) if edges else seeds.new_empty(0),
            batch=_joined([one for one in batch if one is not None]) if self.disjoint else None,
            num_sampled_nodes=[len(part) for part in nodes],
            num_sampled_edges=[len(part) for part in rows],
        )

    def _next_batch(self) -> int:
        """Count batches. DataLoader deals them out to its workers one by one, so that each counts in steps."""
        worker = get_worker_info()
        number = self._calls if worker is None else self._calls * worker.num_workers + worker.id
        self._calls += 1
        return self._first + number

    def _shaped(self, out: SamplerOutput) -> SamplerOutput:
        if self.subgraph_type == SubgraphType.bidirectional:
            return out.to_bidirectional()
        if self.subgraph_type == SubgraphType.induced:
            found = self.graph.in_neighbors(out.node)
            rows = self._relabel.find(found.sources.numpy())
            within = torch.from_numpy(rows >= 0)
            out.row = torch.from_numpy(rows)[within]
            out.col = torch.from_numpy(self._places(out.node.numpy(), found.destinations.numpy()))[within]
            out.edge = found.edge_ids[within]
            out.num_sampled_nodes = out.num_sampled_edges = None
        return out

    def _places(self, nodes: Ids, destinations: Ids) -> Ids:
        """Return which of ``nodes`` each edge of an answer belongs to, also where one is named several times.

        A node that is named twice has brought its edges twice, and edges are grouped in the order of ``nodes``.
        """
        if not self.disjoint:
            # The nodes of a hop are numbered one after the other, unless a seed is there twice.
            numbers = self._relabel.find(nodes[:1])
            if np.array_equal(self._relabel.find(nodes), np.arange(len(nodes)) + numbers):
                return self._relabel.find(destinations) - numbers
        distinct, slots, times = np.unique(nodes, return_inverse=True, return_counts=True)
        degrees = np.bincount(np.searchsorted(distinct, destinations), minlength=len(distinct)) // times
        return np.arange(len(nodes)).repeat(degrees[slots])


def _fanouts(num_neighbors: Sequence[int]) -> list[int]:
    if isinstance(num_neighbors, Mapping):
        raise ConfigError(
            "num_neighbors is a dictionary by type of edge, and a graph store has edges of one type: give a list with "
            "a number for each hop"
        )
    try:
        fanouts = [operator.index(fanout) for fanout in num_neighbors]
    except TypeError:
        raise ConfigError(
            f"num_neighbors is a list with an integer for each hop, as [10, 10], not {num_neighbors!r}"
        ) from None
    if any(fanout < -1 for fanout in fanouts):
        raise ConfigError(f"num_neighbors must be -1 (all) or at least 0 in each hop, not {fanouts}")
    return fanouts


def _joined(parts: list[Ids]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.int64)
