"""The options of a training run. Imports nothing heavy: the command line reads its defaults from here."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from distgnn.errors import ConfigError
from distgnn.storage.options import read_option

if TYPE_CHECKING:
    from collections.abc import Sequence

MODELS = ("gin", "gine")
MODES = ("full", "sampled", "history")
TASKS = ("graph", "node", "link")
NORMS = ("none", "batch_norm", "layer_norm")
_LARGEST_RATE = 1e36  # a step in float32 cannot be much larger
SPARSE_OPTIMIZERS = ("sgd", "adagrad", "rowwise-adagrad", "adam")  # the keys of distgnn.optim.RULES


# What is usual where nothing is said, measured in docs/accuracy.md: the GIN paper's for graphs; on one graph sums over
# many neighbors want smaller steps, and rows of embeddings, few of which are in many batches, larger ones.
_USUAL = {
    "graph": {"num_layers": 3, "lr": 0.01, "sparse_lr": 0.001, "weight_decay": 0.0, "norm": "batch_norm"},
    "node": {"num_layers": 2, "lr": 0.003, "sparse_lr": 0.01, "weight_decay": 5e-4, "norm": "none"},
    "link": {"num_layers": 2, "lr": 0.003, "sparse_lr": 0.01, "weight_decay": 0.0, "norm": "none"},
}


class Interval(NamedTuple):
    """A period of checkpoints: a number and its unit.

    Args:
        number: After how many.
        unit: ``"epochs"``, ``"steps"`` or ``"min"``.
    """

    number: float
    unit: str


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        dataset: A name that :func:`distgnn.data.load_dataset` knows.
        task: ``"graph"`` or ``"node"`` classification, or ``"link"`` prediction, which is for data sets of one graph;
            None is the data set's own.
        mode: For data sets of one graph. ``"full"`` trains on all nodes at once, of which each rank has a part;
            ``"sampled"`` on batches of nodes or edges with samples of their neighborhoods, the graph being in stores;
            ``"history"`` on batches of nodes with all their neighbors, of which earlier batches have left the outputs
            of layers (GNNAutoScale). None is ``"sampled"`` where ``batch_size`` or ``num_neighbors`` is given, and
            otherwise all nodes at once, on every rank.
        partition: With a mode, a folder of :func:`distgnn.graph.partition_graph` to train on instead of the data set,
            of which no rank then has the whole; with None ``mode="full"`` cuts the data set, by METIS where pymetis is
            installed and by a hash of ids elsewhere.
        model: ``"gin"`` or ``"gine"``.
        backend: Where stores are opened; None is what ``DISTGNN_BACKEND`` names or else ``memory``, and ``pyg`` where a
            launcher or ``ip_config`` makes this process one of several.
        ip_config: A cluster file, see :func:`distgnn.train.session.read_ip_config`; None is one machine, or torchrun's.
        rank: This machine's rank in it; None finds it by this machine's addresses.
        secret_file: A file with a secret of the job, see :mod:`distgnn.distributed.rendezvous.authentication`; None is
            ``DISTGNN_SECRET``'s, or none.
        timeout: Seconds that a rank waits for another, for backends that take it; None is the backend's own.
        option: What else the backend is opened with, each as ``"NAME=VALUE"``; None is nothing.
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
        hidden_channels: Width of the hidden layers.
        num_layers: Number of message passing layers; None is as many as ``num_neighbors`` has numbers, or else 3 on
            graph data sets and 2 on one graph.
        dropout: Dropout probability.
        lr: Learning rate of the dense parameters (Adam); None is 0.01 on graph data sets, where it is halved every 50
            epochs, and 0.003 on one graph.
        weight_decay: L2 penalty on the dense parameters; None is 5e-4 where nodes are classified, and 0 elsewhere.
        norm: Normalization layer, one of :data:`NORMS`; None is ``"batch_norm"`` on graph data sets, as in the GIN
            paper, and ``"none"`` on one graph.
        use_dist_embedding: Add a stored embedding to each node's features.
        embedding_dim: Its width; None is that of the features.
        use_dist_edge_embedding: With ``"gine"``, add a stored embedding to each edge's features.
        edge_embedding_dim: Its width; None is that of the edge features.
        use_dist_tensor: Keep layer outputs in tensor stores; ``mode="full"`` always does, and ``"sampled"`` does so in
            evaluation.
        sparse_optimizer: Update rule of the stored embeddings.
        sparse_lr: Its learning rate; None is 0.001 on graph data sets and 0.01 on one graph.
        threads: How many threads a rank computes with; None is what ``OMP_NUM_THREADS`` says, or else by the work of a
            step and the cores that are free.
        seed: Seed of weights, embeddings, splits and batches.
        runs: Train so many times, with seeds ``seed``, ``seed + 1``, ...
        folds: Cross-validate a graph data set in so many folds, by the GIN paper's protocol; 0 splits once.
        checkpoint_every: Write a checkpoint after so many epochs (``5`` or ``"5epochs"``), steps (``"200steps"``) or
            minutes (``"10min"``), and at the end; None writes none.
        keep: How many of the checkpoints stay.
        resume: Go on from a checkpoint, its folder or that of a run; ``"latest"`` goes on with the run of this
            ``name``, from its last checkpoint, or starts it where there is none.
        save_model: Leave the weights and tables of each trial's reported epoch, see :func:`distgnn.train.load_run`.
        report: Write ``report.html``, one page of curves, a timeline of the ranks, and where their time went.
        tensorboard: Write TensorBoard's events.
        out: Folder of runs.
        name: Folder of this run within ``out``; None makes a name.
        root: Folder with the data set in PyG's layout; None looks in ``DISTGNN_DATA``.
        edges: Edge file of ``CustomLargeGraph``; None generates a graph.
        features: Its feature file.
        labels: Its label file.
        label_column: Column of the label file.
        num_nodes: Nodes of a generated graph, or of the edge file where it does not name the last ones.
        num_edges: Edges of a generated graph.

    Raises:
        ConfigError: A value cannot be, or does not go with the others.
    """

    dataset: str = "MUTAG"
    task: str | None = None
    mode: str | None = None
    partition: str | None = None
    model: str = "gin"
    backend: str | None = None
    ip_config: str | None = None
    rank: int | None = None
    secret_file: str | None = None
    timeout: float | None = None
    option: Sequence[str] | None = None
    epochs: int = 100
    keep_going: bool = False
    batch_size: int | None = None
    num_neighbors: str | None = None
    rescale: bool = False
    steps_per_epoch: int | None = None
    staleness: int | None = None
    eval_every: int = 1
    hidden_channels: int = 64
    num_layers: int | None = None
    dropout: float = 0.5
    lr: float | None = None
    weight_decay: float | None = None
    norm: str | None = None
    use_dist_embedding: bool = False
    embedding_dim: int | None = None
    use_dist_edge_embedding: bool = False
    edge_embedding_dim: int | None = None
    use_dist_tensor: bool = False
    sparse_optimizer: str = "adam"
    sparse_lr: float | None = None
    threads: int | None = None
    seed: int = 0
    runs: int = 1
    folds: int = 0
    checkpoint_every: int | str | None = None
    keep: int = 3
    resume: str | None = None
    save_model: bool = True
    report: bool = False
    tensorboard: bool = False
    out: str = "runs"
    name: str | None = None
    root: str | None = None
    edges: str | None = None
    features: str | None = None
    labels: str | None = None
    label_column: str | None = None
    num_nodes: int | None = None
    num_edges: int | None = None

    def __post_init__(self) -> None:
        counts = ("epochs", "eval_every", "hidden_channels", "runs", "keep")
        optional_counts = (
            "num_layers",
            "threads",
            "batch_size",
            "steps_per_epoch",
            "embedding_dim",
            "edge_embedding_dim",
            "num_nodes",
            "num_edges",
        )
        for name in (*counts, *optional_counts):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        for name in ("lr", "sparse_lr", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _LARGEST_RATE:
                raise ConfigError(f"{name} must be finite and at least 0, and not above {_LARGEST_RATE:g}: {value}")
        _ = self.save_interval
        if self.timeout is not None and not 0 < self.timeout < float("inf"):
            raise ConfigError(f"timeout must be finite and above 0, not {self.timeout}")
        _ = self.backend_options
        _check_name(self.name)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.folds != 0 and self.folds < 2:
            raise ConfigError(f"folds must be 0 (split once) or at least 2, not {self.folds}")
        if self.folds and self.runs > 1:
            raise ConfigError(f"folds={self.folds} and runs={self.runs} do not go together: choose one")
        _check_choice("task", self.task or TASKS[0], TASKS)
        _check_choice("mode", self.mode or MODES[0], MODES)
        _check_sampling(self)
        _check_staleness(self)
        _check_partition(self)
        _check_choice("model", self.model, MODELS)
        _check_choice("norm", self.norm or "none", NORMS)
        _check_choice("sparse_optimizer", self.sparse_optimizer, SPARSE_OPTIMIZERS)
        if self.use_dist_edge_embedding and self.model != "gine":
            raise ConfigError("use_dist_edge_embedding needs model='gine': GIN has no edge features")

    def for_task(self, task: str) -> TrainConfig:
        """Return the options with what is usual in a task in the place of None.

        Args:
            task: One of :data:`TASKS`.
        """
        usual: dict[str, Any] = dict(_USUAL[task])
        if self.num_neighbors is not None:
            usual["num_layers"] = len(self.fanouts)
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})

    @property
    def fanouts(self) -> list[int]:
        """How many in-edges a node brings in each layer."""
        if self.num_neighbors is None:
            return [10] * (self.num_layers or 0)
        return [int(word) for word in self.num_neighbors.split(",")]

    @property
    def examples_a_batch(self) -> int:
        """``batch_size``, or what is usual in the mode."""
        return self.batch_size or (1024 if self.mode in {"sampled", "history"} else 32)

    @property
    def backend_options(self) -> dict[str, object]:
        """What the backend is opened with."""
        options = dict(map(read_option, self.option or ()))
        if self.timeout is not None and options.setdefault("timeout", self.timeout) != self.timeout:
            raise ConfigError(f"timeout is {self.timeout} and in option {options['timeout']}: give it once")
        return options

    @property
    def save_interval(self) -> Interval | None:
        """How often a checkpoint is written."""
        if self.checkpoint_every is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(epochs?|steps?|min)?", str(self.checkpoint_every).strip())
        count, unit = (float(found[1]), found[2] or "epochs") if found else (0.0, "")
        unit = unit if unit == "min" else unit.rstrip("s") + "s"
        if count <= 0 or (unit != "min" and not count.is_integer()):
            raise ConfigError(
                "checkpoint_every is a number of epochs, steps or minutes above 0, such as 5, 200steps or 10min, not "
                f"{self.checkpoint_every!r}"
            )
        return Interval(count, unit)

    def as_dict(self) -> dict[str, Any]:
        """Return the options as they are written to ``config.json``."""
        return asdict(self)


def _check_sampling(config: TrainConfig) -> None:
    try:
        fanouts = config.fanouts
    except ValueError:
        raise ConfigError(
            f"num_neighbors must be whole numbers joined by commas, such as 10,10, not {config.num_neighbors!r}"
        ) from None
    if any(fanout < -1 or fanout == 0 for fanout in fanouts):
        raise ConfigError(f"num_neighbors must be at least 1, or -1 for all, in each layer, not {config.num_neighbors}")
    if config.num_layers is not None and len(fanouts) != config.num_layers:
        raise ConfigError(
            f"num_neighbors={config.num_neighbors} has {len(fanouts)} numbers, and the model {config.num_layers} "
            "layers: give one number a layer"
        )
    sampling = [name for name in ("num_neighbors", "rescale", "steps_per_epoch") if getattr(config, name)]
    if config.mode not in {None, "sampled"} and sampling:
        raise ConfigError(f"{', '.join(sampling)} only go with mode='sampled', not {config.mode!r}")
    if config.mode == "full" and config.batch_size is not None:
        raise ConfigError("mode='full' has all nodes in one batch: leave out batch_size, or use mode='sampled'")


def _check_staleness(config: TrainConfig) -> None:
    if config.staleness is not None and config.staleness < 0:
        raise ConfigError(f"staleness is a number of steps, at least 0, not {config.staleness}")
    if config.staleness is not None and config.mode not in {"full", "history"}:
        raise ConfigError(f"staleness only goes with mode='full' or mode='history', not {config.mode!r}")
    if config.mode == "history" and config.task not in {None, "node"}:
        raise ConfigError(f"mode='history' is for labels of nodes, not task={config.task!r}: use mode='sampled'")


def _check_partition(config: TrainConfig) -> None:
    if config.partition is None:
        return
    if config.mode is None:
        raise ConfigError(f"a partition needs a mode: say which of {', '.join(MODES)}")
    if config.task == "graph":
        raise ConfigError("a partition is one graph: task must be node or link, not 'graph'")
    if config.task == "link" and config.mode == "sampled":
        raise ConfigError("batches of links need all edges on every rank: use mode='full', or leave out the partition")
    names = ("folds", "root", "edges", "features", "labels", "label_column", "num_nodes", "num_edges")
    given = [name for name in names if getattr(config, name)]
    if given:
        raise ConfigError(f"a partition brings its own graph: leave out {', '.join(given)}")


def _check_name(name: str | None) -> None:
    if name is None:
        return
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ConfigError(f"name must be that of a folder within out, not {name!r}: say by out where runs are")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, not {value!r}")
