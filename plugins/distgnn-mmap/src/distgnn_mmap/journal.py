"""Rows as they were at the last flush, so that what a crash left behind can be undone."""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from distgnn.optim import put_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

_HEADER = struct.Struct("<QQQI")  # generation, number of rows, bytes of a row, checksum of ids and rows


class Journal:
    """Keeps each row of a file once between two flushes, before its first change, and on the disk when that begins.

    Args:
        path: The journal's own file, made if need be.
        num_rows: Of the file that it is for.
        generation: Counts the flushes.
    """

    def __init__(self, path: Path, num_rows: int, generation: int) -> None:
        self._file = path.open("w+b")
        self._num_rows = num_rows
        self.clear(generation)

    def clear(self, generation: int) -> None:
        """Begin anew after a flush."""
        self._generation, self._length = generation, 0
        self._kept = np.zeros(-(-self._num_rows // 8), dtype=np.uint8)  # a bit a row
        os.ftruncate(self._file.fileno(), 0)

    def keep(self, ids: Tensor, rows: Tensor) -> None:
        """Write down those of the rows ``ids`` that are not kept yet, and wait for the disk."""
        asked = ids.numpy()
        new = asked[self._kept[asked >> 3] >> (asked & 7) & 1 == 0]
        if not new.size:
            return
        old = take_rows(rows.view(torch.uint8), torch.from_numpy(new))
        content = new.tobytes() + old.numpy().tobytes()
        record = _HEADER.pack(self._generation, len(new), old.size(1), zlib.crc32(content)) + content
        self._file.seek(self._length)  # over what a failed attempt may have left
        self._file.write(record)
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._length += len(record)
        np.bitwise_or.at(self._kept, new >> 3, (1 << (new & 7)).astype(np.uint8))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def undo(journal: Path, path: Path, generation: int) -> None:
    """Put the rows of a file back as they were when the flush of ``generation`` ended."""
    with path.open("r+b") as file:
        for ids, old in _records(journal, generation):
            content = np.memmap(file, dtype=np.uint8, mode="r+")
            put_rows(torch.from_numpy(content).view(-1, old.size(1)), ids, old)
        os.fdatasync(file.fileno())
    os.truncate(journal, 0)


def _records(journal: Path, generation: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Read ids ``[K]`` and rows ``[K, bytes]`` up to the end, or to where the process ended while it wrote."""
    with journal.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            written, count, width, checksum = _HEADER.unpack(header)
            content = file.read(count * (8 + width)) if written == generation else b""
            if not content or zlib.crc32(content) != checksum:
                return
            ids = np.frombuffer(content, dtype=np.int64, count=count).copy()
            rows = np.frombuffer(content, dtype=np.uint8, offset=8 * count).reshape(count, width).copy()
            yield torch.from_numpy(ids), torch.from_numpy(rows)
