"""Gradients summed over ranks in one order of parameters, so that a job that goes on adds as one that never stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.futures import Future

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.distributed import GradBucket  # type: ignore[attr-defined]  # it is there
    from torch.nn import Module


class GradientSums:
    """What a DistributedDataParallel does with its buckets, which it arranges anew after the first backward.

    gloo adds the ranks' numbers in an order that depends on their place in a message. So all gradients go in one, in
    the order of the model's parameters, when the last of them is there.

    Args:
        model: Whose gradients.
        before: Called before ranks wait for each other.
    """

    def __init__(self, model: Module, before: Callable[[], None]) -> None:
        self._numbers: dict[Tensor, int] = {parameter: number for number, parameter in enumerate(model.parameters())}
        self._before = before
        self._gradients: dict[int, Tensor] = {}
        self._waiting: list[tuple[Future[Tensor], Tensor]] = []

    def add(self, bucket: GradBucket) -> Future[Tensor]:
        """Take a bucket; the buffers of all are summed with the last."""
        summed: Future[Tensor] = Future()
        self._waiting.append((summed, bucket.buffer()))
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            self._gradients[self._numbers[parameter]] = gradient
        if bucket.is_last():
            self._before()
            ordered = [self._gradients[number] for number in sorted(self._gradients)]
            for dtype in dict.fromkeys(gradient.dtype for gradient in ordered):
                _sum([gradient for gradient in ordered if gradient.dtype == dtype])
            for future, buffer in self._waiting:
                future.set_result(buffer)
            self._gradients.clear()
            self._waiting.clear()
        return summed


def _sum(gradients: list[Tensor]) -> None:
    total = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(total)
    for gradient, part in zip(gradients, torch.split(total, [one.numel() for one in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
