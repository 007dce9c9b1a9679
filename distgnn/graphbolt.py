"""Import of DGL where its ``graphbolt`` cannot be loaded.

DGL imports ``dgl.graphbolt`` whether it is used or not. Where that works nothing is changed. Where it fails, an almost
empty module stands in its place: with one class, of which DGL only asks whether a graph is one, and for every other
name an ImportError that says why. Samplers, key-value stores and RPC are in ``libdgl.so``, which knows no torch.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_NAME = "dgl.graphbolt"


class _Finder(MetaPathFinder):
    """Finds the real module, and has it loaded with care."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _NAME else None
        if spec is not None and spec.loader is not None:
            spec.loader = _CarefulLoader(spec.loader)
        return spec


class _CarefulLoader(Loader):
    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        kept = dict(vars(module))
        try:
            self._real.exec_module(module)
        except (ImportError, OSError) as error:
            vars(module).clear()
            vars(module).update(kept)
            for name in [name for name in sys.modules if name.startswith(f"{_NAME}.")]:
                del sys.modules[name]
            _stand_in(module, error)


def _stand_in(module: ModuleType, cause: Exception) -> None:
    reason = (
        f"dgl.graphbolt cannot be loaded beside this torch ({type(cause).__name__}: {cause}), and distgnn does without "
        "it; what needs it needs a torch that DGL was built for, such as 2.2.1 for dgl 2.1.0"
    )

    class FusedCSCSamplingGraph:
        def __init__(self, *_: object, **__: object) -> None:
            raise ImportError(reason) from cause

    def missing(name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"{name}: {reason}") from cause

    module.__doc__ = reason
    vars(module).update(FusedCSCSamplingGraph=FusedCSCSamplingGraph, __getattr__=missing)


def import_dgl() -> ModuleType:
    """Import DGL and return it.

    Raises:
        ImportError: It is not installed, or something else that it needs is missing.
    """
    os.environ.setdefault("DGLBACKEND", "pytorch")  # DGL would write its choice to a file in the home directory
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        import dgl  # noqa: PLC0415  # with the finder in place
    finally:
        sys.meta_path.remove(finder)
    module: ModuleType = dgl
    return module
