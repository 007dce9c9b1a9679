# ruff: noqa: D102  # a test's name is its sentence
"""The conformance suite of :class:`distgnn.TensorStore`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.errors import IdRangeError, IdsError, RowsError, StoreClosedError
from distgnn.storage.specs import TensorSpec
from distgnn.testing.checkpoints import TensorCheckpointTests
from distgnn.testing.placement import TensorPlacementTests
from distgnn.testing.state_machines import TensorMachine, run_in_lock_step
from distgnn.testing.suite import eighths, skip_if_refused
from distgnn.testing.wrong_ids import WRONG_KINDS, WRONG_RANGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from distgnn.storage.protocols import Backend, TensorStore

    OpenTensor = Callable[[TensorSpec], TensorStore]

HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.int64, *HALVES)
SHAPES = ((7,), (7, 3), (7, 2, 3))


class TensorStoreTests(TensorCheckpointTests, TensorPlacementTests):
    """Subclass it and override ``backend``; see :mod:`distgnn.testing`."""

    @pytest.fixture
    def spec(self, store_name: str) -> TensorSpec:
        """Describe a small tensor."""
        return TensorSpec(store_name, (7, 3))

    @pytest.fixture
    def opening(self, backend: Backend) -> Iterator[OpenTensor]:
        """Give a function that opens stores; skips the test for a dtype that the backend may refuse and does."""
        with ExitStack() as stores:

            def open_tensor(spec: TensorSpec) -> TensorStore:
                with skip_if_refused(spec.dtype):
                    store = backend.open_tensor(spec)
                stores.callback(store.close)
                return store

            yield open_tensor

    @pytest.fixture
    def store(self, opening: OpenTensor, spec: TensorSpec) -> TensorStore:
        """Open the small tensor."""
        return opening(spec)

    @pytest.fixture(params=product(SHAPES, DTYPES), ids=str)
    def any_store(self, opening: OpenTensor, spec: TensorSpec, request: pytest.FixtureRequest) -> TensorStore:
        """Open tensors of one, two and three dimensions and of every dtype that is asked for here."""
        shape, dtype = request.param
        store = opening(replace(spec, shape=shape, dtype=dtype))
        assert (store.shape, store.dtype) == (shape, dtype)
        return store

    def whole(self, store: TensorStore) -> Tensor:
        """Read all rows."""
        return store.read(torch.arange(store.shape[0], device=self.device))

    def write(self, store: TensorStore, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        """Write values that are dealt out over the ranks."""
        store.write(*self.share(ids, values), accumulate=accumulate)

    def numbers(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Make whole numbers that differ from row to row."""
        return (eighths(*shape, device=self.device) * 8).to(dtype)

    def test_a_new_store_is_zero(self, any_store: TensorStore) -> None:
        values = self.whole(any_store)
        assert (values.shape, values.dtype, values.device) == (any_store.shape, any_store.dtype, self.device)
        assert not values.any()

    def test_what_is_written_is_read(self, any_store: TensorStore) -> None:
        store, shape, dtype = any_store, any_store.shape, any_store.dtype
        values = self.numbers(3, *shape[1:], dtype=dtype)
        self.write(store, self.ids(5, 0, 2), values)
        expected = torch.zeros(shape, dtype=dtype, device=self.device)
        expected[[5, 0, 2]] = values
        assert torch.equal(self.whole(store), expected)
        assert torch.equal(store.read(self.ids(2, 5, 2, 1)), expected[[2, 5, 2, 1]])

    def test_accumulated_values_of_equal_ids_are_summed(self, any_store: TensorStore) -> None:
        store, shape, dtype = any_store, any_store.shape, any_store.dtype
        first, more = (self.numbers(rows, *shape[1:], dtype=dtype) for rows in (7, 5))
        self.write(store, torch.arange(7, device=self.device), first)
        self.write(store, self.ids(5, 0, 5, 5, 2), more, accumulate=True)
        expected = first.clone()
        for row, value in zip((5, 0, 5, 5, 2), more, strict=True):
            expected[row] += value
        assert torch.equal(self.whole(store), expected)

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    def test_16_bit_values_are_summed_in_float32(
        self, opening: OpenTensor, spec: TensorSpec, dtype: torch.dtype
    ) -> None:
        store = opening(replace(spec, dtype=dtype))
        # In the store's own dtype, adding ones to this number does nothing.
        large = 2 / torch.finfo(dtype).eps
        self.write(store, self.ids(4), torch.full((1, 3), large, dtype=dtype, device=self.device))
        ones = torch.ones(64, 3, dtype=dtype, device=self.device)
        self.write(store, self.ids(*[4] * 64), ones, accumulate=True)
        assert store.read(self.ids(4)).tolist() == [[large + 64] * 3]
        values = torch.cat([torch.full((1, 3), large, dtype=dtype, device=self.device), ones])
        self.write(store, self.ids(*[2] * 65), values, accumulate=True)
        assert store.read(self.ids(2)).tolist() == [[large + 64] * 3]

    def test_integers_are_summed_exactly(self, opening: OpenTensor, spec: TensorSpec) -> None:
        store = opening(replace(spec, dtype=torch.int64))
        values = torch.tensor([[2**53] * 3, [1] * 3, [2**53] * 3], device=self.device)
        self.write(store, self.ids(3, 3, 1), values, accumulate=True)
        assert store.read(self.ids(3, 1)).tolist() == [[2**53 + 1] * 3, [2**53] * 3]

    def test_of_several_values_for_a_row_one_is_kept_whole(self, opening: OpenTensor, spec: TensorSpec) -> None:
        store = opening(replace(spec, shape=(7, 64)))
        # No row is larger or smaller than another in all columns, so that a maximum is a mix as well.
        values = (torch.arange(32 * 64, device=self.device).reshape(32, 64) * 31 % 97).float()
        for rows in ((1, 4) * 16, (2,) * 32):
            self.write(store, self.ids(*rows), values)
            for row in dict.fromkeys(rows):
                candidates = [value for name, value in zip(rows, values, strict=True) if name == row]
                kept = store.read(self.ids(row))[0]
                assert any(torch.equal(kept, value) for value in candidates), f"row {row} is a mix: {kept}"

    @pytest.mark.parametrize("accumulate", [False, True])
    def test_a_write_without_ids_changes_nothing(self, store: TensorStore, accumulate: bool) -> None:
        values = self.numbers(7, 3)
        self.write(store, torch.arange(7, device=self.device), values)
        self.write(store, self.ids(), self.numbers(0, 3), accumulate=accumulate)
        assert torch.equal(self.whole(store), values)
        assert store.read(self.ids()).shape == (0, 3)

    @pytest.mark.parametrize("ids", [(3, 4), (0, 1, 2, 3, 4, 5, 6)], ids=["some", "all"])
    def test_what_was_read_shares_no_memory_with_the_store(self, store: TensorStore, ids: tuple[int, ...]) -> None:
        read = store.read(self.ids(*ids))
        self.write(store, self.ids(*ids), torch.ones_like(read))
        assert not read.any()
        store.read(self.ids(*ids)).fill_(99)
        assert torch.equal(store.read(self.ids(*ids)), torch.ones_like(read))

    @pytest.mark.parametrize("accumulate", [False, True])
    @pytest.mark.parametrize("batch", [(3,), (0, 1, 2, 3, 4, 5, 6), (6, 1, 6)], ids=["one", "all", "duplicates"])
    def test_ids_and_values_are_left_as_they_are_and_not_kept(
        self, store: TensorStore, batch: tuple[int, ...], accumulate: bool
    ) -> None:
        ids, values = self.ids(*batch), self.numbers(len(batch), 3)
        self.write(store, ids, values, accumulate=accumulate)
        self.write(store, ids, values, accumulate=True)
        assert torch.equal(ids, self.ids(*batch))
        assert torch.equal(values, self.numbers(len(batch), 3))
        after = self.whole(store)
        values.fill_(99)
        assert torch.equal(self.whole(store), after)

    def test_ids_and_values_may_be_views(self, store: TensorStore) -> None:
        ids, values = self.ids(6, 0, 2, 0, 5, 0)[::2], self.numbers(3, 3).T
        self.write(store, ids, values)
        assert torch.equal(store.read(self.ids(6, 2, 5)), values)
        self.write(store, ids, values, accumulate=True)
        assert torch.equal(store.read(ids), values * 2)

    @pytest.mark.parametrize("wrong", WRONG_KINDS)
    def test_ids_that_are_no_int64_vector_are_refused_and_change_nothing(
        self, store: TensorStore, spec: TensorSpec, wrong: str
    ) -> None:
        ids = WRONG_KINDS[wrong](self.device)
        with pytest.raises(IdsError, match=spec.name):
            store.read(ids)
        for accumulate in (False, True):
            with pytest.raises(IdsError, match=spec.name):
                store.write(ids, torch.ones(ids.numel(), 3, device=self.device), accumulate=accumulate)
        assert not self.whole(store).any()

    @pytest.mark.parametrize("wrong", WRONG_RANGES)
    def test_ids_outside_the_rows_are_refused_and_change_nothing(
        self, store: TensorStore, spec: TensorSpec, wrong: str
    ) -> None:
        bad, ones = WRONG_RANGES[wrong](7), torch.ones(3, 3, device=self.device)
        words = rf"{spec.name}.*id {bad} .*" + ("negative" if bad < 0 else "7 rows")
        with pytest.raises(IdRangeError, match=words):
            store.read(self.ids(2, bad, 2))
        for accumulate in (False, True):
            with pytest.raises(IdRangeError, match=words):
                store.write(self.ids(2, bad, 2), ones, accumulate=accumulate)
        assert not self.whole(store).any()

    @pytest.mark.parametrize("accumulate", [False, True])
    @pytest.mark.parametrize("shape", [(1, 3), (3, 1), (3,), (), (3, 4), (2, 3), (3, 3, 1)], ids=str)
    def test_values_of_another_shape_are_not_broadcast(
        self, store: TensorStore, spec: TensorSpec, shape: tuple[int, ...], accumulate: bool
    ) -> None:
        with pytest.raises(RowsError, match=rf"{spec.name}.*\[3, 3\]"):
            store.write(self.ids(0, 1, 2), torch.ones(shape, device=self.device), accumulate=accumulate)
        assert not self.whole(store).any()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.bool], ids=str)
    def test_values_of_another_dtype_are_not_converted(
        self, store: TensorStore, spec: TensorSpec, dtype: torch.dtype
    ) -> None:
        for accumulate in (False, True):
            with pytest.raises(RowsError, match=rf"{spec.name}.*{dtype}"):
                store.write(self.ids(1), torch.ones(1, 3, dtype=dtype, device=self.device), accumulate=accumulate)
        assert not self.whole(store).any()

    def test_values_on_another_device_are_refused(self, store: TensorStore, spec: TensorSpec) -> None:
        for accumulate in (False, True):
            with pytest.raises(RowsError, match=rf"{spec.name}.*meta"):
                store.write(self.ids(1), torch.ones(1, 3, device="meta"), accumulate=accumulate)
        assert not self.whole(store).any()

    def test_after_close_every_call_is_refused(self, store: TensorStore) -> None:
        store.close()
        with pytest.raises(StoreClosedError):
            store.read(self.ids(0))
        for accumulate in (False, True):
            with pytest.raises(StoreClosedError):
                store.write(self.ids(0), self.numbers(1, 3), accumulate=accumulate)

    def test_closing_twice_is_allowed(self, store: TensorStore) -> None:
        store.close()
        store.close()

    def test_a_store_that_is_opened_anew_is_zero_and_may_have_another_shape(
        self, opening: OpenTensor, spec: TensorSpec
    ) -> None:
        for shape in ((7, 3), (7, 3), (9,)):
            store = opening(replace(spec, shape=shape))
            assert not self.whole(store).any()
            self.write(store, self.ids(2), self.numbers(1, *shape[1:]) + 1)
            store.close()

    def test_a_closed_store_stays_closed_when_its_name_is_opened_anew(
        self, opening: OpenTensor, spec: TensorSpec
    ) -> None:
        old = opening(spec)
        old.close()
        new = opening(spec)
        with pytest.raises(StoreClosedError):
            old.read(self.ids(0))
        old.close()
        assert not self.whole(new).any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
    def test_random_calls_agree_with_a_tensor(self, backend: Backend, spec: TensorSpec, dtype: torch.dtype) -> None:
        spec = replace(spec, dtype=dtype)
        run_in_lock_step(lambda: TensorMachine(backend, spec, self))
