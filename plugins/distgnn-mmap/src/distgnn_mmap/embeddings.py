"""Tables of learnable rows in mapped files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import distgnn
from distgnn.optim import sum_by_id, take_rows
from distgnn_mmap.exports import check_range, check_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor

    from torch import Tensor

    from distgnn_mmap.rows import MappedRows

CPU = torch.device("cpu")
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 128  # so many rows are drawn together


class MmapEmbeddingStore:
    """A table and the state of its rules, each in a sparse file.

    A row of zero bytes is one that was never updated: what it is, is computed. A row that an update makes zero is
    written as a negative zero.

    Args:
        spec: The table.
        open_rows: Opens a file of it, by name, width and dtype.
        rules: The steps and the widths and initial values of the state of each rule so far, by the rule's name.
        ahead: Where the disk is asked for rows of later lookups.
        drop: Called when the store is closed for good.
    """

    def __init__(
        self,
        spec: distgnn.EmbeddingSpec,
        open_rows: Callable[[str, int, torch.dtype], MappedRows],
        rules: dict[str, Any],
        ahead: Executor,
        drop: Callable[[], None] | None = None,
    ) -> None:
        self.spec = spec
        self.rules = rules
        self.closed = False
        self._open_rows, self._ahead, self._drop = open_rows, ahead, drop
        self._rows = open_rows("rows", spec.embedding_dim, spec.dtype)
        self._files: dict[str, MappedRows] = {}  # of state
        self._computed = torch.empty(0, dtype=torch.int64), torch.empty(0, spec.embedding_dim, dtype=spec.dtype)

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def lookup(self, ids: Tensor) -> Tensor:
        self._check_open()
        self.spec.check_ids(ids, CPU)
        return self._take(ids)

    def prefetch(self, ids: Tensor) -> Callable[[], Tensor]:
        self._check_open()
        self.spec.check_ids(ids, CPU)
        ids = ids.clone()
        for rows in self.files():
            self._ahead.submit(rows.ask, ids)
        return partial(self.lookup, ids)

    @torch.no_grad()
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: distgnn.UpdateRule) -> None:
        self._check_open()
        self.spec.check_gradients(ids, gradients, CPU)
        name = f"{type(rule).__module__}.{type(rule).__qualname__}"
        kept = self._state_of(rule, name)
        self.rules[name]["step"] += 1
        wide = torch.float64 if self.spec.dtype == torch.float64 else torch.float32
        distinct, sums = sum_by_id(ids, gradients.to(wide))
        rows = self._take(distinct).to(wide)
        state = {each: stored.take(distinct) for each, stored in kept.items()}
        rule.update(rows, state, sums, self.rules[name]["step"])
        self._put(distinct, rows.to(self.spec.dtype))
        for each, stored in kept.items():
            stored.put(distinct, state[each])

    def _state_of(self, rule: distgnn.UpdateRule, name: str) -> dict[str, _State]:
        state = {each: list(spec) for each, spec in rule.state(self.embedding_dim).items()}
        kept = self.rules.setdefault(name, {"step": 0, "state": state})["state"]
        widths, needed = ({each: width for each, (width, _) in one.items()} for one in (kept, state))
        if widths != needed:
            raise distgnn.SpecError(
                f"embedding store {self.spec.name!r}: the state that was loaded for {name} has columns {widths}, and "
                f"the rule needs {needed}; load a checkpoint of the same rule"
            )
        return self._kept(name)

    def _kept(self, rule: str) -> dict[str, _State]:
        kept = self.rules[rule]["state"].items()
        return {each: _State(self._file(f"{rule}.{each}", width), initial) for each, (width, initial) in kept}

    def _file(self, name: str, width: int) -> MappedRows:
        if name not in self._files:
            self._files[name] = self._open_rows(name, width, torch.int32)
        found = self._files[name].rows.size(1)
        if found != width:
            raise distgnn.SpecError(
                f"embedding store {self.spec.name!r} has a file for {name} with {found} columns, and {width} are "
                "needed: close the store, and open it anew"
            )
        return self._files[name]

    @property
    def own_rows(self) -> range:
        return range(self.num_embeddings)

    def rule_states(self) -> dict[str, distgnn.RuleState]:
        self._check_open()
        return {
            rule: distgnn.RuleState(
                kept["step"],
                {each: distgnn.StateSpec(width, initial) for each, (width, initial) in kept["state"].items()},
            )
            for rule, kept in self.rules.items()
        }

    def reset_rule_states(self, states: Mapping[str, distgnn.RuleState]) -> None:
        self._check_open()
        for rule in self.rules:
            for stored in self._kept(rule).values():
                stored.rows.clear()
        self.rules.clear()
        for rule, (steps, tensors) in states.items():
            self.rules[rule] = {"step": steps, "state": {each: list(spec) for each, spec in tensors.items()}}

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        self._check_open()
        check_range(self.spec.name, self.num_embeddings, first, last)
        ids = torch.arange(first, last)
        state = {f"{rule}/{each}": stored for rule in self.rules for each, stored in self._kept(rule).items()}
        return {"rows": self._take(ids), **{name: stored.take(ids) for name, stored in state.items()}}

    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        check_rows(self.spec.name, rows, self.export_rows(0, 0))
        last = first + rows["rows"].size(0)
        check_range(self.spec.name, self.num_embeddings, first, last)
        ids = torch.arange(first, last)
        self._put(ids, rows["rows"].clone())
        for rule in self.rules:
            for each, stored in self._kept(rule).items():
                stored.put(ids, rows[f"{rule}/{each}"].contiguous())

    def _put(self, ids: Tensor, rows: Tensor) -> None:
        """Overwrite rows ``[K, D]``, each id once; changes ``rows``."""
        rows[~rows.any(dim=1), 0] = -0.0
        self._rows.put(ids, rows)

    def _take(self, ids: Tensor) -> Tensor:
        rows = self._rows.take(ids)
        if int(rows[:, 0].count_nonzero()) < len(rows):
            zero = (rows[:, 0] == 0).nonzero().squeeze(1)
            bits = take_rows(self._rows.rows.view(_BITS[rows.element_size()]), ids[zero])
            untouched = zero[~bits.any(dim=1)]
            if untouched.numel():
                rows[untouched] = self._initial(ids[untouched])
        return rows

    def _initial(self, ids: Tensor) -> Tensor:
        """Compute initial rows; those of the call before, an update's lookup most often, are still there."""
        distinct, slots = torch.unique(ids, return_inverse=True)
        known, rows = self._computed
        found = torch.searchsorted(known, distinct).clamp_(max=max(known.numel() - 1, 0))
        if not known.numel() or not torch.equal(known[found], distinct):
            rows = torch.empty(distinct.numel(), self.embedding_dim, dtype=self.spec.dtype)
            runs = distinct.div(_BLOCK, rounding_mode="floor").diff().nonzero().squeeze(1).add_(1).tolist()
            for begin, end in zip([0, *runs], [*runs, distinct.numel()], strict=True):
                some = distinct[begin:end]
                first, last = int(some[0]), int(some[-1])
                rows[begin:end] = distgnn.initial_rows(self.spec, first, last + 1)[some - first]
            self._computed = distinct, rows
            found = torch.arange(distinct.numel())
        return rows[found[slots]]

    def files(self) -> Iterator[MappedRows]:
        """Give the rows and all state."""
        yield self._rows
        yield from self._files.values()

    def _check_open(self) -> None:
        if self.closed:
            raise distgnn.StoreClosedError(f"store {self.spec.name!r} is closed; open it again from its backend")

    def close(self) -> None:
        """Free the rows, on the disk too."""
        if not self.closed:
            self.release()
            if self._drop is not None:
                self._drop()

    def release(self) -> None:
        """Let go of the files, and leave them as they are."""
        self.closed = True
        for rows in self.files():
            rows.close()
        self._files.clear()


class _State:
    """State of a rule, whose initial value is written as zero bytes."""

    def __init__(self, rows: MappedRows, initial: float) -> None:
        self.rows = rows
        self._initial = torch.tensor(initial, dtype=torch.float32).view(torch.int32)

    def take(self, ids: Tensor) -> Tensor:
        return self.rows.take(ids).bitwise_xor_(self._initial).view(torch.float32)

    def put(self, ids: Tensor, values: Tensor) -> None:
        self.rows.put(ids, values.view(torch.int32) ^ self._initial)
