"""The options of a training run, without heavy imports."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from distgnn.errors import ConfigError
from distgnn.train.options import (
    MODELS,
    MODES,
    NORMS,
    SPARSE_OPTIMIZERS,
    DataOptions,
    Interval,
    JobOptions,
    ModelOptions,
    OutputOptions,
    OwnGraphOptions,
    TrainingOptions,
    check_settings,
)
from distgnn.train.tasks import TASKS

__all__ = ["MODELS", "MODES", "NORMS", "SPARSE_OPTIMIZERS", "TASKS", "Interval", "TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OutputOptions, TrainingOptions, JobOptions, ModelOptions, OwnGraphOptions, DataOptions):
    """A training run: the sum of what its owners are told.

    Raises:
        ConfigError: A value cannot be, or does not go with the others.
    """

    def __post_init__(self) -> None:
        check_settings(self)
        self.check_data()
        self.check_model()
        self.check_job()
        self.check_output()
        if self.folds and self.runs > 1:
            raise ConfigError(f"folds={self.folds} and runs={self.runs} do not go together: choose one")
        _check_task(self)
        _check_sampling(self)
        _check_staleness(self)
        _check_partition(self)

    def for_task(self, task: str) -> TrainConfig:
        """Return the options with what is usual in a task in the place of None.

        Args:
            task: One of :data:`TASKS`.
        """
        usual: dict[str, Any] = dict(TASKS[task].usual)
        if self.num_neighbors is not None:
            usual["num_layers"] = len(self.fanouts)
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})

    @property
    def fanouts(self) -> list[int]:
        """How many in-edges a node brings in each layer."""
        if self.num_neighbors is None:
            return [10] * (self.num_layers or 0)
        return [int(word) for word in self.num_neighbors.split(",")]

    def as_dict(self) -> dict[str, Any]:
        """Return the options as they are written to ``config.json``."""
        return asdict(self)


def _check_task(config: TrainConfig) -> None:
    if config.task is None:
        return
    TASKS[config.task].choosing(config.metric)
    if config.class_weight is not None and TASKS[config.task].labels != "classes":
        raise ConfigError(f"class_weight weighs classes, and task {config.task!r} has none: leave it out")


def _check_sampling(config: TrainConfig) -> None:
    try:
        fanouts = config.fanouts
    except ValueError:
        raise ConfigError(
            f"num_neighbors must be whole numbers joined by commas, such as 10,10, not {config.num_neighbors!r}"
        ) from None
    if any(fanout < -1 or fanout == 0 for fanout in fanouts):
        raise ConfigError(f"num_neighbors must be at least 1, or -1 for all, in each layer, not {config.num_neighbors}")
    if config.num_layers is not None and len(fanouts) != config.num_layers:
        raise ConfigError(
            f"num_neighbors={config.num_neighbors} has {len(fanouts)} numbers, and the model {config.num_layers} "
            "layers: give one number a layer"
        )
    sampling = [name for name in ("num_neighbors", "rescale", "steps_per_epoch") if getattr(config, name)]
    if config.mode not in {None, "sampled"} and sampling:
        raise ConfigError(f"{', '.join(sampling)} only go with mode='sampled', not {config.mode!r}")
    if config.mode == "full" and config.batch_size is not None:
        raise ConfigError("mode='full' has all nodes in one batch: leave out batch_size, or use mode='sampled'")


def _check_staleness(config: TrainConfig) -> None:
    if config.staleness is not None and config.staleness < 0:
        raise ConfigError(f"staleness is a number of steps, at least 0, not {config.staleness}")
    if config.staleness is not None and config.mode not in {"full", "history"}:
        raise ConfigError(f"staleness only goes with mode='full' or mode='history', not {config.mode!r}")
    if config.mode == "history" and config.task is not None and TASKS[config.task].targets != "nodes":
        raise ConfigError(f"mode='history' is for labels of nodes, not task={config.task!r}: use mode='sampled'")


def _check_partition(config: TrainConfig) -> None:
    if config.partition is None:
        return
    if config.mode is None:
        raise ConfigError(f"a partition needs a mode: say which of {', '.join(MODES)}")
    task = None if config.task is None else TASKS[config.task]
    if task is not None and task.on_graphs:
        known = " or ".join(one.name for one in TASKS.values() if not one.on_graphs)
        raise ConfigError(f"a partition is one graph: task must be {known}, not {task.name!r}")
    if task is not None and task.on_edges and config.mode == "sampled":
        raise ConfigError("batches of links need all edges on every rank: use mode='full', or leave out the partition")
    names = ("folds", "root", "edges", "features", "labels", "label_column", "num_nodes", "num_edges")
    given = [name for name in names if getattr(config, name)]
    if given:
        raise ConfigError(f"a partition brings its own graph: leave out {', '.join(given)}")
