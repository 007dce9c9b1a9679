"""Ranges of rows in DGL's key-value store.

Every opened store has a partition policy of its own, of one made-up node type: it needs no graph, and none on disk.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from dgl.distributed import rpc
from dgl.distributed.graph_partition_book import NodePartitionPolicy, RangePartitionBook

from distgnn.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dgl.distributed.kvstore import KVServer
    from dgl.distributed.standalone_kvstore import KVClient
    from torch import Tensor

    from distgnn.storage.specs import EmbeddingSpec, PartitionBook, TensorSpec

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where DGL has it

# What DGL's shared memory can hold.
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
)


def check_dtype(spec: EmbeddingSpec | TensorSpec) -> None:
    """Refuse rows that DGL cannot hold.

    Raises:
        SpecError: They are of such a dtype.
    """
    if spec.dtype not in DTYPES:
        known = ", ".join(map(str, DTYPES))
        raise SpecError(f"DGL has no rows of {spec.dtype}, which {spec} asks for; use one of {known}")


@dataclass(frozen=True)
class Ranges:
    """Rows cut into a range a host, and DGL's words for it.

    Args:
        kind: A made-up node type that no other opened store has.
        book: Which part has which rows.
        part: Which part is this host's.
    """

    kind: str
    book: PartitionBook
    part: int

    @property
    def start(self) -> int:
        """The first row of this host's part."""
        return self.book.bounds[self.part]

    @property
    def stop(self) -> int:
        """The row after its last."""
        return self.book.bounds[self.part + 1]

    @cached_property
    def policy(self) -> NodePartitionPolicy:
        """The same as DGL's partition policy."""
        parts, edge = len(self.book.bounds) - 1, (self.kind, "_", self.kind)
        nodes = {self.kind: np.array(list(pairwise(self.book.bounds)))}
        no_edges = {edge: np.array(list(pairwise(range(parts + 1))))}
        book = RangePartitionBook(self.part, parts, nodes, no_edges, {self.kind: 0}, {edge: 0})
        return NodePartitionPolicy(book, self.kind)

    def slots(self, ids: Tensor) -> dict[int, Tensor]:
        """Return where in ``ids`` those of each part stand."""
        parts = torch.bucketize(ids.contiguous(), self._ends, right=True)
        return {part: (parts == part).nonzero().flatten() for part in range(self._ends.numel())}

    def cut(self, first: int, last: int) -> list[tuple[int, int, int]]:
        """Cut rows by the parts that have them: a part and its first and last of the rows, at least one such."""
        spans = [(max(first, start), min(last, stop)) for start, stop in pairwise(self.book.bounds)]
        found = [(part, start, stop) for part, (start, stop) in enumerate(spans) if start < stop]
        return found or [(self.part, self.start, self.start)]

    @cached_property
    def _ends(self) -> Tensor:
        return torch.tensor(self.book.bounds[1:])

    def key(self, name: str) -> str:
        """Return the key of what DGL's code in this process knows as the DistTensor ``name``."""
        return str(self.policy.get_data_name(f"{name}_{rpc.get_group_id()}"))


class Keeper(Protocol):
    """A place for rows."""

    @property
    def rows(self) -> Mapping[str, Tensor]:
        """What is kept, by key."""
        ...

    def check_room(self, key: str, num_bytes: int) -> None:
        """Refuse what memory for all ranks of this host cannot hold, before it is made.

        Raises:
            SpecError: There is not so much.
        """
        ...

    def keep(self, key: str, ranges: Ranges, rows: Tensor, *, shared: bool = True) -> Tensor:
        """Move this part's rows there, and return them where they are now.

        Args:
            key: Their name there.
            ranges: Which rows they are.
            rows: ``[stop - start, ...]``.
            shared: Whether the ranks of this host may map them.
        """
        ...

    def free(self, key: str) -> None:
        """Free rows."""
        ...


class ServerRows:
    """Rows in a server's key-value store, in shared memory.

    Args:
        store: DGL's server.
    """

    def __init__(self, store: KVServer) -> None:
        self._store = store

    @property
    def rows(self) -> Mapping[str, Tensor]:
        return cast("Mapping[str, Tensor]", self._store.data_store)

    def check_room(self, key: str, num_bytes: int) -> None:
        if num_bytes > (free := shutil.disk_usage(SHARED_MEMORY).free):
            raise SpecError(
                f"{key.rpartition('~')[2]!r} needs {num_bytes:,} bytes of shared memory on a host, and {free:,} are "
                f"free in its {SHARED_MEMORY}: give it more (docker run --shm-size=..., or mount -o remount,size=...)"
            )

    def keep(self, key: str, ranges: Ranges, rows: Tensor, *, shared: bool = True) -> Tensor:
        # There is no shared memory of no bytes.
        needed = rows.numel() * rows.element_size() if shared else 0
        self.check_room(key, needed)
        self._store.add_part_policy(ranges.policy)
        self._store.init_data(key, ranges.policy.policy_str, rows if needed else None)
        return cast("Tensor", self._store.data_store.setdefault(key, rows))

    def free(self, key: str) -> None:
        store = self._store
        store._policy_set.discard(store.part_policy[key])  # noqa: SLF001  # it has no way back
        for table in (store.data_store, store.part_policy, store.push_handlers, store.pull_handlers):
            del table[key]


class LocalRows:
    """Rows in the key-value store of DGL's standalone mode, in this process.

    Args:
        store: DGL's client of that mode.
    """

    def __init__(self, store: KVClient) -> None:
        self._store = store

    @property
    def rows(self) -> Mapping[str, Tensor]:
        return cast("Mapping[str, Tensor]", self._store.data_store)

    def check_room(self, key: str, num_bytes: int) -> None:
        """Nothing: this memory is the process's own."""

    def keep(self, key: str, ranges: Ranges, rows: Tensor, *, shared: bool = True) -> Tensor:  # noqa: ARG002  # alone
        self._store.init_data(key, tuple(rows.shape), rows.dtype, ranges.policy, lambda _shape, _dtype: rows, False)
        return rows

    def free(self, key: str) -> None:
        self._store.delete_data(key)


def remove_names(job: str) -> None:
    """Remove what a job has in the shared memory of this host by name; who has mapped it keeps it."""
    for path in SHARED_MEMORY.glob(f"*{job}*"):
        path.unlink(missing_ok=True)
