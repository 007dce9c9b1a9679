"""The tensors of a table in a ``state_dict()``."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

from distgnn.storage.capabilities import RuleState, SupportsCheckpoint, order_of
from distgnn.storage.toolkit.rule_states import rule_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from distgnn.storage.protocols import StateSpec
    from distgnn.storage.specs import PartitionBook

MOST_BYTES = 1 << 31  # of a table that a state_dict copies
_BLOCK = 1 << 16
_PLACEMENT = "placement"  # beside the state of rows that are not in the order of their ids

_left_out: ContextVar[bool] = ContextVar("tables are left out", default=False)


@contextmanager
def tables_left_out() -> Iterator[None]:
    """Leave tables out of every ``state_dict()``, in the block: a checkpoint writes them by itself."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def are_left_out() -> bool:
    """Whether a ``state_dict()`` is to be without tables."""
    return _left_out.get()


def steps_of(store: Any) -> int:
    """Return how often a table was updated, as far as its store tells."""
    return sum(kept.steps for kept in store.rule_states().values()) if isinstance(store, SupportsCheckpoint) else 0


def export_table(store: Any, name: str) -> dict[str, Tensor] | None:
    """Copy a rank's rows, and what is kept beside them; None where a store cannot, or they are too many.

    Args:
        store: An embedding store.
        name: Its name, for the warning.

    Returns:
        As :meth:`distgnn.SupportsCheckpoint.export_rows`, on the CPU.
    """
    if not isinstance(store, SupportsCheckpoint):
        warnings.warn(
            f"embedding store {name!r} is not part of state_dict(): its {type(store).__name__} has not the members of "
            "SupportsCheckpoint",
            stacklevel=4,
        )
        return None
    own = store.own_rows
    first = store.export_rows(own.start, min(own.start + 1, own.stop))
    size = sum(rows.nbytes for rows in first.values()) * len(own)
    if size > MOST_BYTES:
        warnings.warn(
            f"embedding store {name!r} is not part of state_dict(), for it has {size / 2**30:,.1f} GiB on this rank: "
            "distgnn.checkpoint.Checkpoint saves it in blocks",
            stacklevel=4,
        )
        return None
    copied = {key: torch.empty(len(own), *rows.shape[1:], dtype=rows.dtype) for key, rows in first.items()}
    for begin in range(own.start, own.stop, _BLOCK):
        end = min(begin + _BLOCK, own.stop)
        for key, rows in store.export_rows(begin, end).items():
            copied[key][begin - own.start : end - own.start] = rows
    return copied


@torch.no_grad()
def import_table(store: SupportsCheckpoint, tensors: Mapping[str, Tensor]) -> None:
    """Put a rank's rows back, or some of what :func:`export_table` gave; what is not named stays as it is."""
    own = store.own_rows
    for begin in range(own.start, own.stop, _BLOCK):
        end = min(begin + _BLOCK, own.stop)
        block = {key: rows.clone() for key, rows in store.export_rows(begin, end).items()}
        block |= {
            key: rows[begin - own.start : end - own.start].detach().to("cpu", block[key].dtype)
            for key, rows in tensors.items()
        }
        store.import_rows(begin, block)


def export_rule(store: Any, name: str, rule: type) -> dict[str, Tensor] | None:
    """Copy what a rule keeps, as an optimizer of torch has it in its state; None before its first step."""
    if not isinstance(store, SupportsCheckpoint):
        return None
    key_of_rule = rule_name(rule, store.rule_states())
    kept = store.rule_states().get(key_of_rule)
    copied = export_table(store, name) if kept is not None else None
    if kept is None or copied is None:
        return None
    state = {"step": torch.tensor(float(kept.steps)), **{key: copied[f"{key_of_rule}/{key}"] for key in kept.tensors}}
    book = order_of(store)
    return state if book is None else {**state, _PLACEMENT: _placement(book)}


def _placement(book: PartitionBook) -> Tensor:
    """Return a book's digest as a tensor, which is what the state of an optimizer has."""
    return torch.tensor(list(bytes.fromhex(book.digest)), dtype=torch.uint8)


def import_rule(store: Any, name: str, rule: type, specs: Mapping[str, StateSpec], state: Mapping[str, Any]) -> None:
    """Give a rule the state that :func:`export_rule` made, or that an optimizer of torch has; collective.

    Raises:
        ValueError: It is the state of another rule, or of a table of another size or placement.
    """
    if not isinstance(store, SupportsCheckpoint):
        raise ValueError(f"embedding store {name!r} cannot take the state of an optimizer")  # noqa: TRY004
    book, placed = order_of(store), state.get(_PLACEMENT)
    own = None if book is None else _placement(book).tolist()
    if own != (None if placed is None else placed.tolist()):
        raise ValueError(
            f"embedding store {name!r} cannot take this state of an optimizer: it is of rows that are placed by "
            "another partition; save and load it by a distgnn.checkpoint.Checkpoint"
        )
    state = {key: one for key, one in state.items() if key != _PLACEMENT}
    wanted = {key: (len(store.own_rows), spec.width) for key, spec in specs.items()}
    given = {key: tuple(rows.shape) for key, rows in state.items() if key != "step" and rows is not None}
    if given != wanted or (wanted and "step" not in state):
        raise ValueError(
            f"embedding store {name!r} cannot take this state of an optimizer: it has {given or 'no tensors'}, and "
            f"the rule {rule.__name__} keeps {wanted or 'none'}"
        )
    key_of_rule = rule_name(rule, store.rule_states())
    others = {key: kept for key, kept in store.rule_states().items() if key != key_of_rule}
    copied = export_table(store, name) if others else {}
    rows = {key: one for key, one in (copied or {}).items() if key.rpartition("/")[0] in others}
    store.reset_rule_states({**others, key_of_rule: RuleState(int(state.get("step", 0)), dict(specs))})
    import_table(store, {**rows, **{f"{key_of_rule}/{key}": state[key] for key in specs}})
