"""Placement of rows: which rank owns which."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distgnn.errors import SpecError

if TYPE_CHECKING:
    from typing_extensions import Self

_CHUNK = 1 << 24  # rows
_SHOWN = 9  # bounds in a repr; ranks compare these, so it stays short


@dataclass(frozen=True, eq=False, repr=False)
class PartitionBook:
    """Which rank owns which rows: rank r has those at the places ``bounds[r]`` to ``bounds[r + 1]``, the last excluded.

    Rows are at places by an order of their ids: the row of id ``order[p]`` is at place ``p``. Without an order a place
    is an id, and ranks have ranges of ids. It is not changed once it is made, and equal to another of the same bounds
    and the same order.

    Args:
        bounds: World size + 1 ascending numbers, from 0 to the number of rows.
        order: ``[N]`` int32 or int64 on the CPU, each id once. It is copied, as int32 where that is enough; one that
            counts up is None.

    Raises:
        SpecError: The bounds do not ascend from 0, or the order is none of so many ids.
    """

    bounds: tuple[int, ...]
    order: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", tuple(self.bounds))
        if self.bounds[:1] != (0,) or list(self.bounds) != sorted(self.bounds):
            raise SpecError(f"the bounds of a partition must ascend from 0, not {self.bounds}")
        order, places = self._checked(self.order)
        digest = hashlib.blake2b(str(self.bounds).encode(), digest_size=8)
        if order is not None:
            digest.update(order.numpy().data)
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_digest", digest.hexdigest())

    def _checked(self, order: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return a copy of an order and its inverse; neither where it counts up."""
        if order is None:
            return None, None
        what = f"the order of a partition must be [{self.num_rows}], each id once, of int32 or int64 on the CPU"
        if order.dtype not in {torch.int32, torch.int64} or order.device.type != "cpu":
            raise SpecError(f"{what}, not {order.dtype} on {order.device}")
        if order.shape != (self.num_rows,):
            raise SpecError(f"{what}, not of shape {list(order.shape)}")
        if not order.numel():
            return None, None
        if int(order.min()) < 0 or int(order.max()) >= self.num_rows:
            raise SpecError(f"{what}; it has ids from {int(order.min())} to {int(order.max())}")
        kept = order.detach().to(torch.int32 if self.num_rows <= torch.iinfo(torch.int32).max else torch.int64)
        kept = kept.clone() if kept is order or kept.data_ptr() == order.data_ptr() else kept.contiguous()
        places = torch.full_like(kept, -1)
        counts_up = True
        for first in range(0, self.num_rows, _CHUNK):  # NumPy makes wide copies of what it is given
            some = kept[first : first + _CHUNK]
            counted = torch.arange(first, first + some.numel(), dtype=kept.dtype)
            places.numpy()[some.numpy()] = counted.numpy()
            counts_up = counts_up and torch.equal(some, counted)
        if counts_up:
            return None, None
        if int(places.min()) < 0:
            raise SpecError(f"{what}; id {int(places.argmin())} is not in it")
        return kept, places

    @classmethod
    def even(cls, num_rows: int, world_size: int) -> PartitionBook:
        """Cut rows into ranges of ids whose sizes differ by at most one."""
        return cls(tuple(num_rows * rank // world_size for rank in range(world_size + 1)))

    @property
    def digest(self) -> str:
        """Sixteen characters that are the same for equal books, and for others differ."""
        return str(vars(self)["_digest"])

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return self.bounds[-1]

    @property
    def world_size(self) -> int:
        """For how many ranks it is."""
        return len(self.bounds) - 1

    def own(self, rank: int) -> range:
        """Return the places of a rank's rows."""
        return range(self.bounds[rank], self.bounds[rank + 1])

    def places(self, ids: Tensor) -> Tensor:
        """Return the places ``[K]`` int64 of ids ``[K]`` int64 in ``[0, N)``, which are not checked."""
        places: Tensor | None = vars(self)["_places"]
        if places is None:
            return ids
        return torch.from_numpy(places.numpy().take(ids.numpy(), mode="clip").astype(np.int64))

    def ids(self, first: int, last: int) -> Tensor:
        """Return the ids ``[last - first]`` int64 at the places ``first`` to ``last``, excluded."""
        return torch.arange(first, last) if self.order is None else self.order[first:last].long()

    def grown(self, num_rows: int) -> PartitionBook:
        """Return the book of more rows: new ids come at the end, and are the last rank's."""
        order = None if self.order is None else torch.cat([self.order.long(), torch.arange(self.num_rows, num_rows)])
        return PartitionBook((*self.bounds[:-1], num_rows), order)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PartitionBook) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        many = len(self.bounds) > _SHOWN
        shown = (*self.bounds[:2], ..., self.bounds[-1]) if many else self.bounds
        numbers = ", ".join("..." if each is ... else str(each) for each in shown)
        digest = f", {self.world_size} ranks" if many else ""
        if many or self.order is not None:
            digest += f", digest={self.digest!r}"
        return f"PartitionBook(({numbers}){digest})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it does not change

    def __reduce__(self) -> tuple[type[PartitionBook], tuple[tuple[int, ...], Tensor | None]]:
        return PartitionBook, (self.bounds, self.order)
