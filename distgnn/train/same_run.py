"""Whether all ranks were started for the same run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from distgnn.train.tasks import DEFAULT

if TYPE_CHECKING:
    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session

# Where things are on a machine, and what a rank has for itself; what files hold is compared by a checksum.
_OWN = {"edges", "features", "ip_config", "labels", "option", "out", "partition", "rank", "root", "secret_file"} | {
    "threads",
    "timeout",
}


def check_same_run(session: Session, config: TrainConfig, dataset: LoadedDataset | None) -> None:
    """Compare the options and the data of all ranks; collective.

    Args:
        session: The ranks.
        config: This rank's options.
        dataset: Its data; None where the options name a partition.

    Raises:
        ConfigError: Two ranks differ; the text names the first difference, both values and both ranks.
    """
    if session.world_size == 1:
        return
    options = {name: value for name, value in _resolved(config, dataset).items() if name not in _OWN}
    session.agree({**options, "data, by checksum": _checksum(config, dataset)})


def _resolved(config: TrainConfig, dataset: LoadedDataset | None) -> dict[str, Any]:
    """Return the options with what they come to: what is usual may be left out on one rank and said on another."""
    task = dataset.task if dataset is not None else config.task or DEFAULT
    config = config.for_task(task)
    resolved = {**config.as_dict(), "task": task, "batch_size": config.examples_a_batch}
    resolved["checkpoint_every"] = config.save_interval
    if config.mode == "sampled":
        resolved["num_neighbors"] = config.fanouts
    if config.mode == "full":
        resolved["staleness"] = config.staleness or 0
    return resolved


def _checksum(config: TrainConfig, dataset: LoadedDataset | None) -> str:
    found = hashlib.blake2b(digest_size=16)
    if dataset is None:
        for file in sorted(Path(str(config.partition)).glob("*.json")):
            found.update(file.read_bytes())
        return found.hexdigest()
    for graph in dataset.graphs:
        for name, value in sorted(graph.to_dict().items()):
            if isinstance(value, Tensor):
                rows = value.detach().cpu().contiguous()
                found.update(f"{name} {rows.dtype} {tuple(rows.shape)}".encode())
                found.update(rows.numpy().data)
    return found.hexdigest()
