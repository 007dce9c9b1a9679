"""Graph stores with one fault each, and the tests of the kit that must fail on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.backends.memory import MemoryBackend, MemoryGraphStore
from distgnn.errors import NameConflictError
from distgnn.storage.protocols import InEdges

if TYPE_CHECKING:
    from conftest import Failures
    from torch import Tensor

    from distgnn import GraphSpec


def join(answers: list[InEdges]) -> InEdges:
    return InEdges(*map(torch.cat, zip(*answers, strict=True)))


class FirstEdgesAreSampled(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        if fanout < 0 or not nodes.numel():
            return super().in_neighbors(nodes, fanout, seed=seed)
        answers = [super(FirstEdgesAreSampled, self).in_neighbors(node) for node in nodes.split(1)]
        return join([InEdges(*(part[:fanout] for part in answer)) for answer in answers])


class SamplesFavourTheLastEdge(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        if fanout < 0 or seed % 4 or not nodes.numel():
            return super().in_neighbors(nodes, fanout, seed=seed)
        answers = [super(SamplesFavourTheLastEdge, self).in_neighbors(node) for node in nodes.split(1)]
        return join([InEdges(*(part[max(len(part) - fanout, 0) :] for part in answer)) for answer in answers])


class SamplesAreDrawnWithReplacement(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        if fanout < 0 or not nodes.numel():
            return super().in_neighbors(nodes, fanout, seed=seed)
        answers = []
        for node in nodes.split(1):
            every = super().in_neighbors(node)
            degree = every.edge_ids.numel()
            generator = torch.Generator().manual_seed(seed * 1009 + int(node))
            drawn = torch.randint(max(degree, 1), (min(fanout, degree),), generator=generator).sort().values
            answers.append(InEdges(*(part[drawn] for part in every)))
        return join(answers)


class SamplesDependOnTheCall(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(nodes, fanout, seed=seed + nodes.numel())


class SamplesDependOnThePlaceInTheCall(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        if fanout < 0 or not nodes.numel():
            return super().in_neighbors(nodes, fanout, seed=seed)
        self.spec.check_nodes(nodes, self._device)
        return join(
            [
                super(SamplesDependOnThePlaceInTheCall, self).in_neighbors(node, fanout, seed=seed + place)
                for place, node in enumerate(nodes.split(1))
            ]
        )


class NodesOfOneDegreeDrawAlike(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        if fanout < 0 or not nodes.numel():
            return super().in_neighbors(nodes, fanout, seed=seed)
        answers = []
        for node in nodes.split(1):
            every = super().in_neighbors(node)
            drawn = torch.randperm(every.edge_ids.numel(), generator=torch.Generator().manual_seed(seed))
            answers.append(InEdges(*(part[drawn[:fanout].sort().values] for part in every)))
        return join(answers)


class SamplesDependOnTheCallsBefore(MemoryGraphStore):
    calls = 0

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        self.calls += 1
        return super().in_neighbors(nodes, fanout, seed=seed + self.calls)


class SeedIsIgnored(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(nodes, fanout)


class NeighboringSeedsAreTheSame(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(nodes, fanout, seed=seed // 2)


class FanoutZeroTakesAll(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(nodes, fanout or -1, seed=seed)


class NegativeFanoutsTakeAll(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(nodes, max(fanout, -1), seed=seed)


class EdgeIdsAreThoseOfTheSortedEdges(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        found = super().in_neighbors(nodes, fanout, seed=seed)
        return found._replace(edge_ids=self._edge_ids.argsort()[found.edge_ids])


class EdgesAreInNoOrder(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        found = super().in_neighbors(nodes.flip(0) if nodes.dim() == 1 else nodes, fanout, seed=seed)
        return InEdges(*(part.flip(0) for part in found))


class NodesAreNamedOnce(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(nodes.unique() if nodes.dim() == 1 else nodes, fanout, seed=seed)


class Filtered(MemoryGraphStore):
    """Leaves edges out of every answer."""

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        found = super().in_neighbors(nodes, fanout, seed=seed)
        return InEdges(*(part[self.kept(found)] for part in found))

    def kept(self, found: InEdges) -> Tensor:
        raise NotImplementedError


class SelfLoopsAreLost(Filtered):
    def kept(self, found: InEdges) -> Tensor:
        return found.sources != found.destinations


class EqualEdgesAreMerged(Filtered):
    def kept(self, found: InEdges) -> Tensor:
        edges = [*zip(found.sources.tolist(), found.destinations.tolist(), strict=True)]
        return torch.tensor([edge not in edges[:place] for place, edge in enumerate(edges)], dtype=torch.bool)


class EdgesAreTurnedRound(MemoryGraphStore):
    def __init__(self, spec: GraphSpec, edge_index: Tensor, device: torch.device) -> None:
        super().__init__(spec, edge_index.flip(0), device)


class EdgesAreRead(MemoryGraphStore):
    """Reads the caller's tensor again at each call."""

    def __init__(self, spec: GraphSpec, edge_index: Tensor, device: torch.device) -> None:
        super().__init__(spec, edge_index, device)
        self.given = edge_index

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        if not self.closed:
            super().__init__(self.spec, self.given, self._device)
        return super().in_neighbors(nodes, fanout, seed=seed)


class AnswersAreItsOwn(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        found = super().in_neighbors(nodes, fanout, seed=seed)
        if found.edge_ids.numel() < self.num_edges:
            return found
        return InEdges(self._sources, found.destinations, self._edge_ids)


class NodesAreConverted(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(nodes.long().flatten(), fanout, seed=seed)


class NegativeNodesAreWrapped(MemoryGraphStore):
    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        return super().in_neighbors(torch.where(nodes < 0, nodes + self.num_nodes, nodes), fanout, seed=seed)


class CloseDoesNothing(MemoryGraphStore):
    def close(self) -> None:
        pass


CAUGHT_BY = {
    FirstEdgesAreSampled: "test_samples_are_uniform_and_those_of_different_seeds_independent",
    SamplesFavourTheLastEdge: "test_samples_are_uniform_and_those_of_different_seeds_independent",
    SamplesAreDrawnWithReplacement: "test_a_sample_has_at_most_fanout_different_edges_of_each_node",
    SamplesDependOnTheCall: "test_a_sample_depends_on_the_seed_and_the_node_alone",
    SamplesDependOnThePlaceInTheCall: "test_a_sample_depends_on_the_seed_and_the_node_alone",
    NodesOfOneDegreeDrawAlike: "test_nodes_of_one_degree_draw_differently",
    SamplesDependOnTheCallsBefore: "test_a_sample_depends_on_the_seed_and_the_node_alone",
    SeedIsIgnored: "test_samples_are_uniform_and_those_of_different_seeds_independent",
    NeighboringSeedsAreTheSame: "test_samples_are_uniform_and_those_of_different_seeds_independent",
    FanoutZeroTakesAll: "test_a_sample_has_at_most_fanout_different_edges_of_each_node",
    NegativeFanoutsTakeAll: "test_a_fanout_below_minus_one_is_refused",
    EdgeIdsAreThoseOfTheSortedEdges: "test_all_in_edges_are_found_in_the_order_of_nodes",
    EdgesAreInNoOrder: "test_all_in_edges_are_found_in_the_order_of_nodes",
    NodesAreNamedOnce: "test_a_node_that_is_named_twice_brings_its_edges_twice",
    SelfLoopsAreLost: "test_all_in_edges_are_found_in_the_order_of_nodes",
    EqualEdgesAreMerged: "test_all_in_edges_are_found_in_the_order_of_nodes",
    EdgesAreTurnedRound: "test_all_in_edges_are_found_in_the_order_of_nodes",
    EdgesAreRead: "test_changing_the_edges_after_opening_does_not_change_the_graph",
    AnswersAreItsOwn: "test_changing_an_answer_does_not_change_the_graph",
    NodesAreConverted: "test_nodes_that_are_no_int64_vector_are_refused",
    NegativeNodesAreWrapped: "test_nodes_outside_the_graph_are_refused",
    CloseDoesNothing: "test_after_close_every_call_is_refused",
}


class WrongBackend(MemoryBackend):
    def __init__(self, store: type[MemoryGraphStore]) -> None:
        super().__init__()
        self._store = store

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        spec.check_edges(edge_index)
        return self.attached(spec, MemoryGraphStore) or self.keep(self._store(spec, edge_index, self._device))


class OpensParts(MemoryBackend):
    """A right one, for a rank that is alone."""

    def open_graph_part(self, spec: GraphSpec, edge_index: Tensor, edge_ids: Tensor) -> MemoryGraphStore:
        spec.check_edges(edge_index, edge_ids)
        if self.attached(spec, MemoryGraphStore) is not None:
            raise NameConflictError(f"{spec} is open")
        return self.keep(MemoryGraphStore(spec, edge_index, self._device, edge_ids=edge_ids))


class PartsAreNumberedAsTheyStand(OpensParts):
    def open_graph_part(self, spec: GraphSpec, edge_index: Tensor, edge_ids: Tensor) -> MemoryGraphStore:
        return super().open_graph_part(spec, edge_index, edge_ids.sort().values)


class PartsReplaceTheGraph(OpensParts):
    def open_graph_part(self, spec: GraphSpec, edge_index: Tensor, edge_ids: Tensor) -> MemoryGraphStore:
        (self._stores or {}).pop(spec.name, None)
        return super().open_graph_part(spec, edge_index, edge_ids)


class IdsOfPartsAreNotChecked(OpensParts):
    def open_graph_part(self, spec: GraphSpec, edge_index: Tensor, edge_ids: Tensor) -> MemoryGraphStore:
        if edge_ids.dtype == torch.int64 and edge_ids.numel() == edge_index.size(1):
            edge_ids = edge_ids.clamp(0, spec.num_edges - 1)
        return super().open_graph_part(spec, edge_index, edge_ids)


@pytest.mark.parametrize(
    ("backend", "test"),
    [
        (PartsAreNumberedAsTheyStand, "test_a_graph_opened_from_parts_is_the_graph"),
        (PartsReplaceTheGraph, "test_a_graph_that_is_open_is_not_opened_from_parts"),
        (IdsOfPartsAreNotChecked, "test_parts_that_are_no_edges_of_the_graph_are_refused"),
    ],
)
def test_wrong_openings_from_parts_are_caught(failures: Failures, backend: type[MemoryBackend], test: str) -> None:
    assert failures("GraphStoreTests", OpensParts, test=test) == set()
    assert failures("GraphStoreTests", backend, test=test) == {test}


@pytest.mark.parametrize("store", CAUGHT_BY, ids=lambda store: store.__name__)
def test_a_wrong_store_fails_the_test_of_what_it_does_wrong(failures: Failures, store: type[MemoryGraphStore]) -> None:
    test = CAUGHT_BY[store]
    assert failures("GraphStoreTests", lambda: WrongBackend(store), test=test) == {test}


@pytest.mark.parametrize("store", [SelfLoopsAreLost, SamplesDependOnTheCallsBefore])
def test_random_calls_catch_it_too(failures: Failures, store: type[MemoryGraphStore]) -> None:
    test = "test_random_calls_agree_with_the_list_of_edges"
    assert failures("GraphStoreTests", lambda: WrongBackend(store), test=test) == {test}


def test_the_right_store_fails_no_test(failures: Failures) -> None:
    assert failures("GraphStoreTests", lambda: WrongBackend(MemoryGraphStore)) == set()
