"""Tables whose row-wise Adagrad is FBGEMM's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fbgemm_gpu  # noqa: F401  # registers its operators with torch
import torch

import distgnn
from distgnn.optim import RowWiseAdagrad, put_rows, sum_by_id, take_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CPU = torch.device("cpu")


class FbgemmEmbeddingStore:
    """Rows, and beside them the state of each rule that was used.

    Row-wise Adagrad without weight decay is FBGEMM's kernel; other rules are applied to copies of the rows.

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
        self.spec = spec
        self.closed = False
        self._rows = distgnn.initial_rows(spec, 0, spec.num_embeddings)
        self._kept: dict[str, distgnn.RuleState] = {}
        self._state: dict[str, dict[str, Tensor]] = {}

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def lookup(self, ids: Tensor) -> Tensor:
        self._check_open()
        self.spec.check_ids(ids, CPU)
        return take_rows(self._rows, ids)

    @torch.no_grad()
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: distgnn.UpdateRule) -> None:
        self._check_open()
        self.spec.check_gradients(ids, gradients, CPU)
        state, step = self._step(rule)
        if type(rule) is RowWiseAdagrad and not rule.weight_decay:  # the kernel takes a weight decay, and ignores it
            _row_wise_adagrad(self._rows, state["sum"], ids, gradients, rule)
            return
        distinct, sums = sum_by_id(ids, gradients)
        rows, touched = (
            take_rows(self._rows, distinct),
            {name: take_rows(each, distinct) for name, each in state.items()},
        )
        rule.update(rows, touched, sums, step)
        put_rows(self._rows, distinct, rows)
        for name, values in touched.items():
            put_rows(state[name], distinct, values)

    def _step(self, rule: distgnn.UpdateRule) -> tuple[dict[str, Tensor], int]:
        """Count a step of the rule's class; give its state and the count."""
        name, needed = f"{type(rule).__module__}.{type(rule).__qualname__}", dict(rule.state(self.embedding_dim))
        if name not in self._kept:
            self._make_state(name, distgnn.RuleState(0, needed))
        kept = self._kept[name]
        if {each: spec.width for each, spec in kept.tensors.items()} != {
            each: spec.width for each, spec in needed.items()
        }:
            raise distgnn.SpecError(
                f"embedding store {self.spec.name!r}: the state that was loaded for {name} is {kept.tensors}, and the "
                f"rule needs {needed}; load a checkpoint of the same rule"
            )
        self._kept[name] = kept._replace(steps=kept.steps + 1)
        return self._state[name], kept.steps + 1

    def _make_state(self, name: str, kept: distgnn.RuleState) -> None:
        self._kept[name] = kept
        self._state[name] = {
            each: torch.full((self.num_embeddings, spec.width), spec.initial) for each, spec in kept.tensors.items()
        }

    @property
    def own_rows(self) -> range:
        return range(self.num_embeddings)

    def rule_states(self) -> dict[str, distgnn.RuleState]:
        self._check_open()
        return dict(self._kept)

    def reset_rule_states(self, states: Mapping[str, distgnn.RuleState]) -> None:
        self._check_open()
        self._kept.clear()
        self._state.clear()
        for name, kept in states.items():
            self._make_state(name, kept)

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        self._check_open()
        if not 0 <= first <= last <= self.num_embeddings:
            raise distgnn.IdRangeError(
                f"store {self.spec.name!r}: rows {first} to {last} are not within this rank's own, "
                f"0 to {self.num_embeddings}"
            )
        state = {f"{rule}/{name}": rows for rule, each in self._state.items() for name, rows in each.items()}
        return {name: rows[first:last] for name, rows in {"rows": self._rows, **state}.items()}

    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        self._check_open()
        count = next((each.size(0) for each in rows.values()), 0)
        goals = self.export_rows(first, first + count)
        given, kept = ({name: (each.dtype, each.shape) for name, each in some.items()} for some in (rows, goals))
        if given != kept:
            raise distgnn.RowsError(f"store {self.spec.name!r}: rows to be put back are {given}; it keeps {kept}")
        for name, goal in goals.items():
            goal.copy_(rows[name])

    def _check_open(self) -> None:
        if self.closed:
            raise distgnn.StoreClosedError(f"store {self.spec.name!r} is closed; open it again from its backend")

    def close(self) -> None:
        self.closed = True
        self._rows = self._rows[:0].clone()
        self._state.clear()


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
