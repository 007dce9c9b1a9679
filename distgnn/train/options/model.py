"""The model of a run, and its stored tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distgnn.errors import ConfigError
from distgnn.nn.models import MODELS
from distgnn.train.options.setting import setting

NORMS = ("none", "batch_norm", "layer_norm")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model of a run, and its stored tables.

    Args:
        model: A name in :data:`distgnn.nn.MODELS`.
        hidden_channels: Width of the hidden layers.
        num_layers: Number of message passing layers; None is as many as ``num_neighbors`` has numbers, or else 3 on
            graph data sets and 2 on one graph.
        dropout: Dropout probability.
        norm: Normalization layer, one of :data:`NORMS`; None is ``"batch_norm"`` on graph data sets, as in the GIN
            paper, and ``"none"`` on one graph.
        use_dist_embedding: Add a stored embedding to each node's features.
        embedding_dim: Its width; None is that of the features.
        use_dist_edge_embedding: With ``"gine"``, add a stored embedding to each edge's features.
        edge_embedding_dim: Its width; None is that of the edge features.
        use_dist_tensor: Keep layer outputs in tensor stores; ``mode="full"`` always does, and ``"sampled"`` does so in
            evaluation.
    """

    panel: ClassVar[str] = "Model"

    model: str = setting("gin", f"One of: {', '.join(MODELS)}.", choices=tuple(MODELS))
    hidden_channels: int = setting(64, "Width of the hidden layers.", least=1)
    num_layers: int | None = setting(
        None, "Message passing layers. \\[default: 3 on graph data, 2 on one graph]", least=1
    )
    dropout: float = setting(0.5, "Dropout probability.")
    norm: str | None = setting(
        None, f"One of: {', '.join(NORMS)}. \\[default: batch_norm on graph data, none on one graph]", choices=NORMS
    )
    use_dist_embedding: bool = setting(False, "Learn an embedding of each node.")
    embedding_dim: int | None = setting(None, "Its width. \\[default: the features']", least=1)
    use_dist_edge_embedding: bool = setting(False, "With gine, learn an embedding of each edge.")
    edge_embedding_dim: int | None = setting(None, "Its width. \\[default: the edge features']", least=1)
    use_dist_tensor: bool = setting(False, "Keep layer outputs in tensor stores.")

    def check_model(self) -> None:
        """Refuse what does not go with the model."""
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.use_dist_edge_embedding and self.model != "gine":
            raise ConfigError(f"use_dist_edge_embedding needs model='gine': {self.model.upper()} has no edge features")
