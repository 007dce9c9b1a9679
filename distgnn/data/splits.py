"""Random training, validation and test masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def is_labelled(y: Tensor) -> Tensor:
    """Return which nodes have a label ``[N]``."""
    return ~y.isnan() if y.is_floating_point() else y >= 0


def random_masks(y: Tensor, *, seed: int) -> dict[str, Tensor]:
    """Split the labelled nodes 60/20/20 at random, and every class as nearly so as its size lets.

    Args:
        y: Node labels, shape ``[N]``; of a node without one, which is in no mask, -1, or NaN among floating-point
            numbers, which are split such that small and large ones are in every set.
        seed: Seed of the split. PyTorch's global random state is neither read nor changed.

    Returns:
        ``train_mask``, ``val_mask`` and ``test_mask``, boolean tensors of shape ``[N]``.
    """
    generator = torch.Generator().manual_seed(seed)
    labelled = is_labelled(y).nonzero().flatten()
    order = labelled[torch.randperm(len(labelled), generator=generator)]
    order = order[y[order].argsort(stable=True)]
    count = len(order)
    sizes = [round(0.6 * count), round(0.2 * count)]
    sizes.append(count - sum(sizes))
    # Each set takes places at even distances among the nodes in the order of their classes, from a place by chance.
    places = torch.cat([(torch.arange(size) + 0.5) / max(size, 1) for size in sizes])
    sets = torch.arange(3).repeat_interleave(torch.tensor(sizes))[places.argsort(stable=True)]
    sets = sets.roll(int(torch.randint(max(count, 1), (), generator=generator)))
    masks = {name: torch.zeros(len(y), dtype=torch.bool) for name in ("train_mask", "val_mask", "test_mask")}
    for number, mask in enumerate(masks.values()):
        mask[order[sets == number]] = True
    return masks
