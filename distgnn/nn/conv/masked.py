"""Masks of explainers for layers that inherit PyG's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_GENERATED = {"propagate": "_orig_propagate", "edge_updater": "_orig_edge_updater"}


class Masked:
    """A layer that explainers, decomposition and hooks see as PyG's own, inherited or not.

    PyG generates a ``propagate`` for each class that does without masks, and keeps what the class had before for
    layers that are explained. A class whose base has a generated one by then would be explained through that.
    """

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:
        super()._set_jittable_templates(raise_on_error)  # type: ignore[misc]  # of PyG's layers
        for name, kept in _GENERATED.items():
            if kept in vars(type(self)):
                setattr(type(self), kept, _written(type(self), name, kept))


def _written(cls: type, name: str, kept: str) -> Callable[..., Any]:
    """Return the method that somebody wrote, of the first class of the family that has it."""
    for base in cls.__mro__:
        method = vars(base).get(kept) if _is_generated(vars(base).get(name), name) else vars(base).get(name)
        if method is not None and not _is_generated(method, name):
            found: Callable[..., Any] = method
            return found
    raise AssertionError(name)


def _is_generated(method: Any, name: str) -> bool:
    return method is not None and str(method.__module__).endswith(f"_{name}")
