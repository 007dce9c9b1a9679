"""The regime of a run, its epochs and its optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distgnn.train.options.setting import setting
from distgnn.train.tasks import METRICS

MODES = ("full", "sampled", "history")
CLASS_WEIGHTS = ("balanced",)
SPARSE_OPTIMIZERS = ("sgd", "adagrad", "rowwise-adagrad", "adam", "adamw")  # the keys of distgnn.optim.RULES
LARGEST_RATE = 1e36  # a step in float32 cannot be much larger


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The regime of a run, its epochs and its optimizers.

    Args:
        mode: For data sets of one graph. ``"full"`` trains on all nodes at once, of which each rank has a part;
            ``"sampled"`` on batches of nodes or edges with samples of their neighborhoods, the graph being in stores;
            ``"history"`` on batches of nodes with all their neighbors, of which earlier batches have left the outputs
            of layers (GNNAutoScale). None is ``"sampled"`` where ``batch_size`` or ``num_neighbors`` is given, and
            otherwise all nodes at once, on every rank.
        metric: Key of the metric that chooses the epoch, one of the task's; None is its first.
        class_weight: ``"balanced"`` weighs the loss by the inverse frequency of classes in the training set; None
            weighs all alike.
        epochs: Passes over the training data.
        keep_going: Train on when the loss, a score or a weight is not finite any more, instead of ending the run.
        batch_size: Graphs, or with ``mode="sampled"`` and ``"history"`` nodes or edges, a batch over all ranks; None is
            32 graphs, or 1,024 nodes or edges.
        num_neighbors: With ``mode="sampled"``, how many in-edges a node brings in each layer, joined by commas, as
            ``"10,10"``; -1 takes all. None is 10 in every layer.
        rescale: With ``mode="sampled"``, weigh sampled messages so that their sum is an unbiased estimate of that over
            all neighbors.
        steps_per_epoch: With ``mode="sampled"``, at most so many batches an epoch; None goes through all of them.
        staleness: With ``mode="full"``, use rows of other parts for so many steps more, None and 0 being exact; with
            ``mode="history"``, compute all rows anew before one that is older than so many steps is used, None never.
        eval_every: Evaluate after every so many epochs, and after the last.
        lr: Learning rate of the dense parameters (Adam); None is 0.01 on graph data sets, where it is halved every 50
            epochs, and 0.003 on one graph.
        weight_decay: L2 penalty on the dense parameters; None is 5e-4 where nodes are classified, and 0 elsewhere.
        sparse_optimizer: Update rule of the stored embeddings.
        sparse_lr: Its learning rate; None is 0.001 on graph data sets and 0.01 on one graph.
        seed: Seed of weights, embeddings, splits and batches.
        runs: Train so many times, with seeds ``seed``, ``seed + 1``, ...
    """

    panel: ClassVar[str] = "Training"

    mode: str | None = setting(
        None,
        f"For data of one graph, one of: {', '.join(MODES)}. "
        "\\[default: sampled with --batch-size or --num-neighbors, else all nodes on every rank]",
        choices=MODES,
    )
    metric: str | None = setting(
        None,
        f"Chooses the epoch; of the task's, one of: {', '.join(METRICS)}. \\[default: the first of the task]",
        choices=METRICS,
    )
    class_weight: str | None = setting(
        None,
        f"Weights of classes in the loss, one of: {', '.join(CLASS_WEIGHTS)}. \\[default: all alike]",
        choices=CLASS_WEIGHTS,
    )
    epochs: int = setting(100, "Passes over the training data.", least=1)
    keep_going: bool = setting(
        False, "Train on when the loss is not finite any more. \\[default: end with exit code 4]"
    )
    batch_size: int | None = setting(
        None, "Graphs, or with --mode sampled or history nodes or edges, a batch. \\[default: 32, or 1024]", least=1
    )
    num_neighbors: str | None = setting(
        None, "With --mode sampled, neighbors that each layer samples, as 10,10; -1 takes all. \\[default: 10 in each]"
    )
    rescale: bool = setting(False, "With --mode sampled, make sums over samples unbiased.")
    steps_per_epoch: int | None = setting(None, "With --mode sampled, at most so many batches an epoch.", least=1)
    staleness: int | None = setting(
        None,
        "With --mode full, use rows of other parts for so many steps more; "
        "with --mode history, let no row be older. \\[default: full is exact, history has no bound]",
    )
    eval_every: int = setting(1, "Evaluate after every so many epochs.", least=1)
    lr: float | None = setting(
        None,
        "Learning rate of the layers (Adam). \\[default: 0.01 on graph data, 0.003 on one graph]",
        least=0,
        most=LARGEST_RATE,
    )
    weight_decay: float | None = setting(
        None, "L2 penalty of the layers. \\[default: 5e-4 for labels of nodes, else 0]", least=0, most=LARGEST_RATE
    )
    sparse_optimizer: str = setting(
        "adam", f"Update rule of the embeddings, one of: {', '.join(SPARSE_OPTIMIZERS)}.", choices=SPARSE_OPTIMIZERS
    )
    sparse_lr: float | None = setting(
        None,
        "Learning rate of the embeddings. \\[default: 0.001 on graph data, 0.01 on one graph]",
        least=0,
        most=LARGEST_RATE,
    )
    seed: int = setting(0, "Seed of weights, embeddings, splits and batches.")
    runs: int = setting(1, "Train so often, with seeds seed, seed + 1, ...", least=1)

    @property
    def examples_a_batch(self) -> int:
        """``batch_size``, or what is usual in the mode."""
        return self.batch_size or (1024 if self.mode in {"sampled", "history"} else 32)
