"""Safetensors files, written and read by blocks of rows."""

from __future__ import annotations

import json
import math
import os
import stat
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import psutil
import torch
from safetensors import SafetensorError, safe_open

from distgnn.errors import DataFormatError, DatasetNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from torch import Tensor
    from typing_extensions import Self

    Shapes = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

BLOCK_BYTES = 16 << 20  # what is held in memory of rows on their way
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class FileSummary:
    """A safetensors file's contents, from its header.

    Args:
        size: Its bytes, 0 where it is missing.
        problem: Why it cannot be what was written; empty where its size is as it should be.
    """

    size: int
    problem: str = ""


class Layout:
    """The places of tensors in a file.

    Args:
        shapes: The type and shape of each.

    Attributes:
        header: What the file begins with.
        starts: Where the first byte of each tensor is.
        size: Bytes of the file.

    Raises:
        DataFormatError: A type that such files do not hold.
    """

    def __init__(self, shapes: Shapes) -> None:
        entries: dict[str, object] = {}
        offsets: dict[str, int] = {}
        end = 0
        for name, (dtype, shape) in shapes.items():
            if dtype not in NAMES:
                raise DataFormatError(f"{name!r} is of {dtype}, which cannot be saved; convert it with .to(...)")
            offsets[name] = end
            end += dtype.itemsize * math.prod(shape)
            entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offsets[name], end]}
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.starts = {name: len(self.header) + offset for name, offset in offsets.items()}
        self.size = len(self.header) + end


class TensorFile:
    """A safetensors file of tensors whose rows come later, in blocks; a context manager.

    Args:
        path: The file.
        shapes: The type and shape of each tensor.

    Raises:
        DataFormatError: A type that such files do not hold.
    """

    def __init__(self, path: Path, shapes: Shapes) -> None:
        layout = Layout(shapes)
        self._starts, self._shapes = layout.starts, shapes
        self._file: BinaryIO = path.open("wb")
        try:
            self._file.write(layout.header)
            self._file.truncate(layout.size)
        except OSError:
            self._file.close()
            raise

    def write(self, name: str, first: int, rows: Tensor) -> None:
        """Write rows ``[K, ...]`` at row ``first`` of a tensor and after it."""
        dtype, shape = self._shapes[name]
        self._file.seek(self._starts[name] + first * dtype.itemsize * math.prod(shape[1:]))
        self._file.write(as_bytes(rows))

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


class TensorReader:
    """A file as :class:`TensorFile` writes it, read by rows; a context manager.

    Rows are read, not mapped: memory holds no more than what was asked for, and a file that becomes shorter meanwhile
    is an error, not the end of the process.

    Args:
        path: The file.
        shapes: The type and shape of each tensor that it was written with, in the same order.

    Raises:
        DataFormatError: It is no regular file of just these tensors.
        OSError: It cannot be read.
    """

    def __init__(self, path: Path, shapes: Shapes) -> None:
        layout = Layout(shapes)
        self._path, self._shapes, self._starts = path, shapes, layout.starts
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            raise DataFormatError(f"{path} is no regular file")
        if about.st_size != layout.size:
            raise DataFormatError(f"{path} has {about.st_size:,} bytes, not the {layout.size:,} it was written with")
        self._file: BinaryIO = path.open("rb", buffering=0)
        if self._file.read(len(layout.header)) != layout.header:
            self._file.close()
            raise DataFormatError(f"{path} begins with other bytes than it was written with")

    def read(self, name: str, first: int, place: Tensor) -> Tensor:
        """Read rows of a tensor from ``first`` on.

        Args:
            name: The tensor.
            first: Its first row to read.
            place: ``[K, ...]``, contiguous, where the rows are written.

        Returns:
            As much of ``place`` as the tensor has rows for.
        """
        dtype, shape = self._shapes[name]
        rows = place[: shape[0] - first]
        left = as_bytes(rows)
        self._file.seek(self._starts[name] + first * dtype.itemsize * math.prod(shape[1:]))
        while left.nbytes:
            count = self._file.readinto(left)  # type: ignore[attr-defined]  # a raw file has it
            if not count:
                raise DataFormatError(f"{self._path} ends within tensor {name!r}")
            left = left[count:]
        return rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def as_bytes(rows: Tensor) -> memoryview:
    """Return the bytes of a tensor on the CPU, in its memory if it is contiguous."""
    return rows.contiguous().view(-1).view(torch.uint8).numpy().data


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors that are in memory."""
    with TensorFile(path, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}) as file:
        for name, tensor in tensors.items():
            file.write(name, 0, tensor)


def save_rows(path: Path, tensors: Mapping[str, Tensor], ids: Tensor) -> None:
    """Write the rows ``ids`` of tensors, which may be larger than memory, a block at a time."""
    shapes = {name: (tensor.dtype, (ids.numel(), *tensor.shape[1:])) for name, tensor in tensors.items()}
    with TensorFile(path, shapes) as file:
        for name, tensor in tensors.items():
            for first, block in blocks(ids.numel(), max(1, tensor[:1].numel() * tensor.element_size())):
                file.write(name, first, tensor.index_select(0, ids[block]))


def blocks(num_rows: int, row_bytes: int) -> Iterator[tuple[int, slice]]:
    """Yield the first row and the slice of each block of rows."""
    step = max(1, BLOCK_BYTES // row_bytes)
    for first in range(0, num_rows, step):
        yield first, slice(first, min(first + step, num_rows))


@dataclass(frozen=True)
class SavedFile:
    """The sizes and checksums of a written file.

    Args:
        size: Its bytes.
        checksum: CRC-32 of its content; None where nobody wrote it down.
    """

    size: int
    checksum: int | None = None


def checksum_of(path: Path) -> int:
    """Return the CRC-32 of a file's content."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum


def load_tensors(path: Path, saved: SavedFile, names: Iterable[str] = ()) -> dict[str, Tensor]:
    """Read a file whole.

    Args:
        path: The file.
        saved: What it must be.
        names: Tensors that must be in it.

    Raises:
        DatasetNotFoundError: It is missing.
        DataFormatError: It has another size or content, is larger than memory, cannot be read, or lacks a tensor.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is missing; copy the whole folder again, or partition the graph anew")
    found = path.stat().st_size
    if found != saved.size:
        raise DataFormatError(
            f"{path} has {found:,} bytes, not the {saved.size:,} it was written with; copy it again, or partition the "
            "graph anew"
        )
    free = psutil.virtual_memory().available
    if found > free:
        raise DataFormatError(
            f"{path} has {found:,} bytes, and {free:,} bytes of memory are free; cut the graph into more parts"
        )
    try:
        if saved.checksum is not None and checksum_of(path) != saved.checksum:
            raise DataFormatError(
                f"{path} is not what was written: its checksum is another; copy it again, or partition the graph anew"
            )
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    except (SafetensorError, OSError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DataFormatError):
            raise
        raise DataFormatError(f"{path} cannot be read as safetensors ({error}); partition the graph anew") from error
    missing = [name for name in names if name not in tensors]
    if missing:
        raise DataFormatError(f"{path} lacks {', '.join(missing)}; partition the graph anew")
    return tensors
