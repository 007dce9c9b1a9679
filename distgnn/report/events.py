"""The metrics of a run as events that TensorBoard shows."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from distgnn.train.epoch import Epoch


def check_tensorboard() -> None:
    """Make sure that events can be written.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError("TensorBoard is not installed: pip install 'distgnn[tensorboard]', or leave it out")


def open_events(folder: Path) -> SummaryWriter:
    """Return what writes events into a folder."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # takes seconds to import

    return SummaryWriter(str(folder))


def write_events(events: SummaryWriter, epoch: Epoch) -> None:
    """Write the numbers of an epoch, each under a name that tells the trial."""
    scalars = {
        "loss": epoch.loss,
        "score/train": epoch.train,
        "score/val": epoch.val,
        "score/test": epoch.test,
        "speed/rows_per_second": epoch.rows_per_second,
        "speed/seconds": epoch.seconds,
        "speed/bytes_a_step": epoch.bytes_a_step,
        "speed/cache_hits": epoch.cache_hits,
        **{f"staleness/{name}": number for name, number in (epoch.staleness or {}).items()},
    }
    for part, numbers in (epoch.metrics or {}).items():
        scalars |= {f"{name}/{part}": number for name, number in numbers.items()}
    for kind, by_rank in (epoch.spent or {}).items():
        scalars |= {f"{kind}/rank_{rank}": seconds for rank, seconds in enumerate(by_rank)}
    for name, number in scalars.items():
        if number is not None:
            events.add_scalar(f"trial_{epoch.trial}/{name}", number, epoch.epoch)
    events.flush()
