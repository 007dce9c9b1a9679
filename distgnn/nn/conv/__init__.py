"""Message passing layers with stored embeddings."""

from distgnn.nn.conv.gin_conv_distributed import DistributedGINConv, DistributedGINEConv

__all__ = ["DistributedGINConv", "DistributedGINEConv"]
