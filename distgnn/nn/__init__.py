"""GIN, GINE and GraphSAGE, the base of such models, and the modules that connect them to stores.

What needs torch is imported when it is first used, so that the command line can list :data:`MODELS` without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn._lazy import lazy_names
from distgnn.nn.models import MODELS

if TYPE_CHECKING:
    from distgnn.nn.activations import StoredActivation
    from distgnn.nn.ages import Ages, StoredAges
    from distgnn.nn.aggregation.messages import SumsOverHalo
    from distgnn.nn.conv.gin_conv_distributed import DistributedGINConv, DistributedGINEConv
    from distgnn.nn.embedding import StoredEmbedding
    from distgnn.nn.features import StoredFeatures
    from distgnn.nn.halo import Border, Extended, Halo
    from distgnn.nn.models.base import DistributedGNN
    from distgnn.nn.models.distributed_gin import DistributedGIN, DistributedGINE
    from distgnn.nn.models.distributed_sage import DistributedSAGE

__all__ = [
    "MODELS",
    "Ages",
    "Border",
    "DistributedGIN",
    "DistributedGINConv",
    "DistributedGINE",
    "DistributedGINEConv",
    "DistributedGNN",
    "DistributedSAGE",
    "Extended",
    "Halo",
    "StoredActivation",
    "StoredAges",
    "StoredEmbedding",
    "StoredFeatures",
    "SumsOverHalo",
]

_LAZY = {
    "activations": ("StoredActivation",),
    "ages": ("Ages", "StoredAges"),
    "aggregation.messages": ("SumsOverHalo",),
    "conv": ("DistributedGINConv", "DistributedGINEConv"),
    "embedding": ("StoredEmbedding",),
    "features": ("StoredFeatures",),
    "halo": ("Border", "Extended", "Halo"),
    "models": ("DistributedGIN", "DistributedGINE", "DistributedGNN", "DistributedSAGE"),
}


__getattr__ = lazy_names(__name__, _LAZY)


def __dir__() -> list[str]:
    return __all__
