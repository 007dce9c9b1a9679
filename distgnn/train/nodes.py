"""The labels of nodes, of a graph that each rank has whole or a part of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.errors import ConfigError
from distgnn.train.steps import Targets, check_sets
from distgnn.train.tasks import TASKS

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from distgnn.train.session import Session
    from distgnn.train.tasks import Task

MASKS = {part: f"{part}_mask" for part in ("train", "val", "test")}


class NodeLabels:
    """The targets of node classification: of a whole graph each rank takes its share, of its part all.

    Args:
        graph: With ``y`` and a mask for each set.
        name: What it is called in errors.
        session: The ranks.

    Raises:
        ConfigError: A set is empty.
    """

    def __init__(self, graph: Data, name: str, session: Session) -> None:
        nodes = {part: graph[mask].nonzero().flatten() for part, mask in MASKS.items()}
        counts = [float(len(mine)) for mine in nodes.values()]
        if "halo" in graph:
            counts = session.sum(counts)
        else:
            nodes = {part: everywhere[session.rank :: session.world_size] for part, everywhere in nodes.items()}
        check_sets(dict(zip(nodes, map(int, counts), strict=True)), f"nodes of {name}")
        self._targets = {
            part: Targets(mine, graph.y[mine], int(count))
            for (part, mine), count in zip(nodes.items(), counts, strict=True)
        }

    def __call__(self, part: str, epoch: int) -> Targets:
        """Return the targets of a set, the same in every epoch."""
        del epoch
        return self._targets[part]


def check_labels(graph: Data, name: str, task: Task) -> None:
    """Refuse a graph without labels or masks, or with labels of another kind than the task's.

    Raises:
        ConfigError: The text says which are missing, and what to do.
    """
    missing = [key for key in ("y", *MASKS.values()) if graph.get(key) is None]
    if missing:
        raise ConfigError(
            f"{name} has no {', '.join(missing)} to train on: give a label file, or predict links with task='link'"
        )
    if not task.fits(graph.y):
        found = "numbers" if graph.y.is_floating_point() else "classes"
        others = " or ".join(
            repr(one.name) for one in TASKS.values() if one.labels and not one.on_graphs and one.fits(graph.y)
        )
        raise ConfigError(
            f"the labels of {name} are {found} ({str(graph.y.dtype).removeprefix('torch.')}), and task {task.name!r} "
            f"predicts {task.labels}: choose task {others}, or give labels of that kind"
        )
