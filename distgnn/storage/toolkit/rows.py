"""Moving rows, summing them by id, applying rules.

A step of an optimizer on rows at random places is bound by memory. So rows are read by the kernel of embedding bags and
written as opaque items by numpy, each at several times the speed of torch's indexing; duplicates are found by one sort
of ids with their positions in the low bits; and the arithmetic runs on so many rows at a time as the cache holds,
between one read and one write of each row and its state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distgnn.storage.toolkit.threads import share_work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distgnn.storage.protocols import StateSpec, UpdateRule

_CHUNK_ELEMENTS = 1 << 17  # of rows, and of each state: 512 KiB
_SUMMED = {torch.float32, torch.float16, torch.bfloat16}
_WIDE = 8  # narrower rows move faster as items
_WORDS = {1, 2, 4, 8}  # bytes of items that numpy moves as numbers, several times as fast


def take_rows(rows: Tensor, ids: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Copy rows; a negative zero may become a positive one.

    Args:
        rows: ``[N, ...]``.
        ids: ``[K]`` int64 in ``[0, N)``; not checked.
        out: ``[K, ...]``, contiguous and of the rows' type, where they are written; fresh memory if left out.

    Returns:
        ``[K, ...]``.
    """
    if not _movable(rows):
        return torch.index_select(rows, 0, ids, out=out)
    if out is None and rows.dim() == 2 and rows.dtype in _SUMMED and rows.size(1) >= _WIDE:
        # Bags of one row each: their kernel fetches rows ahead of their use, and no other of torch's does.
        summed: Tensor = torch.embedding_bag(rows.detach(), ids, torch.arange(ids.numel()))[0]
        return summed
    taken = rows.new_empty(ids.numel(), *rows.shape[1:]) if out is None else out
    if taken.numel():
        np.take(_items(rows.contiguous()), ids.numpy(), out=_items(taken), mode="clip")  # other modes copy once more
    return taken


def put_rows(rows: Tensor, ids: Tensor, values: Tensor) -> None:
    """Overwrite rows, in place.

    Args:
        rows: ``[N, ...]``, contiguous.
        ids: ``[K]`` int64 in ``[0, N)``, each once; not checked.
        values: ``[K, ...]`` of the rows' type.
    """
    if not _movable(rows):
        rows.index_copy_(0, ids, values)
    elif values.numel():
        items, new = _items(rows), _items(values.contiguous())
        if items.itemsize in _WORDS:
            items[ids.numpy()] = new
        else:
            np.put(items, ids.numpy(), new, mode="clip")  # of wide items faster than assignment, of words slower


def move_rows(goal: Tensor, places: Tensor, rows: Tensor, ids: Tensor) -> None:
    """Do ``goal[places] = rows[ids]``, a piece at a time that the cache holds.

    Args:
        goal: ``[M, ...]``, contiguous.
        places: ``[K]`` int64 in ``[0, M)``, each once; not checked.
        rows: ``[N, ...]`` of the goal's type.
        ids: ``[K]`` int64 in ``[0, N)``; not checked.
    """
    chunk = _chunk(rows)
    for begin in range(0, ids.numel(), chunk):
        part = slice(begin, begin + chunk)
        put_rows(goal, places[part], take_rows(rows, ids[part]))


def group_by_id(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find equal ids.

    Args:
        ids: ``[K]`` int64, none negative.

    Returns:
        The distinct ids, ascending, ``[U]``; an order of the positions ``[K]`` in which equal ids are neighbours and
        stay as they came; and where each id's positions begin in it, ``[U]``.
    """
    count = ids.numel()
    if count == 0:
        return ids.new_empty(0), ids.new_empty(0), ids.new_empty(0)
    bits = max(count - 1, 1).bit_length()
    if ids.device.type == "cpu" and int(ids.max()) < 1 << 63 - bits:
        # By NumPy to the end: with torch's comparison, nonzero and selection it takes 1.4 times as long.
        keys = ids.numpy() << bits
        keys |= np.arange(count)
        keys.sort()
        positions = keys & (1 << bits) - 1
        keys >>= bits
        new = np.ones(count, dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=new[1:])
        begins = np.flatnonzero(new)
        return torch.from_numpy(keys[begins]), torch.from_numpy(positions), torch.from_numpy(begins)
    ordered, order = torch.sort(ids, stable=True)
    distinct, counts = torch.unique_consecutive(ordered, return_counts=True)
    return distinct, order, counts.cumsum(0) - counts


def sum_by_id(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the rows of equal ids, in float32 unless the rows are float64 or integers, in the order in which they come.

    Args:
        ids: ``[K]`` int64, none negative.
        rows: ``[K, ...]``.

    Returns:
        The distinct ids, ascending, ``[U]``, and their sums ``[U, ...]`` in fresh memory.
    """
    distinct, order, starts = group_by_id(ids)
    wide = rows.to(accumulation_dtype(rows.dtype)).contiguous()  # else the kernel of bags is several times as slow
    if wide.is_floating_point() and wide.numel():
        flat = wide.reshape(wide.size(0), -1)
        return distinct, _segment_sums(flat, order, starts).view(-1, *rows.shape[1:])
    slots = torch.zeros_like(order)
    slots[starts[1:]] = 1
    slots = slots.cumsum(0)
    sums = torch.zeros(distinct.numel(), *rows.shape[1:], dtype=wide.dtype, device=rows.device)
    return distinct, sums.index_add_(0, slots, wide.index_select(0, order))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which rows of ``dtype`` are summed and updated: float32 for the 16-bit floats, else itself."""
    return torch.float32 if dtype in {torch.float16, torch.bfloat16} else dtype


def new_state(specs: Mapping[str, StateSpec], num_rows: int, device: torch.device) -> dict[str, Tensor]:
    """Make the state that a rule keeps for ``num_rows`` rows, as it is before the rule's first use."""
    return {
        name: torch.full((num_rows, spec.width), spec.initial, dtype=torch.float32, device=device)
        for name, spec in specs.items()
    }


@torch.no_grad()
def update_rows(
    rows: Tensor,
    state: Mapping[str, Tensor],
    ids: Tensor,
    gradients: Tensor,
    rule: UpdateRule,
    step: int,
    places: Tensor | None = None,
) -> None:
    """Sum gradients by id, and apply ``rule`` once to each row that has one and to its state, in place.

    Args:
        rows: ``[N, D]``, the rows that this process holds, contiguous.
        state: ``[N, width]`` a name, as :func:`new_state` makes them.
        ids: ``[K]`` int64, positions in ``rows``; the gradients of equal ids are summed in the order in which they
            come, in float32 unless the rows are float64.
        gradients: ``[K, D]``.
        rule: The rule.
        step: Counts the rule's uses on this table, from 1.
        places: ``[K]``, where in ``gradients``, then of any length, the one for each id is; left out, they are in turn.
    """
    distinct, order, starts = group_by_id(ids)
    if places is not None:
        order = places.index_select(0, order)
    gradients = gradients.to(accumulation_dtype(rows.dtype)).contiguous()
    chunk = _chunk(rows)
    ends = [*starts[::chunk].tolist(), order.numel()]

    def update(number: int) -> None:
        part, begin, end = slice(number * chunk, (number + 1) * chunk), ends[number], ends[number + 1]
        some = distinct[part]
        sums = _segment_sums(gradients, order[begin:end], starts[part] - begin)
        touched = take_rows(rows, some).to(gradients.dtype)
        touched_state = {name: take_rows(values, some) for name, values in state.items()}
        rule.update(touched, touched_state, sums, step)
        put_rows(rows, some, touched.to(rows.dtype))
        for name, values in touched_state.items():
            put_rows(state[name], some, values)

    share_work(update, range(len(ends) - 1))


def _segment_sums(rows: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum ``rows[order]`` from each start to the next."""
    if order.numel() == starts.numel():
        return take_rows(rows, order)
    sums: Tensor = torch.embedding_bag(rows, order, starts)[0]
    return sums


def _chunk(rows: Tensor) -> int:
    return max(1, _CHUNK_ELEMENTS // max(1, rows.shape[1:].numel()))


def _movable(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and rows.numel() > 0


def _items(rows: Tensor) -> np.ndarray[tuple[int], np.dtype[Any]]:
    """View contiguous rows ``[N, ...]`` as ``N`` items of bytes, or numbers where they are as long."""
    width = rows.shape[1:].numel()
    # A dimension of size 1 may have any stride, which a view of other elements does not take.
    content = rows.detach().as_strided((rows.size(0), width), (width, 1)).view(torch.uint8).numpy()
    size = content.shape[1]
    return content.view(f"u{size}" if size in _WORDS else f"V{size}").reshape(-1)
