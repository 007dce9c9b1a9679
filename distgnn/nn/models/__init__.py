"""Models of several layers with stored embeddings, in a table by the name that options give them.

A model is imported when it is first asked for, so that the command line can list names without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from distgnn._lazy import lazy_names

if TYPE_CHECKING:
    from distgnn.nn.models.base import DistributedGNN
    from distgnn.nn.models.distributed_gin import DistributedGIN, DistributedGINE
    from distgnn.nn.models.distributed_sage import DistributedSAGE

__all__ = ["MODELS", "DistributedGIN", "DistributedGINE", "DistributedGNN", "DistributedSAGE"]

__getattr__ = lazy_names(
    __name__,
    {
        "base": ("DistributedGNN",),
        "distributed_gin": ("DistributedGIN", "DistributedGINE"),
        "distributed_sage": ("DistributedSAGE",),
    },
)


class _Models(Mapping[str, "type[DistributedGNN]"]):
    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def __getitem__(self, name: str) -> type[DistributedGNN]:
        model: type[DistributedGNN] = __getattr__(self._names[name])
        return model

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


MODELS = _Models({"gin": "DistributedGIN", "gine": "DistributedGINE", "sage": "DistributedSAGE"})
"""The classes of the models, by the names that options give them."""
