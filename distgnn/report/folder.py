"""What a run leaves behind: its options, its metrics line by line, the learning curve, and a table."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from distgnn.checkpoint import latest_checkpoint
from distgnn.checkpoint.together import together
from distgnn.errors import ConfigError, DistGNNError, RunWriteError
from distgnn.report import figures as pictures
from distgnn.report.events import open_events, write_events
from distgnn.report.files import Lines, replace_file
from distgnn.report.lock import LOCK, FolderLock, check_unlocked
from distgnn.report.page import make_page
from distgnn.train.config_file import write_config
from distgnn.train.epoch import finite_or_none
from distgnn.train.resume import compare_options
from distgnn.train.tasks import TASKS
from distgnn.train.trained import find_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from rich.console import Console
    from torch.utils.tensorboard import SummaryWriter
    from typing_extensions import Self

    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig
    from distgnn.train.epoch import Epoch
    from distgnn.train.run import Result
    from distgnn.train.session import Session
    from distgnn.train.tasks import Metric


class RunFolder:
    """The folder ``out/name`` of a run: ``config.json``, ``metrics.jsonl``, ``result.json`` and ``curve.png``.

    With the options for them, ``report.html`` and TensorBoard's events too. Rank 0 writes it.

    A context manager. Nothing is there before :meth:`open`, and in a folder of before nothing changes until a first
    epoch is added: whatever is refused has changed nothing. A run that ends before its first epoch, and without a
    checkpoint, leaves no folder. While a run is in its folder, no other process gets in.

    Args:
        config: The run's options.
        session: The ranks; each makes one, together.
        continued: Whether the folder may be there already, with what the run did before.

    Attributes:
        path: Where it is.

    Raises:
        ConfigError: The folder cannot be made or written, holds another run, or another process is in it.
    """

    def __init__(self, config: TrainConfig, session: Session, *, continued: bool = False) -> None:
        self._metrics: Lines | None = None
        self._events: SummaryWriter | None = None
        self._lock: FolderLock | None = None
        self._config, self._session, self._continued = config, session, continued
        self._made: list[Path] = []
        self._is_empty = False
        self._before: list[Epoch] = []
        self._is_open = False
        data = Path(config.partition).name if config.partition else config.dataset
        self._made_up = f"{data}-{config.model}-{config.backend}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = Path(config.out) / (config.name or self._made_up)
        self._on_main(self._claim)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()
        if self._metrics is not None:
            self._metrics.close()
            if kind is KeyboardInterrupt:
                sys.stderr.write(f"{self.path} keeps what was measured so far\n")
        if self._lock is not None:
            self._lock.release()
        if self._is_empty and latest_checkpoint(self.path / "checkpoints") is None:
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # others have begun to use it
                for folder in self._made[1:]:
                    folder.rmdir()

    def open(self, before: Iterable[Epoch] = (), *, shared: bool = False) -> None:
        """Make the folder, when all that could be refused was not; collective, and once.

        Args:
            before: The epochs that were trained already.
            shared: Whether all ranks need to see it.

        Raises:
            ConfigError: It cannot be made, or not all ranks see it.
        """
        if self._is_open:
            return
        self._is_open = True
        self._before = list(before)
        self._on_main(self._make)
        self.path = Path(self._session.texts(str(self.path))[0])
        if shared and not self.is_shared():
            raise ConfigError(
                f"rank 0 writes the run's folder {self.path}, and not every rank sees it there: checkpoints need a "
                "file system that all ranks share; choose such an --out, or leave out checkpoint_every"
            )

    def is_shared(self) -> bool:
        """Tell whether every rank sees the open folder; collective."""
        if self._session.world_size == 1:
            return True
        said = self._session.texts(self._lock.text if self._lock is not None else "")[0]
        try:
            found = (self.path / LOCK).read_text() if not self._session.is_main else said
        except OSError:
            found = ""
        return not self._session.max(float(found != said))

    def add(self, epoch: Epoch) -> None:
        """Write one line of metrics, after those of the epochs before.

        Raises:
            RunWriteError: It cannot be written; the lines before are whole.
        """
        if not self._session.is_main:
            return
        new = [epoch]
        if self._metrics is None:
            if not self._made:
                self._describe()
            lines = [json.dumps(one.as_dict(), allow_nan=False) for one in (*self._before, epoch)]
            self._metrics = Lines(self.path / "metrics.jsonl", lines)
            new = [*self._before, epoch] if self._made else new
        else:
            self._metrics.add(json.dumps(epoch.as_dict(), allow_nan=False))
        self._is_empty = False
        if self._events is not None:
            for one in new:
                write_events(self._events, one)

    def finish(
        self,
        result: Result,
        dataset: LoadedDataset,
        console: Console,
        show: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        """Write the result, the curve and the report, and show the result and the table; by rank 0.

        Args:
            result: The result.
            dataset: What was trained on.
            console: Where the table is shown.
            show: Is given what ``result.json`` has, and the ``folder``.

        Raises:
            RunWriteError: A file cannot be written; what was reached is shown all the same.
        """
        models = [find_model(self.path, trial) for trial in range(len(result.scores))]
        summary = {
            "dataset": dataset.name,
            "task": dataset.task,
            "selection": result.rule,
            **_means(result),
            "test_scores": [finite_or_none(score) for score in result.scores],
            "epochs": result.epochs,
            "test_classes": result.classes,
            "rows_per_second": result.rows_per_second,
            "peak_memory_mb": result.peak_memory_mb,
            "threads": result.threads,
            "models": [str(one.relative_to(self.path)) if one else None for one in models],
        }
        title = f"{dataset.name}: {self._config.model.upper()} on backend {self._config.backend}"
        facts = self._facts(result, dataset)
        files: dict[str, Callable[[], str | bytes]] = {
            "result.json": lambda: json.dumps(summary, indent=2, allow_nan=False) + "\n",
            "curve.png": lambda: pictures.draw_curve(result, title),
        }
        if self._config.report:
            files["report.html"] = lambda: make_page(result, title, facts, self._config)
        if self._metrics is None and not (self.path / "metrics.jsonl").exists():
            lines = [json.dumps(epoch.as_dict(), allow_nan=False) + "\n" for epoch in self._before]
            files = {"metrics.jsonl": lambda: "".join(lines), **files}
        self._is_empty = False
        failures = [error for name, content in files.items() if (error := self._failure(name, content))]
        table = Table(title=title, show_header=False)
        for name, text in facts.items():
            table.add_row(name, text)
        if all(models):
            kept = f"{models[0]}" if len(models) == 1 else f"{self.path / 'model'}, one of each trial"
            table.add_row("model", f"{kept}, of the last epoch" if self._config.folds else kept)
        for name in ("report.html", "curve.png", "metrics.jsonl"):
            if (self.path / name).exists():
                table.add_row(name.partition(".")[0], str(self.path / name))
        console.print(table)
        if show is not None:
            show(summary | {"folder": str(self.path)})
        for failure in failures[:1]:
            raise failure

    def _failure(self, name: str, content: Callable[[], str | bytes]) -> RunWriteError | None:
        """Write a file; return why it could not be."""
        try:
            replace_file(self.path / name, content())
        except RunWriteError as error:
            return error
        return None

    def _on_main(self, work: Callable[[], object]) -> None:
        """Let rank 0 do something that it may refuse, for all."""

        def main() -> Iterator[int]:
            if self._session.is_main:
                try:
                    work()
                except OSError as error:
                    if isinstance(error, DistGNNError):
                        raise
                    raise ConfigError(
                        f"the run's folder {self.path} cannot be written: {error}; choose another --out"
                    ) from error
            yield 0

        together(self._session, main(), f"opening of the run's folder {self.path}", lambda _bytes: None)

    def _claim(self) -> None:
        """Refuse a folder that cannot be this run's."""
        if self._config.name is None or not (self.path.exists() or self.path.is_symlink()):
            return
        if not self._continued:
            check_unlocked(self.path)
            raise ConfigError(f"{self.path} is there already; choose another --name, or remove it")
        self._lock = FolderLock(self.path)
        try:
            self._compare()
        except BaseException:
            self._lock.release()
            raise

    def _compare(self) -> None:
        """Refuse to go on in a folder of another run."""
        if latest_checkpoint(self.path / "checkpoints") is not None:
            return  # which says what the options were
        if (self.path / "result.json").exists():
            raise ConfigError(
                f"{self.path} is a run that has ended, without a checkpoint to go on from: choose another --name, or "
                "remove it"
            )
        options = _read(self.path / "config.json")
        if options:
            compare_options(self._config, options, self.path)
        elif not (self.path / "config.json").exists() and {one.name for one in self.path.iterdir()} - {LOCK}:
            raise ConfigError(f"{self.path} is there, and no run's folder; choose another --name")

    def _make(self) -> None:
        if self._lock is not None:
            return
        for number in itertools.count(2):
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            try:
                self.path.mkdir(parents=True)
                break
            except FileExistsError:
                if self._config.name is not None:
                    check_unlocked(self.path)
                    raise ConfigError(f"{self.path} is there already; choose another --name, or remove it") from None
            self.path = self.path.with_name(f"{self._made_up}-{number}")
        self._made, self._is_empty = missing, True
        self._lock = FolderLock(self.path)
        self._describe()

    def _describe(self) -> None:
        replace_file(self.path / "config.json", json.dumps(self._config.as_dict(), indent=2) + "\n")
        replace_file(self.path / "config.yaml", write_config(self._config))
        if self._config.tensorboard:
            self._events = open_events(self.path)

    def _facts(self, result: Result, dataset: LoadedDataset) -> dict[str, str]:
        config = self._config
        trials = len(result.scores)
        kind = f"{config.folds} folds" if config.folds else f"{trials} run{'s' if trials > 1 else ''}"
        seconds = sum(epoch.seconds for trial in result.history for epoch in trial)
        facts = {
            "data": _describe(dataset),
            "trained": f"{kind} of {config.epochs} epoch{'s' if config.epochs > 1 else ''}, {seconds:.1f} s",
            **{f"test {metric.name}": _spread(metric, result.metrics[metric.name]) for metric in result.task.metrics},
            "chosen by": result.rule,
            "speed": f"{result.rows_per_second:,.0f} rows/s in training, {_threads(result)}",
        }
        if result.history[-1][-1].staleness is not None:
            facts["histories"] = _ages([epoch.staleness or {} for trial in result.history for epoch in trial])
        return facts | {"peak memory": _memory(result.peak_memory_mb)}


def _read(path: Path) -> dict[str, Any]:
    """Read the options of a run that was here before; none where it has left none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _means(result: Result) -> dict[str, float | None]:
    """Return mean and standard deviation over trials of every metric, the one that chose the epoch first."""
    found: dict[str, float | None] = {}
    for metric in result.task.metrics:
        values, name = result.metrics[metric.name], metric.key.replace("-", "_")
        found |= {
            f"test_{name}_mean": finite_or_none(mean(values)),
            f"test_{name}_std": finite_or_none(float(np.std(values))),
        }
    return found


def _spread(metric: Metric, values: list[float]) -> str:
    spread = f" ± {metric.format(float(np.std(values)), 2)}" if len(values) > 1 else ""
    return metric.format(mean(values), 2) + spread


def _threads(result: Result) -> str:
    each = " a rank" if len(result.peak_memory_mb) > 1 else ""
    return f"{result.threads} thread{'s' if result.threads > 1 else ''}{each}"


def _ages(counts: list[dict[str, float]]) -> str:
    rows, never = (sum(count[name] for count in counts) for name in ("rows", "never"))
    oldest = max(count["oldest"] for count in counts)
    return f"{rows:,} rows read, at most {oldest} steps old, {never:,} of them never written before"


def _memory(by_rank: list[float]) -> str:
    largest = f"{max(by_rank):,.0f} MiB"
    return largest if len(by_rank) == 1 else f"{largest} on the largest of {len(by_rank)} ranks, without servers"


def _describe(dataset: LoadedDataset) -> str:
    task = TASKS[dataset.task]
    graphs = f"{len(dataset.graphs):,} graphs, " if task.on_graphs else ""
    goal = task.goal(dataset.num_classes)
    return f"{graphs}{dataset.num_nodes:,} nodes, {dataset.num_edges:,} edges, {goal}"
