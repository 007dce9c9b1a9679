"""Shards of rows, state and edges in DGL's key-value store.

State stands beside its rows: those of Adam for the rows ``words`` are ``words.distgnn.optim.rules.Adam.exp_avg`` and so
on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dgl
import torch

from distgnn.storage.toolkit.graph_shard import GraphShard
from distgnn.storage.toolkit.row_shard import EmbeddingShard, TensorShard

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.backends.dgl.rows import Keeper, Ranges
    from distgnn.storage.capabilities import RuleState
    from distgnn.storage.specs import EmbeddingSpec, GraphSpec, TensorSpec

CPU = torch.device("cpu")


class DGLEmbeddingShard(EmbeddingShard):
    """Rows of a table, and their state, in DGL's store."""

    def __init__(
        self, spec: EmbeddingSpec, keeper: Keeper, key: str, ranges: Ranges, ids: Tensor | None = None
    ) -> None:
        super().__init__(spec, CPU, ranges.start, ranges.stop, ids=ids)
        assert self._rows is not None
        self._keeper, self._key, self._ranges = keeper, key, ranges
        self._rows = keeper.keep(key, ranges, self._rows)

    def _new_state(self, rule: str, state: RuleState) -> dict[str, Tensor]:
        return {
            name: self._keeper.keep(f"{self._key}.{rule}.{name}", self._ranges, rows, shared=False)
            for name, rows in super()._new_state(rule, state).items()
        }

    def _drop_state(self, rule: str) -> None:
        for name in self._state[rule]:
            self._keeper.free(f"{self._key}.{rule}.{name}")
        super()._drop_state(rule)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._keeper.free(self._key)


class DGLTensorShard(TensorShard):
    """Rows of a tensor in DGL's store."""

    def __init__(self, spec: TensorSpec, keeper: Keeper, key: str, ranges: Ranges) -> None:
        super().__init__(spec, CPU, ranges.start, ranges.stop)
        assert self._rows is not None
        self._keeper, self._key = keeper, key
        self._rows = keeper.keep(key, ranges, self._rows)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._keeper.free(self._key)


class DGLGraphShard(GraphShard):
    """Edges that DGL reads where they are.

    DGL's sampler draws by one sequence of random numbers a process, so that a sample depends on what was asked before
    and by whom; and a DGL server holds one graph, cut on disk before it starts. So samples are those of
    :class:`~distgnn.storage.toolkit.GraphShard`. All in-edges are the same everywhere: DGL finds them, in that memory.
    """

    def __init__(self, spec: GraphSpec, edge_index: Tensor, ranges: Ranges, *, edge_ids: Tensor | None = None) -> None:
        super().__init__(spec, edge_index, CPU, ranges.start, ranges.stop, edge_ids=edge_ids)
        assert self._edge_ids is not None
        # One column a node of the shard; a bipartite graph needs no nodes of the other parts as columns.
        self._start = torch.from_numpy(self._first_edges)
        data = ("csc", (self._start, self._sources, self._edge_ids))
        sizes = {"source": spec.num_nodes, "destination": ranges.stop - ranges.start}
        self._graph = dgl.heterograph({("source", "to", "destination"): data}, sizes)

    def in_edges(self, positions: Tensor, fanout: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        self.check_open()
        if fanout >= 0 or not positions.numel():
            return super().in_edges(positions, fanout, seed)
        sources, _, edge_ids = self._graph.in_edges(positions, form="all")
        return sources, edge_ids, self._start.index_select(0, positions + 1) - self._start.index_select(0, positions)

    def close(self) -> None:
        super().close()
        self._graph = None
