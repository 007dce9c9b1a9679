"""A rank alone: DGL's standalone mode, in which there is no server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dgl.distributed import kvstore

from distgnn.backends.dgl.engine import Engine
from distgnn.backends.dgl.rows import LocalRows
from distgnn.backends.dgl.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor

    from distgnn.backends.dgl.rows import Ranges
    from distgnn.backends.dgl.wire import Call, Reply


class Alone(Engine):
    """The engine of a rank that is alone, over DGL's local store."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=1, part=0, parts=1, name="alone")
        os.environ["DGL_DIST_MODE"] = "standalone"
        kvstore.init_kvstore(None, 1, "default")
        self._rows = LocalRows(kvstore.get_kvstore())
        self._service = Service(self._rows, part=0, parts=1, world_size=1)

    def rows(self, key: str) -> Tensor:
        return self._rows.rows[key]

    def map(self, key: str, ranges: Ranges, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Nothing: DGL's client is where the rows are."""

    def drop(self, key: str) -> None:
        self.ask("drop", (key,), f"closing of {key}", {0: ()})

    def check_alive(self, about: str) -> None:
        """Nothing: there is nobody else."""

    def _exchange(
        self,
        calls: Mapping[int, Call],
        about: str,  # noqa: ARG002  # nobody is waited for
        meanwhile: Callable[[], None] | None,
    ) -> dict[int, Reply]:
        if meanwhile is not None:
            meanwhile()
        ((_, reply),) = self._service.answer(calls[0])
        return {0: reply}
