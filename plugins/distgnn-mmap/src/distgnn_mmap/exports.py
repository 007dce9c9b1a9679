"""Checks of rows that are taken out for a checkpoint, or put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import distgnn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def check_range(name: str, num_rows: int, first: int, last: int) -> None:
    """Refuse rows that the store does not have.

    Raises:
        IdRangeError: ``first`` to ``last`` is not within them.
    """
    if not 0 <= first <= last <= num_rows:
        raise distgnn.IdRangeError(
            f"store {name!r}: rows {first} to {last} are not within this rank's own, 0 to {num_rows}"
        )


def check_rows(name: str, given: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Refuse rows unlike those that the store keeps.

    Raises:
        RowsError: Other tensors, types or shapes, or not the same number of rows of each.
    """
    found, asked = ({key: (one.dtype, one.shape[1:]) for key, one in rows.items()} for rows in (given, kept))
    if found != asked or len({one.size(0) for one in given.values()}) != 1:
        shapes = {key: list(one.shape) for key, one in given.items()}
        raise distgnn.RowsError(f"store {name!r}: rows to be put back are {shapes}, {found}; it keeps {asked}")
