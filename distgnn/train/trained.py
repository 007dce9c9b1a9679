"""The models that a run leaves, and how they come back to predict.

A run's folder has ``model/trial-K-epoch-N/`` for each trial: a checkpoint of the weights and the tables, without what
only training needs. N is the reported epoch. With folds that one is known when all have ended, so N is the last then.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distgnn.checkpoint import Checkpoint, read_manifest
from distgnn.data import LoadedDataset
from distgnn.errors import CheckpointError, CheckpointFormatError, CheckpointNotFoundError
from distgnn.storage.registry import get_backend
from distgnn.train.config import TrainConfig
from distgnn.train.models import make_model
from distgnn.train.selection import best_validation
from distgnn.train.session import Session
from distgnn.train.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distgnn.nn import DistributedGNN
    from distgnn.report.folder import RunFolder
    from distgnn.storage.protocols import Backend
    from distgnn.train.epoch import Epoch
    from distgnn.train.trial import Trial

KIND = "distgnn model"
# What a model that predicts does without; its layers keep no outputs, and it has all of a graph.
_OF_TRAINING = {"batch_size", "mode", "num_neighbors", "partition", "rescale", "staleness", "steps_per_epoch"}
_OF_TRAINING |= {"resume", "use_dist_tensor"}
_SIZES = [field.name for field in fields(LoadedDataset) if field.name != "graphs"]


class KeptModels:
    """Keeps the model of each trial's reported epoch, whole or not at all.

    Args:
        config: The run's options.
        session: The ranks.
        folder: The run's folder.
        dataset: The sizes of what is trained on.
    """

    def __init__(self, config: TrainConfig, session: Session, folder: RunFolder, dataset: LoadedDataset) -> None:
        self._config, self._session, self._run = config, session, folder
        self._metric = TASKS[dataset.task].choosing(config.metric).metric
        self._sizes = {name: getattr(dataset, name) for name in _SIZES}
        self._is_possible: bool | None = None if config.save_model else False
        self._draft: Path | None = None

    def after_epoch(self, trial: Trial, history: Sequence[Epoch]) -> None:
        """Save the model if the last of a trial's epochs is the best so far; called by all ranks.

        Raises:
            CheckpointWriteError: It cannot be written.
        """
        if self._is_possible is False or not self._is_best(history):
            return
        checkpoint = Checkpoint(self._session, {"model": trial.model})
        if self._is_possible is None:
            self._is_possible = self._can(checkpoint)
            if not self._is_possible:
                return
        last = history[-1]
        own = f"trial-{trial.number}-epoch-"
        path = self._run.path / "model" / f"{own}{last.epoch}"
        before = [one for one in path.parent.glob(f"{own}*") if one != path] if self._session.is_main else []
        if self._session.is_main and path.exists():
            _remove(path)  # a job that was killed has got further
        notes = {
            "kind": KIND,
            "config": self._config.for_task(self._sizes["task"]).as_dict(),
            "sizes": self._sizes,
            "epoch": last.as_dict(),
        }
        checkpoint.save(path, notes=notes, with_state=False)
        for one in before:
            _remove(one)

    def _is_best(self, history: Sequence[Epoch]) -> bool:
        if self._config.folds:
            return history[-1].epoch == self._config.epochs
        evaluated = [epoch for epoch in history if epoch.test is not None]
        return history[-1].test is not None and best_validation(evaluated, self._metric) == len(evaluated) - 1

    def _can(self, checkpoint: Checkpoint) -> bool:
        """Tell whether there is a way to save it; collective."""
        why = ""
        try:
            checkpoint.check()
        except CheckpointError as error:
            why = str(error)
        if not self._run.is_shared():
            why = "not all ranks see the run's folder, which is on no file system that they share"
        if why and self._session.is_main:
            sys.stderr.write(f"the run leaves no model: {why}\n")
        return not why


def _remove(path: Path) -> None:
    """Remove a checkpoint; it loses its name first."""
    with suppress(OSError):
        hidden = path.rename(path.with_name(f".{path.name}.old"))
        shutil.rmtree(hidden, ignore_errors=True)


def bring_models(source: Path, target: Path, epochs: Sequence[int]) -> None:
    """Copy the models of a run that another goes on from.

    Args:
        source: Folder of the run.
        target: Folder of the other.
        epochs: How many epochs of each trial it goes on from.
    """
    for trial, done in enumerate(epochs):
        found = find_model(source, trial)
        if found is not None and find_model(target, trial) is None and _epoch(found) <= done:
            (target / "model").mkdir(exist_ok=True)
            draft = target / "model" / f".{found.name}.draft"
            shutil.copytree(found, draft)
            draft.rename(target / "model" / found.name)


def _epoch(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def find_model(folder: Path, trial: int) -> Path | None:
    """Return the folder of a trial's model in that of a run; None where it has left none."""
    found = sorted((folder / "model").glob(f"trial-{trial}-epoch-*"), key=_epoch)
    return found[-1] if found else None


@dataclass(frozen=True, eq=False)
class KeptModel:
    """A model that a run has left, not loaded yet.

    Attributes:
        path: Its folder.
        options: Those of the run, by their names in :class:`~distgnn.train.config.TrainConfig`.
        sizes: Of the data set that it was trained on, without its graphs.
    """

    path: Path
    options: dict[str, Any]
    sizes: LoadedDataset


def kept_model(folder: str | Path, *, trial: int = 0) -> KeptModel:
    """Find the model that a run has left.

    Args:
        folder: The run's folder.
        trial: Number of the trial, from 0.

    Raises:
        CheckpointNotFoundError: The run has left no model.
        CheckpointFormatError: It is damaged, or of a newer version.
    """
    where = Path(folder)
    found = find_model(where, trial)
    if found is None:
        there = "does not exist" if not where.exists() else f"has left no model of trial {trial}"
        raise CheckpointNotFoundError(
            f"{where} {there}: give the folder of a run that was not made with --no-save-model"
        )
    try:
        notes: Any = read_manifest(found).notes
        return KeptModel(found, dict(notes["config"]), LoadedDataset(graphs=[], **notes["sizes"]))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointFormatError):
            raise
        raise CheckpointFormatError(f"{found} is no model of a run ({error})") from error


def load_run(folder: str, *, trial: int = 0, backend: str | Backend | None = None) -> DistributedGNN:
    """Bring back the model that a run has left, ready to predict.

    Its stored embeddings are in tables of their own, whose names begin with ``run-``; ``model.close()`` frees them.
    Every rank of a job calls it. The job may have other ranks and another backend than the one that trained.

    Args:
        folder: The run's folder.
        trial: Number of the trial, from 0.
        backend: Where the tables are opened; None is the backend in use.

    Returns:
        The model, in eval mode, of the trial's reported epoch, or with folds of its last.

    Raises:
        CheckpointNotFoundError: The run has left no model.
        CheckpointFormatError: It is damaged, or of a newer version.
    """
    kept = kept_model(folder, trial=trial)
    found = kept.path
    told = {name: value for name, value in kept.options.items() if name not in _OF_TRAINING}
    try:
        config = TrainConfig(**told)
    except (TypeError, ValueError) as error:
        raise CheckpointFormatError(f"{found} is no model of a run ({error})") from error
    opened = get_backend(backend) if backend is None or isinstance(backend, str) else backend
    session = Session(opened)
    prefix = f"run-{hashlib.sha256(str(found.resolve()).encode()).hexdigest()[:8]}-"
    model = make_model(config, kept.sizes, opened, prefix=prefix)
    try:
        saved = read_manifest(found).stores
        Checkpoint(session, {"model": model}).load(
            found, only=["model"], names={f"{prefix}{name}": name for name in saved}
        )
    except BaseException:
        model.close()
        raise
    model.eval()
    return model
