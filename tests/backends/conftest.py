"""The backends that these tests run on."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

import distgnn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn import Backend

__all__ = ["backend", "opened", "spread"]
SPREAD = [
    "pyg",
    pytest.param("dgl", marks=pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here")),
]


@pytest.fixture(params=SPREAD)
def spread(request: pytest.FixtureRequest) -> str:
    """Give the name of each backend whose stores are spread over ranks."""
    return str(request.param)


@pytest.fixture
def backend(spread: str) -> Iterator[Backend]:
    """Give each of them, open."""
    with distgnn.use(spread, timeout=20) as opened:
        yield opened


@pytest.fixture(params=["memory", "pyg", "dgl"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend of as many ranks as there are; ``memory`` is one of one."""
    if request.param == "dgl" and find_spec("dgl") is None:
        pytest.skip("dgl is not installed here")
    if request.param == "memory" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        pytest.skip("memory is a world of its own process")
    options = {} if request.param == "memory" else {"timeout": 20}
    with distgnn.use(request.param, **options) as backend:
        yield backend
