"""What a run leaves behind: its options, its metrics line by line, the learning curve, and a table."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console
    from typing_extensions import Self

    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig
    from distgnn.train.run import Result
    from distgnn.train.trial import Epoch

_MARKED = 30  # a curve of fewer points shows them


class RunFolder:
    """The folder ``out/name`` of a run: ``config.json``, ``metrics.jsonl``, ``result.json`` and ``curve.png``.

    A context manager: ``metrics.jsonl`` is open within, and every line reaches the file at once. A run that ends before
    its first epoch leaves no folder.

    Args:
        config: The run's options.
        written: Whether this process writes it; of several ranks, one does.
        continued: Whether the folder may be there already, with what the run did before.

    Raises:
        ConfigError: The folder cannot be made or written, or holds another run.
    """

    def __init__(self, config: TrainConfig, *, written: bool = True, continued: bool = False) -> None:
        self._metrics: TextIO | None = None
        self._is_new = not continued
        self._config = config
        data = Path(config.partition).name if config.partition else config.dataset
        made_up = f"{data}-{config.model}-{config.backend}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = Path(config.out) / (config.name or made_up)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._metrics is not None:
            self._metrics.close()
            if self._is_new:
                shutil.rmtree(self.path)

    def add(self, epoch: Epoch) -> None:
        """Write one line of metrics."""
        self._is_new = False
        if self._metrics is not None:
            self._metrics.write(json.dumps(epoch.as_dict()) + "\n")

    def finish(self, result: Result, dataset: LoadedDataset, console: Console) -> None:
        """Write the result and the curve, and print the table."""
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
        draw_curve(result, f"{dataset.name}, {self._config.model.upper()}, {self._config.backend}", self.path)
        console.print(self._table(result, dataset))

    def _table(self, result: Result, dataset: LoadedDataset) -> Table:
        config = self._config
        trials = len(result.scores)
        kind = f"{config.folds} folds" if config.folds else f"{trials} run{'s' if trials > 1 else ''}"
        score = f"{result.mean:.2%}" + (f" ± {result.std:.2%}" if trials > 1 else "")
        seconds = sum(epoch.seconds for trial in result.history for epoch in trial)
        table = Table(title=f"{dataset.name}: {config.model.upper()} on backend {config.backend}", show_header=False)
        table.add_row("data", _describe(dataset))
        table.add_row("trained", f"{kind} of {config.epochs} epochs, {seconds:.1f} s")
        table.add_row(f"test {result.measure}", f"[bold]{score}[/bold]")
        table.add_row("chosen by", result.rule)
        table.add_row("speed", f"{result.rows_per_second:,.0f} rows/s in training")
        if result.history[-1][-1].staleness is not None:
            table.add_row("histories", _ages([epoch.staleness or {} for trial in result.history for epoch in trial]))
        table.add_row("peak memory", _memory(result.peak_memory_mb))
        table.add_row("curve", str(self.path / "curve.png"))
        table.add_row("metrics", str(self.path / "metrics.jsonl"))
        return table


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


def draw_curve(result: Result, title: str, folder: Path) -> None:
    """Draw ``curve.png``: loss and scores by epoch, mean and standard deviation over trials.

    Epochs that were not evaluated have no point; few ones that were are marked.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("loss",)), (right, ("train", "val", "test"))):
        for name in names:
            trials = [[epoch for epoch in trial if getattr(epoch, name) is not None] for trial in result.history]
            if not trials[0]:
                continue
            epochs = [epoch.epoch for epoch in trials[0]]
            values = [[getattr(epoch, name) for epoch in trial] for trial in trials]
            mean, std = np.mean(values, axis=0), np.std(values, axis=0)
            (line,) = axes.plot(epochs, mean, label=name, marker="." if len(epochs) < _MARKED else "")
            if len(values) > 1:
                axes.fill_between(epochs, mean - std, mean + std, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    left.set_ylabel(f"training loss ({result.loss})")
    left.set_ylim(bottom=0)
    right.set_ylabel(result.measure)
    right.set_ylim(0, 1.02)
    if len(set(result.epochs)) == 1:
        right.axvline(result.epochs[0], color="gray", linestyle=":", label="chosen epoch")
    right.legend(loc="lower right")
    spread = f" ± {result.std:.1%}" if len(result.history) > 1 else ""
    figure.suptitle(f"{title}: test {result.measure} {result.mean:.1%}{spread}")
    figure.savefig(folder / "curve.png", dpi=150)
