"""The conformance suites on the ``pyg`` backend, at whatever world size this file is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from distgnn.backends.pyg import PygBackend
from distgnn.testing import BackendTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pyg:
    @pytest.fixture
    def backend(self) -> Iterator[PygBackend]:
        backend = PygBackend(timeout=20)
        yield backend
        backend.close()


class TestPygEmbeddingStore(Pyg, EmbeddingStoreTests):
    pass


class TestPygTensorStore(Pyg, TensorStoreTests):
    pass


class TestPygGraphStore(Pyg, GraphStoreTests):
    pass


class TestPygBackend(Pyg, BackendTests):
    pass
