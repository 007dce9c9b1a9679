"""Which epoch of a trial is reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from distgnn.train.epoch import Epoch
    from distgnn.train.tasks import Metric


def best_validation(evaluated: Sequence[Epoch], metric: Metric) -> int:
    """Return the place of the epoch of best validation, the first of equals, among those that were evaluated."""
    return best([epoch.val for epoch in evaluated], metric)


def best(values: Sequence[float | None] | NDArray[np.float64], metric: Metric) -> int:
    """Return the place of the best number, the first of equals; never one that is not finite, while another is."""
    numbers = np.array(values, dtype=np.float64) * (1 if metric.better == "max" else -1)
    return int(np.argmax(np.where(np.isfinite(numbers), numbers, -np.inf)))
