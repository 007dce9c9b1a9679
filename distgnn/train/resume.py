"""The checkpoints of a run, written and resumed from."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distgnn.checkpoint import Checkpoint, latest_checkpoint, prune_checkpoints, read_manifest
from distgnn.checkpoint.folder import find_checkpoint
from distgnn.checkpoint.together import together
from distgnn.errors import CheckpointFormatError, CheckpointNotFoundError, ConfigError, TrainingStoppedError
from distgnn.train.config import TrainConfig
from distgnn.train.epoch import Epoch
from distgnn.train.selection import best_validation
from distgnn.train.trained import bring_models

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType, TracebackType

    from rich.progress import Progress
    from typing_extensions import Self

    from distgnn.report.folder import RunFolder
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
    "keep_going",
    "name",
    "option",
    "out",
    "rank",
    "report",
    "resume",
    "root",
    "save_model",
    "secret_file",
    "tensorboard",
    "threads",
    "timeout",
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
    """Where a run goes on, and what it saves; a context manager.

    Where checkpoints are written, SIGTERM and SIGINT ask a run to save and end; a second SIGINT ends it at once.

    A checkpoint ``step-N`` is what there was after N steps of training, of all trials.

    Args:
        config: The run's options.
        session: The ranks.
        folder: The run's folder.
        progress: Shows how reading and writing get on.

    Attributes:
        history: The whole epochs of each trial that were trained before; the last trial goes on.

    Raises:
        CheckpointError: The checkpoint that is asked for is not there, damaged, or of other options.
    """

    def __init__(self, config: TrainConfig, session: Session, folder: RunFolder, progress: Progress) -> None:
        self._config, self._session, self._progress, self._run = config, session, progress, folder
        self._stopped_by: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._steps = 0
        self.history: list[list[Epoch]] = []
        self._source: Path | None = None
        self._ends: dict[Path, tuple[int, int] | None] = {}  # the trials and the epochs that checkpoints came after
        together(session, self._find(), "reading of a run to go on with", lambda _bytes: None)
        found = session.texts(str(self._source or ""))[0]
        self._source = Path(found) if found else None
        together(session, self._read(), f"reading of checkpoint {found}", lambda _bytes: None)
        self._saved = time.monotonic()

    def __enter__(self) -> Self:
        if self._config.save_interval is not None and threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._ask_to_stop) for one in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    @property
    def _folder(self) -> Path:
        return self._run.path / "checkpoints"

    def _find(self) -> Iterator[int]:
        """Find where the run goes on; rank 0 does, for all."""
        self._source = _source(self._config, self._folder) if self._session.is_main else None
        yield 0

    def _read(self) -> Iterator[int]:
        """Read what was done there."""
        if self._source is not None:
            self._steps, self.history = _done(self._config, self._source)
        yield 0

    def load(self, trial: Trial) -> None:
        """Bring the last trial of :attr:`history` to where it was; collective."""
        assert self._source is not None
        with _Bar(self._progress, f"reading {self._source}") as bar:
            Checkpoint(self._session, trial.parts(), report=bar.advance).load(self._source)

    def begin(self, trial: Trial, before: Sequence[Epoch]) -> None:
        """Open the run's folder before the first step, where nothing stands against saving; collective.

        Args:
            trial: What is trained.
            before: The epochs that were trained already.

        Raises:
            ConfigError: The folder cannot be made, or not all ranks see it.
            CheckpointError: The trial cannot be saved, and is to be.
        """
        saves = self._config.save_interval is not None
        if saves:
            Checkpoint(self._session, trial.parts()).check()
        self._run.open(before, shared=saves)
        if self._source is not None and self._session.is_main:
            bring_models(self._source.parent.parent, self._run.path, [len(one) for one in self.history])
            for path in self._folder.glob("step-*"):
                self._ends[path] = _last(read_manifest(path).notes["history"])  # type: ignore[index]

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
        asked = self._session.max(float(self._stopped_by or due))
        if asked:
            path = self._folder / f"step-{self._steps}"
            notes: dict[str, Any] = {
                "kind": "distgnn train",
                "config": self._config.as_dict(),
                "steps": self._steps,
                "history": [[epoch.as_dict() for epoch in one] for one in history],
            }
            with _Bar(self._progress, f"writing {path}") as bar:
                Checkpoint(self._session, trial.parts(), report=bar.advance).save(path, notes=notes)
            if self._session.is_main:
                self._ends[path] = _last(notes["history"]) if ends is not None else None
                evaluated = [epoch for epoch in history[-1] if epoch.test is not None]
                best = evaluated[best_validation(evaluated, trial.task.metric)].epoch if evaluated else None
                reported = [one for one, end in self._ends.items() if end == (len(history), best)]
                prune_checkpoints(self._folder, self._config.keep, also=reported)
            self._saved = time.monotonic()
        if asked > 1:
            raise TrainingStoppedError(
                f"stopped by {signal.Signals(int(asked)).name} after step {self._steps}, with all that was trained in "
                f"{path}; go on with --resume {path}"
            )

    def _ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._stopped_by is not None:
            raise KeyboardInterrupt
        self._stopped_by = signal.Signals(number)


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


def _last(history: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[int, int]:
    """Return how many trials were begun, and the last epoch of the last of them."""
    return len(history), len(history[-1]) if history else 0


def _source(config: TrainConfig, own: Path) -> Path | None:
    """Find the checkpoint that a run goes on from: the last of its own, or the one that is asked for."""
    latest = latest_checkpoint(own) if is_continued(config) else None
    if latest is not None or config.resume in {None, LATEST}:
        return latest
    asked = Path(str(config.resume))
    found = find_checkpoint(asked)
    if found is None and not asked.exists():
        raise CheckpointNotFoundError(f"{asked} does not exist: give a checkpoint's folder, or a run's that has some")
    if found is None:
        raise CheckpointNotFoundError(f"{asked} is neither a checkpoint nor a folder with one; see what is in it")
    return found


def _done(config: TrainConfig, path: Path) -> tuple[int, list[list[Epoch]]]:
    """Read how many steps were trained, and which epochs."""
    try:
        notes: Any = read_manifest(path).notes
        saved, steps = dict(notes["config"]), int(notes["steps"])
        history = [[Epoch.from_dict(epoch) for epoch in trial] for trial in notes["history"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointFormatError):
            raise
        raise CheckpointFormatError(f"{path} is no checkpoint of distgnn train ({error!r})") from error
    compare_options(config, saved, path)
    longest = max((len(trial) for trial in history), default=0)
    if config.epochs < longest or (len(history) > 1 and config.epochs != longest):
        few = "fewer" if config.epochs < longest else "more, and a trial has ended with these"
        raise ConfigError(
            f"{path} is of a run with {longest} epochs a trial, and epochs={config.epochs} are {few}: give {longest}"
        )
    return steps, history


def compare_options(config: TrainConfig, saved: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with other options than a run began with.

    Args:
        config: The options.
        saved: Those that it began with; what is not among them was as it is where nothing is said.
        where: What they were read from.

    Raises:
        CheckpointFormatError: They differ; the text says where.
    """
    own, default = config.as_dict(), TrainConfig().as_dict()
    before = {name: saved.get(name, default[name]) for name in own if name not in _FREE}
    differ = [name for name in before if before[name] != own[name]]
    if differ:
        values = [["left out" if one[name] is None else repr(one[name]) for one in (before, own)] for name in differ]
        said = ", ".join(f"{name} {then}, now {now}" for name, (then, now) in zip(differ, values, strict=True))
        raise CheckpointFormatError(f"{where} is of a run with other options: {said}; give the same, or start anew")
