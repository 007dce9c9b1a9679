"""Tensor stores with one fault each, and the tests of the kit that must fail on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.backends.memory import MemoryBackend, MemoryTensorStore
from distgnn.errors import IdRangeError

if TYPE_CHECKING:
    from conftest import Failures
    from torch import Tensor

    from distgnn import TensorSpec


class StartsFromOnes(MemoryTensorStore):
    def __init__(self, spec: TensorSpec, device: torch.device) -> None:
        super().__init__(spec, device)
        self._rows.fill_(1)


class ReadGivesViews(MemoryTensorStore):
    def read(self, ids: Tensor) -> Tensor:
        rows = super().read(ids)
        start = int(ids[0]) if ids.numel() else 0
        part = self._rows[start : start + ids.numel()]
        return part if torch.equal(part, rows) else rows


class ReadFlattensRows(MemoryTensorStore):
    def read(self, ids: Tensor) -> Tensor:
        return super().read(ids).flatten(1) if len(self.shape) > 1 else super().read(ids)[:, None]


class ReadWrapsNegativeIds(MemoryTensorStore):
    def read(self, ids: Tensor) -> Tensor:
        return super().read(torch.where(ids < 0, ids + self.shape[0], ids))


class StoresInFloat(MemoryTensorStore):
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        super().write(ids, values, accumulate=accumulate)
        self._rows.copy_(self._rows.to(torch.float32))


class CloseDoesNothing(MemoryTensorStore):
    def close(self) -> None:
        pass


class GoodIdsOfABadCallAreWritten(MemoryTensorStore):
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        try:
            super().write(ids, values, accumulate=accumulate)
        except IdRangeError:
            good = (ids >= 0) & (ids < self.shape[0])
            super().write(ids[good], values[good], accumulate=accumulate)
            raise


class ValuesAreBroadcast(MemoryTensorStore):
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        rows = torch.broadcast_to(values, (ids.numel(), 3)) if values.shape in {(1, 3), (3,), ()} else values
        super().write(ids, rows, accumulate=accumulate)


class ValuesAreConverted(MemoryTensorStore):
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        super().write(ids, values.to(self.dtype), accumulate=accumulate)


class Checked(MemoryTensorStore):
    """Checks as it should before what its subclasses do wrong."""

    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        if not self.closed:
            self.spec.check_values(ids, values, self._device)
        self.write_checked(ids, values, accumulate=accumulate)

    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        super().write(ids, values, accumulate=accumulate)


class AccumulateReplaces(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        super().write_checked(ids, values, accumulate=False)


class AccumulateTakesOneDuplicate(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        super().write_checked(ids, values + self._rows[ids] if accumulate else values, accumulate=False)


class HalvesAreSummedAsHalves(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        for one, value in zip(ids.split(1), values.split(1), strict=True):
            super().write_checked(one, value, accumulate=accumulate)


class IntegersAreSummedInDoubles(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        if accumulate and self.dtype == torch.int64:
            self._rows = self._rows.double().index_add_(0, ids, values.double()).long()
        else:
            super().write_checked(ids, values, accumulate=accumulate)


class DuplicatesAreMixed(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        if accumulate:
            super().write_checked(ids, values, accumulate=True)
        else:
            slots = ids.reshape(-1, *[1] * (values.dim() - 1)).expand_as(values)
            self._rows.scatter_reduce_(0, slots, values, "amax", include_self=False)


class DuplicatesAreSummedWithoutAccumulate(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        if not accumulate:
            super().write_checked(ids, torch.zeros_like(values), accumulate=False)
        super().write_checked(ids, values, accumulate=True)


class ValuesAreKept(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        if not accumulate and ids.tolist() == [*range(self.shape[0])]:
            self._rows = values
        else:
            super().write_checked(ids, values, accumulate=accumulate)


class ValuesAreOverwritten(Checked):
    def write_checked(self, ids: Tensor, values: Tensor, *, accumulate: bool) -> None:
        super().write_checked(ids, values, accumulate=accumulate)
        values.copy_(self._rows[ids])


CAUGHT_BY = {
    StartsFromOnes: "test_a_new_store_is_zero",
    ReadGivesViews: "test_what_was_read_shares_no_memory_with_the_store",
    ReadFlattensRows: "test_what_is_written_is_read",
    ReadWrapsNegativeIds: "test_ids_outside_the_rows_are_refused_and_change_nothing",
    StoresInFloat: "test_integers_are_summed_exactly",
    CloseDoesNothing: "test_after_close_every_call_is_refused",
    GoodIdsOfABadCallAreWritten: "test_ids_outside_the_rows_are_refused_and_change_nothing",
    ValuesAreBroadcast: "test_values_of_another_shape_are_not_broadcast",
    ValuesAreConverted: "test_values_of_another_dtype_are_not_converted",
    AccumulateReplaces: "test_accumulated_values_of_equal_ids_are_summed",
    AccumulateTakesOneDuplicate: "test_accumulated_values_of_equal_ids_are_summed",
    HalvesAreSummedAsHalves: "test_16_bit_values_are_summed_in_float32",
    IntegersAreSummedInDoubles: "test_integers_are_summed_exactly",
    DuplicatesAreMixed: "test_of_several_values_for_a_row_one_is_kept_whole",
    DuplicatesAreSummedWithoutAccumulate: "test_of_several_values_for_a_row_one_is_kept_whole",
    ValuesAreKept: "test_ids_and_values_are_left_as_they_are_and_not_kept",
    ValuesAreOverwritten: "test_ids_and_values_are_left_as_they_are_and_not_kept",
}


class WrongBackend(MemoryBackend):
    def __init__(self, store: type[MemoryTensorStore]) -> None:
        super().__init__()
        self._store = store

    def open_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        return self.attached(spec, MemoryTensorStore) or self.keep(self._store(spec, self._device))


@pytest.mark.parametrize("store", CAUGHT_BY, ids=lambda store: store.__name__)
def test_a_wrong_store_fails_the_test_of_what_it_does_wrong(failures: Failures, store: type[MemoryTensorStore]) -> None:
    test = CAUGHT_BY[store]
    assert failures("TensorStoreTests", lambda: WrongBackend(store), test=test) == {test}


@pytest.mark.parametrize("store", [AccumulateTakesOneDuplicate, DuplicatesAreMixed])
def test_random_calls_catch_it_too(failures: Failures, store: type[MemoryTensorStore]) -> None:
    test = "test_random_calls_agree_with_a_tensor"
    assert failures("TensorStoreTests", lambda: WrongBackend(store), test=test) == {test}


def test_the_right_store_fails_no_test(failures: Failures) -> None:
    assert failures("TensorStoreTests", lambda: WrongBackend(MemoryTensorStore)) == set()
