"""The outputs of layers, where other ranks and later steps can read them."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from distgnn.nn.embedding import default_name, resolve
from distgnn.nn.halo import Extended
from distgnn.storage.specs import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn.nn.halo import Halo
    from distgnn.storage.protocols import Backend, TensorStore
    from distgnn.storage.specs import PartitionBook


class StoredActivation(Module):
    """A layer's output in a tensor store that ranks share.

    Args:
        name (str): Name of the store.
        backend (str or Backend, optional): As in :class:`StoredEmbedding`.
        staleness (int): In training, use the rows of a halo for so many forwards more after the one that brought them.
            (default: :obj:`0`)
    """

    def __init__(self, *, name: str, backend: str | Backend | None = None, staleness: int = 0) -> None:
        super().__init__()
        self.name = name
        self.backend = backend
        self.staleness = staleness
        self.store: TensorStore | None = None
        self._partition: PartitionBook | None = None  # of the store
        self._sums: TensorStore | None = None
        self._sums_spec: TensorSpec | None = None
        self._kept: _Kept | None = None
        self._is_history = False

    def forward(self, values: Tensor, ids: Tensor, num_rows: int, partition: PartitionBook | None = None) -> Tensor:
        """Write rows ``ids`` of a store of ``num_rows`` rows, and return ``values`` as they are.

        The store is opened at the first call, and again when its shape or its partition changes.
        """
        self.open_store(values, num_rows, partition).write(ids, values.detach())
        return values

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as a lookup
    def extend(self, values: Tensor, halo: Halo) -> Extended:
        """Exchange the rows ``[n, ...]`` of a part's own nodes for its halo's, once somebody asks for these.

        Gradients with respect to the halo's rows flow back to the ranks that own them, unless the rows are of a
        history, or were brought by an earlier forward.
        """
        if halo.is_whole_graph and not halo.history:
            return Extended(values, values.size(0))
        trains = self.training and torch.is_grad_enabled() and self.staleness > 0 and not halo.history
        if trains and self._kept is not None:
            if self._kept.halo is None:  # the store is that of a checkpoint
                rows = self.open_store(values, halo.num_rows, self._partition).read(halo.remote)
                self._kept = _Kept(halo, rows, self._kept.times)
            if self._kept.serves(halo, values):
                return Extended(torch.cat([values, self._kept.rows]), values.size(0))
        # The stale rows of a checkpoint may be read by other parts, whose borders are others.
        written = replace(halo, border=None) if trains else halo
        shape, book = (written.num_exchanged, *values.shape[1:]), written.exchanged_partition
        open_sums = partial(self._open_sums, TensorSpec(f"{self.name}_gradients", shape, values.dtype, book))
        if self.staleness > 0 and not trains and not halo.history:  # the rows of training stay as they are
            spec = TensorSpec(f"{self.name}_exact", shape, values.dtype, book)
            with closing(resolve(self.backend).open_tensor(spec)) as exact:
                return Extended(halo.extend(values, exact, open_sums).together(), values.size(0))
        self._is_history = halo.history
        extended = written.extend(values, self.open_store(values, written.num_exchanged, book), open_sums)
        if trains:
            rows = extended.together()
            self._kept = _Kept(halo, rows[values.size(0) :].detach().clone(), self.staleness)
            return Extended(rows, values.size(0))
        return extended

    def kept(self) -> dict[str, int] | None:
        """Return what a checkpoint must have beside the store, or :obj:`None` where its rows are not read again."""
        if self._kept is not None:
            return {"times": self._kept.times}
        return {} if self._is_history else None

    def go_on(self, kept: dict[str, int] | None) -> None:
        """Go on with what :meth:`kept` gave, when the store has its rows."""
        self._is_history = kept == {}
        self._kept = _Kept(None, torch.empty(0), int(kept["times"])) if kept else None

    def open_store(self, values: Tensor, num_rows: int, partition: PartitionBook | None = None) -> TensorStore:
        """Return the store of ``num_rows`` rows like those of ``values``, opening it if need be.

        One of another partition is opened again, without its rows, unless these are a history.
        """
        spec = TensorSpec(self.name, (num_rows, *values.shape[1:]), values.dtype, partition)
        if self.store is not None:
            moved = self._partition != partition and not self._is_history
            if moved or (self.store.shape, self.store.dtype) != (spec.shape, spec.dtype):
                self.close()
        if self.store is None:
            self.store, self._partition = resolve(self.backend).open_tensor(spec), partition
        return self.store

    @contextmanager
    def _open_sums(self, spec: TensorSpec) -> Iterator[TensorStore]:
        """Open the store of zeros in which gradients are summed; kept, for to open one in every backward takes long."""
        if self._sums is not None and self._sums_spec != spec:
            self._close_sums()
        if self._sums is None:
            self._sums, self._sums_spec = resolve(self.backend).open_tensor(spec), spec
        try:
            yield self._sums
        except BaseException:
            self._close_sums()  # there may be other numbers than zeros in it
            raise

    def _close_sums(self) -> None:
        if self._sums is not None:
            self._sums.close()
        self._sums = None

    def close(self) -> None:
        """Close the store, if open; collective as every store call."""
        if self.store is not None:
            self.store.close()
        self.store = self._kept = None
        self._close_sums()
        self._is_history = False

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredActivation:
        return type(self)(name=default_name(self.name), backend=self.backend, staleness=self.staleness)

    def __getstate__(self) -> dict[str, Any]:
        backend = self.backend if isinstance(self.backend, str) else None
        return {**self.__dict__, "backend": backend, "store": None, "_sums": None, "_kept": None, "_is_history": False}


class _Kept:
    """The rows of a halo that an exchange brought, for some forwards more.

    Args:
        halo: Whose; :obj:`None` where they are in the store yet.
        rows: ``[h, ...]``, without gradient.
        times: How many forwards.
    """

    def __init__(self, halo: Halo | None, rows: Tensor, times: int) -> None:
        self.halo, self.rows, self.times = halo, rows, times

    def serves(self, halo: Halo, values: Tensor) -> bool:
        """Tell whether one more forward may use the rows, and count it."""
        same = halo is self.halo and (values.shape[1:], values.dtype) == (self.rows.shape[1:], self.rows.dtype)
        self.times -= 1
        return same and self.times >= 0
