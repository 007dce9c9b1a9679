"""Tables whose row-wise Adagrad is FBGEMM's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fbgemm_gpu  # noqa: F401  # registers its operators with torch
import torch

import distgnn
from distgnn.optim import RowWiseAdagrad
from distgnn.storage.toolkit import LocalEmbeddingStore

if TYPE_CHECKING:
    from torch import Tensor

CPU = torch.device("cpu")


class FbgemmEmbeddingStore(LocalEmbeddingStore):
    """A table in memory, whose row-wise Adagrad without weight decay is FBGEMM's kernel.

    Args:
        spec: The table.

    Raises:
        SpecError: Its rows are not float32, the one type that the kernel sums and updates as the contract asks.
    """

    def __init__(self, spec: distgnn.EmbeddingSpec) -> None:
        if spec.dtype != torch.float32:
            raise distgnn.SpecError(
                f"{spec}: the fbgemm backend has rows of float32 alone; the memory backend has others"
            )
        super().__init__(spec, CPU)

    @torch.no_grad()
    def update(
        self, positions: Tensor, gradients: Tensor, rule: distgnn.UpdateRule, places: Tensor | None = None
    ) -> None:
        if type(rule) is RowWiseAdagrad and not rule.weight_decay:  # the kernel takes a weight decay, and ignores it
            state, _ = self.next_step(rule, self.embedding_dim)
            _row_wise_adagrad(self.rows, state["sum"], positions, gradients, rule)
        else:
            super().update(positions, gradients, rule, places)


def _row_wise_adagrad(rows: Tensor, total: Tensor, ids: Tensor, gradients: Tensor, rule: RowWiseAdagrad) -> None:
    """Apply FBGEMM's kernel: the gradient of a sum of bags, each of one row, fused with the update.

    Of its backward passes it is the fastest on CPUs, and called without the forward pass, which would look rows up. It
    sums the gradients of equal ids before it squares them.
    """
    (count, width), zero = rows.shape, torch.zeros(1, dtype=torch.int64)
    in_memory = torch.zeros(1, dtype=torch.int32)
    torch.ops.fbgemm.split_embedding_backward_codegen_rowwise_adagrad_cpu(
        gradients,
        rows.view(-1),
        in_memory,  # where each table is, and
        zero,  # where it begins
        torch.tensor([0, width], dtype=torch.int32),  # the columns of each table
        width,
        torch.tensor([0, count]),  # the rows of each table
        count.bit_length(),
        ids,
        torch.arange(ids.numel() + 1),  # where each bag begins
        0,  # bags are summed
        torch.empty(0),  # without weights
        False,  # nothing is rounded at random
        total.view(-1),
        in_memory,
        zero,
        torch.tensor(rule.lr),
        rule.eps,
    )
