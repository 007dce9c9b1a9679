"""One trial: a model trained on one split of a data set, epoch by epoch."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

import torch

from distgnn.nn.embedding import layer_parameters
from distgnn.optim import RULES, SparseOptimizer
from distgnn.storage.capabilities import SupportsCache, SupportsTraffic
from distgnn.train.epoch import Epoch, EpochSoFar
from distgnn.train.metrics import Metrics
from distgnn.train.models import make_model
from distgnn.train.steps import outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from distgnn.checkpoint import Stateful
    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session
    from distgnn.train.source import Source
    from distgnn.train.steps import Steps


class Trial:
    """A model, its optimizers and its split.

    Args:
        config: The run's options.
        source: What it trains on.
        seed: Seed of this trial.
        split: On a graph data set, positions of the graphs of ``"train"``, ``"test"`` and perhaps ``"val"``. What is
            one graph has its split in itself.
        number: Number of the trial in the run.

    Attributes:
        task: What is learned.
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
        config = config.for_task(source.dataset.task)
        assert config.lr is not None
        assert config.sparse_lr is not None
        assert config.weight_decay is not None
        self.number = number
        self._config, self._session = config, source.session
        self._at_the_end = ExitStack()
        self.task, self._num_classes = source.task, source.dataset.num_classes
        self._begin = 0.0
        self.model = make_model(config, source.dataset, source.session.backend)
        self._at_the_end.callback(self.model.close)
        self._steps: Steps = source.steps(seed, split, self._at_the_end)
        if config.class_weight is not None:
            labels = self._steps.training_labels()
            self.task = self.task.weighing(balanced_weights(labels, self._num_classes, self._session))
        self._so_far = EpochSoFar(source.session, self.task, self._num_classes)
        graphs = self.task.on_graphs
        # Where ranks have different rows they normalize over all of them.
        self._wrapped = self._session.wrap(self.model, sync_batch_norm=graphs or config.mode is not None)
        layers = layer_parameters(self.model)
        self._dense = torch.optim.Adam(layers, lr=config.lr, weight_decay=config.weight_decay)
        # The paper halves the rate every 50 epochs; one graph, often one batch an epoch, keeps it.
        self._schedule = torch.optim.lr_scheduler.StepLR(self._dense, 50, 0.5 if graphs else 1.0)
        self._sparse: SparseOptimizer | None = None
        if config.use_dist_embedding or config.use_dist_edge_embedding:
            self._sparse = SparseOptimizer(self.model, RULES[config.sparse_optimizer](lr=config.sparse_lr))

    def parts(self) -> dict[str, Stateful]:
        """Return what a checkpoint must have for another process to go on after a step; collective."""
        self._so_far.gather(time.perf_counter() - self._begin if self._so_far.steps else 0.0)
        parts: dict[str, Stateful] = {"model": self.model, "dense": self._dense, "schedule": self._schedule}
        parts["epoch"] = self._so_far
        return parts if self._sparse is None else {**parts, "sparse": self._sparse}

    def train(self, done: int = 0, between: Callable[[], object] = lambda: None) -> Iterator[Epoch]:
        """Train, and yield what each epoch measured.

        Args:
            done: How many epochs were trained before what was loaded, besides the steps of the one that it is in.
            between: Is called between the steps of an epoch, by all ranks.
        """
        for epoch in range(done + 1, self._config.epochs + 1):
            self._session.begin_epoch()
            self._begin = time.perf_counter() - self._so_far.seconds
            loss, metrics, rows, ages, counts = self._train_epoch(epoch, between)
            trained = time.perf_counter()
            is_evaluated = epoch % self._config.eval_every == 0 or epoch == self._config.epochs
            with self._session.timeline.span("evaluation"):
                held_out, classes = self._evaluate() if is_evaluated else ({}, None)
            self._schedule.step()
            found = {"train": metrics, **held_out}
            chosen = {part: numbers[self.task.metric.name] for part, numbers in found.items()}
            finite = self._is_finite(loss, *chosen.values())
            end = time.perf_counter()
            self._so_far.begin()
            yield Epoch(
                self.number,
                epoch,
                loss,
                chosen["train"],
                chosen.get("val"),
                chosen.get("test"),
                ages if self._config.mode == "history" else None,
                rows / (trained - self._begin),
                end - self._begin,
                *counts,
                self._session.spent(),
                classes,
                finite,
                found,
            )

    def close(self) -> None:
        """Close the trial's stores."""
        self._at_the_end.close()

    def _train_epoch(
        self, epoch: int, between: Callable[[], object]
    ) -> tuple[float, dict[str, float], float, dict[str, float], tuple[float | None, float | None]]:
        self.model.train()
        timeline, first, before = self._session.timeline, self._so_far.steps, self._counts()
        batches = timeline.through("batches", self._steps.train(epoch, self.model, first))
        for number, step in enumerate(batches, first):
            if number > first:
                fetched = self._counts() - before
                between()
                before = self._counts() - fetched
            self._dense.zero_grad()
            scores = step.targets.scores(self.task, outputs(self._wrapped, step.data))
            # Ranks sum their gradients, so each takes its part of the mean over the whole batch.
            loss = self.task.loss(scores, step.targets.labels) / step.targets.count
            with timeline.span("compute"):
                loss.backward()  # type: ignore[no-untyped-call]
            self._dense.step()
            if self._sparse is not None:
                self._sparse.step()
            now = self._counts()
            total_loss = float(loss.detach()) * step.targets.count
            self._so_far.add(step, total_loss, scores, self.model.ages.take(), now - before)
            before = now
        mean_loss, metrics, rows, ages, (sent, found, of) = self._so_far.over_ranks()
        bytes_a_step = sent / self._so_far.steps if isinstance(self._session.backend, SupportsTraffic) else None
        return mean_loss, metrics, rows, ages, (bytes_a_step, found / of if of else None)

    def _counts(self) -> Tensor:
        """Return what the backend counts since it was opened: bytes sent, rows found in its cache, and of how many."""
        backend = self._session.backend
        sent = backend.bytes_sent if isinstance(backend, SupportsTraffic) else 0
        return torch.tensor([sent, *(backend.cache_counts if isinstance(backend, SupportsCache) else (0, 0))])

    def _is_finite(self, *numbers: float) -> bool:
        """Tell whether the numbers are, and the model's weights on every rank; collective."""
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())  # a state_dict() would copy tables
        weights = (tensor for tensor in tensors if tensor.is_floating_point())
        finite = all(map(isfinite, numbers)) and all(bool(tensor.isfinite().all()) for tensor in weights)
        return self._session.max(float(not finite)) == 0

    @torch.no_grad()
    def _evaluate(self) -> tuple[dict[str, dict[str, float]], int | None]:
        self.model.eval()
        metrics: dict[str, Metrics] = defaultdict(partial(Metrics, self.task, self._num_classes))
        for part, scores, labels in self._steps.evaluate(self.model, self.task):
            metrics[part].add(scores, labels)
        classes = metrics["test"].classes(self._session)
        return {part: each.over_ranks(self._session) for part, each in metrics.items()}, classes


def balanced_weights(labels: Tensor, num_classes: int, session: Session) -> Tensor:
    """Return the weight ``[C]`` of each class, as scikit-learn's ``compute_class_weight("balanced")``; collective.

    Args:
        labels: ``[K]``, of this rank's share of the training set.
        num_classes: How many classes there are, C; one without labels weighs nothing.
        session: The ranks.
    """
    counts = torch.tensor(session.sum(labels.bincount(minlength=num_classes).tolist()))
    weights = counts.sum() / (counts > 0).sum() / counts
    return torch.where(counts > 0, weights, 0.0).to(torch.get_default_dtype())
