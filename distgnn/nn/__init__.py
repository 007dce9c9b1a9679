"""GIN and GINE layers and models, and the modules that connect them to stores."""

from distgnn.nn.activations import StoredActivation
from distgnn.nn.ages import Ages, StoredAges
from distgnn.nn.aggregation.messages import SumsOverHalo
from distgnn.nn.conv.gin_conv_distributed import DistributedGINConv, DistributedGINEConv
from distgnn.nn.embedding import StoredEmbedding
from distgnn.nn.features import StoredFeatures
from distgnn.nn.halo import Border, Extended, Halo
from distgnn.nn.models.base import DistributedGNN
from distgnn.nn.models.distributed_gin import DistributedGIN, DistributedGINE

__all__ = [
    "Ages",
    "Border",
    "DistributedGIN",
    "DistributedGINConv",
    "DistributedGINE",
    "DistributedGINEConv",
    "DistributedGNN",
    "Extended",
    "Halo",
    "StoredActivation",
    "StoredAges",
    "StoredEmbedding",
    "StoredFeatures",
    "SumsOverHalo",
]
