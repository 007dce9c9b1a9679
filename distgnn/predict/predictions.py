"""Predictions of a finished run."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from distgnn.errors import ConfigError
from distgnn.predict.answers import AnswerFile
from distgnn.predict.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from distgnn.data import LoadedDataset
    from distgnn.storage.protocols import Backend
    from distgnn.train.tasks import Task

PIECE = 2**16  # targets that are answered at a time
_MOST_COLUMNS = 100  # classes that have a column each


def predict(
    run: str | Path,
    out: str | Path,
    *,
    data: LoadedDataset | None = None,
    pairs: Tensor | None = None,
    trial: int = 0,
    backend: str | Backend | None = None,
    progress: bool = False,
) -> int:
    """Write what a finished run predicts for every node or graph, or for pairs of nodes; collective.

    Columns are the id, ``prediction`` and, of classes, ``probability``, that of the predicted one, and with up to 100
    classes one of each, ``probability_0`` and so on. Of pairs they are ``source``, ``destination`` and ``probability``,
    with all edges of the data in the messages.

    Args:
        run: The run's folder.
        out: A ``.parquet``, ``.csv``, ``.csv.gz`` or ``.tsv`` file, written by rank 0, whole or not at all.
        data: What is asked about; None is what the run was trained on.
        pairs: ``[2, K]`` int64, the pairs of nodes that a run of task ``"link"`` is asked about.
        trial: Number of the trial, from 0.
        backend: Where tables and layers are stored, and whose ranks share the work; None is the backend in use.
        progress: Show progress on stderr.

    Returns:
        How many targets were answered.

    Raises:
        CheckpointNotFoundError: The run has left no model.
        ConfigError: The data does not fit the model, pairs are missing or not asked for, or ``out`` has another suffix.
        DataError: The data cannot be read.
        RunWriteError: ``out`` cannot be written.
    """
    with ExitStack() as at_the_end:
        bundle = at_the_end.enter_context(Bundle(run, trial=trial, backend=backend, progress=progress))
        _check_pairs(bundle.task, pairs)
        dataset = bundle.dataset() if data is None else data
        bundle.check(dataset)
        file = at_the_end.enter_context(AnswerFile(out)) if bundle.session.is_main else None
        count = 0
        for ids, scores in _scores(bundle, dataset, pairs):
            count += ids.size(-1)
            if file is not None:
                file.add(_targets(bundle.task, ids) | columns(bundle.task, scores))
        return count


def columns(task: Task, scores: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Return the answers in columns.

    Args:
        task: What was learned.
        scores: ``[K]`` or ``[K, C]``, as the task makes them.
    """
    predicted = task.predictions(scores)
    if task.on_edges:
        return {"probability": scores.sigmoid().numpy()}
    if task.labels == "numbers":
        return {"prediction": predicted.numpy()}
    shares = scores.softmax(dim=-1)
    best = shares.gather(1, predicted.unsqueeze(1)).squeeze(1)
    each = range(shares.size(1)) if shares.size(1) <= _MOST_COLUMNS else ()
    return {
        "prediction": predicted.numpy(),
        "probability": best.numpy(),
        **{f"probability_{number}": shares[:, number].numpy() for number in each},
    }


def _scores(bundle: Bundle, dataset: LoadedDataset, pairs: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield targets and their scores, piece by piece, of which rank 0 has all and the others none."""
    count = len(dataset.graphs) if bundle.task.on_graphs else dataset.num_nodes
    targets = torch.arange(count) if pairs is None else pairs
    with bundle.outputs(dataset) as rows, torch.no_grad():
        for ids in torch.split(targets, PIECE, dim=-1):
            # The outputs of graphs are computed by all ranks, those of nodes are read by one.
            asked = ids if bundle.session.is_main or bundle.task.on_graphs else ids[..., :0]
            yield ids, bundle.task.scores(rows, asked)


def _targets(task: Task, ids: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    if task.on_edges:
        return {"source": ids[0].numpy(), "destination": ids[1].numpy()}
    return {"graph" if task.on_graphs else "node": ids.numpy()}


def _check_pairs(task: Task, pairs: Tensor | None) -> None:
    if task.on_edges and pairs is None:
        raise ConfigError("a run of task 'link' answers about pairs of nodes: give them as pairs")
    if not task.on_edges and pairs is not None:
        raise ConfigError(f"pairs are for a run of task 'link', and this one has learned task {task.name!r}")
