"""Random training, validation and test masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def random_masks(y: Tensor, *, seed: int) -> dict[str, Tensor]:
    """Split the labelled nodes 60/20/20 at random.

    Args:
        y: Node labels, shape ``[N]``; -1 marks a node without a label, which is in no mask.
        seed: Seed of the split. PyTorch's global random state is neither read nor changed.

    Returns:
        ``train_mask``, ``val_mask`` and ``test_mask``, boolean tensors of shape ``[N]``.
    """
    labelled = (y >= 0).nonzero().flatten()
    order = labelled[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))]
    num_train, num_val = round(0.6 * len(order)), round(0.2 * len(order))
    parts = order.tensor_split([num_train, num_train + num_val])
    masks = {name: torch.zeros(len(y), dtype=torch.bool) for name in ("train_mask", "val_mask", "test_mask")}
    for mask, part in zip(masks.values(), parts, strict=True):
        mask[part] = True
    return masks
