"""The conformance kit on the ``template`` backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import distgnn
from distgnn.testing import BackendTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator


class OnTemplate:
    @pytest.fixture
    def backend(self) -> Iterator[distgnn.Backend]:
        with distgnn.use("template") as backend:
            yield backend


class TestBackend(OnTemplate, BackendTests):
    pass


class TestEmbeddings(OnTemplate, EmbeddingStoreTests):
    pass


class TestTensors(OnTemplate, TensorStoreTests):
    pass


class TestGraphs(OnTemplate, GraphStoreTests):
    pass
