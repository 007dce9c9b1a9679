"""The model of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distgnn.errors import ConfigError
from distgnn.nn.models import MODELS
from distgnn.train.tasks import TASKS

if TYPE_CHECKING:
    from distgnn.data import LoadedDataset
    from distgnn.nn import DistributedGNN
    from distgnn.storage.protocols import Backend
    from distgnn.train.config import TrainConfig


def make_model(config: TrainConfig, dataset: LoadedDataset, backend: Backend, *, prefix: str = "") -> DistributedGNN:
    """Make the model that ``config`` asks for, sized to the data set, with its stores in a backend.

    Args:
        config: The run's options.
        dataset: The sizes.
        backend: The backend.
        prefix: What the names of the stores begin with.

    Raises:
        ConfigError: The data set lacks features that the model needs.
    """
    config = config.for_task(dataset.task)
    in_channels = dataset.num_features or config.embedding_dim
    if in_channels is None or not (dataset.num_features or config.use_dist_embedding):
        raise ConfigError(
            f"data set {dataset.name!r} has no node features: learn them with use_dist_embedding and an embedding_dim"
        )
    task = TASKS[dataset.task]
    # Samples need no layer outputs of other batches, and evaluation brings tensor stores of its own.
    use_dist_tensor = config.mode in {"full", "history"} or (config.use_dist_tensor and config.mode is None)
    options: dict[str, Any] = {
        "dropout": config.dropout,
        "norm": None if config.norm == "none" else config.norm,
        "readout": "layer_sum" if task.on_graphs else "sum",
        "use_dist_embedding": config.use_dist_embedding,
        "embedding_dim": config.embedding_dim,
        "embedding_name": f"{prefix}node_embedding",
        "use_dist_tensor": use_dist_tensor,
        "backend": backend,
        "halo_staleness": (config.staleness or 0) if config.mode == "full" else 0,
    }
    out_channels = task.out_channels(dataset.num_classes, config.hidden_channels)
    options |= {"num_layers": config.num_layers, "out_channels": out_channels}
    kind = MODELS[config.model]
    if kind.supports_edge_attr:
        edge_dim = dataset.edge_dim or config.edge_embedding_dim
        if edge_dim is None or not (dataset.edge_dim or config.use_dist_edge_embedding):
            raise ConfigError(
                f"data set {dataset.name!r} has no edge features: use model 'gin', or learn them with "
                "use_dist_edge_embedding and an edge_embedding_dim"
            )
        options |= {
            "edge_dim": edge_dim,
            "use_dist_edge_embedding": config.use_dist_edge_embedding,
            "edge_embedding_dim": config.edge_embedding_dim,
            "edge_embedding_name": f"{prefix}edge_embedding",
        }
    model = kind(in_channels, config.hidden_channels, **options)
    part = dataset.graphs[0] if config.mode == "full" and dataset.graphs else None  # its rows are where it is
    model.set_num_embeddings(
        num_nodes=dataset.num_nodes if config.use_dist_embedding or use_dist_tensor else None,
        num_edges=dataset.num_edges if config.use_dist_edge_embedding else None,
        node_partition=None if part is None else part.halo.partition,
        edge_partition=None if part is None else part.get("edge_partition"),
    )
    return model
