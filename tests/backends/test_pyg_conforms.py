"""The conformance suites on the ``pyg`` backend, at whatever world size this file is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import distgnn
from distgnn.testing import BackendTests, CommunicatorTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pyg:
    """On several ranks a backend takes a tenth of a second to open, longer than most tests: one does for a class."""

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> Iterator[distgnn.Backend]:
        with distgnn.use("pyg", timeout=20) as backend:
            yield backend


class TestPygCommunicator(Pyg, CommunicatorTests):
    pass


class TestPygEmbeddingStore(Pyg, EmbeddingStoreTests):
    pass


class TestPygTensorStore(Pyg, TensorStoreTests):
    pass


class TestPygGraphStore(Pyg, GraphStoreTests):
    pass


class TestPygBackend(BackendTests):
    @pytest.fixture
    def backend(self) -> Iterator[distgnn.Backend]:
        with distgnn.use("pyg", timeout=20) as backend:
            yield backend
