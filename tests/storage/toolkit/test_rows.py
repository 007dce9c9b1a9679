import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distgnn.optim import SGD
from distgnn.storage.toolkit.rows import group_by_id, put_rows, sum_by_id, take_rows, update_rows

IDS = st.lists(st.sampled_from([0, 1, 2, 3, 7, 40, 41, 2**40, 2**62, 2**63 - 1]), max_size=60)
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]


@given(IDS)
def test_ids_are_grouped_as_by_a_stable_sort(numbers: list[int]) -> None:
    ids = torch.tensor(numbers, dtype=torch.int64)
    distinct, order, starts = group_by_id(ids)
    ordered, positions = torch.sort(ids, stable=True)
    assert torch.equal(order, positions)
    assert torch.equal(distinct, torch.unique(ids))
    assert torch.equal(ordered[starts], distinct)


@given(IDS, st.sampled_from([torch.float64, torch.float32, torch.int64]), st.sampled_from([(), (1,), (3,), (2, 5)]))
def test_sums_by_id_equal_index_add(numbers: list[int], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    ids = torch.tensor(numbers, dtype=torch.int64)
    rows = torch.randint(-1000, 1000, (len(numbers), *shape)).to(dtype)
    distinct, slots = torch.unique(ids, return_inverse=True)
    expected = torch.zeros(distinct.numel(), *shape, dtype=dtype).index_add_(0, slots, rows)
    found, sums = sum_by_id(ids, rows)
    assert torch.equal(found, distinct)
    assert torch.equal(sums, expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (5, 2, 4), (5, 0)], ids=str)
def test_rows_of_every_type_and_shape_move_as_by_torchs_indexing(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    rows = torch.randint(0, 2, shape).to(dtype)
    ids = torch.tensor([4, 0, 4, 2])
    assert torch.equal(take_rows(rows, ids), rows[ids])
    values = torch.randint(0, 2, (3, *shape[1:])).to(dtype)
    expected = rows.clone()
    expected[ids[1:]] = values
    put_rows(rows, ids[1:], values)
    assert torch.equal(rows, expected)


def test_a_single_row_may_have_any_stride() -> None:
    assert torch.equal(take_rows(torch.arange(3.0)[2::2], torch.tensor([0, 0])), torch.tensor([2.0, 2.0]))


def test_what_is_taken_is_no_view() -> None:
    rows = torch.zeros(4, 2)
    take_rows(rows, torch.tensor([0, 1])).fill_(1)
    assert not rows.any()


@pytest.mark.parametrize(
    "layout", [Tensor.contiguous, lambda rows: rows.T.contiguous().T, lambda rows: rows[:1].expand(9, 3)]
)
def test_gradients_may_lie_in_memory_as_they_like(layout: object) -> None:
    gradients = layout(torch.arange(27.0).view(9, 3))  # type: ignore[operator]
    rows, ids = torch.zeros(4, 3), torch.tensor([3, 1, 3, 0, 0, 0, 3, 1, 2])
    update_rows(rows, {}, ids, gradients, SGD(lr=1.0), 1)
    assert torch.equal(rows, torch.zeros(4, 3).index_add_(0, ids, gradients, alpha=-1))


def test_a_step_on_more_rows_than_fit_in_the_cache_is_the_same_in_pieces() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20_000, (30_000,), generator=generator)
    gradients = torch.randint(-9, 9, (30_000, 16), generator=generator).float()
    rows = torch.zeros(20_000, 16)
    update_rows(rows, {}, ids, gradients, SGD(lr=1.0), 1)
    assert torch.equal(rows, torch.zeros(20_000, 16).index_add_(0, ids, gradients, alpha=-1))
