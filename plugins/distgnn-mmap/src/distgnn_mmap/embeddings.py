"""Tables of learnable rows in mapped files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

import distgnn
from distgnn.storage.toolkit import NewRows, RowEmbeddingStore, Rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Executor

    from torch import Tensor

    from distgnn_mmap.rows import MappedRows

CPU = torch.device("cpu")
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_BLOCK = 128  # so many rows are drawn together


class MmapEmbeddingStore(RowEmbeddingStore):
    """A table and the state of its rules, each in a sparse file.

    Args:
        spec: The table.
        open_file: Opens a file of it, by name, width and dtype.
        rules: The steps and the state of each rule so far, by the rule's name.
        ahead: Where the disk is asked for rows of later lookups.
        drop: Called when the store is closed for good.
    """

    def __init__(
        self,
        spec: distgnn.EmbeddingSpec,
        open_file: Callable[[str, int, torch.dtype], MappedRows],
        rules: Mapping[str, distgnn.RuleState],
        ahead: Executor,
        drop: Callable[[], None] | None = None,
    ) -> None:
        self._open_file, self._ahead, self._drop = open_file, ahead, drop
        self._files: dict[str, MappedRows] = {}
        super().__init__(spec, self._mapped)
        for rule, state in rules.items():
            self._make_state(rule, state)

    def prefetch(self, ids: Tensor) -> Callable[[], Tensor]:
        self.check_open()
        self.spec.check_ids(ids, CPU)
        ids = ids.clone()
        for rows in self.files():
            self._ahead.submit(rows.ask, ids)
        return partial(self.lookup, ids)

    def files(self) -> Iterator[MappedRows]:
        """Give the rows and all state."""
        yield from self._files.values()

    def close(self) -> None:
        """Free the rows, on the disk too."""
        if not self.closed:
            self.release()
            if self._drop is not None:
                self._drop()

    def release(self) -> None:
        """Let go of the files, and leave them as they are."""
        self._rows = None
        for rows in self.files():
            rows.close()
        for owned in (self._files, self._state, self._kept):
            owned.clear()

    def _mapped(self, new: NewRows) -> Rows:
        name = new.name.replace("/", ".")
        if new.name == "rows":
            return _TableRows(self._file(name, new.shape[1], new.dtype), new)
        return _StateRows(self._file(name, new.shape[1], torch.int32), new)

    def _file(self, name: str, width: int, dtype: torch.dtype) -> MappedRows:
        if name not in self._files:
            self._files[name] = self._open_file(name, width, dtype)
        found = self._files[name].rows.size(1)
        if found != width:
            raise distgnn.SpecError(
                f"embedding store {self.spec.name!r} has a file for {name} with {found} columns, and {width} are "
                "needed: close the store, and open it anew"
            )
        return self._files[name]


class _TableRows:
    """Rows of a table.

    A row of zero bytes is one that was never updated: what it is, is computed. A row that an update makes zero is
    written as a negative zero.
    """

    def __init__(self, rows: MappedRows, new: NewRows) -> None:
        self._rows, self._new = rows, new
        self._computed = torch.empty(0, dtype=torch.int64), torch.empty(0, *new.shape[1:], dtype=new.dtype)

    def take(self, ids: Tensor) -> Tensor:
        rows = self._rows.take(ids)
        if int(rows[:, 0].count_nonzero()) < len(rows):
            zero = (rows[:, 0] == 0).nonzero().squeeze(1)
            bits = take_rows(self._rows.rows.view(_BITS[rows.element_size()]), ids[zero])
            untouched = zero[~bits.any(dim=1)]
            if untouched.numel():
                rows[untouched] = self._initial(ids[untouched])
        return rows

    def put(self, ids: Tensor, values: Tensor) -> None:
        zero = ~values.any(dim=1)
        if bool(zero.any()):
            values = values.clone()
            values[zero, 0] = -0.0
        self._rows.put(ids, values)

    def close(self) -> None:
        """Nothing: the store closes its files."""

    def _initial(self, ids: Tensor) -> Tensor:
        """Compute initial rows; those of the call before, an update's lookup most often, are still there."""
        distinct, slots = torch.unique(ids, return_inverse=True)
        known, rows = self._computed
        found = torch.searchsorted(known, distinct).clamp_(max=max(known.numel() - 1, 0))
        if not known.numel() or not torch.equal(known[found], distinct):
            rows = torch.empty(distinct.numel(), *self._new.shape[1:], dtype=self._new.dtype)
            runs = distinct.div(_BLOCK, rounding_mode="floor").diff().nonzero().squeeze(1).add_(1).tolist()
            for begin, end in zip([0, *runs], [*runs, distinct.numel()], strict=True):
                some = distinct[begin:end]
                first, last = int(some[0]), int(some[-1])
                rows[begin:end] = self._new.initial(first, last + 1)[some - first]
            self._computed = distinct, rows
            found = torch.arange(distinct.numel())
        return rows[found[slots]]


class _StateRows:
    """State of a rule, whose initial value is written as zero bytes."""

    def __init__(self, rows: MappedRows, new: NewRows) -> None:
        self._rows = rows
        self._initial = new.initial(0, 1)[0, 0].view(torch.int32)

    def take(self, ids: Tensor) -> Tensor:
        return self._rows.take(ids).bitwise_xor_(self._initial).view(torch.float32)

    def put(self, ids: Tensor, values: Tensor) -> None:
        self._rows.put(ids, values.view(torch.int32) ^ self._initial)

    def close(self) -> None:
        """Make the rows initial again: the rule may come back."""
        self._rows.clear()
