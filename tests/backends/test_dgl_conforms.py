"""The conformance suites on the ``dgl`` backend, at whatever world size this file is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import distgnn
from distgnn.testing import BackendTests, CommunicatorTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn import Backend


class DGL:
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        pytest.importorskip("distgnn.backends.dgl", exc_type=ImportError)
        with distgnn.use("dgl", timeout=20) as backend:
            yield backend


class TestDGLCommunicator(DGL, CommunicatorTests):
    pass


class TestDGLEmbeddingStore(DGL, EmbeddingStoreTests):
    pass


class TestDGLTensorStore(DGL, TensorStoreTests):
    pass


class TestDGLGraphStore(DGL, GraphStoreTests):
    pass


class TestDGLBackend(DGL, BackendTests):
    pass
