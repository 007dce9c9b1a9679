"""Opening tables for FBGEMM, and tensors and graphs, which it does not have, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.storage.toolkit import LocalBackend, LocalTensorStore
from distgnn_fbgemm.embeddings import CPU, FbgemmEmbeddingStore

if TYPE_CHECKING:
    import distgnn


class FbgemmBackend(LocalBackend[FbgemmEmbeddingStore, LocalTensorStore]):
    """Tables that FBGEMM updates, beside tensors and graphs in memory."""

    name = "fbgemm"

    def new_embedding(self, spec: distgnn.EmbeddingSpec) -> FbgemmEmbeddingStore:
        return FbgemmEmbeddingStore(spec)

    def new_tensor(self, spec: distgnn.TensorSpec) -> LocalTensorStore:
        return LocalTensorStore(spec, CPU)
