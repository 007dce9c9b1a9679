"""Batch normalization over the ranks of a job, on any device; torch's own SyncBatchNorm is for GPUs only."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import BatchNorm1d, Module

from distgnn.errors import GraphInputError


class _SumOverRanks(torch.autograd.Function):
    """An all-reduce whose gradient is that of the sum of all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004  # autograd's signature
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = gradients.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm1d(BatchNorm1d):
    r"""A :class:`torch.nn.BatchNorm1d` whose mean and variance are those of all ranks' rows together.

    Forward and backward are collective: two all-reduces of the mean and the variance each. A rank may have no rows. In
    a job of one rank, and in evaluation, it is :class:`torch.nn.BatchNorm1d`.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalize rows ``[N, num_features]``."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        count = input.new_tensor([input.size(0)])
        dist.all_reduce(count)
        if count <= 1:
            raise GraphInputError(
                f"{self} cannot take the mean and the variance of {int(count)} rows, and all ranks' batches together "
                "have no more: leave a last small batch out by drop_last=True, or choose another batch_size"
            )
        mean: Tensor = _SumOverRanks.apply(input.sum(dim=0)) / count  # type: ignore[no-untyped-call]
        centered = input - mean
        var: Tensor = _SumOverRanks.apply(centered.square().sum(dim=0)) / count  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * count / (count - 1), momentum)
        out = centered * torch.rsqrt(var + self.eps)
        return out if self.weight is None else out * self.weight + self.bias


def convert_sync_batch_norm(module: Module) -> Module:
    """Turn every BatchNorm1d within ``module``, or itself, into one over all ranks, with its parameters and buffers."""
    if type(module) is BatchNorm1d:
        synced = SyncBatchNorm1d(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        synced.load_state_dict(module.state_dict())
        return synced.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batch_norm(child))
    return module
