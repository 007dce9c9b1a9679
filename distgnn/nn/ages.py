"""Ages of stored rows, in training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from distgnn.distributed.communicator import communicator_of
from distgnn.nn.activations import StoredActivation
from distgnn.nn.embedding import default_name, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.nn.halo import Halo
    from distgnn.storage.protocols import Backend


class Ages(NamedTuple):
    """The ages of rows that were read, each as often as it was read.

    Args:
        rows: How many.
        never: How many of them were never written, and so are zeros.
        total: The sum of the others' ages.
        oldest: The largest of them.
    """

    rows: int = 0
    never: int = 0
    total: int = 0
    oldest: int = 0

    @property
    def mean(self) -> float:
        """The mean age of rows that were written."""
        return self.total / max(1, self.rows - self.never)


class StoredAges(StoredActivation):
    """The steps in which nodes' rows were written.

    A step is a forward with gradients. Rows that are written without, between two steps, belong to the next: they were
    computed with its weights.

    Args:
        name (str): Name of the store.
        backend (str or Backend, optional): As in :class:`~distgnn.nn.StoredEmbedding`.
    """

    def __init__(self, *, name: str, backend: str | Backend | None = None) -> None:
        super().__init__(name=name, backend=backend)
        self._step = 1  # 0 is for rows that were never written
        self._all_written = 0
        self._counted = Ages()

    def count(self, halo: Halo) -> None:
        """Note that the rows of a batch's own nodes were written now, and how old those are that it read."""
        self(torch.full_like(halo.own, self._step), halo.own, halo.num_rows)
        ages, never = self._read(halo)
        known = ages[~never]
        rows, unwritten, total, oldest = self._counted
        self._counted = Ages(
            rows + ages.numel(),
            unwritten + int(never.sum()),
            total + int(known.sum()),
            max(oldest, int(known.max()) if known.numel() else 0),
        )
        self._step += torch.is_grad_enabled()

    def note_all_written(self) -> None:
        """Note that the rows of all nodes were written now."""
        self._all_written = self._step

    def exceed(self, bound: int, halo: Halo) -> bool:
        """Tell whether any rank's batch would read rows older than ``bound``, or that were never written; collective.

        Args:
            bound: In steps, at least 0.
            halo: Of this rank's batch.
        """
        ages, never = self._read(halo)
        too_old = bool(((ages > bound) | never).any())
        return bool(communicator_of(resolve(self.backend)).all_reduce(torch.tensor(int(too_old)), "max"))

    def take(self) -> Ages:
        """Return what was counted since the last call, on this rank."""
        counted, self._counted = self._counted, Ages()
        return counted

    def kept(self) -> dict[str, int] | None:
        """Return the step, and that in which all rows were written."""
        return {"step": self._step, "all_written": self._all_written} if self._step > 1 or self._all_written else None

    def go_on(self, kept: dict[str, int] | None) -> None:
        """Go on from there."""
        self._step, self._all_written = (int(kept["step"]), int(kept["all_written"])) if kept else (1, 0)
        self._counted = Ages()

    def close(self) -> None:
        """Close the store, if open; all rows then count as never written."""
        super().close()
        self._all_written = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredAges:
        return StoredAges(name=default_name(self.name), backend=self.backend)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_all_written": 0}

    def _read(self, halo: Halo) -> tuple[Tensor, Tensor]:
        """Return for each row of a halo ``[h]`` its age, and whether it was never written."""
        steps = self.open_store(halo.own, halo.num_rows).read(halo.remote).clamp_(min=self._all_written)
        return self._step - steps, steps == 0
