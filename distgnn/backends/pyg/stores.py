"""Stores whose rows are spread over ranks in ranges."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from distgnn.storage.protocols import InEdges
from distgnn.storage.toolkit.graph_shard import GraphShard
from distgnn.storage.toolkit.row_shard import EmbeddingShard, TensorShard, last_of_each, resized_spec
from distgnn.storage.toolkit.rows import accumulation_dtype, sum_by_id, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from distgnn.backends.pyg.prefetch import Prefetcher
    from distgnn.backends.pyg.router import Router
    from distgnn.storage.capabilities import RuleState
    from distgnn.storage.protocols import UpdateRule
    from distgnn.storage.specs import EmbeddingSpec, GraphSpec, PartitionBook, TensorSpec

CPU = torch.device("cpu")


class _RowStore:
    """A range of rows on each rank, counted by their places in the partition book."""

    _shard: EmbeddingShard | TensorShard
    _router: Router
    _rows: Tensor

    @property
    def partition(self) -> PartitionBook:
        return self._router.book

    @property
    def own_rows(self) -> range:
        return self._shard.own_rows

    def rule_states(self) -> Mapping[str, RuleState]:
        return self._shard.rule_states()

    def reset_rule_states(self, states: Mapping[str, RuleState]) -> None:
        self._shard.reset_rule_states(states)

    def export_rows(self, first: int, last: int) -> Mapping[str, Tensor]:
        return self._shard.export_rows(first, last)

    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        self._shard.import_rows(first, rows)

    @property
    def closed(self) -> bool:
        return self._shard.closed

    def close(self) -> None:
        self._shard.close()
        self._rows = self._rows[:0].clone()


class PygEmbeddingStore(_RowStore):
    """A table in ranges.

    Args:
        spec: The table.
        routers: Makes the way to the other ranks.
        prefetcher: Makes what prefetches from the rows that it is given; called once, on all ranks.
    """

    _shard: EmbeddingShard

    def __init__(
        self,
        spec: EmbeddingSpec,
        routers: Callable[[EmbeddingSpec], Router],
        prefetcher: Callable[[Router, Tensor], Prefetcher],
    ) -> None:
        self._make_router, self._make_prefetcher = routers, prefetcher
        self._open(spec)

    def _open(self, spec: EmbeddingSpec) -> None:
        self.spec = spec
        self._prefetcher: Prefetcher | None = None
        self._is_ruled = False  # ranks have not compared their rules yet
        self._router = router = self._make_router(spec)
        self._rows = router.shared_rows(spec.name, spec.dtype, [spec.embedding_dim])
        ids = None if router.book.order is None else router.book.ids(*router.own)
        self._shard = EmbeddingShard(spec, CPU, *router.own, memory=router.own_rows(self._rows), ids=ids)

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def lookup(self, ids: Tensor) -> Tensor:
        call = f"lookup of embedding store {self.spec.name!r}"
        self._shard.check_open()
        self.spec.check_ids(ids, CPU)
        return self._router.fetch(self._rows, self.partition.places(ids), call)

    @torch.no_grad()
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        call = f"apply_gradients of embedding store {self.spec.name!r}"
        self._shard.check_open()
        self.spec.check_gradients(ids, gradients, CPU)
        if not self._is_ruled:
            self._router.check_arguments(f"{rule}" if is_dataclass(rule) else type(rule).__name__, call)
            self._is_ruled = True
        places = self.partition.places(ids)
        distinct, sums = sum_by_id(places, gradients.to(accumulation_dtype(self.spec.dtype)))
        positions, sums, slots = self._router.send(distinct, sums, call)
        if self._prefetcher is not None:
            self._prefetcher.begin_update(positions)
        self._shard.update(positions, sums, rule, slots)
        if self._prefetcher is not None:
            self._prefetcher.end_update()

    def prefetch(self, ids: Tensor) -> Callable[[], Tensor]:
        call = f"prefetch of embedding store {self.spec.name!r}"
        self._shard.check_open()
        self.spec.check_ids(ids, CPU)
        ids = ids.clone()
        if self._router.one_host:
            return partial(self.lookup, ids)  # reading memory needs no time ahead
        if self._prefetcher is None:
            self._prefetcher = self._make_prefetcher(self._router, self._rows)
        fetching = self._prefetcher.start(self.partition.places(ids), call)

        def finish() -> Tensor:
            self._shard.check_open()
            return fetching()

        return finish

    def resize(self, num_embeddings: int) -> None:
        call = f"resize of embedding store {self.spec.name!r}"
        self._shard.check_open()
        spec, states, own = resized_spec(self.spec, num_embeddings), self.rule_states(), self.own_rows
        # A row keeps its place: without an order that is its id, and in one the new ids come at the end.
        places, rows = torch.arange(own.start, own.stop), self.export_rows(own.start, own.stop)
        self._open(spec)
        self.reset_rule_states(states)
        moved = {name: self._router.deal(places, one, call) for name, one in rows.items()}
        self.import_rows(self.own_rows.start, moved)

    def close(self) -> None:
        super().close()
        self._prefetcher = None


class PygTensorStore(_RowStore):
    """A tensor in ranges of rows. Of several ranks that write a row, the one of the highest number wins."""

    _shard: TensorShard

    def __init__(self, spec: TensorSpec, router: Router) -> None:
        self.spec = spec
        self._router = router
        self._rows = router.shared_rows(spec.name, spec.dtype, spec.shape[1:])
        self._shard = TensorShard(spec, CPU, *router.own, memory=router.own_rows(self._rows))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        call = f"read of tensor store {self.spec.name!r}"
        self._shard.check_open()
        self.spec.check_ids(ids, CPU)
        return self._router.fetch(self._rows, self.partition.places(ids), call)

    @torch.no_grad()
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        call = f"write of tensor store {self.spec.name!r}{', by adding' if accumulate else ''}"
        self._shard.check_open()
        self.spec.check_values(ids, values, CPU)
        places = self.partition.places(ids)
        if accumulate:
            distinct, rows = sum_by_id(places, values)
        else:
            distinct, last = last_of_each(places)
            rows = take_rows(values, last)
        positions, rows, slots = self._router.send(distinct, rows, call)
        rows = take_rows(rows, slots)
        if accumulate:
            self._shard.add(positions, rows)
        else:
            self._shard.replace(positions, rows)


class PygGraphStore:
    """A graph in ranges of nodes, each with the edges that end in them."""

    def __init__(self, spec: GraphSpec, edge_index: Tensor, router: Router, *, edge_ids: Tensor | None = None) -> None:
        self.spec = spec
        self._router = router
        if edge_ids is not None:  # these edges are this rank's, and not yet where they end
            given = torch.cat([edge_index, edge_ids.unsqueeze(0)]).t()
            edges = router.deal(edge_index[1], given, f"opening of {spec}").t()
            edge_index, edge_ids = edges[:2], edges[2]
        self._shard = GraphShard(spec, edge_index, CPU, *router.own, edge_ids=edge_ids)

    @property
    def num_nodes(self) -> int:
        return self.spec.num_nodes

    @property
    def num_edges(self) -> int:
        return self.spec.num_edges

    def holds(self, edge_index: Tensor) -> bool:
        """Tell whether this rank's part was made from these edges."""
        return self._shard.holds(edge_index)

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        call = f"in_neighbors of graph store {self.spec.name!r}"
        self._shard.check_open()
        self.spec.check_query(nodes, fanout, CPU)
        distinct, slots = torch.unique(nodes, return_inverse=True)
        route = self._router.send_ids(distinct, call)
        sources, edge_ids, degrees = self._shard.in_edges(route.positions, fanout, seed)
        degrees, edges = self._router.return_ragged(route, degrees, torch.stack([sources, edge_ids], dim=1), call)
        # The edges of distinct nodes came in ascending order of nodes; deal them out as nodes were asked for.
        first = degrees.cumsum(0) - degrees
        wanted = degrees.index_select(0, slots)
        after = wanted.cumsum(0)
        count = torch.arange(int(after[-1]) if nodes.numel() else 0)
        position = torch.searchsorted(after, count, right=True)
        offset = first.index_select(0, slots) - (after - wanted)
        chosen = edges.index_select(0, count + offset.index_select(0, position))
        return InEdges(chosen[:, 0].contiguous(), nodes.index_select(0, position), chosen[:, 1].contiguous())

    @property
    def closed(self) -> bool:
        return self._shard.closed

    def close(self) -> None:
        self._shard.close()
