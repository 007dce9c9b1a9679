"""Safetensors files that are written a block of rows at a time, and read with errors that name the file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, BinaryIO

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
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorFile:
    """A safetensors file of tensors whose rows come later, in blocks; a context manager.

    Args:
        path: The file.
        shapes: The type and shape of each tensor.

    Raises:
        DataFormatError: A type that such files do not hold.
    """

    def __init__(self, path: Path, shapes: Shapes) -> None:
        header: dict[str, object] = {}
        begin = 0
        for name, (dtype, shape) in shapes.items():
            if dtype not in _NAMES:
                raise DataFormatError(f"{name!r} is of {dtype}, which cannot be saved; convert it with .to(...)")
            end = begin + dtype.itemsize * torch.Size(shape).numel()
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._starts = {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}  # type: ignore[index]
        self._shapes = shapes
        self._file: BinaryIO = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(8 + len(text) + begin)

    def write(self, name: str, first: int, rows: Tensor) -> None:
        """Write rows ``[K, ...]`` at row ``first`` of a tensor and after it."""
        dtype, shape = self._shapes[name]
        self._file.seek(self._starts[name] + first * dtype.itemsize * torch.Size(shape[1:]).numel())
        self._file.write(rows.contiguous().view(-1).view(torch.uint8).numpy().data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


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


def load_tensors(path: Path, size: int, names: Iterable[str] = ()) -> dict[str, Tensor]:
    """Read a file whole.

    Args:
        path: The file.
        size: How many bytes it must have.
        names: Tensors that must be in it.

    Raises:
        DatasetNotFoundError: It is missing.
        DataFormatError: It has another size, cannot be read, or lacks a tensor.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"{path} is missing; copy the whole folder again, or partition the graph anew")
    found = path.stat().st_size
    if found != size:
        raise DataFormatError(
            f"{path} has {found:,} bytes, not the {size:,} it was written with; copy it again, or partition the graph "
            "anew"
        )
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dictionary
    except (SafetensorError, OSError) as error:
        raise DataFormatError(f"{path} cannot be read as safetensors ({error}); partition the graph anew") from error
    missing = [name for name in names if name not in tensors]
    if missing:
        raise DataFormatError(f"{path} lacks {', '.join(missing)}; partition the graph anew")
    return tensors
