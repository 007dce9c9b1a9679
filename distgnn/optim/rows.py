"""Applying an update rule to rows that this process holds: what a backend calls on the owner of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distgnn.protocols import UpdateRule


def sum_by_id(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the rows of equal ids, in float32 unless the rows are float64 or integers, in the order in which they come.

    Args:
        ids: ``[K]`` int64.
        rows: ``[K, ...]``.

    Returns:
        The distinct ids, ascending, ``[U]``, and their sums ``[U, ...]`` in fresh memory.
    """
    distinct, slots = torch.unique(ids, return_inverse=True)
    wide = rows.to(accumulation_dtype(rows.dtype))
    sums = torch.zeros(distinct.numel(), *rows.shape[1:], dtype=wide.dtype, device=rows.device)
    return distinct, sums.index_add_(0, slots, wide)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which rows of ``dtype`` are summed and updated: float32 for the 16-bit floats, else itself."""
    return torch.float32 if dtype in {torch.float16, torch.bfloat16} else dtype


def new_state(rule: UpdateRule, num_rows: int, embedding_dim: int, device: torch.device) -> dict[str, Tensor]:
    """Make the state that ``rule`` keeps for ``num_rows`` rows, as it is before the rule's first use."""
    return {
        name: torch.full((num_rows, spec.width), spec.initial, dtype=torch.float32, device=device)
        for name, spec in rule.state(embedding_dim).items()
    }


def update_rows(
    rows: Tensor, state: Mapping[str, Tensor], ids: Tensor, gradients: Tensor, rule: UpdateRule, step: int
) -> None:
    """Apply ``rule`` once to the rows ``ids`` and their state, in place.

    Args:
        rows: ``[N, D]``, the rows that this process holds.
        state: ``[N, width]`` a name, as :func:`new_state` makes them.
        ids: ``[U]`` int64, each once, positions in ``rows``.
        gradients: ``[U, D]`` as :func:`sum_by_id` gives them; overwritten.
        rule: The rule.
        step: Counts the rule's uses on this table, from 1.
    """
    if ids.numel() == 0:
        return
    touched = rows.index_select(0, ids).to(accumulation_dtype(rows.dtype))
    touched_state = {name: values.index_select(0, ids) for name, values in state.items()}
    rule.update(touched, touched_state, gradients.to(touched.dtype), step)
    rows.index_copy_(0, ids, touched.to(rows.dtype))
    for name, values in touched_state.items():
        state[name].index_copy_(0, ids, values)
