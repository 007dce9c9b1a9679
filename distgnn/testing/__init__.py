"""The conformance kit: what every storage backend must do, as tests that a plugin's author runs on theirs.

A whole test file of a plugin::

    import pytest
    from distgnn.testing import BackendTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests
    from distgnn_mine import MyBackend

    class Mine:
        @pytest.fixture
        def backend(self):
            backend = MyBackend()
            yield backend
            backend.close()

    class TestBackend(Mine, BackendTests): ...
    class TestEmbeddings(Mine, EmbeddingStoreTests): ...
    class TestTensors(Mine, TensorStoreTests): ...
    class TestGraphs(Mine, GraphStoreTests): ...

The fixture may have a wider scope where a backend takes long to start, except for ``BackendTests``, which closes it.
Stores that are not on the CPU, or of several ranks, are told by the attributes of
:class:`~distgnn.testing.suite.BackendFixture`. Needs ``pip install "distgnn[testing]"``.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "backend",
            "embedding_store",
            "embedding_updates",
            "graph_store",
            "oracles",
            "state_machines",
            "suite",
            "tensor_store",
        )
    )
)

from distgnn.testing.backend import BackendTests  # noqa: E402  # after its asserts are to be rewritten
from distgnn.testing.embedding_store import EmbeddingStoreTests  # noqa: E402
from distgnn.testing.graph_store import GraphStoreTests  # noqa: E402
from distgnn.testing.tensor_store import TensorStoreTests  # noqa: E402

__all__ = ["BackendTests", "EmbeddingStoreTests", "GraphStoreTests", "TensorStoreTests"]
