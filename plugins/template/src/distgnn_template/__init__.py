"""The ``template`` backend: rows in NumPy arrays of this process, to be replaced by an engine of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import distgnn
from distgnn.storage.toolkit import LocalBackend, NewRows, RowEmbeddingStore, RowTensorStore

if TYPE_CHECKING:
    from torch import Tensor


class ArrayRows:
    """Rows of a table, of a tensor, or of an update rule's state; this is what your engine replaces."""

    def __init__(self, new: NewRows) -> None:
        if new.dtype == torch.bfloat16:
            raise distgnn.SpecError(f"store {new.store!r}: NumPy has no bfloat16; use float32 or float16")
        self.array = new.initial(0, new.shape[0]).numpy()

    def take(self, ids: Tensor) -> Tensor:
        return torch.from_numpy(self.array[ids.numpy()])

    def put(self, ids: Tensor, values: Tensor) -> None:
        self.array[ids.numpy()] = values.numpy()

    def close(self) -> None:
        self.array = self.array[:0]


class TemplateBackend(LocalBackend[RowEmbeddingStore, RowTensorStore]):
    """Opens the stores; graphs are in memory. Arguments of an ``__init__`` are options of ``distgnn.use(...)``."""

    name = "template"

    def new_embedding(self, spec: distgnn.EmbeddingSpec) -> RowEmbeddingStore:
        return RowEmbeddingStore(spec, ArrayRows)

    def new_tensor(self, spec: distgnn.TensorSpec) -> RowTensorStore:
        return RowTensorStore(spec, ArrayRows)


@distgnn.hookimpl
def distgnn_backend() -> type[TemplateBackend]:
    """Offer the backend."""
    return TemplateBackend
