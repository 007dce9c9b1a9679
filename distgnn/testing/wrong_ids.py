"""Ids that every store must refuse before it does anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

WRONG_KINDS: dict[str, Callable[[torch.device], Tensor]] = {
    "float": lambda device: torch.zeros(2, device=device),
    "empty_float": lambda device: torch.zeros(0, device=device),
    "int32": lambda device: torch.zeros(2, dtype=torch.int32, device=device),
    "bool": lambda device: torch.ones(2, dtype=torch.bool, device=device),
    "scalar": lambda device: torch.zeros((), dtype=torch.int64, device=device),
    "matrix": lambda device: torch.zeros(2, 1, dtype=torch.int64, device=device),
    # No store is on the meta device, so this is another device wherever the tests run.
    "other_device": lambda _: torch.zeros(2, dtype=torch.int64, device="meta"),
}
"""Makes ids that are no int64 vector on the given device, by what is wrong with them: an IdsError."""

WRONG_RANGES: dict[str, Callable[[int], int]] = {
    "minus_one": lambda _: -1,
    "minus_size": lambda size: -size,
    "size": lambda size: size,
    "huge": lambda _: 2**40,
}
"""Makes an id that is not in a store of the given number of rows: an IdRangeError."""
