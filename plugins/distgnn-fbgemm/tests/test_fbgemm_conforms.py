"""The conformance kit on the ``fbgemm`` backend, where FBGEMM is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import distgnn
from distgnn.testing import BackendTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("fbgemm_gpu", reason="FBGEMM is not installed: pip install fbgemm-gpu-cpu==1.8.0")


class OnFbgemm:
    @pytest.fixture
    def backend(self) -> Iterator[distgnn.Backend]:
        with distgnn.use("fbgemm") as backend:
            yield backend


class TestBackend(OnFbgemm, BackendTests):
    pass


class TestEmbeddings(OnFbgemm, EmbeddingStoreTests):
    pass


class TestTensors(OnFbgemm, TensorStoreTests):
    pass


class TestGraphs(OnFbgemm, GraphStoreTests):
    pass
