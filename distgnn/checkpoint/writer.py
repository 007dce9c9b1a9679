"""Writing one rank's file of a checkpoint, a block of rows at a time."""

from __future__ import annotations

import math
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from distgnn.checkpoint.manifest import SavedTensor
from distgnn.checkpoint.tensors import BLOCK_BYTES, NAMES, TensorFile, as_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

_UNSYNCED_BYTES = 1 << 28  # so that no rank waits long for the disk while others wait for it


class Table(NamedTuple):
    """Tensors whose rows go together.

    Args:
        rows: The rows that are written.
        export: Gives some of them, from a first to a last, excluded, by the names of their tensors in the file.
    """

    rows: range
    export: Callable[[int, int], Mapping[str, Tensor]]


def write_tables(
    path: Path, tables: Sequence[Table], *, block_bytes: int = BLOCK_BYTES, unsynced_bytes: int = _UNSYNCED_BYTES
) -> Generator[int, None, dict[str, SavedTensor]]:
    """Write tables to a file, and to the disk; yield the bytes of each block when it is written.

    Args:
        path: The file.
        tables: What to write.
        block_bytes: How much of a table is held in memory.
        unsynced_bytes: After how many bytes it is waited for the disk.

    Returns:
        What is in the file, by name.
    """
    samples = [table.export(table.rows.start, table.rows.start) for table in tables]
    blocks = [_block_rows(block_bytes, *sample.values()) for sample in samples]
    shapes = {
        name: (rows.dtype, (len(table.rows), *rows.shape[1:]))
        for table, sample in zip(tables, samples, strict=True)
        for name, rows in sample.items()
    }
    checksums: dict[str, list[int]] = {name: [] for name in sorted(shapes)}
    unsynced = 0
    with TensorFile(path, {name: shapes[name] for name in checksums}) as file, ThreadPoolExecutor(1) as aside:
        for table, block in zip(tables, blocks, strict=True):
            for first in table.rows[::block]:
                for name, exported in table.export(first, min(first + block, table.rows.stop)).items():
                    rows = exported.contiguous()
                    checksum = aside.submit(zlib.crc32, as_bytes(rows))
                    file.write(name, first - table.rows.start, rows)
                    checksums[name].append(checksum.result())
                    unsynced += rows.nbytes
                    if unsynced > unsynced_bytes:
                        file.sync()
                        unsynced = 0
                    yield rows.nbytes
        file.sync()
    steps = {name: block for sample, block in zip(samples, blocks, strict=True) for name in sample}
    return {
        name: SavedTensor(NAMES[shapes[name][0]], shapes[name][1], steps[name], tuple(found))
        for name, found in checksums.items()
    }


def _block_rows(block_bytes: int, *tensors: Tensor) -> int:
    """Return how many rows of tensors are a block."""
    width = sum(one.element_size() * math.prod(one.shape[1:]) for one in tensors)
    return max(1, block_bytes // max(1, width))
