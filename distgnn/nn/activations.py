"""The outputs of layers, where other ranks and later steps can read them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from distgnn.nn.stored import default_name, resolve
from distgnn.specs import TensorSpec

if TYPE_CHECKING:
    from distgnn.nn.halo import Halo
    from distgnn.protocols import Backend, TensorStore


class StoredActivation(Module):
    """The output of a layer, kept in a :class:`~distgnn.protocols.TensorStore` where other ranks can read it.

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
        self._kept: _Kept | None = None

    def forward(self, values: Tensor, ids: Tensor, num_rows: int) -> Tensor:
        """Write rows ``ids`` of a store of ``num_rows`` rows, and return ``values`` as they are.

        The store is opened at the first call, and again when its shape changes.
        """
        self.open_store(values, num_rows).write(ids, values.detach())
        return values

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as a lookup
    def extend(self, values: Tensor, halo: Halo) -> Tensor:
        """Write the rows ``[n, ...]`` of a part's own nodes, and return them and its halo's, ``[n + h, ...]``.

        Gradients with respect to the halo's rows flow back to the ranks that own them, unless the rows are of a
        history, or were brought by an earlier forward.
        """
        trains = self.training and torch.is_grad_enabled() and self.staleness > 0 and not halo.history
        if trains and self._kept is not None and self._kept.serves(halo, values):
            return torch.cat([values, self._kept.rows])
        store = self.open_store(values, halo.num_rows)
        sums = TensorSpec(f"{self.name}_gradients", store.shape, store.dtype)
        extended = halo.extend(values, store, partial(resolve(self.backend).open_tensor, sums))
        if trains:
            self._kept = _Kept(halo, extended[values.size(0) :].detach().clone(), self.staleness)
        return extended

    def open_store(self, values: Tensor, num_rows: int) -> TensorStore:
        """Return the store of ``num_rows`` rows like those of ``values``, opening it if need be."""
        shape = (num_rows, *values.shape[1:])
        if self.store is not None and (self.store.shape, self.store.dtype) != (shape, values.dtype):
            self.close()
        if self.store is None:
            self.store = resolve(self.backend).open_tensor(TensorSpec(self.name, shape, values.dtype))
        return self.store

    def close(self) -> None:
        """Close the store, if open; collective as every store call."""
        if self.store is not None:
            self.store.close()
        self.store = self._kept = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredActivation:
        return type(self)(name=default_name(self.name), backend=self.backend, staleness=self.staleness)

    def __getstate__(self) -> dict[str, Any]:
        backend = self.backend if isinstance(self.backend, str) else None
        return {**self.__dict__, "backend": backend, "store": None, "_kept": None}


class _Kept:
    """The rows of a halo that an exchange brought, for some forwards more.

    Args:
        halo: Whose.
        rows: ``[h, ...]``, without gradient.
        times: How many forwards.
    """

    def __init__(self, halo: Halo, rows: Tensor, times: int) -> None:
        self.rows = rows
        self._halo, self._times = halo, times

    def serves(self, halo: Halo, values: Tensor) -> bool:
        """Tell whether one more forward may use the rows, and count it."""
        same = halo is self._halo and (values.shape[1:], values.dtype) == (self.rows.shape[1:], self.rows.dtype)
        self._times -= 1
        return same and self._times >= 0
