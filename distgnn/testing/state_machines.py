# ruff: noqa: D102  # a rule's name is its sentence
"""Random sequences of calls, compared with a model after every one.

The sequences are the same in every run and on every rank, so that ranks can run them in lock-step.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from distgnn.optim.rules import SGD, Adagrad, Adam, RowWiseAdagrad
from distgnn.storage.specs import GraphSpec
from distgnn.testing.oracles import DictOfRows, edges_by_node, in_edges
from distgnn.testing.suite import eighths

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from distgnn.storage.protocols import Backend, UpdateRule
    from distgnn.storage.specs import EmbeddingSpec, TensorSpec
    from distgnn.testing.suite import BackendFixture

_LOCK_STEP = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=20,
    stateful_step_count=15,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

_ROWS = 4
_no_ids: list[int] = []
_ids = st.just(_no_ids) | st.lists(st.integers(0, _ROWS - 1), max_size=9)
_starts = st.integers(0, 16)
_rules = st.sampled_from([SGD(lr=0.5), Adagrad(lr=0.5), RowWiseAdagrad(lr=0.25), Adam(lr=0.5), Adam(lr=0.125)])


def run_in_lock_step(machine: Callable[[], RuleBasedStateMachine]) -> None:
    """Run the sequences of a machine, each on a new one."""
    run_state_machine_as_test(machine, settings=_LOCK_STEP)  # type: ignore[arg-type]  # it takes functions too


class EmbeddingMachine(RuleBasedStateMachine):
    """An embedding store and a dictionary of rows.

    Args:
        backend: Opens the store.
        spec: At least four rows of three columns in float32.
        suite: Knows the device and the ranks.
    """

    def __init__(self, backend: Backend, spec: EmbeddingSpec, suite: BackendFixture) -> None:
        super().__init__()
        self._backend, self._spec, self._suite = backend, spec, suite
        self._all = torch.arange(spec.num_embeddings, device=suite.device)
        self.open()

    def open(self) -> None:
        self._store = self._backend.open_embedding(self._spec)
        self._model = DictOfRows(self._spec)

    @rule(ids=_ids)
    def lookup(self, ids: list[int]) -> None:
        rows = self._store.lookup(self._suite.ids(*ids))
        expected = self._model.table(self._suite.device)[ids].reshape(len(ids), self._spec.embedding_dim)
        torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)

    @rule(ids=_ids, start=_starts, update=_rules)
    def apply_gradients(self, ids: list[int], start: int, update: UpdateRule) -> None:
        gradients = eighths(len(ids), self._spec.embedding_dim, start=start, device=self._suite.device)
        named = self._suite.ids(*ids)
        self._store.apply_gradients(*self._suite.share(named, gradients), update)
        self._model.apply_gradients(named, gradients, update)

    @rule(closed=st.booleans())
    def open_again(self, closed: bool) -> None:
        if closed:
            self._store.close()
            self.open()
        else:
            self._store = self._backend.open_embedding(self._spec)

    @invariant()
    def all_rows_agree(self) -> None:
        expected = self._model.table(self._suite.device)
        torch.testing.assert_close(self._store.lookup(self._all), expected, rtol=1e-5, atol=1e-5)

    def teardown(self) -> None:
        self._store.close()


class TensorMachine(RuleBasedStateMachine):
    """A tensor store and a tensor.

    Args:
        backend: Opens the store.
        spec: At least four rows.
        suite: Knows the device and the ranks.
    """

    def __init__(self, backend: Backend, spec: TensorSpec, suite: BackendFixture) -> None:
        super().__init__()
        self._backend, self._spec, self._suite = backend, spec, suite
        self._all = torch.arange(spec.shape[0], device=suite.device)
        self.open()

    def open(self) -> None:
        self._store = self._backend.open_tensor(self._spec)
        self._model = torch.zeros(self._spec.shape, dtype=self._spec.dtype, device=self._suite.device)

    def values(self, ids: list[int], start: int) -> Tensor:
        shape = (len(ids), *self._spec.shape[1:])
        return (eighths(*shape, start=start, device=self._suite.device) * 8).to(self._spec.dtype)

    @rule(ids=_ids)
    def read(self, ids: list[int]) -> None:
        expected = self._model.index_select(0, self._suite.ids(*ids))
        assert torch.equal(self._store.read(self._suite.ids(*ids)), expected)

    @rule(ids=_ids, start=_starts)
    def write(self, ids: list[int], start: int) -> None:
        values = self.values(ids, start)
        self._store.write(*self._suite.share(self._suite.ids(*ids), values))
        for row in dict.fromkeys(ids):
            written = [value for name, value in zip(ids, values, strict=True) if name == row]
            kept = self._store.read(self._suite.ids(row))[0]
            assert any(torch.equal(kept, value) for value in written), f"row {row} is {kept}, none of {written}"
            self._model[row] = kept

    @rule(ids=_ids, start=_starts)
    def accumulate(self, ids: list[int], start: int) -> None:
        values = self.values(ids, start)
        self._store.write(*self._suite.share(self._suite.ids(*ids), values), accumulate=True)
        for row, value in zip(ids, values, strict=True):
            self._model[row] += value

    @rule(closed=st.booleans())
    def open_again(self, closed: bool) -> None:
        if closed:
            self._store.close()
            self.open()
        else:
            self._store = self._backend.open_tensor(self._spec)

    @invariant()
    def all_rows_agree(self) -> None:
        assert torch.equal(self._store.read(self._all), self._model)

    def teardown(self) -> None:
        self._store.close()


class GraphMachine(RuleBasedStateMachine):
    """A random graph and its list of edges.

    Args:
        backend: Opens the store.
        name: Of the store.
        suite: Knows the device.
    """

    def __init__(self, backend: Backend, name: str, suite: BackendFixture) -> None:
        super().__init__()
        self._backend, self._name, self._suite = backend, name, suite
        self._samples: dict[tuple[int, int, int], list[int]] = {}
        self._stores = ExitStack()

    @initialize(edges=st.lists(st.tuples(st.integers(0, _ROWS - 1), st.integers(0, _ROWS - 1)), max_size=24))
    def open(self, edges: list[tuple[int, int]]) -> None:
        self._edge_index = torch.tensor(edges, dtype=torch.int64, device=self._suite.device).reshape(-1, 2).T
        self._store = self._backend.open_graph(GraphSpec(self._name, _ROWS, len(edges)), self._edge_index)
        self._stores.callback(self._store.close)

    @rule(nodes=_ids, fanout=st.integers(-1, 5), seed=st.integers(0, 3))
    def in_neighbors(self, nodes: list[int], fanout: int, seed: int) -> None:
        asked = self._suite.ids(*nodes)
        found = self._store.in_neighbors(asked, fanout, seed=seed)
        assert torch.equal(torch.stack([found.sources, found.destinations]), self._edge_index[:, found.edge_ids])
        every = in_edges(self._edge_index, asked)
        counts = [len(edges) if fanout < 0 else min(fanout, len(edges)) for edges in every]
        again = self._store.in_neighbors(asked.flip(0), fanout, seed=seed)
        assert edges_by_node(again, asked.flip(0), counts[::-1]) == edges_by_node(found, asked, counts)[::-1]
        for node, edges, kept in zip(nodes, every, edges_by_node(found, asked, counts), strict=True):
            assert kept == [edge for edge in edges if edge in kept], f"{kept} of {edges}, or not ascending"
            assert kept == self._samples.setdefault((node, fanout, seed), kept), "another sample than before"

    def teardown(self) -> None:
        self._stores.close()
