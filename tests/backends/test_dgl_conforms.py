"""The conformance suites on the ``dgl`` backend, at whatever world size this file is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from distgnn.backends.dgl import DGLBackend
from distgnn.testing import BackendTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator


class DGL:
    @pytest.fixture
    def backend(self) -> Iterator[DGLBackend]:
        backend = DGLBackend(timeout=20)
        yield backend
        backend.close()


class TestDGLEmbeddingStore(DGL, EmbeddingStoreTests):
    pass


class TestDGLTensorStore(DGL, TensorStoreTests):
    pass


class TestDGLGraphStore(DGL, GraphStoreTests):
    pass


class TestDGLBackend(DGL, BackendTests):
    pass
