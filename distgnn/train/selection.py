"""Which epoch of a trial is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from distgnn.train.epoch import Epoch


def best_validation(evaluated: Sequence[Epoch]) -> int:
    """Return the place of the epoch of best validation, the first of equals, among those that were evaluated."""
    return int(np.argmax(finite([epoch.val for epoch in evaluated])))


def finite(scores: Sequence[float | None] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores with -1 for those that are not finite or not there, so that none of them is the best."""
    return np.nan_to_num(np.array(scores, dtype=np.float64), nan=-1.0)
