"""Tensors and graphs in mapped temporary files, which end with their store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from distgnn.storage.toolkit import LocalGraphStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    import distgnn
    from distgnn.storage.toolkit import NewRows
    from distgnn_mmap.rows import MappedRows

    OpenRows = Callable[[int, int, torch.dtype], MappedRows]

CPU = torch.device("cpu")


class TensorRows:
    """Rows of a tensor of any shape, zero where nothing was written."""

    def __init__(self, new: NewRows, open_rows: OpenRows) -> None:
        self._row_shape = new.shape[1:]
        self._rows = open_rows(new.shape[0], torch.Size(self._row_shape).numel(), new.dtype)

    def take(self, ids: Tensor) -> Tensor:
        return self._rows.take(ids).view(-1, *self._row_shape)

    def put(self, ids: Tensor, values: Tensor) -> None:
        self._rows.put(ids, values.reshape(ids.numel(), self._rows.rows.size(1)))

    def close(self) -> None:
        self._rows.close()


class MmapGraphStore(LocalGraphStore):
    """A graph whose edges are in mapped files, sorted by destination (CSC)."""

    def __init__(self, spec: distgnn.GraphSpec, edge_index: Tensor, open_rows: OpenRows) -> None:
        super().__init__(spec, edge_index, CPU)
        assert self._edge_ids is not None
        contents = (self._sources, self._edge_ids, torch.from_numpy(self._first_edges))
        self._files = [open_rows(content.numel(), 1, torch.int64) for content in contents]
        for file, content in zip(self._files, contents, strict=True):
            file.rows.copy_(content.unsqueeze(1))
        self._sources, self._edge_ids, first_edges = (file.rows.view(-1) for file in self._files)
        self._first_edges = first_edges.numpy()

    def _take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        sources, edge_ids, _ = self._files
        return sources.take(positions).view(-1), edge_ids.take(positions).view(-1)

    def close(self) -> None:
        super().close()
        self._first_edges = np.zeros(1, dtype=np.int64)
        for file in self._files:
            file.close()
