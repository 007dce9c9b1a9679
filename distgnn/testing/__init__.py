"""The conformance kit: the contract of backends as tests.

A whole test file of a plugin::

    import pytest
    from distgnn.testing import (
        BackendTests, CommunicatorTests, EmbeddingStoreTests, GraphStoreTests, TensorStoreTests
    )
    from distgnn_mine import MyBackend

    class Mine:
        @pytest.fixture
        def backend(self):
            backend = MyBackend()
            yield backend
            backend.close()

    class TestBackend(Mine, BackendTests): ...
    class TestCommunicator(Mine, CommunicatorTests): ...
    class TestEmbeddings(Mine, EmbeddingStoreTests): ...
    class TestTensors(Mine, TensorStoreTests): ...
    class TestGraphs(Mine, GraphStoreTests): ...

A backend of several processes is tested by running that file on several ranks, from another test file::

    @pytest.mark.parametrize("world_size", [2, 3])
    def test_it_conforms_on_several_ranks(world_size):
        run_on_ranks("tests/test_mine.py", world_size)

``LostRankTests`` has a file of its own, run in the same way: its last rank dies.

``python -m distgnn.testing mine --ranks 2`` does all of this for an installed backend, and writes a report.

The fixture may have a wider scope where a backend takes long to start, except for ``BackendTests``, which closes it.
Stores that are not on the CPU are told by an attribute of
:class:`~distgnn.testing.suite.BackendFixture`. Needs ``pip install "distgnn[testing]"``.
"""

try:
    import hypothesis  # noqa: F401  # asked for here, so that who lacks it is told once
    import pytest
except ModuleNotFoundError as error:
    text = f'distgnn.testing needs {error.name}, which is not installed: pip install "distgnn[testing]"'
    raise ModuleNotFoundError(text, name=error.name) from error

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "backend",
            "checkpoints",
            "communicator",
            "embedding_store",
            "embedding_updates",
            "graph_store",
            "lost_ranks",
            "oracles",
            "placement",
            "resizing",
            "state_machines",
            "suite",
            "tensor_store",
        )
    )
)

from distgnn.testing.backend import BackendTests  # noqa: E402  # after its asserts are to be rewritten
from distgnn.testing.communicator import CommunicatorTests  # noqa: E402
from distgnn.testing.embedding_store import EmbeddingStoreTests  # noqa: E402
from distgnn.testing.graph_store import GraphStoreTests  # noqa: E402
from distgnn.testing.lost_ranks import LostRankTests  # noqa: E402
from distgnn.testing.ranks import run_on_ranks  # noqa: E402
from distgnn.testing.tensor_store import TensorStoreTests  # noqa: E402

__all__ = [
    "BackendTests",
    "CommunicatorTests",
    "EmbeddingStoreTests",
    "GraphStoreTests",
    "LostRankTests",
    "TensorStoreTests",
    "run_on_ranks",
]
