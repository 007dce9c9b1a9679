"""The checkpoints of a run: from which one it goes on, and when it writes the next."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distgnn.errors import CheckpointFormatError, CheckpointNotFoundError, ConfigError, TrainingStoppedError
from distgnn.train.checkpoint import Checkpoint, latest_checkpoint, prune_checkpoints, read_manifest
from distgnn.train.checkpoint.folder import find_checkpoint
from distgnn.train.epoch import Epoch

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from rich.progress import Progress
    from typing_extensions import Self

    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session
    from distgnn.train.trial import Trial

LATEST = "latest"
# What may change between a checkpoint and the run that goes on from it.
_FREE = {
    "backend",
    "checkpoint_every",
    "epochs",
    "ip_config",
    "keep",
    "name",
    "out",
    "rank",
    "report",
    "resume",
    "root",
    "secret_file",
    "tensorboard",
}


def is_continued(config: TrainConfig) -> bool:
    """Tell whether a run goes on in a folder that is there: it is asked to, or torchrun has started it again.

    Raises:
        ConfigError: Another process could not find the folder, for it has no name.
    """
    restarts = config.checkpoint_every is not None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    if config.name is None and (config.resume == LATEST or restarts):
        why = "resume='latest' goes on in" if config.resume == LATEST else "a restart by torchrun finds"
        raise ConfigError(f"{why} the folder of a name: give one with --name")
    return config.resume == LATEST or (restarts and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0)


class RunCheckpoints:
    """Where a run goes on, and what it saves; a context manager, which makes SIGTERM a request to save and end.

    A checkpoint ``step-N`` is what there was after N steps of training, of all trials.

    Args:
        config: The run's options.
        session: The ranks.
        folder: The run's folder on rank 0.
        progress: Shows how reading and writing get on.

    Attributes:
        history: The whole epochs of each trial that were trained before; the last trial goes on.

    Raises:
        CheckpointError: The checkpoint that is asked for is not there, damaged, or of other options.
    """

    def __init__(self, config: TrainConfig, session: Session, folder: Path, progress: Progress) -> None:
        self._config, self._session, self._progress = config, session, progress
        self._folder = Path(session.texts(str(folder))[0]) / "checkpoints"
        self._stop = False
        self._before: Any = None
        self._steps = 0
        self.history: list[list[Epoch]] = []
        self._source = _source(config, self._folder)
        if self._source is not None:
            self._steps, self.history = _done(config, self._source)
        self._saved = time.monotonic()

    def __enter__(self) -> Self:
        if self._config.save_interval is not None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask_to_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def load(self, trial: Trial) -> None:
        """Bring the last trial of :attr:`history` to where it was; collective."""
        assert self._source is not None
        with _Bar(self._progress, f"reading {self._source}") as bar:
            Checkpoint(self._session, trial.parts(), report=bar.advance).load(self._source)

    def after_step(self, trial: Trial, history: list[list[Epoch]]) -> None:
        """Save a trial when it is time to; called by all ranks, after each step but an epoch's last.

        Raises:
            CheckpointWriteError: It cannot be written.
            TrainingStoppedError: The process was asked to end, and has saved.
        """
        self._steps += 1
        self._save_if_due(trial, history, ends=None)

    def after_epoch(self, trial: Trial, history: list[list[Epoch]]) -> None:
        """Do so after each epoch."""
        self._steps += 1
        self._save_if_due(trial, history, ends=sum(map(len, history)))

    def _save_if_due(self, trial: Trial, history: list[list[Epoch]], ends: int | None) -> None:
        """Save when it is time to, which is so for all ranks when it is for one.

        Args:
            trial: What is trained.
            history: Its whole epochs, and those of the trials before it.
            ends: How many these are, where one has just ended.
        """
        every = self._config.save_interval
        if every is None:
            return
        if every.unit == "min":
            due = time.monotonic() - self._saved >= 60 * every.number
        else:
            done = self._steps if every.unit == "steps" else ends
            due = done is not None and done % every.number == 0
        due = due or (ends is not None and len(history[-1]) == self._config.epochs)
        asked = self._session.max(2.0 if self._stop else float(due))
        if asked:
            path = self._folder / f"step-{self._steps}"
            notes = {
                "config": self._config.as_dict(),
                "steps": self._steps,
                "history": [[epoch.as_dict() for epoch in one] for one in history],
            }
            with _Bar(self._progress, f"writing {path}") as bar:
                Checkpoint(self._session, trial.parts(), report=bar.advance).save(path, notes=notes)
            if self._session.is_main:
                prune_checkpoints(self._folder, self._config.keep)
            self._saved = time.monotonic()
        if asked > 1:
            raise TrainingStoppedError(
                f"stopped by SIGTERM after step {self._steps}, with all that was trained in {path}; go on with "
                f"--resume {path}"
            )

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True


class _Bar:
    """A line of a progress display that counts bytes, while it is needed."""

    def __init__(self, progress: Progress, text: str) -> None:
        self._progress, self._text = progress, text

    def __enter__(self) -> Self:
        self._bytes = 0
        self._task = self._progress.add_task(self._text, total=None)
        return self

    def advance(self, count: int) -> None:
        """Count bytes."""
        self._bytes += count
        self._progress.update(self._task, told=f"{self._bytes / 1e6:,.0f} MB")

    def __exit__(self, *_: object) -> None:
        self._progress.remove_task(self._task)


def _source(config: TrainConfig, own: Path) -> Path | None:
    """Find the checkpoint that a run goes on from: the last of its own, or the one that is asked for."""
    latest = latest_checkpoint(own) if is_continued(config) else None
    if latest is not None or config.resume in {None, LATEST}:
        return latest
    asked = Path(str(config.resume))
    found = find_checkpoint(asked)
    if found is None:
        raise CheckpointNotFoundError(f"{asked} is neither a checkpoint nor a folder with one; see what is in it")
    return found


def _done(config: TrainConfig, path: Path) -> tuple[int, list[list[Epoch]]]:
    """Read how many steps were trained, and which epochs."""
    try:
        notes: Any = read_manifest(path).notes
        saved, steps = dict(notes["config"]), int(notes["steps"])
        history = [[Epoch(**epoch) for epoch in trial] for trial in notes["history"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointFormatError):
            raise
        raise CheckpointFormatError(f"{path} is no checkpoint of distgnn train ({error!r})") from error
    own = config.as_dict()
    differ = [name for name in own if name not in _FREE and saved.get(name) != own[name]]
    if differ:
        said = ", ".join(f"{name} {saved.get(name)!r}, now {own[name]!r}" for name in differ)
        raise CheckpointFormatError(f"{path} is of a run with other options: {said}; give the same, or start anew")
    return steps, history
