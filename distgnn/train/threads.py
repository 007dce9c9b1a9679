"""The number of threads of a rank.

torch's own threads wait for each other after every operation. Where a step is small they wait more than they work, and
where another process has taken a core, for a whole time slice, hundreds of times a step.
"""

from __future__ import annotations

import os
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING

from distgnn.distributed.rendezvous.launcher import launched
from distgnn.train.tasks import TASKS

if TYPE_CHECKING:
    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig

_NUMBERS_A_THREAD = 2**19  # of a layer's input; below, a second thread gains less than its waiting costs
_LIMIT = Path("/sys/fs/cgroup/cpu.max")
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def choose_threads(config: TrainConfig, dataset: LoadedDataset, most: int) -> int:
    """Return how many threads a rank takes.

    Args:
        config: The run's options; ``threads`` is taken as it is.
        dataset: What it trains on.
        most: How many torch has now: what ``OMP_NUM_THREADS`` says, or a caller has set.

    Returns:
        At least 1; ``most`` where ``OMP_NUM_THREADS`` is set, and never more.
    """
    if config.threads is not None:
        return config.threads
    if os.environ.get("OMP_NUM_THREADS"):
        return most
    return max(1, min(most, numbers_a_step(config, dataset) // _NUMBERS_A_THREAD, free_cores() // ranks_here()))


def numbers_a_step(config: TrainConfig, dataset: LoadedDataset) -> int:
    """Return about how many numbers the widest input of a layer has in a step of one rank."""
    config = config.for_task(dataset.task)
    if TASKS[dataset.task].on_graphs:
        rows = ceil(dataset.num_nodes * config.examples_a_batch / max(1, len(dataset.graphs)))
    elif config.mode in {"sampled", "history"}:
        fanouts = [max(fanout, 10) for fanout in config.fanouts] if config.mode == "sampled" else [10]
        rows = config.examples_a_batch * prod(1 + fanout for fanout in fanouts)
    else:
        rows = dataset.num_nodes
    return min(rows, dataset.num_nodes) * max(dataset.num_features, config.embedding_dim or 0, config.hidden_channels)


def ranks_here() -> int:
    """Return how many ranks of the job share this host's cores, as far as its launcher has told."""
    told = next((os.environ[name] for name in _LOCAL_SIZES if os.environ.get(name, "").isdecimal()), None)
    launch = launched()
    return max(1, int(told)) if told else launch.world_size if launch is not None and launch.local else 1


def free_cores() -> int:
    """Return on how many cores nobody else computes, of those that this process may use; at least 1."""
    everywhere = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everywhere
    try:
        quota, period = _LIMIT.read_text().split()
        mine = min(mine, ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no limit, or none that is written there
        pass
    try:
        load = os.getloadavg()[0]
    except OSError:
        load = 0.0
    return max(1, min(mine, everywhere - round(load)))
