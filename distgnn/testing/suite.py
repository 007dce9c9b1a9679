"""The shared parts of the suites: names, ranks, devices, dtypes."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from distgnn.storage.protocols import Backend

MAY_BE_REFUSED = frozenset({torch.float16, torch.bfloat16, torch.float64})


class BackendFixture:
    """The one fixture that an adopter overrides, and attributes for stores that are elsewhere or of several ranks.

    In a job of several ranks each of them runs the same tests in the same order, all processes started alike. Rows that
    are summed over ranks are dealt out by :meth:`share`, so that the expected numbers are those of one rank.

    Attributes:
        device: Where the backend's stores take ids and give rows, with its index: ``torch.device("cuda:0")``.
        rank: Which rank this process is.
        world_size: How many ranks run the tests together.
    """

    device: torch.device = torch.device("cpu")
    rank: int = int(os.environ.get("RANK", "0"))
    world_size: int = int(os.environ.get("WORLD_SIZE", "1"))

    @pytest.fixture
    def backend(self) -> Backend:
        """Give an open backend and close it afterwards; to be overridden."""
        pytest.fail(
            f"{type(self).__name__} tests no backend yet: override the fixture `backend` in it with one that yields an "
            "open distgnn.Backend and closes it afterwards",
            pytrace=False,
        )

    @pytest.fixture
    def store_name(self, request: pytest.FixtureRequest) -> str:
        """Give a name that no other test uses, the same on every rank."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{type(self).__name__}.{request.node.name}")
        return name[-120:].lstrip(".-")

    def ids(self, *numbers: int) -> Tensor:
        """Make an id tensor on the store's device."""
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def share(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Take this rank's part of what a call is given over all ranks; a rank that is alone takes everything."""
        mine = slice(self.rank, None, self.world_size)
        return ids[mine], rows[mine]


@contextmanager
def skip_if_refused(dtype: torch.dtype) -> Iterator[None]:
    """Skip the test when the backend refuses ``dtype`` by a SpecError and may do so."""
    try:
        yield
    except SpecError:
        if dtype not in MAY_BE_REFUSED:
            raise
        pytest.skip(f"the backend has no stores of {dtype}")


def eighths(*shape: int, start: int = 0, device: torch.device) -> Tensor:
    """Make float32 numbers from -1 to 1, other ones in each row, whose sums are exact in any order."""
    count = torch.Size(shape).numel()
    numbers = (torch.arange(count, device=device) * 7 + start * 5) % 17 - 8
    return (numbers.to(torch.float32) / 8).reshape(shape)
