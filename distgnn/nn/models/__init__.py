"""Models of several layers with stored embeddings."""

from distgnn.nn.models.base import DistributedGNN
from distgnn.nn.models.distributed_gin import DistributedGIN, DistributedGINE

__all__ = ["DistributedGIN", "DistributedGINE", "DistributedGNN"]
