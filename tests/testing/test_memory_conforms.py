"""The conformance kit on the memory backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import distgnn
from distgnn.testing import BackendTests, CommunicatorTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests

if TYPE_CHECKING:
    from collections.abc import Iterator


class OnMemory:
    @pytest.fixture
    def backend(self) -> Iterator[distgnn.Backend]:
        with distgnn.use("memory") as backend:
            yield backend


class TestMemoryBackend(OnMemory, BackendTests):
    pass


class TestMemoryCommunicator(OnMemory, CommunicatorTests):
    pass


class TestMemoryEmbeddingStore(OnMemory, EmbeddingStoreTests):
    pass


class TestMemoryTensorStore(OnMemory, TensorStoreTests):
    pass


class TestMemoryGraphStore(OnMemory, GraphStoreTests):
    pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here")
class OnCuda:
    device = torch.device("cuda:0")

    @pytest.fixture
    def backend(self) -> Iterator[distgnn.Backend]:
        with distgnn.use("memory", device="cuda") as backend:
            yield backend


class TestCudaBackend(OnCuda, BackendTests):
    pass


class TestCudaEmbeddingStore(OnCuda, EmbeddingStoreTests):
    pass


class TestCudaTensorStore(OnCuda, TensorStoreTests):
    pass


class TestCudaGraphStore(OnCuda, GraphStoreTests):
    pass
