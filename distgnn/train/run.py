"""A whole run: one or many trials, their progress, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, pstdev
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.model_selection import StratifiedKFold, train_test_split

from distgnn.data.options import load_by_options
from distgnn.errors import ConfigError
from distgnn.registry import use
from distgnn.train.part import own_part
from distgnn.train.report import RunFolder
from distgnn.train.session import Session, join_ip_config
from distgnn.train.trial import Epoch, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig

BEST_VALIDATION = "test accuracy at each trial's epoch of best validation accuracy (the first, on ties)"
BEST_MEAN_TEST = (
    "the GIN paper's rule: test accuracy at the one epoch whose mean over the folds is best "
    "(there is no validation set, so the number is optimistic)"
)


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        rule: How the reported epoch was chosen, in words.
        accuracies: Test accuracy of each trial at that epoch, in [0, 1].
        epochs: The chosen epoch of each trial, from 1.
        history: Every epoch of each trial.
        folder: Where the run's files are.
    """

    rule: str
    accuracies: list[float]
    epochs: list[int]
    history: list[list[Epoch]]
    folder: Path

    @property
    def mean(self) -> float:
        """Mean test accuracy over trials."""
        return mean(self.accuracies)

    @property
    def std(self) -> float:
        """Standard deviation of test accuracy over trials, 0 for one."""
        return pstdev(self.accuracies)


def train(config: TrainConfig, *, console: Console) -> Result:
    """Run what ``config`` says, show progress, and write the run's folder.

    Args:
        config: The options.
        console: Where progress and the table of results are shown.

    Raises:
        ConfigError: The options do not fit the data set, or the folder cannot be written.
        DataError: The data set cannot be loaded.
        BackendError: The backend cannot be opened.
    """
    if config.ip_config is not None:
        join_ip_config(config.ip_config, config.rank)
    dataset = None if config.partition else _load(config)
    trials = list(_trials(config, dataset))
    with use(config.backend) as backend:
        session = Session(backend)
        if not session.is_main:
            console = Console(quiet=True)
        if dataset is None or config.mode == "full":
            dataset = own_part(config, dataset, session, backend)
        with RunFolder(config, written=session.is_main) as folder, _progress(console) as progress:
            history = _run(config, dataset, session, trials, folder, progress)
    result = _result(config, history, folder.path)
    if session.is_main:
        folder.finish(result, dataset, console)
    return result


def _run(
    config: TrainConfig,
    dataset: LoadedDataset,
    session: Session,
    trials: Sequence[tuple[int, dict[str, Sequence[int]] | None]],
    folder: RunFolder,
    progress: Progress,
) -> list[list[Epoch]]:
    task = progress.add_task("training", total=len(trials) * config.epochs, loss="", accuracy="", rate="")
    history: list[list[Epoch]] = []
    for number, (seed, split) in enumerate(trials):
        trial = Trial(config, dataset, session, seed, split=split, number=number)
        try:
            history.append([])
            for epoch in trial:
                history[-1].append(epoch)
                folder.add(epoch)
                progress.update(
                    task,
                    advance=1,
                    loss=f"loss {epoch.loss:.3f}",
                    accuracy=f"test {epoch.test:.1%}",
                    rate=f"{epoch.rows_per_second:,.0f} rows/s",
                )
        finally:
            trial.close()
    return history


def _load(config: TrainConfig) -> LoadedDataset:
    own = {
        "edges": config.edges,
        "features": config.features,
        "labels": config.labels,
        "label_column": config.label_column,
        "num_nodes": config.num_nodes,
        "num_edges": config.num_edges,
    }
    dataset = load_by_options(config.dataset, root=config.root, seed=config.seed, **own)
    if config.mode == "full" and dataset.task == "graph":
        raise ConfigError(
            f"mode 'full' trains on one graph whose nodes have labels, and {dataset.name!r} has "
            f"{len(dataset.graphs):,} small graphs: leave it out"
        )
    if config.folds and dataset.task != "graph":
        raise ConfigError(f"folds cross-validate graphs, and {dataset.name!r} is one graph: use runs instead")
    if config.folds and config.folds > min(np.bincount(_labels(dataset))):
        raise ConfigError(f"{config.folds} folds are more than the rarest class of {dataset.name!r} has graphs")
    return dataset


def _labels(dataset: LoadedDataset) -> Sequence[int]:
    return [int(graph.y) for graph in dataset.graphs]


def _trials(
    config: TrainConfig, dataset: LoadedDataset | None
) -> Iterator[tuple[int, dict[str, Sequence[int]] | None]]:
    """Yield the seed and the split of each trial."""
    if dataset is None or dataset.task == "node":
        for run in range(config.runs):
            yield config.seed + run, None
        return
    labels = _labels(dataset)
    if config.folds:
        folds = StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)
        for train_positions, test_positions in folds.split(np.zeros(len(labels)), labels):
            yield config.seed, {"train": train_positions.tolist(), "test": test_positions.tolist()}
        return
    for seed in range(config.seed, config.seed + config.runs):
        rest, test = _split(range(len(labels)), labels, len(labels) // 10, seed)
        training, val = _split(rest, [labels[position] for position in rest], len(labels) // 10, seed)
        yield seed, {"train": training, "val": val, "test": test}


def _split(positions: Sequence[int], labels: Sequence[int], held_out: int, seed: int) -> tuple[list[int], list[int]]:
    try:
        kept, out = train_test_split(list(positions), test_size=held_out, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ConfigError(f"{len(positions)} graphs are too few to split by class: {error}") from error
    return kept, out


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(f"{{task.fields[{field}]}}") for field in ("loss", "accuracy", "rate")),
        TimeRemainingColumn(),
        console=console,
    )


def _result(config: TrainConfig, history: list[list[Epoch]], folder: Path) -> Result:
    if config.folds:
        mean_test = np.array([[epoch.test for epoch in trial] for trial in history]).mean(axis=0)
        chosen = [int(mean_test.argmax())] * len(history)
        rule = BEST_MEAN_TEST
    else:
        chosen = [int(np.argmax([epoch.val or 0.0 for epoch in trial])) for trial in history]
        rule = BEST_VALIDATION
    return Result(
        rule=rule,
        accuracies=[trial[epoch].test for trial, epoch in zip(history, chosen, strict=True)],
        epochs=[epoch + 1 for epoch in chosen],
        history=history,
        folder=folder,
    )
