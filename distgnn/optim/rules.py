"""Row-wise update rules, written once for every backend.

Each rule does what its original does to the rows that have a gradient. Weight decay is applied to those rows only, as
everywhere where gradients are sparse.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import torch

from distgnn.storage.protocols import StateSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, as :class:`torch.optim.SGD` without momentum.

    Args:
        lr: Learning rate.
        weight_decay: L2 penalty on touched rows.
    """

    key: ClassVar[str] = "sgd"

    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_not_negative(lr=self.lr, weight_decay=self.weight_decay)

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:  # noqa: ARG002  # the protocol's signature
        """Keep nothing."""
        return {}

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:  # noqa: ARG002
        """Apply the rule in place; see :meth:`distgnn.storage.protocols.UpdateRule.update`."""
        _decay(rows, gradients, self.weight_decay)
        rows.add_(gradients, alpha=-self.lr)


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (`Duchi et al. 2011 <https://jmlr.org/papers/v12/duchi11a.html>`_), as :class:`torch.optim.Adagrad`.

    Args:
        lr: Learning rate.
        lr_decay: The learning rate of step t is ``lr / (1 + (t - 1) * lr_decay)``.
        weight_decay: L2 penalty on touched rows.
        initial_accumulator_value: What the sum of squares starts from.
        eps: Added to the denominator.
    """

    key: ClassVar[str] = "adagrad"

    lr: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def __post_init__(self) -> None:
        _check_not_negative(
            lr=self.lr,
            lr_decay=self.lr_decay,
            weight_decay=self.weight_decay,
            initial_accumulator_value=self.initial_accumulator_value,
            eps=self.eps,
        )

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:
        """Keep the sum of squared gradients of each element."""
        return {"sum": StateSpec(embedding_dim, self.initial_accumulator_value)}

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:
        """Apply the rule in place; see :meth:`distgnn.storage.protocols.UpdateRule.update`."""
        _decay(rows, gradients, self.weight_decay)
        if rows.device.type != "cpu":  # older versions of torch have the kernel for the CPU alone
            total = state["sum"].addcmul_(gradients, gradients)
            rate = self.lr / (1 + (step - 1) * self.lr_decay)
            rows.addcdiv_(gradients, total.sqrt().add_(self.eps), value=-rate)
            return
        with _packed(rows, state["sum"]) as (parameters, total):
            torch._fused_adagrad_(
                [parameters],
                [gradients.contiguous()],
                [total],
                [torch.tensor(float(step))],
                lr=self.lr,
                lr_decay=self.lr_decay,
                weight_decay=0.0,
                eps=self.eps,
                maximize=False,
            )


@dataclass(frozen=True)
class RowWiseAdagrad:
    """Adagrad with one number of state a row: the sum over steps of the mean squared gradient of the row.

    The exact row-wise Adagrad of `fbgemm
    <https://docs.pytorch.org/FBGEMM/fbgemm_gpu/fbgemm_gpu-python-api/table_batched_embedding_ops.html>`_; at one column
    it is :class:`Adagrad`. A table of D columns keeps 1/D of Adagrad's state.

    Args:
        lr: Learning rate.
        weight_decay: L2 penalty on touched rows.
        eps: Added to the denominator.
    """

    key: ClassVar[str] = "rowwise-adagrad"

    lr: float = 1e-2
    weight_decay: float = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_not_negative(lr=self.lr, weight_decay=self.weight_decay, eps=self.eps)

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:  # noqa: ARG002  # the protocol's signature
        """Keep one sum a row."""
        return {"sum": StateSpec(1)}

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:  # noqa: ARG002
        """Apply the rule in place; see :meth:`distgnn.storage.protocols.UpdateRule.update`."""
        _decay(rows, gradients, self.weight_decay)
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)  # in one pass, without memory for squares
        total = state["sum"].addcmul_(norms, norms, value=1 / gradients.size(1))
        rows.addcdiv_(gradients, total.sqrt().add_(self.eps), value=-self.lr)


@dataclass(frozen=True)
class Adam:
    """Lazy Adam (`Kingma and Ba 2014 <https://arxiv.org/abs/1412.6980>`_), as :class:`torch.optim.SparseAdam`.

    The moments of rows without a gradient do not decay; the bias correction counts every step of the store.

    Args:
        lr: Learning rate.
        betas: Decay rates of the first and second moment, each in [0, 1).
        eps: Added to the denominator.
    """

    key: ClassVar[str] = "adam"

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_not_negative(lr=self.lr, eps=self.eps)
        _check_betas(self.betas)

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:
        """Keep both moments of each element."""
        return {"exp_avg": StateSpec(embedding_dim), "exp_avg_sq": StateSpec(embedding_dim)}

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:
        """Apply the rule in place; see :meth:`distgnn.storage.protocols.UpdateRule.update`."""
        # It is added to the root after that is corrected.
        eps = self.eps / math.sqrt(1 - self.betas[1] ** step)
        _adam(rows, state, gradients, step, lr=self.lr, betas=self.betas, eps=eps)


@dataclass(frozen=True)
class AdamW:
    """Adam whose decay is apart from the gradients (`Loshchilov & Hutter 2019 <https://arxiv.org/abs/1711.05101>`_).

    Where every row has a gradient in each step it is :class:`torch.optim.AdamW`; rows without one are left alone,
    moments and all.

    Args:
        lr: Learning rate.
        betas: Decay rates of the first and second moment, each in [0, 1).
        eps: Added to the denominator.
        weight_decay: Of ``lr``, by how much touched rows shrink in a step.
    """

    key: ClassVar[str] = "adamw"

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        _check_not_negative(lr=self.lr, eps=self.eps, weight_decay=self.weight_decay)
        _check_betas(self.betas)

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:
        """Keep both moments of each element."""
        return {"exp_avg": StateSpec(embedding_dim), "exp_avg_sq": StateSpec(embedding_dim)}

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:
        """Apply the rule in place; see :meth:`distgnn.storage.protocols.UpdateRule.update`."""
        decay = self.weight_decay
        _adam(rows, state, gradients, step, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=decay)


def _adam(
    rows: Tensor,
    state: Mapping[str, Tensor],
    gradients: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
) -> None:
    """Move both moments and the rows; the decay, if any, is apart from the gradients."""
    with _packed(rows, state["exp_avg"], state["exp_avg_sq"]) as (parameters, mean, square):
        torch._fused_adamw_(
            [parameters],
            [gradients.contiguous()],
            [mean],
            [square],
            [],
            [torch.tensor(float(step), device=rows.device)],
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )


@contextmanager
def _packed(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Lend tensors to a kernel of torch.optim's ``fused=True``, which takes them to be of one type and contiguous.

    Such a kernel makes one pass where operations make several, in half of their time.
    """
    packed = tuple(tensor.to(tensors[0].dtype).contiguous() for tensor in tensors)
    yield packed
    for tensor, changed in zip(tensors, packed, strict=True):
        if tensor is not changed:
            tensor.copy_(changed)


def _decay(rows: Tensor, gradients: Tensor, weight_decay: float) -> None:
    if weight_decay:
        gradients.add_(rows, alpha=weight_decay)


def _check_not_negative(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, not {number}")


def _check_betas(betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), not {betas}")


RULES: Mapping[str, type[SGD | Adagrad | RowWiseAdagrad | Adam | AdamW]] = MappingProxyType(
    {rule.key: rule for rule in (SGD, Adagrad, RowWiseAdagrad, Adam, AdamW)}
)
"""The rules here, by the names that options and files call them."""
