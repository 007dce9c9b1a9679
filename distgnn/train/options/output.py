"""The folder of a run, and what is written to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import ClassVar, NamedTuple

from distgnn.errors import ConfigError
from distgnn.train.options.setting import setting


class Interval(NamedTuple):
    """A period of checkpoints: a number and its unit.

    Args:
        number: After how many.
        unit: ``"epochs"``, ``"steps"`` or ``"min"``.
    """

    number: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The folder of a run, and what is written to it.

    Args:
        checkpoint_every: Write a checkpoint after so many epochs (``5`` or ``"5epochs"``), steps (``"200steps"``) or
            minutes (``"10min"``), and at the end; None writes none.
        keep: How many of the checkpoints stay.
        resume: Go on from a checkpoint, its folder or that of a run; ``"latest"`` goes on with the run of this
            ``name``, from its last checkpoint, or starts it where there is none.
        out: Folder of runs.
        name: Folder of this run within ``out``; None makes a name.
        save_model: Leave the weights and tables of each trial's reported epoch, see :func:`distgnn.train.load_run`.
        report: Write ``report.html``, one page of curves, a timeline of the ranks, and where their time went.
        tensorboard: Write TensorBoard's events.
    """

    panel: ClassVar[str] = "Output"

    checkpoint_every: int | str | None = setting(
        None,
        "Write a checkpoint after every so many epochs (5), steps (200steps) or minutes (10min). \\[default: none]",
    )
    keep: int = setting(3, "How many checkpoints stay.", least=1)
    resume: str | None = setting(None, "Go on from a checkpoint or run folder; 'latest': with the run of --name.")
    out: str = setting("runs", "Folder of runs.")
    name: str | None = setting(None, "Folder of this run within it. \\[default: made up]")
    save_model: bool = setting(True, "Leave the weights and tables of the reported epoch, for predictions.")
    report: bool = setting(False, "Write report.html: curves, a timeline of the ranks, and where their time went.")
    tensorboard: bool = setting(False, "Write TensorBoard's events into the folder of the run.")

    def check_output(self) -> None:
        """Refuse intervals and names that cannot be."""
        _ = self.save_interval
        _check_name(self.name)

    @property
    def save_interval(self) -> Interval | None:
        """How often a checkpoint is written."""
        if self.checkpoint_every is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(epochs?|steps?|min)?", str(self.checkpoint_every).strip())
        count, unit = (float(found[1]), found[2] or "epochs") if found else (0.0, "")
        unit = unit if unit == "min" else unit.rstrip("s") + "s"
        if count <= 0 or (unit != "min" and not count.is_integer()):
            raise ConfigError(
                "checkpoint_every is a number of epochs, steps or minutes above 0, such as 5, 200steps or 10min, not "
                f"{self.checkpoint_every!r}"
            )
        return Interval(count, unit)


def _check_name(name: str | None) -> None:
    if name is None:
        return
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ConfigError(f"name must be that of a folder within out, not {name!r}: say by out where runs are")
