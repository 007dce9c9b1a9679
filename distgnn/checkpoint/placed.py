"""Rows of a store that were saved by another placement than its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.errors import CheckpointFormatError
from distgnn.storage.capabilities import order_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from distgnn.storage.capabilities import SupportsCheckpoint

    RowsById = Callable[[], Iterator[tuple[Tensor, dict[str, Tensor]]]]


def import_placed(
    store: SupportsCheckpoint, saved_rows: int, rows_by_id: RowsById, *, most_bytes: int
) -> Iterator[int]:
    """Put a rank's rows back from all that were saved, in whatever order these come.

    The rank's rows are put together in memory, as many at a time as it has room for; for each time all that was saved
    is read once. Rows that were not saved stay as they are.

    Args:
        store: Its rows and their state are overwritten.
        saved_rows: How many were saved: those of the ids below.
        rows_by_id: Begins to read: gives ids ``[K]``, and the rows and state of each, piece by piece.
        most_bytes: For the rows in memory, about.

    Yields:
        The bytes of the rows that were found, piece by piece.

    Raises:
        CheckpointFormatError: An id is there twice, and another is not there.
    """
    own, book = store.own_rows, order_of(store)
    sample = store.export_rows(own.start, min(own.start + 1, own.stop))
    width = sum(one.nbytes for one in sample.values()) or 1
    step = max(1, most_bytes // width)
    for first in own[::step]:
        last = min(first + step, own.stop)
        rows = {name: one.clone() for name, one in store.export_rows(first, last).items()}
        ids = torch.arange(first, last) if book is None else book.ids(first, last)
        missing = ids < saved_rows
        for some, block in rows_by_id():
            places = some if book is None else book.places(some)
            here = (places >= first) & (places < last)
            goals = places[here] - first
            for name, one in block.items():
                rows[name][goals] = one[here]
            missing[goals] = False
            yield goals.numel() * width
        if bool(missing.any()):
            raise CheckpointFormatError(
                f"the checkpoint does not have row {int(ids[missing][0])} of a store, and another twice; load another "
                "checkpoint"
            )
        store.import_rows(first, rows)
