"""Opening stores in mapped files."""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import distgnn
from distgnn_mmap.embeddings import MmapEmbeddingStore
from distgnn_mmap.folder import Folder
from distgnn_mmap.rows import MappedRows
from distgnn_mmap.workspace import MmapGraphStore, MmapTensorStore

if TYPE_CHECKING:
    import os

    import torch
    from torch import Tensor

_Store = TypeVar("_Store", MmapEmbeddingStore, MmapTensorStore, MmapGraphStore)


class MmapBackend:
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
        self._stores: dict[str, MmapEmbeddingStore | MmapTensorStore | MmapGraphStore] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="distgnn-mmap")
        self._closed = False

    @property
    def cache_counts(self) -> tuple[int, int]:
        return self._found["near"], self._found["all"]

    def open_embedding(self, spec: distgnn.EmbeddingSpec) -> MmapEmbeddingStore:
        store: MmapEmbeddingStore | None = self._attached(spec)
        if store is not None:
            return store
        if self._folder is None:
            return self._keep(MmapEmbeddingStore(spec, partial(self._unnamed_rows, spec), {}, self._ahead))
        rules = self._folder.rules(spec.name)
        drop = partial(self._folder.drop, spec.name)
        return self._keep(MmapEmbeddingStore(spec, partial(self._folder.rows, spec), rules, self._ahead, drop))

    def open_tensor(self, spec: distgnn.TensorSpec) -> MmapTensorStore:
        return self._attached(spec) or self._keep(MmapTensorStore(spec, self._temporary_rows))

    def open_graph(self, spec: distgnn.GraphSpec, edge_index: Tensor | None = None) -> MmapGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store: MmapGraphStore | None = self._attached(spec)
        if store is not None:
            if edge_index is not None and not store.holds(edge_index):
                raise distgnn.NameConflictError(f"the name {spec.name!r} is open as {spec} with other edges")
            return store
        if edge_index is None:
            raise distgnn.RowsError(f"graph store {spec.name!r} is not open yet: give its edge_index of shape [2, E]")
        return self._keep(MmapGraphStore(spec, edge_index, self._temporary_rows))

    def flush(self) -> None:
        """Make all tables of the folder, as they are now, what a crash leaves. Without a folder it does nothing.

        Raises:
            StoreClosedError: The backend is closed.
        """
        if self._closed:
            raise distgnn.StoreClosedError("the mmap backend is closed; it was flushed then")
        if self._folder is not None:
            tables = [store for store in self._stores.values() if isinstance(store, MmapEmbeddingStore)]
            self._folder.flush(table for table in tables if not table.closed)

    def close(self) -> None:
        """Flush the tables of the folder, and let go of it; everything else is freed."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._ahead.shutdown(cancel_futures=True)
        for store in self._stores.values():
            if isinstance(store, MmapEmbeddingStore):
                store.release()
            else:
                store.close()
        if self._folder is not None:
            self._folder.close()

    def _attached(self, spec: Any) -> Any:
        """Give the open store of that name, or None."""
        if self._closed:
            raise distgnn.StoreClosedError(f"the mmap backend is closed, {spec} cannot be opened")
        store = self._stores.get(spec.name)
        if store is not None and store.closed:
            store = None
        there = store.spec if store is not None else self._folder and self._folder.spec(spec.name)
        if there and there != spec:
            raise distgnn.NameConflictError(
                f"the name {spec.name!r} is open as {there}, and was asked for as {spec}; choose another name, "
                "or close the open store first"
            )
        return store

    def _keep(self, store: _Store) -> _Store:
        self._stores[store.spec.name] = store
        return store

    def _unnamed_rows(self, spec: distgnn.EmbeddingSpec, _: str, width: int, dtype: torch.dtype) -> MappedRows:
        return self._temporary_rows(spec.num_embeddings, width, dtype)

    def _temporary_rows(self, num_rows: int, width: int, dtype: torch.dtype) -> MappedRows:
        # Such a file has no name, so that it ends with the process, however that ends.
        return MappedRows(num_rows, width, dtype, tempfile.TemporaryFile(dir=self._temporary), self._found)
