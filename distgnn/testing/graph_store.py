# ruff: noqa: D102  # a test's name is its sentence
"""The conformance suite of :class:`distgnn.GraphStore`."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.errors import IdRangeError, IdsError, NameConflictError, RowsError, StoreClosedError
from distgnn.storage.capabilities import SupportsGraphParts
from distgnn.storage.specs import GraphSpec
from distgnn.testing.oracles import edges_by_node, in_edges
from distgnn.testing.state_machines import GraphMachine, run_in_lock_step
from distgnn.testing.suite import BackendFixture
from distgnn.testing.wrong_ids import WRONG_KINDS, WRONG_RANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from distgnn.storage.protocols import Backend, GraphStore

    OpenGraph = Callable[[int, Tensor], GraphStore]

# Node 5 has a self loop and three equal edges, node 2 and the last one have no in-edges.
SOURCES = (5, 3, 5, 0, 1, 5, 4, 0, 0, 6, 5, 3, 1, 0, 2, 4)
DESTINATIONS = (3, 5, 5, 5, 0, 3, 5, 5, 5, 5, 1, 3, 3, 4, 3, 5)
NUM_NODES = 8
SEEDS = range(300)


class GraphStoreTests(BackendFixture):
    """Subclass it and override ``backend``; see :mod:`distgnn.testing`."""

    @pytest.fixture
    def opening(self, backend: Backend, store_name: str) -> Iterator[OpenGraph]:
        """Give a function that opens the test's graph with so many nodes and these edges."""
        with ExitStack() as stores:

            def open_graph(num_nodes: int, edge_index: Tensor) -> GraphStore:
                store = backend.open_graph(GraphSpec(store_name, num_nodes, edge_index.shape[1]), edge_index)
                stores.callback(store.close)
                return store

            yield open_graph

    @pytest.fixture
    def edge_index(self) -> Tensor:
        """Give the edges of the small graph."""
        return torch.tensor([SOURCES, DESTINATIONS], device=self.device)

    @pytest.fixture
    def store(self, opening: OpenGraph, edge_index: Tensor) -> GraphStore:
        """Open the small graph."""
        return opening(NUM_NODES, edge_index)

    def check(
        self, store: GraphStore, edge_index: Tensor, nodes: Tensor, fanout: int, seed: int = 0
    ) -> list[list[int]]:
        """Assert all that can be said of an answer without knowing the sample, and give the edges of each node."""
        found = store.in_neighbors(nodes, fanout, seed=seed)
        assert all((part.dtype, part.device, part.dim()) == (torch.int64, self.device, 1) for part in found)
        assert torch.equal(found.sources, edge_index[0, found.edge_ids])
        assert torch.equal(found.destinations, edge_index[1, found.edge_ids])
        every = in_edges(edge_index, nodes)
        kept = edges_by_node(found, nodes, [len(edges) if fanout < 0 else min(fanout, len(edges)) for edges in every])
        for edges, all_edges in zip(kept, every, strict=True):
            assert edges == sorted(set(edges)), "edges of a node are distinct and ascend"
            assert set(edges) <= set(all_edges)
        return kept

    def star(self, degree: int, num_nodes: int) -> Tensor:
        """Make edges that give each node ``degree`` in-edges, those of a node far apart."""
        nodes = torch.arange(num_nodes, device=self.device)
        return torch.stack([nodes.roll(1), nodes]).repeat(1, degree)

    def test_it_has_the_sizes_of_its_spec(self, store: GraphStore) -> None:
        assert (store.num_nodes, store.num_edges) == (NUM_NODES, len(SOURCES))

    def test_all_in_edges_are_found_in_the_order_of_nodes(self, store: GraphStore, edge_index: Tensor) -> None:
        for nodes in ((0, 1, 2, 3, 4, 5, 6, 7), (5, 3), (2,), (7, 5, 0, 3), (6, 7)):
            asked = self.ids(*nodes)
            assert self.check(store, edge_index, asked, -1) == in_edges(edge_index, asked)
        found = store.in_neighbors(self.ids(5, 0))
        assert found.edge_ids.tolist() == [1, 2, 3, 6, 7, 8, 9, 15, 4]
        assert found.sources.tolist() == [3, 5, 0, 4, 0, 0, 6, 4, 1]
        assert found.destinations.tolist() == [5] * 8 + [0]

    @pytest.mark.parametrize("fanout", [-1, 0, 1, 2, 3, 100])
    def test_a_node_that_is_named_twice_brings_its_edges_twice(
        self, store: GraphStore, edge_index: Tensor, fanout: int
    ) -> None:
        first, _, second, _, third = self.check(store, edge_index, self.ids(5, 3, 5, 2, 5), fanout)
        assert first == second == third

    @pytest.mark.parametrize("fanout", [-1, 0, 2])
    def test_no_nodes_have_no_edges(self, store: GraphStore, edge_index: Tensor, fanout: int) -> None:
        assert self.check(store, edge_index, self.ids(), fanout) == []

    def test_a_graph_without_edges_is_a_graph(self, opening: OpenGraph) -> None:
        edge_index = torch.zeros(2, 0, dtype=torch.int64, device=self.device)
        store = opening(3, edge_index)
        assert (store.num_nodes, store.num_edges) == (3, 0)
        for fanout in (-1, 0, 2):
            assert self.check(store, edge_index, self.ids(2, 0, 2), fanout) == [[], [], []]

    @pytest.mark.parametrize("fanout", [0, 1, 2, 3, 8, 100])
    def test_a_sample_has_at_most_fanout_different_edges_of_each_node(
        self, store: GraphStore, edge_index: Tensor, fanout: int
    ) -> None:
        for seed in range(20):
            self.check(store, edge_index, torch.arange(NUM_NODES, device=self.device), fanout, seed)

    def test_a_sample_depends_on_the_seed_and_the_node_alone(self, opening: OpenGraph) -> None:
        edge_index = self.star(20, NUM_NODES)
        store = opening(NUM_NODES, edge_index)
        for seed in (0, 1, 2**40 + 1):
            alone = [self.check(store, edge_index, self.ids(node), 5, seed)[0] for node in range(NUM_NODES)]
            for nodes in ((0, 1, 2, 3, 4, 5, 6, 7), (7, 2, 0), (3, 7, 3, 1), (6, 5)):
                together = self.check(store, edge_index, self.ids(*nodes), 5, seed)
                assert together == [alone[node] for node in nodes]

    def test_nodes_of_one_degree_draw_differently(self, opening: OpenGraph) -> None:
        edge_index = self.star(20, NUM_NODES)
        nodes = torch.arange(NUM_NODES, device=self.device)
        for seed in (0, 1, 2**40 + 1):
            drawn = self.check(opening(NUM_NODES, edge_index), edge_index, nodes, 5, seed)
            # An edge's place among those of its node; two nodes agree in all five once in 15,504 times.
            places = {tuple(edge // NUM_NODES for edge in edges) for edges in drawn}
            assert len(places) > NUM_NODES // 2, (
                f"{NUM_NODES} nodes of 20 in-edges drew {len(places)} different samples"
            )

    def test_the_same_graph_opened_anew_gives_the_same_samples(self, opening: OpenGraph) -> None:
        edge_index, samples = self.star(20, NUM_NODES), []
        for _ in range(2):
            store = opening(NUM_NODES, edge_index)
            samples.append(self.check(store, edge_index, torch.arange(NUM_NODES, device=self.device), 5, seed=3))
            store.close()
        assert samples[0] == samples[1]

    def test_samples_are_uniform_and_those_of_different_seeds_independent(self, opening: OpenGraph) -> None:
        edge_index = self.star(6, 4)
        store, nodes = opening(4, edge_index), torch.arange(4, device=self.device)
        every = in_edges(edge_index, nodes)
        kept = [store.in_neighbors(nodes, 2, seed=seed).edge_ids.reshape(4, 2).tolist() for seed in SEEDS]
        for node in range(4):
            drawn = [tuple(sample[node]) for sample in kept]
            expected = len(drawn) / 15
            chi_square = sum((drawn.count(pair) - expected) ** 2 / expected for pair in combinations(every[node], 2))
            # A uniform sampler is beyond these bounds, of 14 degrees of freedom, once in a million nodes.
            assert chi_square < 54, f"node {node}: the 15 pairs of its 6 edges are drawn unevenly, {chi_square=:.0f}"
            repeats = sum(one == following for one, following in pairwise(drawn))
            assert repeats < 44, f"node {node}: {repeats} of {len(drawn)} seeds repeat the one before"

    def test_changing_the_edges_after_opening_does_not_change_the_graph(
        self, store: GraphStore, edge_index: Tensor
    ) -> None:
        opened = edge_index.clone()
        edge_index.fill_(6)
        self.check(store, opened, torch.arange(NUM_NODES, device=self.device), -1)

    def test_changing_an_answer_does_not_change_the_graph(self, store: GraphStore, edge_index: Tensor) -> None:
        nodes = torch.arange(NUM_NODES, device=self.device)
        for fanout in (-1, 100, 2):
            for part in store.in_neighbors(nodes, fanout):
                part.fill_(6)
        assert torch.equal(nodes, torch.arange(NUM_NODES, device=self.device))
        self.check(store, edge_index, nodes, -1)

    @pytest.mark.parametrize("wrong", WRONG_KINDS)
    def test_nodes_that_are_no_int64_vector_are_refused(self, store: GraphStore, store_name: str, wrong: str) -> None:
        for fanout in (-1, 2):
            with pytest.raises(IdsError, match=store_name):
                store.in_neighbors(WRONG_KINDS[wrong](self.device), fanout)

    @pytest.mark.parametrize("wrong", WRONG_RANGES)
    def test_nodes_outside_the_graph_are_refused(self, store: GraphStore, store_name: str, wrong: str) -> None:
        bad = WRONG_RANGES[wrong](NUM_NODES)
        for fanout in (-1, 2):
            with pytest.raises(IdRangeError, match=rf"{store_name}.*id {bad} "):
                store.in_neighbors(self.ids(2, bad), fanout)

    def test_a_fanout_below_minus_one_is_refused(self, store: GraphStore) -> None:
        for nodes in (self.ids(5), self.ids()):
            with pytest.raises(ValueError, match="-2"):
                store.in_neighbors(nodes, -2)

    @pytest.mark.parametrize("bad", [-1, NUM_NODES])
    @pytest.mark.parametrize("end", [0, 1], ids=["source", "destination"])
    def test_edges_that_end_outside_the_graph_are_refused(
        self, opening: OpenGraph, store_name: str, edge_index: Tensor, end: int, bad: int
    ) -> None:
        wrong = edge_index.clone()
        wrong[end, 4] = bad
        with pytest.raises(IdRangeError, match=rf"{store_name}.*id {bad} "):
            opening(NUM_NODES, wrong)
        self.check(opening(NUM_NODES, edge_index), edge_index, self.ids(5), -1)

    def test_edges_of_another_shape_or_dtype_are_refused(
        self, backend: Backend, store_name: str, edge_index: Tensor
    ) -> None:
        spec = GraphSpec(store_name, NUM_NODES, len(SOURCES))
        for wrong in (edge_index[:, 1:], edge_index.T, edge_index[0], edge_index.int(), edge_index.float()):
            with pytest.raises(RowsError, match=store_name):
                backend.open_graph(spec, wrong)

    def test_after_close_every_call_is_refused(self, store: GraphStore) -> None:
        store.close()
        for nodes in (self.ids(5), self.ids()):
            with pytest.raises(StoreClosedError):
                store.in_neighbors(nodes)

    def test_closing_twice_is_allowed(self, store: GraphStore) -> None:
        store.close()
        store.close()

    def test_a_name_that_was_closed_can_be_opened_with_another_graph(
        self, opening: OpenGraph, edge_index: Tensor
    ) -> None:
        old = opening(NUM_NODES, edge_index)
        old.close()
        other = self.star(2, 3)
        new = opening(3, other)
        with pytest.raises(StoreClosedError):
            old.in_neighbors(self.ids(0))
        old.close()
        self.check(new, other, self.ids(0, 2, 1), -1)

    def open_parts(self, backend: Backend, store_name: str, edge_index: Tensor) -> GraphStore:
        """Open a graph whose edges are dealt out to the ranks, from the last to the first."""
        if not isinstance(backend, SupportsGraphParts):
            pytest.skip("the backend has no open_graph_part()")
        mine = torch.arange(edge_index.size(1), device=self.device).flip(0)[self.rank :: self.world_size]
        spec = GraphSpec(store_name, NUM_NODES, edge_index.size(1))
        return backend.open_graph_part(spec, edge_index[:, mine], mine)

    def test_a_graph_opened_from_parts_is_the_graph(
        self, backend: Backend, store_name: str, edge_index: Tensor
    ) -> None:
        store = self.open_parts(backend, store_name, edge_index)
        assert (store.num_nodes, store.num_edges) == (NUM_NODES, len(SOURCES))
        for nodes in ((0, 1, 2, 3, 4, 5, 6, 7), (7, 5, 0, 3, 5)):
            asked = self.ids(*nodes)
            assert self.check(store, edge_index, asked, -1) == in_edges(edge_index, asked)
        sample = store.in_neighbors(self.ids(5, 3), 2, seed=3)
        store.close()
        whole = backend.open_graph(GraphSpec(store_name, NUM_NODES, len(SOURCES)), edge_index)
        for one, other in zip(sample, whole.in_neighbors(self.ids(5, 3), 2, seed=3), strict=True):
            assert torch.equal(one, other)
        whole.close()

    def test_a_graph_that_is_open_is_not_opened_from_parts(
        self, backend: Backend, store_name: str, edge_index: Tensor
    ) -> None:
        store = self.open_parts(backend, store_name, edge_index)
        with pytest.raises(NameConflictError, match=store_name):
            self.open_parts(backend, store_name, edge_index)
        attached = backend.open_graph(GraphSpec(store_name, NUM_NODES, len(SOURCES)))
        assert self.check(attached, edge_index, self.ids(5), -1) == in_edges(edge_index, self.ids(5))
        store.close()

    def test_parts_that_are_no_edges_of_the_graph_are_refused(
        self, backend: Backend, store_name: str, edge_index: Tensor
    ) -> None:
        if not isinstance(backend, SupportsGraphParts):
            pytest.skip("the backend has no open_graph_part()")
        spec, edges = GraphSpec(store_name, NUM_NODES, len(SOURCES)), edge_index[:, :2]
        for ids, error in (
            (self.ids(0), RowsError),
            (self.ids(0, 1).int(), RowsError),
            (self.ids(0, -1), IdRangeError),
            (self.ids(0, len(SOURCES)), IdRangeError),
        ):
            with pytest.raises(error, match=store_name):
                backend.open_graph_part(spec, edges, ids)
        with pytest.raises(IdRangeError, match=store_name):
            backend.open_graph_part(spec, edges + NUM_NODES, self.ids(0, 1))
        self.open_parts(backend, store_name, edge_index).close()

    def test_random_calls_agree_with_the_list_of_edges(self, backend: Backend, store_name: str) -> None:
        run_in_lock_step(lambda: GraphMachine(backend, store_name, self))
