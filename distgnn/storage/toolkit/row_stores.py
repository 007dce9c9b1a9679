"""Stores over any engine that can read and write rows by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from distgnn.storage.toolkit.initial import initial_rows
from distgnn.storage.toolkit.open_stores import require_open
from distgnn.storage.toolkit.row_shard import check_exported, check_range, last_of_each
from distgnn.storage.toolkit.rows import accumulation_dtype, sum_by_id
from distgnn.storage.toolkit.rule_states import KeepsRuleStates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distgnn.storage.capabilities import RuleState
    from distgnn.storage.protocols import UpdateRule
    from distgnn.storage.specs import EmbeddingSpec, TensorSpec

CPU = torch.device("cpu")


class Rows(Protocol):
    """Rows ``[N, ...]`` on the CPU's side of an engine."""

    def take(self, ids: Tensor) -> Tensor:
        """Copy rows.

        Args:
            ids: ``[K]`` int64 in ``[0, N)``, in any order, duplicates allowed; checked before. K may be 0.

        Returns:
            ``[K, ...]`` in fresh memory. A row that was never put is the initial one.
        """
        ...

    def put(self, ids: Tensor, values: Tensor) -> None:
        """Overwrite rows.

        Args:
            ids: ``[K]`` int64 in ``[0, N)``, each once; checked before. K may be 0.
            values: ``[K, ...]`` of the rows' type; not to be kept.
        """
        ...

    def close(self) -> None:
        """Free the rows."""
        ...


@dataclass(frozen=True)
class NewRows:
    """The description of rows for an engine to keep.

    Args:
        store: The store's name.
        name: ``"rows"``, or of a rule's state ``"rule/name"``.
        shape: ``(N, ...)``.
        dtype: Of the rows.
        initial: Gives the initial rows from the first to before the last, ``[last - first, ...]``.
    """

    store: str
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    initial: Callable[[int, int], Tensor]


OpenRows = Callable[[NewRows], Rows]


class RowEmbeddingStore(KeepsRuleStates[Rows]):
    """A table, and the state of its rules, in an engine's rows.

    Args:
        spec: The table.
        open_rows: Has the engine keep rows: those of the table, and of each tensor of state.
    """

    spec: EmbeddingSpec

    def __init__(self, spec: EmbeddingSpec, open_rows: OpenRows) -> None:
        super().__init__(spec)
        self._open_rows = open_rows
        shape = (spec.num_embeddings, spec.embedding_dim)
        initial = lambda first, last: initial_rows(spec, first, last)  # noqa: E731  # a parameter, not a function
        self._rows: Rows | None = open_rows(NewRows(spec.name, "rows", shape, spec.dtype, initial))

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def lookup(self, ids: Tensor) -> Tensor:
        rows = require_open(self._rows, self.spec)
        self.spec.check_ids(ids, CPU)
        return rows.take(ids)

    @torch.no_grad()
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        stored = require_open(self._rows, self.spec)
        self.spec.check_gradients(ids, gradients, CPU)
        kept, step = self.next_step(rule, self.embedding_dim)
        wide = accumulation_dtype(self.spec.dtype)
        distinct, sums = sum_by_id(ids, gradients.to(wide))
        rows = stored.take(distinct).to(wide)
        state = {name: values.take(distinct) for name, values in kept.items()}
        rule.update(rows, state, sums, step)
        stored.put(distinct, rows.to(self.spec.dtype))
        for name, values in kept.items():
            values.put(distinct, state[name])

    @property
    def own_rows(self) -> range:
        return range(self.num_embeddings)

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        rows = {"rows": require_open(self._rows, self.spec), **self.state_tensors()}
        check_range(self.spec, self.own_rows, first, last)
        return {name: kept.take(torch.arange(first, last)) for name, kept in rows.items()}

    @torch.no_grad()
    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        kept = {"rows": require_open(self._rows, self.spec), **self.state_tensors()}
        forms = {name: (one.dtype, one.shape[1:]) for name, one in self.export_rows(0, 0).items()}
        check_exported(self.spec, rows, forms)
        last = first + rows["rows"].size(0)
        check_range(self.spec, self.own_rows, first, last)
        for name, values in rows.items():
            kept[name].put(torch.arange(first, last), values.contiguous())

    @property
    def closed(self) -> bool:
        return self._rows is None

    def check_open(self) -> None:
        require_open(self._rows, self.spec)

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._rows = None
        self.forget_rule_states()

    def _new_state(self, rule: str, state: RuleState) -> dict[str, Rows]:
        def opened(name: str, width: int, value: float) -> Rows:
            def initial(first: int, last: int) -> Tensor:
                return torch.full((last - first, width), value)

            shape = (self.num_embeddings, width)
            return self._open_rows(NewRows(self.spec.name, f"{rule}/{name}", shape, torch.float32, initial))

        return {name: opened(name, spec.width, spec.initial) for name, spec in state.tensors.items()}

    def _drop_state(self, rule: str) -> None:
        for rows in self._state[rule].values():
            rows.close()
        super()._drop_state(rule)


class RowTensorStore:
    """A tensor in an engine's rows.

    Args:
        spec: The tensor.
        open_rows: Has the engine keep its rows.
    """

    def __init__(self, spec: TensorSpec, open_rows: OpenRows) -> None:
        self.spec = spec
        zeros = lambda first, last: torch.zeros(last - first, *spec.shape[1:], dtype=spec.dtype)  # noqa: E731
        self._rows: Rows | None = open_rows(NewRows(spec.name, "rows", spec.shape, spec.dtype, zeros))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        rows = require_open(self._rows, self.spec)
        self.spec.check_ids(ids, CPU)
        return rows.take(ids)

    @torch.no_grad()
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        rows = require_open(self._rows, self.spec)
        self.spec.check_values(ids, values, CPU)
        if accumulate:
            distinct, sums = sum_by_id(ids, values)
            rows.put(distinct, rows.take(distinct).to(sums.dtype).add_(sums).to(self.dtype))
        else:
            distinct, last = last_of_each(ids)
            rows.put(distinct, values.index_select(0, last))

    @property
    def own_rows(self) -> range:
        return range(self.shape[0])

    def rule_states(self) -> dict[str, RuleState]:
        require_open(self._rows, self.spec)
        return {}

    def reset_rule_states(self, states: Mapping[str, RuleState]) -> None:
        del states
        require_open(self._rows, self.spec)

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        rows = require_open(self._rows, self.spec)
        check_range(self.spec, self.own_rows, first, last)
        return {"rows": rows.take(torch.arange(first, last))}

    @torch.no_grad()
    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        kept = require_open(self._rows, self.spec)
        check_exported(self.spec, rows, {"rows": (self.dtype, self.shape[1:])})
        last = first + rows["rows"].size(0)
        check_range(self.spec, self.own_rows, first, last)
        kept.put(torch.arange(first, last), rows["rows"].contiguous())

    @property
    def closed(self) -> bool:
        return self._rows is None

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._rows = None
