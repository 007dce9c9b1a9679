"""In-edges of a range of nodes that one process holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from distgnn.storage.toolkit.open_stores import require_open
from distgnn.storage.toolkit.sampling import sample_without_replacement

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.specs import GraphSpec


class GraphShard:
    """The edges that end in a range of nodes, sorted by destination (CSC).

    Args:
        spec: The whole graph.
        edge_index: Edges ``[2, E]``; those of other nodes are left out.
        device: Where the edges are.
        start: The first node.
        stop: The node after the last; None is the end of the graph.
        edge_ids: ``[E]``; None numbers the edges as they stand.
    """

    def __init__(
        self,
        spec: GraphSpec,
        edge_index: Tensor,
        device: torch.device,
        start: int = 0,
        stop: int | None = None,
        *,
        edge_ids: Tensor | None = None,
    ) -> None:
        self.spec = spec
        self._device = device
        self._first, self._last = start, spec.num_nodes if stop is None else stop
        self._edge_ids: Tensor | None
        if edge_ids is not None:
            order = edge_ids.argsort()
            edge_index, edge_ids = edge_index.index_select(1, order), edge_ids.index_select(0, order)
        self._edge_ids, self._sources, degrees = self._sorted(edge_index)
        if edge_ids is not None:
            self._edge_ids = edge_ids.to(device).index_select(0, self._edge_ids)
        # Which edges a call takes is worked out by NumPy, several times as fast as torch there, wherever the edges are.
        self._first_edges = np.concatenate([[0], degrees.cpu().numpy().cumsum()])

    def _sorted(self, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sources, destinations = edge_index.to(self._device)
        mine = ((destinations >= self._first) & (destinations < self._last)).nonzero().flatten()
        positions = destinations.index_select(0, mine) - self._first
        edge_ids = mine.index_select(0, positions.argsort(stable=True))
        degrees = torch.bincount(positions, minlength=self._last - self._first)
        return edge_ids, sources.index_select(0, edge_ids), degrees

    def holds(self, edge_index: Tensor) -> bool:
        """Tell whether the shard was made from these edges."""
        mine = (require_open(self._edge_ids, self.spec), self._sources, torch.from_numpy(np.diff(self._first_edges)))
        return all(torch.equal(a, b.to(a.device)) for a, b in zip(mine, self._sorted(edge_index), strict=True))

    def in_edges(self, positions: Tensor, fanout: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the in-edges of nodes, or a sample of them.

        Args:
            positions: ``[K]``, the nodes less the shard's first.
            fanout: At most so many edges a node; -1 takes all.
            seed: Of the sample.

        Returns:
            Sources ``[E]`` and edge ids ``[E]``, grouped in the order of ``positions``, and the number of edges of
            each node ``[K]``.
        """
        self.check_open()
        asked = positions.cpu().numpy()
        first = self._first_edges.take(asked)
        degrees = self._first_edges.take(asked + 1) - first
        kept = degrees if fanout < 0 else np.minimum(degrees, fanout)
        before = kept.cumsum() - kept
        edges = (first - before).repeat(kept)
        edges += np.arange(len(edges))
        sampled = np.flatnonzero(degrees > kept)
        if fanout > 0 and sampled.size:
            chosen = sample_without_replacement(asked[sampled] + self._first, degrees[sampled], fanout, seed)
            edges[before[sampled, None] + np.arange(fanout)] = chosen + first[sampled, None]
        sources, edge_ids = self._take(torch.from_numpy(edges).to(self._device))
        return sources, edge_ids, torch.from_numpy(kept).to(self._device)

    def _take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sources and the ids of edges, by their positions ``[E]`` in the shard's order."""
        edge_ids = require_open(self._edge_ids, self.spec)
        return self._sources.index_select(0, positions), edge_ids.index_select(0, positions)

    @property
    def closed(self) -> bool:
        """Whether the edges are freed."""
        return self._edge_ids is None

    def check_open(self) -> None:
        """Refuse what comes after close().

        Raises:
            StoreClosedError: It is closed.
        """
        require_open(self._edge_ids, self.spec)

    def close(self) -> None:
        """Free the edges."""
        self._edge_ids = None
        self._sources = torch.empty(0)
        self._first_edges = np.zeros(1, dtype=np.int64)
