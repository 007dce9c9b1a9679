"""DGL's key-value client, with answers, time limits and order.

DGL's own tensors, embeddings and optimizers work on it unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from dgl import backend
from dgl._ffi.ndarray import empty_shared_mem
from dgl.distributed.kvstore import KVClient, default_pull_handler, default_push_handler

if TYPE_CHECKING:
    from collections.abc import Callable

    from dgl.distributed.graph_partition_book import NodePartitionPolicy
    from torch import Tensor

    from distgnn.backends.dgl.engine import Engine
    from distgnn.backends.dgl.rows import Ranges


class Client(KVClient):
    """DGL's client of a rank that has connected to its servers.

    Args:
        engine: Asks the servers.
        path: DGL's file of their addresses.
    """

    def __init__(self, engine: Engine, path: str) -> None:
        super().__init__(path, 1)
        self._engine = engine
        self._ranges: dict[str, Ranges] = {}

    def map(self, key: str, ranges: Ranges, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Map what a server of this host has under ``key``, a tensor of ``shape`` over all hosts."""
        here = (ranges.stop - ranges.start, *shape[1:])
        if here[0]:
            shared = empty_shared_mem(f"{key}-kvdata-", False, here, backend.reverse_data_type_dict[dtype])
            self._data_store[key] = backend.zerocopy_from_dlpack(shared.to_dlpack())
        else:
            self._data_store[key] = torch.empty(here, dtype=dtype)
        self._ranges[key] = ranges
        self._part_policy[key] = ranges.policy
        self._full_data_shape[key] = tuple(shape)
        self._data_name_list.add(key)
        self._push_handlers[key], self._pull_handlers[key] = default_push_handler, default_pull_handler

    def forget(self, key: str) -> None:
        """Undo :meth:`map`; graphs were never mapped."""
        if key not in self._data_name_list:
            return
        self._data_name_list.discard(key)
        for table in (self._data_store, self._ranges, self._part_policy, self._full_data_shape):
            del table[key]
        del self._push_handlers[key], self._pull_handlers[key]

    def barrier(self) -> None:
        self._engine.together("meet", (), "a barrier of DGL")

    def init_data(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        part_policy: NodePartitionPolicy,
        init_func: Callable[[tuple[int, ...], torch.dtype], Tensor],
        is_gdata: bool = True,  # noqa: ARG002  # no graph is DGL's here
    ) -> None:
        ranges = next(one for one in self._ranges.values() if one.policy is part_policy)
        arguments = (name, tuple(shape), dtype, ranges.kind, ranges.book.bounds, init_func)
        self._engine.together("open_dgl", arguments, f"opening of {name}")
        self._engine.map(name, ranges, tuple(shape), dtype)

    def delete_data(self, name: str) -> None:
        self._engine.drop(name)

    def pull(self, name: str, id_tensor: Tensor) -> Tensor:
        return self._engine.read(name, self._ranges[name], id_tensor.long(), f"a pull of {name} by DGL")

    def push(self, name: str, id_tensor: Tensor, data_tensor: Tensor) -> None:
        ids, about = id_tensor.long(), f"a push to {name} by DGL"
        slots = self._ranges[name].slots(ids)
        tensors = {part: (ids[places], data_tensor[places]) for part, places in slots.items() if places.numel()}
        if tensors:
            self._engine.ask("put", (name,), about, tensors)
