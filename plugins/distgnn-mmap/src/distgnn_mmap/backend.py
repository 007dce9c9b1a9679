"""Opening stores in mapped files."""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distgnn
from distgnn.storage.toolkit import LocalBackend, RowTensorStore, check_same_spec
from distgnn_mmap.embeddings import MmapEmbeddingStore
from distgnn_mmap.folder import Folder
from distgnn_mmap.rows import MappedRows
from distgnn_mmap.workspace import MmapGraphStore, TensorRows

if TYPE_CHECKING:
    import os

    import torch
    from torch import Tensor


class MmapBackend(LocalBackend[MmapEmbeddingStore, RowTensorStore]):
    """Stores in mapped files.

    Args:
        folder: Where tables are kept, and where temporary files are: on a disk, for ``/tmp`` may be memory. Tables
            outlive the process; a table that is there already goes on from the last flush. Without a folder, everything
            is in temporary files.

    Raises:
        BackendError: Another backend has the folder open.
    """

    name = "mmap"

    def __init__(self, *, folder: str | os.PathLike[str] | None = None) -> None:
        self._found: Counter[str] = Counter()
        self._folder = None if folder is None else Folder(Path(folder), self._found)
        self._temporary = tempfile.gettempdir() if folder is None else folder
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="distgnn-mmap")
        super().__init__()

    @property
    def cache_counts(self) -> tuple[int, int]:
        return self._found["near"], self._found["all"]

    def new_embedding(self, spec: distgnn.EmbeddingSpec) -> MmapEmbeddingStore:
        if self._folder is None:
            return MmapEmbeddingStore(spec, partial(self._unnamed_rows, spec), {}, self._ahead)
        drop = partial(self._folder.drop, spec.name)
        return MmapEmbeddingStore(
            spec, partial(self._folder.rows, spec), self._folder.rules(spec.name), self._ahead, drop
        )

    def new_tensor(self, spec: distgnn.TensorSpec) -> RowTensorStore:
        return RowTensorStore(spec, partial(TensorRows, open_rows=self._temporary_rows))

    def new_graph(self, spec: distgnn.GraphSpec, edge_index: Tensor) -> MmapGraphStore:
        return MmapGraphStore(spec, edge_index, self._temporary_rows)

    def flush(self) -> None:
        """Make all tables of the folder, as they are now, what a crash leaves. Without a folder it does nothing.

        Raises:
            StoreClosedError: The backend is closed.
        """
        if self._stores is None:
            raise distgnn.StoreClosedError("the mmap backend is closed; it was flushed then")
        if self._folder is not None:
            self._folder.flush(self._tables())

    def close(self) -> None:
        """Flush the tables of the folder, and let go of it; everything else is freed."""
        if self._stores is None:
            return
        self.flush()
        self._ahead.shutdown(cancel_futures=True)
        for table in self._tables():
            table.release()
        super().close()
        if self._folder is not None:
            self._folder.close()

    def attached(self, spec: Any, kind: Any = None) -> Any:
        """Give the open store of that name, or None; a name in the folder is taken by its table, also a closed one."""
        store = super().attached(spec, kind)
        there = self._folder.spec(spec.name) if store is None and self._folder is not None else None
        if there is not None:
            check_same_spec(there, replace(spec, partition=None) if isinstance(spec, distgnn.EmbeddingSpec) else spec)
        return store

    def _tables(self) -> list[MmapEmbeddingStore]:
        stores = (self._stores or {}).values()
        return [store for store in stores if isinstance(store, MmapEmbeddingStore) and not store.closed]

    def _unnamed_rows(self, spec: distgnn.EmbeddingSpec, _: str, width: int, dtype: torch.dtype) -> MappedRows:
        return self._temporary_rows(spec.num_embeddings, width, dtype)

    def _temporary_rows(self, num_rows: int, width: int, dtype: torch.dtype) -> MappedRows:
        # Such a file has no name, so that it ends with the process, however that ends.
        return MappedRows(num_rows, width, dtype, tempfile.TemporaryFile(dir=self._temporary), self._found)
