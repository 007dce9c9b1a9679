"""Batch normalization over ranks, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import BatchNorm1d, Module

from distgnn.distributed.communicator import communicator_of, during
from distgnn.errors import GraphInputError
from distgnn.storage.registry import get_backend

if TYPE_CHECKING:
    from distgnn.distributed.communicator import Communicator


class _SumOverRanks(torch.autograd.Function):
    """An all-reduce whose gradient is that of the sum of all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, communicator: Communicator) -> Tensor:
        ctx.communicator = communicator
        with during("batch normalization over ranks"):
            return communicator.all_reduce(values)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        with during("batch normalization over ranks, backward"):
            return ctx.communicator.all_reduce(gradients), None


class _Held:
    """A communicator in a module: copies of the module have it too, and files do not."""

    def __init__(self, communicator: Communicator | None) -> None:
        self.communicator = communicator

    def __deepcopy__(self, memo: dict[int, Any]) -> _Held:
        return self

    def __reduce__(self) -> tuple[type[_Held], tuple[None]]:
        return _Held, (None,)


class SyncBatchNorm1d(BatchNorm1d):
    r"""A :class:`torch.nn.BatchNorm1d` whose mean and variance are those of all ranks' rows together.

    Forward and backward are collective: an all-reduce of the mean and one of the variance each. A rank may have no
    rows. In a job of one rank, and in evaluation, it is :class:`torch.nn.BatchNorm1d`.

    Args:
        num_features (int): Number of columns.
        communicator (Communicator, optional): The collectives of the ranks; with :obj:`None`, those of the backend in
            use at the forward. (default: :obj:`None`)
        **kwargs: As for :class:`torch.nn.BatchNorm1d`.
    """

    def __init__(self, num_features: int, *args: Any, communicator: Communicator | None = None, **kwargs: Any) -> None:
        super().__init__(num_features, *args, **kwargs)
        self._held = _Held(communicator)

    @property
    def communicator(self) -> Communicator:
        """The collectives of the ranks whose rows are normalized together."""
        return self._held.communicator or communicator_of(get_backend())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalize rows ``[N, num_features]``.

        Raises:
            GraphInputError: All ranks together have one row, of which there is no variance.
        """
        communicator = self.communicator
        if not self.training or communicator.world_size == 1:
            return super().forward(input)
        rows = input.float() if input.dtype in {torch.float16, torch.bfloat16} else input
        sums = torch.cat([rows.sum(dim=0), rows.new_tensor([rows.size(0)])])
        total: Tensor = _SumOverRanks.apply(sums, communicator)  # type: ignore[no-untyped-call]
        count = total[-1].detach()
        if count <= 1:
            raise GraphInputError(
                f"{self} cannot take the mean and the variance of {int(count)} rows, and all ranks' batches together "
                "have no more: leave a last small batch out by drop_last=True, or choose another batch_size"
            )
        mean = total[:-1] / count
        centered = rows - mean
        var: Tensor = _SumOverRanks.apply(centered.square().sum(dim=0), communicator)  # type: ignore[no-untyped-call]
        var = var / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean), momentum)
                self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), momentum)
        out = centered * torch.rsqrt(var + self.eps)
        return (out if self.weight is None else out * self.weight + self.bias).to(input.dtype)


def convert_sync_batch_norm(module: Module, communicator: Communicator | None = None) -> Module:
    """Turn every BatchNorm1d within ``module``, or itself, into one over all ranks, with its parameters and buffers.

    Args:
        module: The module, which is changed.
        communicator: The collectives of the ranks; by default those of the backend in use at each forward.
    """
    if type(module) is BatchNorm1d:
        synced = SyncBatchNorm1d(
            module.num_features,
            module.eps,
            module.momentum,
            module.affine,
            module.track_running_stats,
            communicator=communicator,
        )
        synced.load_state_dict(module.state_dict())
        return synced.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batch_norm(child, communicator))
    return module
