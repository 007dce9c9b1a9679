"""Local numbers of the nodes of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]


class DirectAddress:
    """A number for every possible key, 4 bytes each.

    Args:
        num_keys: Keys are below it.
    """

    def __init__(self, num_keys: int) -> None:
        self._numbers = np.full(num_keys, -1, dtype=np.int32)
        self._numbered: list[Ids] = []
        self._count = 0

    def start(self, keys: Ids) -> None:
        """Forget all, and give ``keys`` the numbers from 0; one that stands there twice goes by its first place."""
        for old in self._numbered:
            self._numbers[old] = -1
        self._numbered = [keys]
        self._count = len(keys)
        self._numbers[keys[::-1]] = np.arange(len(keys) - 1, -1, -1)

    def add(self, keys: Ids) -> tuple[Ids, Ids]:
        """Return the numbers of ``keys``, and those that had none and now got the next ones."""
        new = keys[self._numbers.take(keys) < 0]
        places = np.arange(len(new))
        self._numbers[new[::-1]] = places[::-1]
        new = new[self._numbers.take(new) == places]
        self._numbers[new] = np.arange(self._count, self._count + len(new))
        self._numbered.append(new)
        self._count += len(new)
        return self.find(keys), new

    def find(self, keys: Ids) -> Ids:
        """Return the numbers of ``keys``, -1 for those without."""
        return self._numbers.take(keys).astype(np.int64)


class SortedKeys:
    """Does what :class:`DirectAddress` does in memory for the batch's keys alone, by sorting them."""

    def __init__(self) -> None:
        self._keys = self._numbers = np.empty(0, dtype=np.int64)
        self._count = 0

    def start(self, keys: Ids) -> None:
        """Forget all, and give ``keys`` the numbers from 0; one that stands there twice goes by its first place."""
        self._keys, self._numbers = np.unique(keys, return_index=True)
        self._count = len(keys)

    def add(self, keys: Ids) -> tuple[Ids, Ids]:
        """Return the numbers of ``keys``, and those that had none and now got the next ones."""
        distinct, first, slots = np.unique(keys, return_index=True, return_inverse=True)
        numbers = self.find(distinct)
        unknown = np.flatnonzero(numbers < 0)
        unknown = unknown[first[unknown].argsort()]
        numbers[unknown] = np.arange(self._count, self._count + len(unknown))
        places = np.searchsorted(self._keys, np.sort(distinct[unknown]))
        self._numbers = np.insert(self._numbers, places, numbers[np.sort(unknown)])
        self._keys = np.insert(self._keys, places, np.sort(distinct[unknown]))
        self._count += len(unknown)
        return numbers[slots], distinct[unknown]

    def find(self, keys: Ids) -> Ids:
        """Return the numbers of ``keys``, -1 for those without."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._numbers[places], -1)
