"""Metrics of a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.errors import ConfigError
from distgnn.predict.bundle import Bundle
from distgnn.predict.predictions import PIECE
from distgnn.train.metrics import Metrics

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from distgnn.data import LoadedDataset
    from distgnn.storage.protocols import Backend
    from distgnn.train.tasks import Task

_MASKS = {"train": "train_mask", "val": "val_mask", "test": "test_mask"}


def evaluate(
    run: str | Path,
    *,
    data: LoadedDataset | None = None,
    trial: int = 0,
    backend: str | Backend | None = None,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Measure a finished run on labelled nodes or graphs; collective.

    Args:
        run: The run's folder.
        data: What it is measured on; None is what it was trained on.
        trial: Number of the trial, from 0.
        backend: Where tables and layers are stored, and whose ranks share the work; None is the backend in use.
        progress: Show progress on stderr.

    Returns:
        The metrics by name, of ``"all"`` that have a label and, of one graph with a split, of each of its sets.

    Raises:
        CheckpointNotFoundError: The run has left no model.
        ConfigError: The data does not fit the model, or nothing in it has a label.
        DataError: The data cannot be read.
    """
    with Bundle(run, trial=trial, backend=backend, progress=progress) as bundle:
        if bundle.task.on_edges:
            raise ConfigError("a run of task 'link' was measured on the edges that it held out: see its result.json")
        dataset = bundle.dataset() if data is None else data
        labels, sets = _labelled(bundle.task, dataset)
        rank, world_size = bundle.session.rank, bundle.session.world_size
        found: dict[str, dict[str, float]] = {}
        with bundle.outputs(dataset) as rows, torch.no_grad():
            for name, ids in sets.items():
                metrics = Metrics(bundle.task, bundle.sizes.num_classes)
                for piece in torch.split(ids, PIECE):
                    mine = piece[rank::world_size]
                    scores = bundle.task.scores(rows, piece if bundle.task.on_graphs else mine)
                    own = scores[rank::world_size] if bundle.task.on_graphs else scores
                    metrics.add(own, labels[mine])
                found[name] = metrics.over_ranks(bundle.session)
    return found


def _labelled(task: Task, dataset: LoadedDataset) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the labels of all, and the ids of each set that have one."""
    if task.on_graphs:
        given = [graph.y for graph in dataset.graphs]
        labels = None if any(one is None for one in given) else torch.cat(given)
    else:
        labels = dataset.graph.y
    if labels is None or not task.fits(labels):
        raise ConfigError(f"data set {dataset.name!r} has no labels of task {task.name!r} to compare predictions with")
    known = ~labels.isnan() if labels.is_floating_point() else labels >= 0
    sets = {"all": known.nonzero().flatten()}
    if not task.on_graphs:
        masks = {name: dataset.graph.get(mask) for name, mask in _MASKS.items()}
        sets |= {name: (known & mask).nonzero().flatten() for name, mask in masks.items() if mask is not None}
    sets = {name: ids for name, ids in sets.items() if ids.numel()}
    if not sets:
        raise ConfigError(f"nothing in data set {dataset.name!r} has a label")
    return labels, sets
