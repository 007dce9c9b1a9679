"""The conformance kit on the ``mmap`` backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import distgnn
from distgnn.testing import BackendTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class OnMmap:
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[distgnn.Backend]:
        with distgnn.use("mmap", folder=tmp_path) as backend:
            yield backend


class TestBackend(OnMmap, BackendTests):
    pass


class TestEmbeddings(OnMmap, EmbeddingStoreTests):
    pass


class TestTensors(OnMmap, TensorStoreTests):
    pass


class TestGraphs(OnMmap, GraphStoreTests):
    pass
