"""Rows of a store that one process holds, and what is kept beside them.

Positions here count from the shard's first row; the caller has checked them. Of a table with a partition they are
places of its book.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distgnn.errors import EmbeddingSizeError, IdRangeError, RowsError, SpecError
from distgnn.storage.specs import EmbeddingSpec, PartitionBook
from distgnn.storage.toolkit.initial import initial_rows, initial_rows_of
from distgnn.storage.toolkit.open_stores import require_open
from distgnn.storage.toolkit.rows import (
    accumulation_dtype,
    group_by_id,
    new_state,
    put_rows,
    sum_by_id,
    take_rows,
    update_rows,
)
from distgnn.storage.toolkit.rule_states import KeepsRuleStates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distgnn.storage.capabilities import RuleState
    from distgnn.storage.protocols import UpdateRule
    from distgnn.storage.specs import TensorSpec


class RowShard(KeepsRuleStates[Tensor]):
    """Rows of a store, and what is kept beside them.

    Args:
        spec: The whole store.
        rows: ``[K, ...]``, those of this shard, where they are kept.
        start: Number of the first row.
    """

    def __init__(self, spec: EmbeddingSpec | TensorSpec, rows: Tensor, start: int) -> None:
        super().__init__(spec)
        self.own_rows = range(start, start + rows.size(0))
        self._device = rows.device
        self._rows: Tensor | None = rows

    @property
    def rows(self) -> Tensor:
        """The rows ``[K, ...]`` where they are kept.

        Raises:
            StoreClosedError: They are freed.
        """
        return require_open(self._rows, self.spec)

    def gather(self, positions: Tensor) -> Tensor:
        """Copy rows ``[K, ...]``."""
        return take_rows(self.rows, positions)

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
        return {"rows": self.rows, **self.state_tensors()}

    def _positions(self, first: int, last: int) -> slice:
        check_range(self.spec, self.own_rows, first, last)
        return slice(first - self.own_rows.start, last - self.own_rows.start)

    def _new_state(self, rule: str, state: RuleState) -> dict[str, Tensor]:
        del rule
        return new_state(state.tensors, len(self.own_rows), self._device)

    @property
    def closed(self) -> bool:
        """Whether the rows are freed."""
        return self._rows is None

    def check_open(self) -> None:
        """Refuse what comes after close().

        Raises:
            StoreClosedError: It is closed.
        """
        require_open(self._rows, self.spec)

    def close(self) -> None:
        """Free the rows and their state."""
        self._rows = None
        self.forget_rule_states()


class EmbeddingShard(RowShard):
    """Rows of a table, with the state of each rule.

    Args:
        spec: The whole table.
        device: Where the rows are.
        start: Id of the first row.
        stop: Id after the last row; None is the end of the table.
        memory: ``[stop - start, D]`` on the CPU, where the rows are kept; fresh memory if left out.
        ids: ``[stop - start]`` int64, those of the rows, where they are not ``start`` to ``stop``.
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
        ids: Tensor | None = None,
    ) -> None:
        if ids is None:
            rows = initial_rows(spec, start, spec.num_embeddings if stop is None else stop, out=memory)
        else:
            rows = initial_rows_of(spec, ids, out=memory)
        super().__init__(spec, rows.to(device), start)

    def update(self, positions: Tensor, gradients: Tensor, rule: UpdateRule, places: Tensor | None = None) -> None:
        """Do :func:`~distgnn.storage.toolkit.rows.update_rows`; counts as a step.

        Raises:
            SpecError: The state that was loaded for the rule's class has other names or widths than the rule's.
        """
        state, step = self.next_step(rule, self.rows.size(1))
        update_rows(self.rows, state, positions, gradients, rule, step, places)


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
        put_rows(self.rows, distinct, take_rows(values, last))

    @torch.no_grad()
    def add(self, positions: Tensor, values: Tensor) -> None:
        """Add to rows ``[K, ...]``, the 16-bit floats in float32."""
        stored = self.rows
        distinct, sums = sum_by_id(positions, values)
        rows = take_rows(stored, distinct).to(accumulation_dtype(stored.dtype))
        put_rows(stored, distinct, rows.add_(sums).to(stored.dtype))


def last_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ids, ascending, ``[U]``, and where each stands last, ``[U]``."""
    distinct, order, starts = group_by_id(ids)
    ends = torch.cat([starts[1:], starts.new_full((min(1, ids.numel()),), ids.numel())])
    return distinct, order.index_select(0, ends - 1)


def resized_spec(spec: EmbeddingSpec, num_embeddings: int) -> EmbeddingSpec:
    """Return the spec of a table with more rows, the new ones the last rank's where it has a partition.

    Raises:
        EmbeddingSizeError: With fewer.
    """
    if num_embeddings < spec.num_embeddings:
        raise EmbeddingSizeError(
            f"embedding store {spec.name!r} has {spec.num_embeddings} rows and cannot become {num_embeddings}: rows "
            "are added, never taken away; open another store"
        )
    partition = None if spec.partition is None else spec.partition.grown(num_embeddings)
    return replace(spec, num_embeddings=num_embeddings, partition=partition)


def book_for(spec: EmbeddingSpec | TensorSpec, world_size: int) -> PartitionBook:
    """Return the book by which ranks share the rows of a store.

    A rank that is alone has all rows, whatever the spec says.

    Raises:
        SpecError: The spec's partition is for another number of ranks.
    """
    num_rows = spec.num_embeddings if isinstance(spec, EmbeddingSpec) else spec.shape[0]
    if spec.partition is None or world_size == 1:
        return PartitionBook.even(num_rows, world_size)
    if spec.partition.world_size != world_size:
        raise SpecError(
            f"store {spec.name!r}: its partition is for {spec.partition.world_size} ranks, and there are {world_size}: "
            "give it one for as many, or none"
        )
    return spec.partition


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
