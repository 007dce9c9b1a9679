"""Update rules that write what they see into rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distgnn.storage.protocols import StateSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True)
class CountUses:
    """Set a row to 1000 times the number of its own updates, plus the store's step; two columns of state from 0.5.

    Args:
        lr: Not used; rules carry one.
    """

    lr: float = 1.0

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:  # noqa: ARG002  # the protocol's signature
        """Keep two counters a row, each one half at first."""
        return {"uses": StateSpec(2, 0.5)}

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:
        """Count, and overwrite the gradients, which a rule may do."""
        gradients.fill_(-1)
        uses = state["uses"].add_(0.5).sum(dim=1, keepdim=True) - 1
        rows.copy_((1000 * uses + step).expand_as(rows))


@dataclass(frozen=True)
class ShowElementSizes:
    """Set the first column to the bytes of an element of the rows, the others to those of the gradients.

    Args:
        lr: Not used; rules carry one.
    """

    lr: float = 1.0

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:  # noqa: ARG002  # the protocol's signature
        """Keep nothing."""
        return {}

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:  # noqa: ARG002
        """Write the sizes."""
        rows[:, 0] = rows.element_size()
        rows[:, 1:] = gradients.element_size()
