"""The forms of former versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from distgnn.nn.embedding import StoredEmbedding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


def handles_in(parts: Iterable[object]) -> set[int]:
    """Return the identities of the parameters that stand for the tables of modules."""
    modules = [one for part in parts if isinstance(part, torch.nn.Module) for one in part.modules()]
    return {id(module.handle) for module in modules if isinstance(module, StoredEmbedding)}


def renumber(state: Mapping[str, Any], optimizer: torch.optim.Optimizer, handles: Collection[int]) -> Mapping[str, Any]:
    """Number an optimizer's saved parameters as its own, where nothing stood for tables among them.

    Args:
        state: As saved; it may be of today.
        optimizer: What is to load it.
        handles: Of :func:`handles_in`.
    """
    groups: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}
    start = 0
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        params = own["params"]
        others = [number for number, one in enumerate(params, start) if id(one) not in handles]
        if len(saved["params"]) != len(others):
            return state
        numbers.update(zip(saved["params"], others, strict=True))
        groups.append({**saved, "params": list(range(start, start + len(params)))})
        start += len(params)
    return {**state, "state": {numbers[key]: one for key, one in state["state"].items()}, "param_groups": groups}
