"""Arrays from NumPy and PyTorch files, read by readers that run nothing."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from torch import Tensor

from distgnn.errors import DataFormatError
from distgnn.storage.free_memory import check_memory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ARRAY_SUFFIXES = (".npz", ".npy", ".pt")


def read_array(path: Path, key: str) -> Tensor:
    """Read the array ``key`` of a file, or its only one; int64 or floating.

    Raises:
        DataFormatError: The file holds no array of numbers.
    """
    try:
        if zipfile.is_zipfile(path):  # .npz and .pt, whose entries may be small on the disk alone
            with zipfile.ZipFile(path) as archive:
                check_memory(f"{path}, unpacked,", sum(entry.file_size for entry in archive.infolist()))
        found = _load(path)
    except DataFormatError:
        raise
    except Exception as error:  # readers of other people raise whatever they stumble over in a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if path.suffix.lower() == ".pt" and "Weights only load failed" in reason:
            reason = "it holds other objects than tensors, which could run code"
        raise DataFormatError(f"{path} cannot be read ({reason}); save plain arrays or tensors in it") from error
    if isinstance(found, dict):
        found = _entry(path, found, key)
    array = torch.from_numpy(found) if isinstance(found, np.ndarray) and found.dtype.kind in "iuf" else found
    if (
        not isinstance(array, Tensor)
        or array.layout != torch.strided
        or array.is_complex()
        or array.dtype == torch.bool
    ):
        kind = getattr(found, "dtype", type(found).__name__)
        raise DataFormatError(f"{path} holds {kind}, not numbers; save an array of integers or floats")
    if array.numel() == 0:
        raise DataFormatError(f"{path} is empty: an array of shape {list(array.shape)}; save one with rows in it")
    array = array.detach().view(array.shape or (1,))
    return array if array.is_floating_point() else array.long()


def _load(path: Path) -> object:
    with path.open("rb") as file:
        if path.suffix.lower() == ".pt":
            return torch.load(file, map_location="cpu", weights_only=True)
        if path.suffix.lower() == ".npy":
            read_header = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}.get(read_magic(file))
            if read_header is not None:
                shape, _, dtype = read_header(file)
                check_memory(f"{path}", math.prod(shape) * dtype.itemsize)
            file.seek(0)
        loaded = np.load(file, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)


def _entry(path: Path, found: Mapping[str, object], key: str) -> object:
    if key in found:
        return found[key]
    if len(found) == 1:
        return next(iter(found.values()))
    raise DataFormatError(f"{path} holds {', '.join(map(str, found)) or 'nothing'}; name the array {key!r}")
