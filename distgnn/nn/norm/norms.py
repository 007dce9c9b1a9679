"""Normalizations that look at several nodes at once."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from torch.nn import BatchNorm1d

from distgnn.nn.norm.sync_batch_norm import SyncBatchNorm1d

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.nn import Module


def graph_norm(modules: Iterable[tuple[str, Module]]) -> str | None:
    """Describe the first normalization over all nodes at once, or return None.

    Args:
        modules: As from :meth:`torch.nn.Module.named_modules`.
    """
    for name, module in modules:
        if not type(module).__module__.startswith("torch_geometric.nn.norm"):
            continue
        by_graph = "batch" in inspect.signature(module.forward).parameters and getattr(module, "mode", "") != "node"
        of_batch = getattr(getattr(module, "module", module), "track_running_stats", True) is False
        if by_graph or of_batch:
            return f"{name} is {module}, which normalizes over all nodes at once"
    return None


def batch_norm(modules: Iterable[tuple[str, Module]]) -> str | None:
    """Describe the first batch normalization that takes the statistics of this rank's rows alone, or return None.

    Args:
        modules: As from :meth:`torch.nn.Module.named_modules`.
    """
    exempt: set[Module] = set()
    for name, module in modules:
        if getattr(module, "allow_single_element", False):
            exempt.update(module.children())
        over_ranks = isinstance(module, SyncBatchNorm1d) and module.communicator.world_size > 1
        if isinstance(module, BatchNorm1d) and module.training and module not in exempt and not over_ranks:
            return f"{name}, a {module},"
    return None
