"""A backend that is opened before the ranks of its job have met."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import distgnn
from distgnn import CallOrderError, EmbeddingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn import Backend


@pytest.fixture
def job_of_two(backend: Backend) -> Iterator[None]:
    """Have the default process group initialised after the backend was opened."""
    if dist.is_initialized():
        pytest.skip("the ranks of this job have met")
    del backend
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("job_of_two")
def test_it_is_refused_by_its_next_store(spread: str) -> None:
    with pytest.raises(CallOrderError, match=rf"before torch.distributed.init.*distgnn.use\('{spread}'\)"):
        distgnn.get_backend().open_embedding(EmbeddingSpec("early", 4, 1))
