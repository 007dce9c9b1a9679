"""``distgnn train``: the main job."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads annotations
from typing import Any

import typer

from distgnn.train.config import MODELS, MODES, NORMS, SPARSE_OPTIMIZERS, TASKS, TrainConfig

_DEFAULT = TrainConfig()
_DATA, _MODEL, _CLUSTER, _TRAINING, _OWN, _OUTPUT = (
    "Data",
    "Model",
    "Stores and ranks",
    "Training",
    "A graph of your own",
    "Output",
)


def _read_config(context: typer.Context, path: Path | None) -> None:
    """Make what a config file says the defaults of the options."""
    if path is not None:
        from distgnn.train.config_file import read_config  # noqa: PLC0415  # a YAML reader only where one is read

        context.default_map = read_config(path)


def train(  # one local a command line option
    *,
    config: Path = typer.Option(  # noqa: B008  # typer's way
        None,
        is_eager=True,
        callback=_read_config,
        metavar="FILE",
        help="YAML file of options, such as a run's config.yaml; those of the command line come before it.",
        rich_help_panel=_DATA,
    ),
    dataset: str = typer.Option(
        _DEFAULT.dataset,
        help="MUTAG, PROTEINS or another TUDataset; Cora, CiteSeer, PubMed; CustomLargeGraph.",
        rich_help_panel=_DATA,
    ),
    root: str = typer.Option(None, help="Folder with the data set in PyG's layout.", rich_help_panel=_DATA),
    folds: int = typer.Option(
        _DEFAULT.folds, help="Cross-validate in so many folds by the GIN paper's protocol.", rich_help_panel=_DATA
    ),
    task: str = typer.Option(
        None, help=f"One of: {', '.join(TASKS)}.  \\[default: the data set's]", rich_help_panel=_DATA
    ),
    mode: str = typer.Option(
        None,
        help=f"For data of one graph, one of: {', '.join(MODES)}.  "
        "\\[default: sampled with --batch-size or --num-neighbors, else all nodes on every rank]",
        rich_help_panel=_TRAINING,
    ),
    partition: str = typer.Option(
        None,
        help="With --mode, a folder of distgnn partition, which no rank loads whole.",
        rich_help_panel=_DATA,
    ),
    model: str = typer.Option(_DEFAULT.model, help=f"One of: {', '.join(MODELS)}.", rich_help_panel=_MODEL),
    hidden_channels: int = typer.Option(
        _DEFAULT.hidden_channels, help="Width of the hidden layers.", rich_help_panel=_MODEL
    ),
    num_layers: int = typer.Option(
        None, help="Message passing layers.  \\[default: 3 on graph data, 2 on one graph]", rich_help_panel=_MODEL
    ),
    dropout: float = typer.Option(_DEFAULT.dropout, help="Dropout probability.", rich_help_panel=_MODEL),
    norm: str = typer.Option(
        None,
        help=f"One of: {', '.join(NORMS)}.  \\[default: batch_norm on graph data, none on one graph]",
        rich_help_panel=_MODEL,
    ),
    backend: str = typer.Option(
        None,
        envvar="DISTGNN_BACKEND",
        help="Where stores live; see: distgnn backends.  \\[default: memory, with several ranks pyg]",
        rich_help_panel=_CLUSTER,
    ),
    ip_config: str = typer.Option(
        None, help="Cluster file: 'address rank' a line. Not needed under torchrun.", rich_help_panel=_CLUSTER
    ),
    rank: int = typer.Option(
        None, help="This machine's rank in it.  \\[default: found by its addresses]", rich_help_panel=_CLUSTER
    ),
    secret_file: str = typer.Option(
        None,
        envvar="DISTGNN_SECRET_FILE",
        help="File of mode 600 with a secret that every rank must have to join.",
        rich_help_panel=_CLUSTER,
    ),
    timeout: float = typer.Option(
        None, help="Seconds that a rank waits for another.  \\[default: the backend's]", rich_help_panel=_CLUSTER
    ),
    option: list[str] = typer.Option(  # noqa: B008  # typer's way
        None,
        "--option",
        "-o",
        metavar="NAME=VALUE",
        help="Open the backend with it; may be given several times.",
        rich_help_panel=_CLUSTER,
    ),
    use_dist_embedding: bool = typer.Option(
        False, "--use-dist-embedding", help="Learn an embedding of each node.", rich_help_panel=_MODEL
    ),
    embedding_dim: int = typer.Option(None, help="Its width.  \\[default: the features']", rich_help_panel=_MODEL),
    use_dist_edge_embedding: bool = typer.Option(
        False, "--use-dist-edge-embedding", help="With gine, learn an embedding of each edge.", rich_help_panel=_MODEL
    ),
    edge_embedding_dim: int = typer.Option(
        None, help="Its width.  \\[default: the edge features']", rich_help_panel=_MODEL
    ),
    use_dist_tensor: bool = typer.Option(
        False, "--use-dist-tensor", help="Keep layer outputs in tensor stores.", rich_help_panel=_MODEL
    ),
    epochs: int = typer.Option(_DEFAULT.epochs, help="Passes over the training data.", rich_help_panel=_TRAINING),
    keep_going: bool = typer.Option(
        False,
        "--keep-going",
        help="Train on when the loss is not finite any more.  \\[default: end with exit code 4]",
        rich_help_panel=_TRAINING,
    ),
    batch_size: int = typer.Option(
        None,
        help="Graphs, or with --mode sampled or history nodes or edges, a batch.  \\[default: 32, or 1024]",
        rich_help_panel=_TRAINING,
    ),
    num_neighbors: str = typer.Option(
        None,
        help="With --mode sampled, neighbors that each layer samples, as 10,10; -1 takes all.  \\[default: 10 in each]",
        rich_help_panel=_TRAINING,
    ),
    rescale: bool = typer.Option(
        False, "--rescale", help="With --mode sampled, make sums over samples unbiased.", rich_help_panel=_TRAINING
    ),
    steps_per_epoch: int = typer.Option(
        None, help="With --mode sampled, at most so many batches an epoch.", rich_help_panel=_TRAINING
    ),
    staleness: int = typer.Option(
        None,
        help="With --mode full, use rows of other parts for so many steps more; "
        "with --mode history, let no row be older.  \\[default: full is exact, history has no bound]",
        rich_help_panel=_TRAINING,
    ),
    eval_every: int = typer.Option(
        _DEFAULT.eval_every, help="Evaluate after every so many epochs.", rich_help_panel=_TRAINING
    ),
    lr: float = typer.Option(
        None,
        help="Learning rate of the layers (Adam).  \\[default: 0.01 on graph data, 0.003 on one graph]",
        rich_help_panel=_TRAINING,
    ),
    weight_decay: float = typer.Option(
        None,
        help="L2 penalty of the layers.  \\[default: 5e-4 for labels of nodes, else 0]",
        rich_help_panel=_TRAINING,
    ),
    sparse_optimizer: str = typer.Option(
        _DEFAULT.sparse_optimizer,
        help=f"Update rule of the embeddings, one of: {', '.join(SPARSE_OPTIMIZERS)}.",
        rich_help_panel=_TRAINING,
    ),
    sparse_lr: float = typer.Option(
        None,
        help="Learning rate of the embeddings.  \\[default: 0.001 on graph data, 0.01 on one graph]",
        rich_help_panel=_TRAINING,
    ),
    threads: int = typer.Option(
        None,
        help="Threads of a rank.  \\[default: OMP_NUM_THREADS, else by the work of a step and the cores that are free]",
        rich_help_panel=_CLUSTER,
    ),
    seed: int = typer.Option(
        _DEFAULT.seed, help="Seed of weights, embeddings, splits and batches.", rich_help_panel=_TRAINING
    ),
    runs: int = typer.Option(
        _DEFAULT.runs, help="Train so often, with seeds seed, seed + 1, ...", rich_help_panel=_TRAINING
    ),
    checkpoint_every: str = typer.Option(
        None,
        help="Write a checkpoint after every so many epochs (5), steps (200steps) or minutes (10min).  "
        "\\[default: none]",
        rich_help_panel=_OUTPUT,
    ),
    keep: int = typer.Option(_DEFAULT.keep, help="How many checkpoints stay.", rich_help_panel=_OUTPUT),
    resume: str = typer.Option(
        None,
        help="Go on from a checkpoint or run folder; 'latest': with the run of --name.",
        rich_help_panel=_OUTPUT,
    ),
    edges: str = typer.Option(
        None,
        help="Edge file: .csv, .tsv, .txt (also .gz), .npz or .pt. Without it, a generated graph.",
        rich_help_panel=_OWN,
    ),
    features: str = typer.Option(None, help="Feature file, a row a node.", rich_help_panel=_OWN),
    labels: str = typer.Option(None, help="Label file.", rich_help_panel=_OWN),
    label_column: str = typer.Option(
        None, help="Its column with the label.  \\[default: the one called so]", rich_help_panel=_OWN
    ),
    num_nodes: int = typer.Option(None, help="Number of nodes.", rich_help_panel=_OWN),
    num_edges: int = typer.Option(None, help="Number of edges of a generated graph.", rich_help_panel=_OWN),
    out: str = typer.Option(_DEFAULT.out, help="Folder of runs.", rich_help_panel=_OUTPUT),
    name: str = typer.Option(None, help="Folder of this run within it.  \\[default: made up]", rich_help_panel=_OUTPUT),
    save_model: bool = typer.Option(
        _DEFAULT.save_model,
        "--save-model/--no-save-model",
        help="Leave the weights and tables of the reported epoch, for predictions.",
        rich_help_panel=_OUTPUT,
    ),
    report: bool = typer.Option(
        False,
        "--report",
        help="Write report.html: curves, a timeline of the ranks, and where their time went.",
        rich_help_panel=_OUTPUT,
    ),
    tensorboard: bool = typer.Option(
        False, "--tensorboard", help="Write TensorBoard's events into the folder of the run.", rich_help_panel=_OUTPUT
    ),
    as_json: bool = typer.Option(
        False, "--json", help="Print the result as JSON, without progress.", rich_help_panel=_OUTPUT
    ),
) -> None:
    """Train a GIN or GINE, with progress, a learning curve and a table of results.

    Example: distgnn train --dataset MUTAG --folds 10 --epochs 350
    """
    options = {option: value for option, value in locals().items() if option not in {"as_json", "config"}}

    from rich.console import Console  # noqa: PLC0415  # the command line answers --help without heavy imports

    from distgnn.train import run  # noqa: PLC0415

    def show(summary: dict[str, Any]) -> None:
        if as_json:
            typer.echo(json.dumps(summary))

    run.train(TrainConfig(**options), console=Console(quiet=as_json), show=show)
