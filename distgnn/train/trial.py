"""One trial: a model trained on one split of a data set, epoch by epoch."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from distgnn.optim import SparseAdagrad, SparseAdam, SparseRowWiseAdagrad, SparseSGD
from distgnn.protocols import SupportsTraffic
from distgnn.train.models import make_model
from distgnn.train.steps import outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from distgnn.optim import SparseOptimizer
    from distgnn.train.checkpoint import Stateful
    from distgnn.train.config import TrainConfig
    from distgnn.train.source import Source
    from distgnn.train.steps import Steps
    from distgnn.train.tasks import Measure

_SPARSE: dict[str, Callable[..., SparseOptimizer]] = {
    "sgd": SparseSGD,
    "adagrad": SparseAdagrad,
    "rowwise-adagrad": SparseRowWiseAdagrad,
    "adam": SparseAdam,
}


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; a line of ``metrics.jsonl``.

    Args:
        trial: Number of the trial, from 0.
        epoch: Number of the epoch, from 1.
        loss: Mean training loss (nats).
        train: The task's measure over the training set during the epoch, in [0, 1].
        val: The same over the validation set after it; None where there is none, or nothing was evaluated.
        test: The same over the test set; None where nothing was evaluated.
        staleness: With histories, what was counted of the ages of the rows that batches read: how many ``rows``, how
            many of them ``never`` written, and the ``mean`` and ``oldest`` age of the others, in steps.
        rows_per_second: Node rows that training went through, a second.
        seconds: Length of the epoch, evaluation included.
        bytes_a_step: What the ranks sent each other for a step of training, as the backend counts it; None where it
            does not.
        spent: With ``report``, what each rank spent its seconds on, by :data:`distgnn.train.timeline.KINDS`.
    """

    trial: int
    epoch: int
    loss: float
    train: float
    val: float | None
    test: float | None
    staleness: dict[str, float] | None
    rows_per_second: float
    seconds: float
    bytes_a_step: float | None = None
    spent: dict[str, list[float]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


class Trial:
    """A model, its optimizers and its split.

    Args:
        config: The run's options.
        source: What it trains on.
        seed: Seed of this trial.
        split: On a graph data set, positions of the graphs of ``"train"``, ``"test"`` and perhaps ``"val"``. What is
            one graph has its split in itself.
        number: Number of the trial in the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        seed: int,
        *,
        split: Mapping[str, Sequence[int]] | None = None,
        number: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.number = number
        self._config, self._session = config, source.session
        self._at_the_end = ExitStack()
        self._task = source.task
        self.model = make_model(config, source.dataset, source.session.backend)
        self._at_the_end.callback(self.model.close)
        self._steps: Steps = source.steps(seed, split, self._at_the_end)
        graphs, nodes = source.dataset.task == "graph", source.dataset.task == "node"
        # Where ranks have different rows they normalize over all of them.
        self._wrapped = self._session.wrap(self.model, sync_batch_norm=graphs or config.mode is not None)
        weight_decay = config.weight_decay if config.weight_decay is not None else 5e-4 if nodes else 0.0
        self._dense = torch.optim.Adam(self.model.parameters(), lr=config.lr, weight_decay=weight_decay)
        # The paper halves the rate every 50 epochs; one graph, often one batch an epoch, keeps it.
        self._schedule = torch.optim.lr_scheduler.StepLR(self._dense, 50, 0.5 if graphs else 1.0)
        self._sparse: SparseOptimizer | None = None
        if config.use_dist_embedding or config.use_dist_edge_embedding:
            self._sparse = _SPARSE[config.sparse_optimizer](self.model, lr=config.sparse_lr)

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint must have for another process to go on after an epoch."""
        parts: dict[str, Stateful] = {"model": self.model, "dense": self._dense, "schedule": self._schedule}
        return parts if self._sparse is None else {**parts, "sparse": self._sparse}

    def train(self, done: int = 0) -> Iterator[Epoch]:
        """Train, and yield what each epoch measured.

        Args:
            done: How many epochs were trained before what was loaded.
        """
        for epoch in range(done + 1, self._config.epochs + 1):
            self._session.begin_epoch()
            begin = time.perf_counter()
            loss, train, rows, sent = self._train_epoch(epoch)
            trained = time.perf_counter()
            staleness = self._staleness() if self._config.mode == "history" else None
            is_evaluated = epoch % self._config.eval_every == 0 or epoch == self._config.epochs
            with self._session.timeline.span("evaluation"):
                held_out = self._evaluate() if is_evaluated else {}
            self._schedule.step()
            end = time.perf_counter()
            yield Epoch(
                self.number,
                epoch,
                loss,
                train,
                held_out.get("val"),
                held_out.get("test"),
                staleness,
                rows / (trained - begin),
                end - begin,
                sent,
                self._session.spent(),
            )

    def close(self) -> None:
        """Close the trial's stores."""
        self._at_the_end.close()

    def _train_epoch(self, epoch: int) -> tuple[float, float, float, float | None]:
        self.model.train()
        measure = self._task.measure()
        losses = targets = rows = 0.0
        timeline, steps = self._session.timeline, 0
        sent = self._bytes_sent()
        for step in timeline.through("batches", self._steps.train(epoch, self.model)):
            self._dense.zero_grad()
            scores = step.targets.scores(self._task, outputs(self._wrapped, step.data))
            # Ranks sum their gradients, so each takes its part of the mean over the whole batch.
            loss = self._task.loss(scores, step.targets.labels) / step.targets.count
            with timeline.span("compute"):
                loss.backward()  # type: ignore[no-untyped-call]
            self._dense.step()
            if self._sparse is not None:
                self._sparse.step()
            losses += float(loss.detach()) * step.targets.count
            targets += step.targets.labels.numel()
            rows += step.rows
            measure.add(scores, step.targets.labels)
            steps += 1
        losses, targets, rows, total = self._session.sum([losses, targets, rows, self._bytes_sent() - sent])
        counted = isinstance(self._session.backend, SupportsTraffic)
        return losses / targets, measure.over_ranks(self._session), rows, total / steps if counted else None

    def _bytes_sent(self) -> int:
        backend = self._session.backend
        return backend.bytes_sent if isinstance(backend, SupportsTraffic) else 0

    def _staleness(self) -> dict[str, float]:
        ages = self.model.ages.take()
        rows, never, total = self._session.sum([ages.rows, ages.never, ages.total])
        return {
            "rows": int(rows),
            "never": int(never),
            "mean": total / max(1, rows - never),
            "oldest": int(self._session.max(ages.oldest)),
        }

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        self.model.eval()
        measures: dict[str, Measure] = defaultdict(self._task.measure)
        for part, scores, labels in self._steps.evaluate(self.model, self._task):
            measures[part].add(scores, labels)
        return {part: measure.over_ranks(self._session) for part, measure in measures.items()}
