"""What a run leaves behind: its options, its metrics line by line, the learning curve, and a table."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.table import Table

from distgnn.errors import ConfigError
from distgnn.train import pictures
from distgnn.train.checkpoint import latest_checkpoint
from distgnn.train.events import check_tensorboard, open_events, write_events
from distgnn.train.page import make_page

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from torch.utils.tensorboard import SummaryWriter
    from typing_extensions import Self

    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig
    from distgnn.train.epoch import Epoch
    from distgnn.train.run import Result


class RunFolder:
    """The folder ``out/name`` of a run: ``config.json``, ``metrics.jsonl``, ``result.json`` and ``curve.png``.

    With the options for them, ``report.html`` and TensorBoard's events too.

    A context manager: ``metrics.jsonl`` is open within, and every line reaches the file at once. A run that ends before
    its first epoch, and without a checkpoint, leaves no folder.

    Args:
        config: The run's options.
        written: Whether this process writes it; of several ranks, one does.
        continued: Whether the folder may be there already, with what the run did before.

    Raises:
        ConfigError: The folder cannot be made or written, or holds another run; or TensorBoard is not installed.
    """

    def __init__(self, config: TrainConfig, *, written: bool = True, continued: bool = False) -> None:
        self._metrics: TextIO | None = None
        self._events: SummaryWriter | None = None
        self._is_new = not continued
        self._config = config
        data = Path(config.partition).name if config.partition else config.dataset
        made_up = f"{data}-{config.model}-{config.backend}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = Path(config.out) / (config.name or made_up)
        if config.tensorboard:
            check_tensorboard()
        if not written:
            return
        for number in itertools.count(2):
            if config.name or not self.path.exists():
                break
            self.path = self.path.with_name(f"{made_up}-{number}")
        try:
            self.path.mkdir(parents=True, exist_ok=continued)
            (self.path / "config.json").write_text(json.dumps(config.as_dict(), indent=2) + "\n")
            self._metrics = (self.path / "metrics.jsonl").open("w", buffering=1)
        except FileExistsError:
            raise ConfigError(f"{self.path} is there already; choose another --name, or remove it") from None
        except OSError as error:
            raise ConfigError(
                f"the run's folder {self.path} cannot be written: {error}; choose another --out"
            ) from error
        if config.tensorboard:
            self._events = open_events(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events.close()
        if self._metrics is not None:
            self._metrics.close()
            if self._is_new and latest_checkpoint(self.path / "checkpoints") is None:
                shutil.rmtree(self.path)

    def add(self, epoch: Epoch) -> None:
        """Write one line of metrics."""
        self._is_new = False
        if self._metrics is not None:
            self._metrics.write(json.dumps(epoch.as_dict()) + "\n")
        if self._events is not None:
            write_events(self._events, epoch)

    def finish(self, result: Result, dataset: LoadedDataset, console: Console) -> None:
        """Write the result, the curve and the report, and print the table."""
        test = f"test_{result.measure.lower()}"
        summary = {
            "dataset": dataset.name,
            "task": dataset.task,
            "selection": result.rule,
            f"{test}_mean": result.mean,
            f"{test}_std": result.std,
            "test_scores": result.scores,
            "epochs": result.epochs,
            "rows_per_second": result.rows_per_second,
            "peak_memory_mb": result.peak_memory_mb,
        }
        (self.path / "result.json").write_text(json.dumps(summary, indent=2) + "\n")
        title = f"{dataset.name}: {self._config.model.upper()} on backend {self._config.backend}"
        facts = self._facts(result, dataset)
        pictures.draw_curve(result, title, self.path / "curve.png")
        if self._config.report:
            (self.path / "report.html").write_text(make_page(result, title, facts, self._config), encoding="utf-8")
            facts["report"] = str(self.path / "report.html")
        table = Table(title=title, show_header=False)
        facts |= {"curve": str(self.path / "curve.png"), "metrics": str(self.path / "metrics.jsonl")}
        for name, text in facts.items():
            table.add_row(name, text)
        console.print(table)

    def _facts(self, result: Result, dataset: LoadedDataset) -> dict[str, str]:
        config = self._config
        trials = len(result.scores)
        kind = f"{config.folds} folds" if config.folds else f"{trials} run{'s' if trials > 1 else ''}"
        score = f"{result.mean:.2%}" + (f" ± {result.std:.2%}" if trials > 1 else "")
        seconds = sum(epoch.seconds for trial in result.history for epoch in trial)
        facts = {
            "data": _describe(dataset),
            "trained": f"{kind} of {config.epochs} epochs, {seconds:.1f} s",
            f"test {result.measure}": score,
            "chosen by": result.rule,
            "speed": f"{result.rows_per_second:,.0f} rows/s in training",
        }
        if result.history[-1][-1].staleness is not None:
            facts["histories"] = _ages([epoch.staleness or {} for trial in result.history for epoch in trial])
        return facts | {"peak memory": _memory(result.peak_memory_mb)}


def _ages(counts: list[dict[str, float]]) -> str:
    rows, never = (sum(count[name] for count in counts) for name in ("rows", "never"))
    oldest = max(count["oldest"] for count in counts)
    return f"{rows:,} rows read, at most {oldest} steps old, {never:,} of them never written before"


def _memory(by_rank: list[float]) -> str:
    largest = f"{max(by_rank):,.0f} MiB"
    return largest if len(by_rank) == 1 else f"{largest} on the largest of {len(by_rank)} ranks, without servers"


def _describe(dataset: LoadedDataset) -> str:
    graphs = f"{len(dataset.graphs):,} graphs, " if dataset.task == "graph" else ""
    goal = "links" if dataset.task == "link" else f"{dataset.num_classes} classes"
    return f"{graphs}{dataset.num_nodes:,} nodes, {dataset.num_edges:,} edges, {goal}"
