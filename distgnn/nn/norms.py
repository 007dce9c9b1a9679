"""Which normalizations look at all nodes of a graph at once."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

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
