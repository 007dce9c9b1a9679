"""Shards: the rows, and the in-edges, that one process holds for a store. What a backend keeps on their owner.

Positions here count from the shard's first row; the caller has checked them. A shard that holds everything is the
``memory`` backend.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from distgnn.choice import choose
from distgnn.errors import EmbeddingSizeError, IdRangeError, RowsError, SpecError, StoreClosedError
from distgnn.initial import initial_rows
from distgnn.optim.rows import accumulation_dtype, group_by_id, new_state, put_rows, sum_by_id, take_rows, update_rows
from distgnn.protocols import RuleState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distgnn.protocols import StateSpec, UpdateRule
    from distgnn.specs import EmbeddingSpec, GraphSpec, Spec, TensorSpec


class RowShard:
    """Rows of a store, and what is kept beside them.

    Args:
        spec: The whole store.
        rows: ``[K, ...]``, those of this shard, where they are kept.
        start: Number of the first row.
    """

    def __init__(self, spec: EmbeddingSpec | TensorSpec, rows: Tensor, start: int) -> None:
        self.spec = spec
        self.own_rows = range(start, start + rows.size(0))
        self._device = rows.device
        self._rows: Tensor | None = rows
        self._state: dict[str, dict[str, Tensor]] = {}  # by rule and name
        self._kept: dict[str, RuleState] = {}

    def gather(self, positions: Tensor) -> Tensor:
        """Copy rows ``[K, ...]``."""
        return take_rows(opened(self._rows, self.spec), positions)

    def rule_states(self) -> dict[str, RuleState]:
        """See :meth:`distgnn.SupportsCheckpoint.rule_states`."""
        self.check_open()
        return dict(self._kept)

    def reset_rule_states(self, states: Mapping[str, RuleState]) -> None:
        """See :meth:`distgnn.SupportsCheckpoint.reset_rule_states`."""
        self.check_open()
        for rule in list(self._kept):
            self._drop_state(rule)
        for rule, state in states.items():
            self._make_state(rule, state)

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        """See :meth:`distgnn.SupportsCheckpoint.export_rows`."""
        return {name: rows[self._positions(first, last)].cpu() for name, rows in self._tensors().items()}

    @torch.no_grad()
    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        """See :meth:`distgnn.SupportsCheckpoint.import_rows`."""
        tensors = self._tensors()
        check_exported(self.spec, rows, {name: (kept.dtype, kept.shape[1:]) for name, kept in tensors.items()})
        positions = self._positions(first, first + rows["rows"].size(0))
        for name, kept in tensors.items():
            kept[positions] = rows[name].to(self._device)

    def _tensors(self) -> dict[str, Tensor]:
        """Return all that is kept, by the names of :meth:`export_rows`."""
        state = {f"{rule}/{name}": rows for rule, tensors in self._state.items() for name, rows in tensors.items()}
        return {"rows": opened(self._rows, self.spec), **state}

    def _positions(self, first: int, last: int) -> slice:
        check_range(self.spec, self.own_rows, first, last)
        return slice(first - self.own_rows.start, last - self.own_rows.start)

    def _make_state(self, rule: str, state: RuleState) -> None:
        self._state[rule] = new_state(state.tensors, len(self.own_rows), self._device)
        self._kept[rule] = state

    def _drop_state(self, rule: str) -> None:
        del self._state[rule], self._kept[rule]

    @property
    def closed(self) -> bool:
        """Whether the rows are freed."""
        return self._rows is None

    def check_open(self) -> None:
        """Refuse what comes after close().

        Raises:
            StoreClosedError: It is closed.
        """
        opened(self._rows, self.spec)

    def close(self) -> None:
        """Free the rows and their state."""
        self._rows = None
        self._state.clear()
        self._kept.clear()


class EmbeddingShard(RowShard):
    """Rows of a table, and beside them the state of each rule that was used.

    Args:
        spec: The whole table.
        device: Where the rows are.
        start: Id of the first row.
        stop: Id after the last row; None is the end of the table.
        memory: ``[stop - start, D]`` on the CPU, where the rows are kept; fresh memory if left out.
    """

    spec: EmbeddingSpec

    def __init__(
        self,
        spec: EmbeddingSpec,
        device: torch.device,
        start: int = 0,
        stop: int | None = None,
        *,
        memory: Tensor | None = None,
    ) -> None:
        stop = spec.num_embeddings if stop is None else stop
        super().__init__(spec, initial_rows(spec, start, stop, out=memory).to(device), start)

    def update(self, positions: Tensor, gradients: Tensor, rule: UpdateRule, places: Tensor | None = None) -> None:
        """Do :func:`~distgnn.optim.rows.update_rows`; counts as a step.

        Raises:
            SpecError: The state that was loaded for the rule's class has other names or widths than the rule's.
        """
        rows = opened(self._rows, self.spec)
        name, needed = rule_name(rule), rule.state(rows.size(1))
        if name not in self._kept:
            self._make_state(name, RuleState(0, dict(needed)))
        kept = self._kept[name]
        check_state(self.spec, name, kept, needed)
        self._kept[name] = kept = kept._replace(steps=kept.steps + 1)
        update_rows(rows, self._state[name], positions, gradients, rule, kept.steps, places)


class TensorShard(RowShard):
    """Rows of a tensor, zero at first.

    Args:
        spec: The whole tensor.
        device: Where the rows are.
        start: Number of the first row.
        stop: Number after the last row; None is the end of the tensor.
        memory: ``[stop - start, ...]`` of zeros, where the rows are kept; fresh memory if left out.
    """

    spec: TensorSpec

    def __init__(
        self,
        spec: TensorSpec,
        device: torch.device,
        start: int = 0,
        stop: int | None = None,
        *,
        memory: Tensor | None = None,
    ) -> None:
        if memory is None:
            count = (spec.shape[0] if stop is None else stop) - start
            memory = torch.zeros(count, *spec.shape[1:], dtype=spec.dtype, device=device)
        super().__init__(spec, memory, start)

    @torch.no_grad()
    def replace(self, positions: Tensor, values: Tensor) -> None:
        """Write rows ``[K, ...]``; of several values for a row the last one stays."""
        distinct, last = last_of_each(positions)
        put_rows(opened(self._rows, self.spec), distinct, take_rows(values, last))

    @torch.no_grad()
    def add(self, positions: Tensor, values: Tensor) -> None:
        """Add to rows ``[K, ...]``, the 16-bit floats in float32."""
        stored = opened(self._rows, self.spec)
        distinct, sums = sum_by_id(positions, values)
        rows = take_rows(stored, distinct).to(accumulation_dtype(stored.dtype))
        put_rows(stored, distinct, rows.add_(sums).to(stored.dtype))


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
        mine = (opened(self._edge_ids, self.spec), self._sources, torch.from_numpy(np.diff(self._first_edges)))
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
        edge_ids = opened(self._edge_ids, self.spec)
        asked = positions.cpu().numpy()
        first = self._first_edges.take(asked)
        degrees = self._first_edges.take(asked + 1) - first
        kept = degrees if fanout < 0 else np.minimum(degrees, fanout)
        before = kept.cumsum() - kept
        edges = (first - before).repeat(kept)
        edges += np.arange(len(edges))
        sampled = np.flatnonzero(degrees > kept)
        if fanout > 0 and sampled.size:
            chosen = choose(asked[sampled] + self._first, degrees[sampled], fanout, seed)
            edges[before[sampled, None] + np.arange(fanout)] = chosen + first[sampled, None]
        chosen_edges = torch.from_numpy(edges).to(self._device)
        return (
            self._sources.index_select(0, chosen_edges),
            edge_ids.index_select(0, chosen_edges),
            torch.from_numpy(kept).to(self._device),
        )

    @property
    def closed(self) -> bool:
        """Whether the edges are freed."""
        return self._edge_ids is None

    def check_open(self) -> None:
        """Refuse what comes after close().

        Raises:
            StoreClosedError: It is closed.
        """
        opened(self._edge_ids, self.spec)

    def close(self) -> None:
        """Free the edges."""
        self._edge_ids = None
        self._sources = torch.empty(0)
        self._first_edges = np.zeros(1, dtype=np.int64)


def last_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ids, ascending, ``[U]``, and where each stands last, ``[U]``."""
    distinct, order, starts = group_by_id(ids)
    ends = torch.cat([starts[1:], starts.new_full((min(1, ids.numel()),), ids.numel())])
    return distinct, order.index_select(0, ends - 1)


def opened(content: Tensor | None, spec: Spec) -> Tensor:
    """Return what a store holds.

    Raises:
        StoreClosedError: It holds nothing any more.
    """
    if content is None:
        raise StoreClosedError(f"store {spec.name!r} is closed; open it again from its backend")
    return content


def rule_name(rule: UpdateRule) -> str:
    """Return the name that the state of a rule's class is kept by."""
    return f"{type(rule).__module__}.{type(rule).__qualname__}"


def check_state(spec: EmbeddingSpec, rule: str, kept: RuleState, needed: Mapping[str, StateSpec]) -> None:
    """Refuse state that a rule cannot use.

    Raises:
        SpecError: It has other names or widths.
    """
    widths, asked = ({name: one.width for name, one in specs.items()} for specs in (kept.tensors, needed))
    if widths != asked:
        raise SpecError(
            f"embedding store {spec.name!r}: the state that was loaded for {rule} has columns {widths}, and the rule "
            f"needs {asked}; load a checkpoint of the same rule, or start its state anew with reset_rule_states({{}})"
        )


def grown(spec: EmbeddingSpec, num_embeddings: int) -> EmbeddingSpec:
    """Return the spec of a table with more rows.

    Raises:
        EmbeddingSizeError: With fewer.
    """
    if num_embeddings < spec.num_embeddings:
        raise EmbeddingSizeError(
            f"embedding store {spec.name!r} has {spec.num_embeddings} rows and cannot become {num_embeddings}: rows "
            "are added, never taken away; open another store"
        )
    return replace(spec, num_embeddings=num_embeddings)


def check_range(spec: EmbeddingSpec | TensorSpec, own: range, first: int, last: int) -> None:
    """Refuse rows that are not a rank's own.

    Raises:
        IdRangeError: ``first`` to ``last`` is not within ``own``.
    """
    if not own.start <= first <= last <= own.stop:
        raise IdRangeError(
            f"store {spec.name!r}: rows {first} to {last} are not within this rank's own, {own.start} to {own.stop}"
        )


def check_exported(
    spec: EmbeddingSpec | TensorSpec,
    rows: Mapping[str, Tensor],
    kept: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
) -> None:
    """Refuse rows that do not fit what a store keeps, given as the type and the row's shape of each tensor.

    Raises:
        RowsError: Other tensors, types or shapes, or not the same number of rows of each.
    """
    given = {name: (one.dtype, tuple(one.shape[1:])) for name, one in rows.items()}
    asked = {name: (dtype, tuple(shape)) for name, (dtype, shape) in kept.items()}
    if given != asked or len({one.size(0) for one in rows.values()}) != 1:
        counts = {name: list(one.shape) for name, one in rows.items()}
        raise RowsError(f"store {spec.name!r}: rows to be put back are {counts}, {given}; it keeps {asked}")
