"""Where the time of a rank goes: what is noted, what counts as waiting, and that nothing changes when it is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import distgnn
from distgnn import EmbeddingSpec, GraphSpec, TensorSpec
from distgnn.optim import SGD
from distgnn.storage import protocols
from distgnn.train import timeline
from distgnn.train.timeline import KINDS, Timeline, timed, with_waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn import Backend
    from distgnn.train.timeline import Segments

PROTOCOLS = [value for value in vars(protocols).values() if getattr(value, "_is_runtime_protocol", False)]


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows the one number in the list."""
    now = [0.0]
    monkeypatch.setattr(timeline, "perf_counter", lambda: now[0])
    return now


def rows(*stretches: tuple[str, float, float, bool]) -> Segments:
    return np.array([(KINDS.index(kind), *rest) for kind, *rest in stretches], dtype=float)


def test_every_second_is_counted_once_for_the_innermost_span(seconds: list[float]) -> None:
    line = Timeline(on=True)
    seconds[0] = 1.0
    with line.span("batches"):
        seconds[0] = 3.0
        with line.span("lookup"):
            seconds[0] = 7.0
        seconds[0] = 8.0
    seconds[0] = 10.0
    spent = line.close(lambda own: own, rank=0)
    expected = {"compute": [3.0], "batches": [3.0], "lookup": [4.0]}
    assert spent == {kind: [0.0] for kind in KINDS} | expected


def test_within_an_evaluation_all_is_evaluation(seconds: list[float]) -> None:
    line = Timeline(on=True)
    with line.span("evaluation"), line.span("lookup"):
        seconds[0] = 2.0
    assert line.close(lambda own: own, rank=0)["evaluation"] == [2.0]


def test_the_making_of_items_is_told_from_what_is_done_with_them(seconds: list[float]) -> None:
    def batches() -> Iterator[int]:
        for number in range(3):
            seconds[0] += 2.0
            yield number

    line = Timeline(on=True)
    for _ in line.through("batches", batches()):
        seconds[0] += 5.0
    spent = line.close(lambda own: own, rank=0)
    assert (spent["batches"], spent["compute"]) == ([6.0], [15.0])


def test_ranks_wait_until_the_last_makes_the_same_call() -> None:
    early = rows(("compute", 0, 1, False), ("lookup", 1, 6, True), ("update", 6, 7, True))
    late = rows(("compute", 0, 4, False), ("lookup", 4, 6, True), ("update", 6, 7, True))
    first, second = with_waiting([early, late])
    assert first[:, :3].tolist() == rows(
        ("compute", 0, 1, False), ("wait", 1, 4, True), ("lookup", 4, 6, True), ("update", 6, 7, True)
    )[:, :3].tolist()  # fmt: skip
    assert second.tolist() == late.tolist()


def test_a_call_that_did_not_wait_for_the_last_rank_has_no_waiting() -> None:
    one_sided, late = rows(("lookup", 1, 2, True)), rows(("lookup", 4, 6, True))
    assert [segments.tolist() for segments in with_waiting([one_sided, late])] == [one_sided.tolist(), late.tolist()]


def test_a_backend_that_is_timed_has_the_powers_that_it_had_and_no_others(memory_backend: Backend) -> None:
    line = Timeline(on=True)
    opened = timed(memory_backend, line)
    pairs: list[tuple[object, object]] = [(memory_backend, opened)]
    pairs += [(memory_backend.open_embedding(spec), opened.open_embedding(spec)) for spec in [EmbeddingSpec("e", 3, 2)]]
    pairs += [(memory_backend.open_tensor(spec), opened.open_tensor(spec)) for spec in [TensorSpec("t", (3, 2))]]
    for thing, stand_in in pairs:
        powers = [isinstance(thing, protocol) for protocol in PROTOCOLS]
        assert any(powers)
        assert powers == [isinstance(stand_in, protocol) for protocol in PROTOCOLS]
    assert opened.name == "memory"


def test_store_calls_do_what_they_did_and_are_noted(memory_backend: Backend) -> None:
    line = Timeline(on=True)
    backend = timed(memory_backend, line)
    ids, table = torch.arange(3), backend.open_embedding(EmbeddingSpec("e", 3, 2, std=0.0))
    table.apply_gradients(ids, torch.ones(3, 2), rule=SGD(lr=1.0))
    assert torch.equal(table.lookup(ids), torch.full((3, 2), -1.0))
    tensor = backend.open_tensor(TensorSpec("t", (3, 2)))
    tensor.write(ids, torch.ones(3, 2), accumulate=True)
    assert torch.equal(tensor.read(ids), torch.ones(3, 2))
    graph = backend.open_graph(GraphSpec("g", 3, 2), torch.tensor([[0, 1], [1, 2]]))
    assert graph.in_neighbors(torch.tensor([2])).sources.tolist() == [1]
    spent = line.close(lambda own: own, rank=0)
    assert {kind for kind, (time,) in spent.items() if time} == {
        "compute",
        "batches",
        "lookup",
        "update",
        "exchange",
    }
    table.close()
    with pytest.raises(distgnn.StoreClosedError):
        table.lookup(ids)


def test_a_timeline_that_is_off_leaves_backends_as_they_are(memory_backend: Backend) -> None:
    line = Timeline(on=False)
    assert timed(memory_backend, line) is memory_backend
    with line.span("lookup"):
        line.turn_to("update")
    assert line.by_rank == []
