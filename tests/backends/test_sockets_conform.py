"""The conformance suites on a backend that has nothing of torch.distributed, at whatever world size this is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist

from distgnn.testing import (
    BackendTests,
    CommunicatorTests,
    EmbeddingStoreTests,
    GraphStoreTests,
    TensorStoreTests,
)
from tests.backends.socket_backend import SocketBackend, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import distgnn


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path))


class OnSockets:
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls) -> Iterator[distgnn.Backend]:
        before = dist.is_initialized()  # by other tests of this process
        backend = SocketBackend(timeout=20)
        yield backend
        backend.close()
        assert dist.is_initialized() == before


class TestCommunicator(OnSockets, CommunicatorTests):
    pass


class TestEmbeddings(OnSockets, EmbeddingStoreTests):
    pass


class TestTensors(OnSockets, TensorStoreTests):
    pass


class TestGraphs(OnSockets, GraphStoreTests):
    pass


class TestBackend(BackendTests):
    @pytest.fixture
    def backend(self) -> Iterator[distgnn.Backend]:
        backend = SocketBackend(timeout=20)
        yield backend
        backend.close()
