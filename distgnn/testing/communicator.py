# ruff: noqa: D102  # a test's name is its sentence
"""The suite of :class:`distgnn.Communicator`: what ranks do together besides sharing stores."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.distributed.communicator import (
    Communicator,
    SupportsRanks,
    all_gather_numbers,
    all_gather_texts,
    barrier,
    communicator_of,
)
from distgnn.testing.suite import BackendFixture, eighths

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.protocols import Backend

_SUMMED = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64)
_MOVED = (*_SUMMED, torch.bool, torch.uint8, torch.int16, torch.complex64)
_LATE = 0.1  # seconds


class CommunicatorTests(BackendFixture):
    """A backend's collectives; of one that knows of no ranks, those of one rank."""

    @pytest.fixture
    def communicator(self, backend: Backend) -> Communicator:
        """Give the backend's communicator."""
        return communicator_of(backend)

    def numbers(self, rank: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Make small integers, other ones for each rank."""
        return (eighths(*shape, start=rank, device=self.device) * 8).to(dtype)

    def test_it_has_the_five_members_and_is_the_same_each_time(
        self, backend: Backend, communicator: Communicator
    ) -> None:
        assert isinstance(communicator, Communicator)
        assert (communicator.rank, communicator.world_size) == (self.rank, self.world_size)
        if isinstance(backend, SupportsRanks):
            assert (backend.rank, backend.world_size) == (communicator.rank, communicator.world_size)
            assert backend.communicator is communicator

    @pytest.mark.parametrize("dtype", _SUMMED, ids=str)
    @pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5, 3), (2, 3, 4)], ids=str)
    def test_a_sum_is_that_of_all_ranks(
        self, communicator: Communicator, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        given = [self.numbers(rank, *shape, dtype=dtype) for rank in range(self.world_size)]
        found = communicator.all_reduce(given[self.rank])
        assert (found.dtype, found.device, found.shape) == (dtype, self.device, torch.Size(shape))
        assert torch.equal(found, torch.stack(given).sum(dim=0).to(dtype))

    @pytest.mark.parametrize("dtype", _SUMMED, ids=str)
    def test_a_maximum_is_that_of_all_ranks(self, communicator: Communicator, dtype: torch.dtype) -> None:
        given = [self.numbers(rank, 4, 3, dtype=dtype) - 20 for rank in range(self.world_size)]
        found = communicator.all_reduce(given[self.rank], "max")
        assert found.dtype == dtype
        assert torch.equal(found, torch.stack(given).amax(dim=0))

    def test_integers_are_summed_exactly(self, communicator: Communicator) -> None:
        large = torch.tensor([2**53 + 1, -(2**53) - 3], device=self.device)
        assert communicator.all_reduce(large).tolist() == [number * self.world_size for number in large.tolist()]

    def test_a_sum_has_the_same_bits_on_every_rank_and_in_every_call(self, communicator: Communicator) -> None:
        draws = torch.Generator().manual_seed(self.rank)
        values = torch.randn(1001, generator=draws) * 10.0 ** torch.randint(-6, 7, (1001,), generator=draws)
        first, second = (communicator.all_reduce(values.to(self.device)) for _ in range(2))
        assert torch.equal(first, second)
        for other in communicator.all_gather(first):
            assert torch.equal(other, first)

    @pytest.mark.parametrize("dtype", _MOVED, ids=str)
    def test_rows_are_gathered_in_the_order_of_ranks(self, communicator: Communicator, dtype: torch.dtype) -> None:
        counts = [(rank * 3 + 2) % 5 for rank in range(self.world_size)]
        given = [self.numbers(rank, count, 2, 3).to(dtype) for rank, count in enumerate(counts)]
        found = communicator.all_gather(given[self.rank])
        assert len(found) == self.world_size
        for rows, expected in zip(found, given, strict=True):
            assert (rows.dtype, rows.device, rows.shape) == (dtype, self.device, expected.shape)
            assert torch.equal(rows, expected)

    def test_ranks_may_have_no_rows_to_gather(self, communicator: Communicator) -> None:
        last = self.rank == self.world_size - 1
        found = communicator.all_gather(self.numbers(0, 2 if last else 0, 3))
        assert [len(rows) for rows in found] == [*[0] * (self.world_size - 1), 2]
        assert torch.equal(found[-1], self.numbers(0, 2, 3))
        assert [tuple(rows.shape) for rows in communicator.all_gather(self.numbers(0, 0, 3))] == [(0, 3)] * len(found)

    @pytest.mark.parametrize("dtype", _MOVED, ids=str)
    def test_every_rank_gets_what_the_source_gives(self, communicator: Communicator, dtype: torch.dtype) -> None:
        for source in range(self.world_size):
            found = communicator.broadcast(self.numbers(self.rank, 4, 3).to(dtype), source)
            assert (found.dtype, found.device) == (dtype, self.device)
            assert torch.equal(found, self.numbers(source, 4, 3).to(dtype))
        assert int(communicator.broadcast(torch.tensor(self.rank + 7, device=self.device))) == 7

    def test_what_is_given_stays_and_what_is_returned_is_the_callers(self, communicator: Communicator) -> None:
        given = self.numbers(self.rank, 4, 3)
        for call in (communicator.all_reduce, lambda rows: communicator.all_gather(rows)[0], communicator.broadcast):
            found = call(given)
            expected = found.clone()
            found.fill_(99)
            assert torch.equal(given, self.numbers(self.rank, 4, 3))
            assert torch.equal(call(given), expected)

    def test_rows_need_not_be_contiguous(self, communicator: Communicator) -> None:
        given = [self.numbers(rank, 3, 4) for rank in range(self.world_size)]
        found = communicator.all_reduce(given[self.rank].t())
        assert torch.equal(found, torch.stack(given).sum(dim=0).t())
        assert torch.equal(communicator.all_gather(given[self.rank].t())[0], given[0].t())
        assert torch.equal(communicator.broadcast(given[self.rank].t()), given[0].t())
        assert torch.equal(communicator.broadcast(given[self.rank][:, 1]), given[0][:, 1])

    def test_nothing_takes_part_in_autograd(self, communicator: Communicator) -> None:
        given = self.numbers(self.rank, 4, 3).requires_grad_() * 2
        assert not communicator.all_reduce(given).requires_grad
        assert not communicator.all_gather(given)[-1].requires_grad
        assert not communicator.broadcast(given).requires_grad
        with torch.inference_mode():
            assert torch.equal(communicator.broadcast(given), self.numbers(0, 4, 3) * 2)

    def test_numbers_that_are_not_finite_arrive(self, communicator: Communicator) -> None:
        given = torch.tensor([float("inf"), float("nan"), 1.0], device=self.device)
        found = communicator.all_reduce(given)
        assert found.isinf().tolist() == [True, False, False]
        assert found.isnan().tolist() == [False, True, False]

    def test_an_operation_or_a_source_that_is_not_there_is_a_value_error(self, communicator: Communicator) -> None:
        with pytest.raises(ValueError, match="'mean'"):
            communicator.all_reduce(self.numbers(0, 2), "mean")  # type: ignore[arg-type]  # on purpose
        for source in (-1, self.world_size):
            with pytest.raises(ValueError, match=str(source)):
                communicator.broadcast(self.numbers(0, 2), source)
        barrier(communicator)

    def test_many_calls_keep_apart(self, communicator: Communicator) -> None:
        everyone = range(self.world_size)
        for number in range(30):
            one = torch.tensor([number * 10 + self.rank], device=self.device)
            assert int(communicator.all_reduce(one)) == sum(number * 10 + rank for rank in everyone)
            assert int(communicator.broadcast(one, number % self.world_size)) == number * 10 + number % self.world_size
            found = communicator.all_gather(one.repeat(1 + (number + self.rank) % 3))
            assert [rows.tolist() for rows in found] == [
                [number * 10 + rank] * (1 + (number + rank) % 3) for rank in everyone
            ]

    def test_a_million_numbers_are_summed(self, communicator: Communicator) -> None:
        found = communicator.all_reduce(torch.full((1_000_003,), self.rank + 1.0, device=self.device))
        assert found.eq(sum(range(1, self.world_size + 1))).all()

    def test_nobody_passes_a_barrier_before_all_have_come(self, communicator: Communicator) -> None:
        barrier(communicator)
        for late in range(self.world_size):
            time.sleep(_LATE if self.rank == late else 0)
            came = time.monotonic_ns()  # one clock for all processes of a machine
            barrier(communicator)
            times = all_gather_numbers(communicator, [came, time.monotonic_ns()])
            assert times[:, 1].min() >= times[:, 0].max()

    def test_texts_of_any_length_are_gathered(self, communicator: Communicator) -> None:
        texts = ["né " * (rank * 700) for rank in range(self.world_size)]
        assert all_gather_texts(communicator, texts[self.rank]) == texts
