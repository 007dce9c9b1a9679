"""A pytest fixture for everybody's unit tests: a fresh in-memory backend.

Loaded by pytest itself where distgnn is installed, so it imports nothing until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn.storage.protocols import Backend


@pytest.fixture
def memory_backend() -> Iterator[Backend]:
    """Use a new, empty in-memory backend for one test, and close it afterwards."""
    import distgnn  # noqa: PLC0415  # only when it is used

    with distgnn.use("memory") as backend:
        yield backend
