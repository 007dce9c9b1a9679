"""What every engine of the embedding benchmark is measured by: the same ids, steps and clocks."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

COLUMNS = 64
KINDS = ("uniform", "zipf")
COUNTS = (4096, 65536)


def draw_ids(count: int, num_rows: int, kind: str, generator: np.random.Generator) -> Tensor:
    """Draw ids: uniform, or by Zipf's law (exponent 1.2) over the rows in an arbitrary order."""
    if kind == "uniform":
        return torch.from_numpy(generator.integers(0, num_rows, count))
    drawn = generator.zipf(1.2, count * 4)
    return torch.from_numpy((drawn[drawn <= num_rows][:count] * 2654435761) % num_rows)


def training(table: Callable[[Tensor], Tensor], optimizer: Any) -> Callable[[Tensor], None]:
    """Return a training step: lookup, backward, update."""

    def step(ids: Tensor) -> None:
        optimizer.zero_grad()
        table(ids).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure_cases(
    step: Callable[[Any], object],
    lookup: Callable[[Any], object],
    cpu_seconds: Callable[[], float],
    *,
    num_rows: int,
    steps: int,
    rank: int = 0,
    ranks: int = 1,
    prepare: Callable[[Tensor], Any] = lambda ids: ids,
) -> dict[str, dict[str, float]]:
    """Measure steps and lookups of each case.

    Args:
        step: A training step on ids.
        lookup: A lookup alone.
        cpu_seconds: Returns the CPU time of all processes of the job so far; collective.
        num_rows: Rows of the table.
        steps: Number of steps at 4,096 ids; of larger batches a quarter of it.
        rank: This rank.
        ranks: How many there are.
        prepare: Makes what steps and lookups take of ids, before the clock runs; collective.

    Returns:
        For each case, rows a second of this rank in the median step, the same of lookups alone, and the CPU seconds of
        all processes a row.
    """
    generator = np.random.default_rng(rank)
    cases = {}
    for kind in KINDS:
        for count in COUNTS:
            number = steps if count == COUNTS[0] else max(4, steps // 4)
            batches = [prepare(draw_ids(count, num_rows, kind, generator)) for _ in range(number)]
            for ids in batches[:3]:
                step(ids)
            before = cpu_seconds()
            stepping = _seconds(step, batches)
            used = cpu_seconds() - before
            looking = _seconds(lookup, batches)
            cases[f"{kind}, {count:,} ids"] = {
                "rows_per_second": count / stepping,
                "lookups_per_second": count / looking,
                "cpu_seconds_per_row": used / (number * count * ranks),
            }
    return cases


def _seconds(work: Callable[[Any], object], batches: list[Any]) -> float:
    times = []
    for ids in batches:
        begin = time.perf_counter()
        work(ids)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
