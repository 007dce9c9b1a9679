"""A whole run: one or many trials, their progress, and what they come to."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, nan
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from distgnn.data.options import load_by_options
from distgnn.distributed.rendezvous.authentication import FILE_VARIABLE
from distgnn.distributed.rendezvous.cluster_file import join_ip_config
from distgnn.distributed.rendezvous.launcher import launched, launched_size
from distgnn.errors import ConfigError, NonFiniteLossError
from distgnn.report.events import check_tensorboard
from distgnn.report.folder import RunFolder
from distgnn.storage.registry import use
from distgnn.train.memory import peak_memory
from distgnn.train.progress import TellingProgress
from distgnn.train.resume import RunCheckpoints, is_continued
from distgnn.train.same_run import check_same_run
from distgnn.train.selection import best as best_place
from distgnn.train.selection import best_validation
from distgnn.train.session import Session
from distgnn.train.source import Source
from distgnn.train.tasks import TASKS
from distgnn.train.threads import choose_threads
from distgnn.train.timeline import Timeline
from distgnn.train.trained import KeptModels
from distgnn.train.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.progress import Progress

    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig
    from distgnn.train.epoch import Epoch
    from distgnn.train.tasks import Task
    from distgnn.train.timeline import Segments

BEST_VALIDATION = "test {measure} at each trial's epoch of best validation {measure} (the first, on ties)"
BEST_MEAN_TEST = (
    "the GIN paper's rule: test {measure} at the one epoch whose mean over the folds is best "
    "(there is no validation set, so the number is optimistic)"
)


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Args:
        rule: How the reported epoch was chosen, in words.
        task: What was learned; the first of its metrics chose the epochs.
        scores: That metric over the test set, of each trial at its epoch.
        epochs: The chosen epoch of each trial, from 1.
        history: Every epoch of each trial.
        classes: Into how many classes the model put the test set at that epoch, None where links are predicted.
        peak_memory_mb: Largest resident memory of each rank's process, in MiB.
        folder: Where the run's files are.
        threads: How many threads rank 0 computed with.
        timeline: With ``report``, what each rank did in the last epoch; see :class:`~distgnn.train.timeline.Timeline`.
    """

    rule: str
    task: Task
    scores: list[float]
    epochs: list[int]
    classes: list[int | None]
    history: list[list[Epoch]]
    peak_memory_mb: list[float]
    folder: Path
    threads: int
    timeline: Sequence[Segments] = ()

    @property
    def measure(self) -> str:
        """What the scores measure."""
        return self.task.metric.name

    @property
    def loss(self) -> str:
        """What the loss is, in words."""
        return self.task.loss_name

    @property
    def metrics(self) -> dict[str, list[float]]:
        """Every metric over the test set, by name, of each trial at its epoch; NaN where it was not measured."""
        chosen = [
            epoch for trial, at in zip(self.history, self.epochs, strict=True) for epoch in trial if epoch.epoch == at
        ]
        found: dict[str, list[float]] = {self.measure: self.scores}
        for metric in self.task.metrics[1:]:
            values = [((epoch.metrics or {}).get("test") or {}).get(metric.name) for epoch in chosen]
            found[metric.name] = [nan if value is None else value for value in values]
        return found

    @property
    def score(self) -> str:
        """The mean score as it is shown, with its standard deviation where there are several trials."""
        metric = self.task.metric
        return metric.format(self.mean) + (f" ± {metric.format(self.std)}" if len(self.scores) > 1 else "")

    @property
    def mean(self) -> float:
        """Mean score over trials."""
        return mean(self.scores)

    @property
    def std(self) -> float:
        """Standard deviation of the score over trials, 0 for one; NaN where a score is."""
        return float(np.std(self.scores))

    @property
    def rows_per_second(self) -> float:
        """Node rows that training went through, a second, over all ranks; the median of the epochs."""
        return median(epoch.rows_per_second for trial in self.history for epoch in trial)


def train(config: TrainConfig, *, console: Console, show: Callable[[dict[str, Any]], object] | None = None) -> Result:
    """Run what ``config`` says, show progress, and write the run's folder.

    Args:
        config: The options.
        console: Where progress and the table of results are shown.
        show: Is given the result as JSON has it, on rank 0 alone.

    Raises:
        ConfigError: The options do not fit the data set, or the folder cannot be written.
        DataError: The data set cannot be loaded.
        BackendError: The backend cannot be opened.
        CheckpointError: The checkpoint to go on from cannot be read, or one cannot be written.
        NonFiniteLossError: A loss, a score or a weight is not finite, and ``keep_going`` is not asked for.
        TrainingStoppedError: The process was asked to end, and has saved.
        RunWriteError: A file of the run cannot be written.
    """
    if config.tensorboard:
        check_tensorboard()
    with _secret(config.secret_file):
        return _train(config, console, show)


@contextmanager
def _secret(file: str | None) -> Iterator[None]:
    """Name the job's secret file to whatever joins ranks, as long as the run lasts."""
    before = os.environ.get(FILE_VARIABLE)
    try:
        if file is not None:
            os.environ[FILE_VARIABLE] = file
        yield
    finally:
        if before is None:
            os.environ.pop(FILE_VARIABLE, None)
        else:
            os.environ[FILE_VARIABLE] = before


def _train(config: TrainConfig, console: Console, show: Callable[[dict[str, Any]], object] | None) -> Result:
    continued = is_continued(config)
    if config.ip_config is not None:
        join_ip_config(config.ip_config, config.rank)
    name = config.backend or os.environ.get("DISTGNN_BACKEND") or _default_backend()
    config = replace(config, backend=name)
    launch = launched()
    if launch is not None and launch.rank > 0:
        console = Console(quiet=True)
    with console.status(f"loading {config.dataset}"):
        loaded = None if config.partition else _load(config)
    config = _with_mode(config, loaded)
    trials = list(_trials(config, loaded))
    with ExitStack() as in_folder:
        with use(name, **config.backend_options) as backend, ExitStack() as at_the_end:
            session = Session(backend, Timeline(on=config.report))
            check_same_run(session, config, loaded)
            progress = TellingProgress(console)
            folder = in_folder.enter_context(RunFolder(config, session, continued=continued))
            checkpoints = RunCheckpoints(config, session, folder, progress)
            with console.status("opening the graph"):
                source = Source(config, loaded, session, progress)
            at_the_end.callback(source.close)
            before = torch.get_num_threads()
            threads = choose_threads(config, source.dataset, before)
            torch.set_num_threads(threads)
            at_the_end.callback(torch.set_num_threads, before)
            del loaded  # a source in parts or in stores needs it no more
            with progress, checkpoints:
                history = _run(config, source, trials, folder, progress, checkpoints)
            memory = session.gather(torch.tensor([peak_memory() / 2**20])).tolist()
        result = _result(config, source.task, history, memory, folder.path, session.timeline.by_rank, threads)
        if session.is_main:
            folder.finish(result, source.dataset, console, show)
            for note in _notes(config, result):
                _say(note)
    return result


def _default_backend() -> str:
    return "memory" if launched_size() == 1 else "pyg"


def _run(
    config: TrainConfig,
    source: Source,
    trials: Sequence[tuple[int, dict[str, Sequence[int]] | None]],
    folder: RunFolder,
    progress: Progress,
    checkpoints: RunCheckpoints,
) -> list[list[Epoch]]:
    history = checkpoints.history
    before = [epoch for trial in history for epoch in trial]
    models = KeptModels(config, source.session, folder, source.dataset)
    metric = source.task.metric
    task = progress.add_task("training", total=len(trials) * config.epochs, completed=len(before))
    for number, (seed, split) in enumerate(trials):
        if number < len(history) - 1:
            continue  # it was trained before
        trial = Trial(config, source, seed, split=split, number=number)
        try:
            if number < len(history):
                checkpoints.load(trial)
            else:
                history.append([])
            checkpoints.begin(trial, before)
            for epoch in trial.train(len(history[-1]), partial(checkpoints.after_step, trial, history)):
                history[-1].append(epoch)
                folder.add(epoch)
                models.after_epoch(trial, history[-1])
                test = "" if epoch.test is None else f"test {metric.format(epoch.test)}  "
                told = f"loss {epoch.loss:.3f}  {test}{epoch.rows_per_second:,.0f} rows/s"
                progress.update(task, advance=1, told=told)
                if not epoch.finite and all(one.finite for one in history[-1][:-1]):
                    text = _not_finite(config.for_task(source.dataset.task), history[-1], folder.path)
                    if not config.keep_going:
                        raise NonFiniteLossError(text)
                    if source.session.is_main:
                        _say(text)
                checkpoints.after_epoch(trial, history)
        finally:
            trial.close()
    folder.open(before)
    return history


def _not_finite(config: TrainConfig, trial: Sequence[Epoch], folder: Path) -> str:
    last = trial[-1]
    scores = [score for score in (last.train, last.val, last.test) if score is not None]
    if not isfinite(last.loss):
        what = f"the loss is {last.loss}"
    else:
        what = f"{'a weight' if all(map(isfinite, scores)) else 'a score'} is not finite"
    before = f", after {trial[-2].loss:.4g} in the epoch before" if len(trial) > 1 else ""
    goes_on = "training goes on, as keep_going asks" if config.keep_going else "keep_going trains on regardless"
    return (
        f"{what} in epoch {last.epoch}{before}: choose a smaller lr than {config.lr:g}, or norm='batch_norm', and look "
        f"for features that are out of scale; all epochs so far are in {folder / 'metrics.jsonl'}; {goes_on}"
    )


def _notes(config: TrainConfig, result: Result) -> Iterator[str]:
    """Yield what a reader of the result should know."""
    alike = [score for score, classes in zip(result.scores, result.classes, strict=True) if classes == 1 and score < 1]
    if alike:
        where = "" if len(result.scores) == 1 else f" in {len(alike)} of {len(result.scores)} trials"
        config = config.for_task(result.task.name)
        others = "norm='batch_norm', " if config.norm == "none" else ""
        yield (
            f"all {result.task.targets} of the test set were put into one class{where}, so the accuracy is the share "
            f"of that class; try {others}another lr than {config.lr:g}, or more epochs"
        )


def _say(text: str) -> None:
    """Print a line beside the result, which may be read by a program."""
    print(f"note: {text}", file=sys.stderr)  # noqa: T201


def _load(config: TrainConfig) -> LoadedDataset:
    own = {
        "edges": config.edges,
        "features": config.features,
        "labels": config.labels,
        "label_column": config.label_column,
        "num_nodes": config.num_nodes,
        "num_edges": config.num_edges,
    }
    regression = config.task is not None and TASKS[config.task].labels == "numbers"
    dataset = load_by_options(config.dataset, root=config.root, seed=config.seed, regression=regression, **own)
    task = TASKS[dataset.task]
    if config.folds and not task.on_graphs:
        raise ConfigError(f"folds cross-validate graphs, and {dataset.name!r} is one graph: use runs instead")
    if config.folds and config.folds > min(np.bincount(_labels(dataset))):
        raise ConfigError(f"{config.folds} folds are more than the rarest class of {dataset.name!r} has graphs")
    labels = dataset.graphs[0].y
    possible = [one.name for one in TASKS.values() if one.on_graphs == task.on_graphs and one.fits(labels)]
    if config.task is not None and config.task not in possible:
        known = " or ".join(map(repr, possible))
        why = ""
        if labels is not None and TASKS[config.task].on_graphs == task.on_graphs:
            why = f", whose labels are {'numbers' if labels.is_floating_point() else 'classes'},"
        raise ConfigError(f"data set {dataset.name!r}{why} is for task {known}, not {config.task!r}")
    return replace(dataset, task=config.task or dataset.task)


def _with_mode(config: TrainConfig, dataset: LoadedDataset | None) -> TrainConfig:
    """Choose the mode, where none is given, by the data set and the other options."""
    on_graphs = dataset is not None and TASKS[dataset.task].on_graphs
    if dataset is not None and on_graphs and config.mode is not None:
        raise ConfigError(
            f"mode {config.mode!r} trains on one graph, and {dataset.name!r} has {len(dataset.graphs):,} small graphs: "
            "leave it out"
        )
    if config.mode is not None or dataset is None:
        return config
    if not on_graphs and (config.batch_size is not None or config.num_neighbors is not None):
        return replace(config, mode="sampled")
    given = [name for name in ("num_neighbors", "rescale", "steps_per_epoch") if getattr(config, name)]
    if given:
        raise ConfigError(f"{', '.join(given)} only go with mode='sampled': add it, for a data set of one graph")
    return config


def _labels(dataset: LoadedDataset) -> Sequence[int]:
    return [int(graph.y) for graph in dataset.graphs]


def _trials(
    config: TrainConfig, dataset: LoadedDataset | None
) -> Iterator[tuple[int, dict[str, Sequence[int]] | None]]:
    """Yield the seed and the split of each trial."""
    if dataset is None or not TASKS[dataset.task].on_graphs:
        for run in range(config.runs):
            yield config.seed + run, None
        return
    labels = _labels(dataset)
    if config.folds:
        from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415  # it takes as long as torch to import

        folds = StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)
        for train_positions, test_positions in folds.split(np.zeros(len(labels)), labels):
            yield config.seed, {"train": train_positions.tolist(), "test": test_positions.tolist()}
        return
    for seed in range(config.seed, config.seed + config.runs):
        rest, test = _split(range(len(labels)), labels, len(labels) // 10, seed)
        training, val = _split(rest, [labels[position] for position in rest], len(labels) // 10, seed)
        yield seed, {"train": training, "val": val, "test": test}


def _split(positions: Sequence[int], labels: Sequence[int], held_out: int, seed: int) -> tuple[list[int], list[int]]:
    from sklearn.model_selection import train_test_split  # noqa: PLC0415  # as above

    if not held_out:
        raise ConfigError(f"{len(positions)} graphs are too few: of ten, one validates and one tests")
    try:
        kept, out = train_test_split(list(positions), test_size=held_out, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ConfigError(f"{len(positions)} graphs are too few to split by class: {error}") from error
    return kept, out


def _result(
    config: TrainConfig,
    task: Task,
    history: list[list[Epoch]],
    peak_memory_mb: list[float],
    folder: Path,
    timeline: Sequence[Segments],
    threads: int,
) -> Result:
    evaluated = [[epoch for epoch in trial if epoch.test is not None] for trial in history]
    tests = np.array([[epoch.test for epoch in trial] for trial in evaluated], dtype=np.float64)
    if config.folds:
        best = [best_place(tests.mean(axis=0), task.metric)] * len(history)
        rule = BEST_MEAN_TEST
    else:
        best = [best_validation(trial, task.metric) for trial in evaluated]
        rule = BEST_VALIDATION
    return Result(
        rule=rule.format(measure=task.metric.name),
        task=task,
        scores=[float(scores[place]) for scores, place in zip(tests, best, strict=True)],
        epochs=[trial[place].epoch for trial, place in zip(evaluated, best, strict=True)],
        classes=[trial[place].classes for trial, place in zip(evaluated, best, strict=True)],
        history=history,
        peak_memory_mb=peak_memory_mb,
        folder=folder,
        timeline=timeline,
        threads=threads,
    )
