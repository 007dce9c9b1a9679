"""Communicators with one fault each, and the tests of the kit that must fail on them; some faults need ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.testing import run_on_ranks
from tests.backends.socket_backend import SocketBackend, SocketCommunicator

if TYPE_CHECKING:
    from conftest import Failures
    from torch import Tensor

    import distgnn


class SumsInPlace(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        with torch.no_grad():
            return tensor.copy_(super().all_reduce(tensor, op))


class TakesPartInAutograd(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        return super().all_reduce(tensor, op) + 0 * tensor


class SumsWideNumbersInFloat(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        return super().all_reduce(tensor.double(), op).to(tensor.dtype)


class AnswersInFloat(SocketCommunicator):
    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return super().broadcast(tensor, source).float()


class KnowsAllOperations(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        return super().all_reduce(tensor, "max" if op == "max" else "sum")


class TakesAnySource(SocketCommunicator):
    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return super().broadcast(tensor, source % self.world_size)


class FlattensRows(SocketCommunicator):
    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [rows.flatten(1) if rows.dim() > 1 else rows for rows in super().all_gather(tensor)]


class ForgetsNaN(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        return super().all_reduce(tensor, op).nan_to_num()


RANKS = int(os.environ.get("WORLD_SIZE", "1"))
ALONE = {
    SumsInPlace: "what_is_given_stays_and_what_is_returned_is_the_callers",
    TakesPartInAutograd: "nothing_takes_part_in_autograd",
    SumsWideNumbersInFloat: "integers_are_summed_exactly",
    AnswersInFloat: "every_rank_gets_what_the_source_gives",
    KnowsAllOperations: "an_operation_or_a_source_that_is_not_there_is_a_value_error",
    TakesAnySource: "an_operation_or_a_source_that_is_not_there_is_a_value_error",
    FlattensRows: "rows_are_gathered_in_the_order_of_ranks",
    ForgetsNaN: "numbers_that_are_not_finite_arrive",
}


class SumsAsMaximum(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        return super().all_reduce(tensor, "max")


class SumsInAnOrderOfItsOwn(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        """Add with a rounding that differs from rank to rank."""
        found = super().all_reduce(tensor, op)
        return found * (1 + self.rank * 1e-6) if found.dtype == torch.float32 and found.numel() > 1000 else found


class GathersOwnRowsFirst(SocketCommunicator):
    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        found = super().all_gather(tensor)
        return found[self.rank :] + found[: self.rank]


class GathersAsManyRowsAsItHas(SocketCommunicator):
    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [rows[: len(tensor)] for rows in super().all_gather(tensor)]


class BroadcastsFromRankZero(SocketCommunicator):
    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        super().broadcast(tensor, source)
        return super().broadcast(tensor, 0)


class WaitsForNobody(SocketCommunicator):
    def all_reduce(self, tensor: Tensor, op: str = "sum") -> Tensor:
        if tensor.shape == (1,) and not tensor.any():
            return tensor.clone()
        return super().all_reduce(tensor, op)


class GivesTheLastAnswer(SocketCommunicator):
    last: Tensor | None = None

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        found = super().broadcast(tensor, source)
        answer = self.last if self.last is not None and self.last.shape == found.shape else found
        self.last = found
        return answer.to(found.dtype)


TOGETHER = {
    SumsAsMaximum: "a_sum_is_that_of_all_ranks",
    SumsInAnOrderOfItsOwn: "a_sum_has_the_same_bits_on_every_rank_and_in_every_call",
    GathersOwnRowsFirst: "rows_are_gathered_in_the_order_of_ranks",
    GathersAsManyRowsAsItHas: "ranks_may_have_no_rows_to_gather",
    BroadcastsFromRankZero: "every_rank_gets_what_the_source_gives",
    WaitsForNobody: "nobody_passes_a_barrier_before_all_have_come",
    GivesTheLastAnswer: "many_calls_keep_apart",
}


def made(communicator: type[SocketCommunicator]) -> distgnn.Backend:
    backend = SocketBackend(timeout=2)
    backend.communicator.close()
    backend.communicator = communicator(5)
    return backend


@pytest.mark.skipif(RANKS == 1, reason="these faults show on several ranks alone")
@pytest.mark.parametrize("communicator", TOGETHER, ids=lambda one: one.__name__)
def test_a_fault_among_ranks_fails_its_test(communicator: type[SocketCommunicator], failures: Failures) -> None:
    name = f"test_{TOGETHER[communicator]}"
    found = failures("CommunicatorTests", lambda: made(communicator), test=name)
    # A fault may show on one rank, for which the others then wait.
    assert found <= {name}
    everyone = SocketCommunicator(20)
    assert int(everyone.all_reduce(torch.tensor(len(found)))) > 0
    everyone.close()


@pytest.mark.skipif(RANKS > 1, reason="is tested on one rank")
@pytest.mark.parametrize("communicator", ALONE, ids=lambda one: one.__name__)
def test_a_fault_fails_its_test(communicator: type[SocketCommunicator], failures: Failures) -> None:
    name = f"test_{ALONE[communicator]}"
    assert failures("CommunicatorTests", lambda: made(communicator), test=name) == {name}


@pytest.mark.skipif(RANKS > 1, reason="is tested on one rank")
def test_a_right_communicator_fails_none(failures: Failures) -> None:
    assert failures("CommunicatorTests", lambda: made(SocketCommunicator)) == set()


@pytest.mark.skipif(RANKS > 1, reason="starts the ranks")
def test_faults_among_ranks_fail_their_tests() -> None:
    run_on_ranks(Path(__file__), 2)
