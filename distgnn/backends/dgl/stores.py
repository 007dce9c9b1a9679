"""Stores that are DGL's distributed tensors and embeddings."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from dgl.distributed import DistEmbedding, DistTensor

from distgnn.backends.dgl.shards import CPU
from distgnn.errors import SpecError, StoreClosedError
from distgnn.storage.capabilities import RuleState
from distgnn.storage.protocols import InEdges, StateSpec
from distgnn.storage.toolkit.row_shard import check_exported, check_range
from distgnn.storage.toolkit.rows import accumulation_dtype, sum_by_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distgnn.backends.dgl.engine import Engine
    from distgnn.backends.dgl.placement import Placement
    from distgnn.backends.dgl.rows import Ranges
    from distgnn.storage.protocols import UpdateRule
    from distgnn.storage.specs import EmbeddingSpec, GraphSpec, PartitionBook, Spec, TensorSpec


class _Store:
    """What has a name, is open on all ranks, and is dropped by each."""

    spec: Spec

    def __init__(self, engine: Engine, ranges: Ranges) -> None:
        self._engine, self._ranges = engine, ranges
        self._key = ranges.key(self.spec.name)
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.drop(self._key)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(f"store {self.spec.name!r} is closed; open it again from its backend")

    def _deal(self, ids: Tensor, rows: Tensor) -> dict[int, tuple[Tensor, ...]]:
        """Part places, and the rows beside them, among those who own them."""
        if self._engine.parts == 1:
            return {0: (ids.contiguous(), rows.contiguous())}
        slots = self._ranges.slots(ids)
        return {part: (ids.index_select(0, at), rows.index_select(0, at)) for part, at in slots.items()}


class _RowStore(_Store):
    """Rows in a DistTensor, which every rank may read where it is."""

    spec: EmbeddingSpec | TensorSpec

    def __init__(self, engine: Engine, placement: Placement, shape: tuple[int, ...]) -> None:
        ranges = placement.ranges
        super().__init__(engine, ranges)
        self._placement = placement
        about = f"opening of {self.spec}"
        ids = placement.ids_here() if engine.first_of_part else None  # one rank a host is enough to bring them there
        given = {} if ids is None else {engine.part: (ids,)}
        spec = replace(self.spec, partition=None)
        engine.together("open_rows", (self._key, spec, ranges.kind, ranges.book.bounds), about, given)
        engine.map(self._key, ranges, shape, self.spec.dtype)
        self.tensor = DistTensor(
            shape, self.spec.dtype, name=self.spec.name, part_policy=ranges.policy, persistent=True, is_gdata=False
        )

    def _read(self, ids: Tensor, call: str) -> Tensor:
        return self._engine.read(self._key, self._ranges, self._placement.places(ids), call)

    @property
    def partition(self) -> PartitionBook:
        return self._placement.book

    @property
    def own_rows(self) -> range:
        # Where hosts have as many ranks each, even ones are rows of this host too.
        return self.partition.own(self._engine.rank)

    def rule_states(self) -> dict[str, RuleState]:
        self._check_open()
        part = self._engine.part
        about = f"a look at the state of store {self.spec.name!r}"
        (text,) = self._engine.ask("states", (self._key,), about, {part: ()})[part]
        found = json.loads(bytes(text.numpy()))
        return {
            rule: RuleState(steps, {name: StateSpec(*spec) for name, spec in tensors.items()})
            for rule, (steps, tensors) in found.items()
        }

    def reset_rule_states(self, states: Mapping[str, RuleState]) -> None:
        self._check_open()
        about = f"reset_rule_states of store {self.spec.name!r}"
        self._engine.together("reset_states", (self._key, dict(states)), about)

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        state = self._state_names()
        check_range(self.spec, self.own_rows, first, last)
        pieces: list[dict[str, Tensor]] = []
        for part, begin, end in self._ranges.cut(first + self._placement.shift, last + self._placement.shift):
            piece = {"rows": self._rows_here(begin, end)} if part == self._engine.part else {}
            names = [name for name in ("rows", *state) if name not in piece]
            if names:
                about = f"export_rows of store {self.spec.name!r}"
                found = self._engine.ask("export", (self._key, begin, end, names), about, {part: ()})[part]
                piece.update(zip(names, found, strict=True))
            pieces.append(piece)
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in ("rows", *state)}

    @torch.no_grad()
    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        state = {name: (torch.float32, (width,)) for name, width in self._state_names().items()}
        check_exported(self.spec, rows, {"rows": (self.spec.dtype, tuple(self.tensor.shape[1:])), **state})
        last = first + rows["rows"].size(0)
        check_range(self.spec, self.own_rows, first, last)
        first += self._placement.shift
        for part, begin, end in self._ranges.cut(first, last + self._placement.shift):
            piece = {name: one[begin - first : end - first] for name, one in rows.items()}
            if part == self._engine.part:
                self._rows_here(begin, end)[:] = piece.pop("rows")
            if piece:
                about = f"import_rows of store {self.spec.name!r}"
                arguments = (self._key, begin, end, list(piece))
                self._engine.ask("import", arguments, about, {part: tuple(piece.values())})

    def _state_names(self) -> dict[str, int]:
        """Return the names of the state, as they are exported, and the widths."""
        states = self.rule_states().items()
        return {f"{rule}/{name}": spec.width for rule, (_, tensors) in states for name, spec in tensors.items()}

    def _rows_here(self, first: int, last: int) -> Tensor:
        return self._engine.rows(self._key)[first - self._ranges.start : last - self._ranges.start]


class DGLEmbeddingStore(_RowStore):
    """A table as DGL's DistEmbedding.

    Attributes:
        tensor: Its rows, a :class:`dgl.distributed.DistTensor`; with a partition, by their places on the hosts.
    """

    spec: EmbeddingSpec

    def __init__(self, spec: EmbeddingSpec, engine: Engine, placement: Placement) -> None:
        self.spec = spec
        super().__init__(engine, placement, (spec.num_embeddings, spec.embedding_dim))

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    @property
    def dist_embedding(self) -> DistEmbedding:
        """The table as DGL's own class, for its own optimizers; their state and numbers are DGL's.

        It takes places as :attr:`tensor` does.

        Raises:
            SpecError: The table is not of float32.
            StoreClosedError: The store is closed.
        """
        self._check_open()
        if self.spec.dtype != torch.float32:
            raise SpecError(f"DGL's DistEmbedding has float32 rows only, not those of {self.spec}")
        return DistEmbedding(*self.tensor.shape, name=self.spec.name, part_policy=self._ranges.policy)

    def lookup(self, ids: Tensor) -> Tensor:
        self._check_open()
        self.spec.check_ids(ids, CPU)
        return self._read(ids, f"lookup of embedding store {self.spec.name!r}")

    @torch.no_grad()
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        self._check_open()
        self.spec.check_gradients(ids, gradients, CPU)
        call = f"apply_gradients of embedding store {self.spec.name!r}"
        places = self._placement.places(ids)
        distinct, sums = sum_by_id(places, gradients.to(accumulation_dtype(self.spec.dtype)))
        cuts = torch.searchsorted(distinct, torch.tensor(self._ranges.book.bounds)).tolist()
        parts = {part: (distinct[start:stop], sums[start:stop]) for part, (start, stop) in enumerate(pairwise(cuts))}
        self._engine.together("update", (self._key, rule), call, parts)


class DGLTensorStore(_RowStore):
    """A tensor as DGL's DistTensor. Of several ranks that write a row, the one of the highest number wins.

    Attributes:
        tensor: Its rows, a :class:`dgl.distributed.DistTensor`.
    """

    spec: TensorSpec

    def __init__(self, spec: TensorSpec, engine: Engine, placement: Placement) -> None:
        self.spec = spec
        super().__init__(engine, placement, spec.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        self._check_open()
        self.spec.check_ids(ids, CPU)
        return self._read(ids, f"read of tensor store {self.spec.name!r}")

    @torch.no_grad()
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        self._check_open()
        self.spec.check_values(ids, values, CPU)
        call = f"write of tensor store {self.spec.name!r}"
        dealt = self._deal(self._placement.places(ids), values)
        self._engine.together("add" if accumulate else "replace", (self._key,), call, dealt)


class DGLGraphStore(_Store):
    """A graph in ranges of nodes, each with the edges that end in them, on the server of its host.

    Args:
        edge_index: All edges, or with ``edge_ids`` this rank's.
        fingerprint: Of the edges; all ranks must give the same.
        edge_ids: Which edges they are.
    """

    spec: GraphSpec

    def __init__(
        self,
        spec: GraphSpec,
        edge_index: Tensor,
        fingerprint: bytes,
        engine: Engine,
        ranges: Ranges,
        *,
        edge_ids: Tensor | None = None,
    ) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        super().__init__(engine, ranges)
        if edge_ids is not None:
            columns = torch.cat([edge_index, edge_ids.unsqueeze(0)])
            slots = ranges.slots(edge_index[1])
            edges = {part: tuple(columns.index_select(1, at)) for part, at in slots.items()}
        else:  # one rank a host is enough to bring them there
            edges = {engine.part: tuple(edge_index)} if engine.first_of_part else {}
        arguments = (self._key, spec, ranges.kind)
        engine.together("open_graph", arguments, f"opening of {spec}", edges)

    @property
    def num_nodes(self) -> int:
        return self.spec.num_nodes

    @property
    def num_edges(self) -> int:
        return self.spec.num_edges

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        call = f"in_neighbors of graph store {self.spec.name!r}"
        self._check_open()
        self.spec.check_query(nodes, fanout, CPU)
        self._engine.check_order(call)
        if self._engine.parts == 1:
            slots, asked = {}, {0: (nodes,)}
        else:
            slots, here = self._ranges.slots(nodes), self._engine.part
            asked = {part: (nodes[at],) for part, at in slots.items() if at.numel() or part == here}
        found = self._engine.ask("in_edges", (self._key, fanout, seed), call, asked)
        if not slots:
            sources, edge_ids, degrees = found[0]
            return InEdges(sources, nodes.repeat_interleave(degrees), edge_ids)
        return self._merged(nodes, slots, found)

    def _merged(self, nodes: Tensor, slots: dict[int, Tensor], found: dict[int, tuple[Tensor, ...]]) -> InEdges:
        """Put the edges that parts found in the order of ``nodes``."""
        position = torch.cat([slots[part].repeat_interleave(found[part][2]) for part in found])
        order = position.argsort(stable=True)
        sources, edge_ids = (torch.cat([edges[column] for edges in found.values()])[order] for column in (0, 1))
        return InEdges(sources, nodes.index_select(0, position[order]), edge_ids)
