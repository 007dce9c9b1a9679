"""Clipping the norm of gradients, of layers and of stored rows together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from distgnn.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def clip_grad_norm_(
    modules: Module | Iterable[Module], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Do :func:`torch.nn.utils.clip_grad_norm_` for parameters and the rows of stored embeddings as one vector.

    The gradients of rows are those that the optimizer will apply: of all backward passes since its last step, summed by
    id. Call it between ``backward()`` and the optimizers' steps, in place of torch's.

    Args:
        modules: A module or several.
        max_norm: The norm that gradients are scaled down to.
        norm_type: The p of the p-norm; infinity is the largest element.
        error_if_nonfinite: Refuse gradients whose norm is not finite.

    Returns:
        The norm before.

    Raises:
        StoreError: The tables are shared by several ranks: the sums of all ranks' gradients are known in a step alone.
        RuntimeError: The norm is not finite, and ``error_if_nonfinite``.
    """
    roots = [modules] if isinstance(modules, Module) else list(modules)
    found = dict.fromkeys(module for root in roots for module in root.modules())
    tables: list[Any] = [module for module in found if hasattr(module, "merged_gradients")]
    for table in tables:
        if table.is_shared_by_ranks:
            raise StoreError(
                f"clip_grad_norm_: ranks sum their gradients of embedding store {table.name!r} in step(), so none "
                "knows their norm before it; clip the layers alone by torch.nn.utils.clip_grad_norm_ on their own "
                "parameters, or use a rule that bounds its steps, such as SparseAdam"
            )
    handles = {table.handle for table in tables}
    dense = [one for root in roots for one in root.parameters() if one not in handles]
    gradients = [one.grad for one in dict.fromkeys(dense) if one.grad is not None]
    gradients += [rows for table in tables if (rows := table.merged_gradients()) is not None]
    total = torch.nn.utils.get_total_norm(gradients, norm_type, error_if_nonfinite)
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.detach().mul_(scale.to(gradient.device))
    return total
