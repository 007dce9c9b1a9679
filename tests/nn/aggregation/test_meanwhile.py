"""While a thread sums, the thread of the caller exchanges rows."""

from __future__ import annotations

from threading import Event, current_thread, main_thread
from typing import Any

import pytest
import torch

from distgnn.nn.aggregation import chunks as aggregate
from distgnn.nn.aggregation import kernels
from distgnn.nn.aggregation.kernels import neighbor_relu_sum, neighbor_sum
from distgnn.nn.aggregation.layout import Layout
from tests.nn.aggregation.pairs import leaf, random_graph


class Awaiting:
    """Goes on when the sums have begun."""

    def __init__(self, begun: Event) -> None:
        self.begun, self.done = begun, list[str]()

    def forward(self) -> None:
        self._wait("forward")

    def backward(self) -> None:
        self._wait("backward")

    def _wait(self, way: str) -> None:
        assert current_thread() is main_thread()
        assert self.begun.wait(timeout=10), "nobody sums meanwhile"
        self.begun.clear()
        self.done.append(way)


@pytest.mark.parametrize("gine", [False, True], ids=["GIN", "GINE"])
def test_sums_and_their_gradients_are_computed_beside_an_exchange(gine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(random_graph(50, 300), 50, 50)
    inputs = (leaf(50, 3), leaf(300, 3)) if gine else (leaf(50, 3),)
    add: Any = neighbor_relu_sum if gine else neighbor_sum
    expected = add(*inputs, layout)
    slopes = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, slopes)

    begun, sum_bags = Event(), aggregate.sum_bags

    def summing(*arguments: Any) -> torch.Tensor:
        assert current_thread() is not main_thread()
        begun.set()
        return sum_bags(*arguments)

    for module in (aggregate, kernels):
        monkeypatch.setattr(module, "sum_bags", summing)
    meanwhile = Awaiting(begun)
    found = add(*inputs, layout, meanwhile=meanwhile)
    torch.testing.assert_close(found, expected)
    begun.clear()
    torch.testing.assert_close(torch.autograd.grad(found, inputs, slopes), gradients)
    assert meanwhile.done == ["forward", "backward"]


def test_an_exchange_that_fails_fails_the_sum() -> None:
    class Failing:
        def forward(self) -> None:
            raise RuntimeError("the cable is cut")

        def backward(self) -> None:
            raise AssertionError

    with pytest.raises(RuntimeError, match="the cable is cut"):
        neighbor_sum(leaf(50, 3), Layout(random_graph(50, 300), 50, 50), meanwhile=Failing())
