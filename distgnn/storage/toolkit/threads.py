"""Threads that share the work of one call.

torch shares every operation among its threads. Where operations are small, threads wait for each other after every one,
and for a whole time slice where another process has taken a core. So work that is many small operations is cut into
parts, and a thread does all the operations of a part.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Part = TypeVar("Part")


def share_work(work: Callable[[Part], None], parts: Sequence[Part], *, least: int = 2) -> None:
    """Do all parts, each by one thread, in as many threads as torch has.

    Args:
        work: Does a part; called from several threads at once, without gradients.
        parts: What there is to do.
        least: Parts that a thread is worth starting for; with fewer for each, one thread does all.
    """
    threads, inference, left = torch.get_num_threads(), torch.is_inference_mode_enabled(), iter(parts)

    def run() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            for part in left:
                work(part)

    if threads == 1:
        run()
        return
    try:
        torch.set_num_threads(1)  # threads that are started now begin with it
        if len(parts) < least * threads:
            run()
            return
        with ThreadPoolExecutor(threads - 1) as pool:
            others = [pool.submit(run) for _ in range(threads - 1)]
            run()
            for other in others:
                other.result()
    finally:
        torch.set_num_threads(threads)
