"""Rows in a mapped file: the page cache keeps the hot ones, and the disk is asked for many cold ones at once."""

from __future__ import annotations

import mmap
import os
import resource
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from distgnn.optim import put_rows, take_rows

if TYPE_CHECKING:
    from collections import Counter

    from torch import Tensor

    from distgnn_mmap.journal import Journal

_SAMPLE = 32  # rows of a call, by which the cache is judged
_CLEARED = 1 << 16  # rows at a time


class MappedRows:
    """Rows ``[N, D]`` of a sparse file, of zero bytes where nothing was written.

    Args:
        num_rows: N.
        width: D.
        dtype: Of the elements.
        file: Open for reading and writing, empty or of just this size.
        found: Counts rows of samples that were in memory, and of how many.
        journal: Keeps rows before they are changed.
    """

    def __init__(
        self,
        num_rows: int,
        width: int,
        dtype: torch.dtype,
        file: BinaryIO,
        found: Counter[str],
        *,
        journal: Journal | None = None,
    ) -> None:
        self.file, self.journal, self._found = file, journal, found
        self._row_bytes = width * dtype.itemsize
        self.rows = torch.empty(num_rows, width, dtype=dtype) if num_rows == 0 else self._mapped(num_rows, dtype)

    def _mapped(self, num_rows: int, dtype: torch.dtype) -> Tensor:
        os.ftruncate(self.file.fileno(), num_rows * self._row_bytes)
        mapped = mmap.mmap(self.file.fileno(), 0)
        mapped.madvise(mmap.MADV_RANDOM)  # or a row would bring the rows around it
        return torch.frombuffer(mapped, dtype=dtype).view(num_rows, -1)

    def take(self, ids: Tensor) -> Tensor:
        """Copy rows ``[K, D]``. If some of a sample must come from the disk, it is asked for all of them at once."""
        sample = ids[:: len(ids) // _SAMPLE + 1]
        before = _reads()
        self.rows[:, 0].index_select(0, sample)
        missed = min(_reads() - before, len(sample))
        self._found.update(near=len(sample) - missed, all=len(sample))
        if missed:
            self.ask(ids)
        return take_rows(self.rows, ids)

    def ask(self, ids: Tensor) -> None:
        """Have the kernel read the pages of rows, without waiting for them."""
        distinct = np.unique(ids.numpy())
        first = distinct * self._row_bytes // mmap.PAGESIZE
        last = ((distinct + 1) * self._row_bytes - 1) // mmap.PAGESIZE
        begins = np.flatnonzero(first > np.append(-2, last[:-1]) + 1)  # where a run of pages begins
        ends = np.append(begins[1:] - 1, len(distinct) - 1) if len(distinct) else begins
        starts, lengths = first[begins] * mmap.PAGESIZE, (last[ends] + 1 - first[begins]) * mmap.PAGESIZE
        descriptor = self.file.fileno()
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)

    def put(self, ids: Tensor, values: Tensor) -> None:
        """Overwrite rows ``[K, D]``, each id once."""
        if self.journal is not None:
            self.journal.keep(ids, self.rows)
        put_rows(self.rows, ids, values)

    def clear(self) -> None:
        """Make all rows zero bytes again."""
        for first in range(0, len(self.rows), _CLEARED):
            some = self.rows[first : first + _CLEARED]
            written = some.view(torch.uint8).any(dim=1).nonzero().squeeze(1)
            self.put(written + first, torch.zeros_like(some[: written.numel()]))

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        os.fdatasync(self.file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self.rows = self.rows[:0].clone()
        self.file.close()
        if self.journal is not None:
            self.journal.close()


def _reads() -> int:
    """Count how often this thread has waited for a page from the disk."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
