"""A partition book says where rows are, checks itself, and does not change."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from distgnn import EmbeddingSpec, NameConflictError, PartitionBook, SpecError, TensorSpec
from distgnn.storage.specs import check_same_spec

ORDER = torch.tensor([4, 1, 0, 3, 2])
BOOK = PartitionBook((0, 3, 5), ORDER)


def test_even_ranges_differ_by_at_most_one_row() -> None:
    assert PartitionBook.even(10, 4).bounds == (0, 2, 5, 7, 10)
    assert PartitionBook.even(0, 3).bounds == (0, 0, 0, 0)


def test_a_book_knows_its_sizes_and_what_a_rank_owns() -> None:
    assert (BOOK.num_rows, BOOK.world_size) == (5, 2)
    assert (BOOK.own(0), BOOK.own(1)) == (range(3), range(3, 5))


def test_places_and_ids_are_each_others_inverse() -> None:
    ids = torch.tensor([2, 2, 4, 0])
    assert BOOK.places(ids).tolist() == [4, 4, 0, 2]
    assert BOOK.ids(1, 4).tolist() == [1, 0, 3]
    everything = torch.randperm(1000)
    book = PartitionBook((0, 1000), everything)
    assert torch.equal(book.places(everything), torch.arange(1000))
    assert torch.equal(everything[book.places(torch.arange(1000))], torch.arange(1000))
    assert book.places(ids).dtype == book.ids(0, 9).dtype == torch.int64


def test_without_an_order_a_place_is_an_id_and_costs_nothing() -> None:
    ids, book = torch.tensor([3, 1]), PartitionBook((0, 1, 5))
    assert book.places(ids) is ids
    assert book.ids(1, 3).tolist() == [1, 2]


def test_an_order_that_counts_up_is_none() -> None:
    assert PartitionBook((0, 2, 5), torch.arange(5)).order is None
    assert PartitionBook((0, 2, 5), torch.arange(5)) == PartitionBook((0, 2, 5))
    assert PartitionBook((0, 0), torch.empty(0, dtype=torch.int64)).order is None


def test_books_are_equal_by_their_bounds_and_order() -> None:
    same = PartitionBook((0, 3, 5), ORDER.to(torch.int32))
    assert same == BOOK
    assert hash(same) == hash(BOOK)
    others = [PartitionBook((0, 2, 5), ORDER), PartitionBook((0, 3, 5)), PartitionBook((0, 3, 5), ORDER.flip(0))]
    assert len({BOOK, same, *others}) == 4
    assert BOOK.bounds != BOOK


def test_a_book_does_not_change_with_the_tensor_it_was_made_from() -> None:
    for dtype in (torch.int32, torch.int64):
        order = ORDER.to(dtype).clone()
        book = PartitionBook((0, 3, 5), order)
        order.zero_()
        assert book == BOOK
        assert book.ids(0, 5).tolist() == ORDER.tolist()
    with pytest.raises(AttributeError):
        BOOK.bounds = (0, 5)  # type: ignore[misc]


def test_copies_and_pickles_are_equal() -> None:
    assert copy.deepcopy(BOOK) is BOOK
    loaded = pickle.loads(pickle.dumps(BOOK))
    assert loaded == BOOK
    assert torch.equal(loaded.places(ORDER), torch.arange(5))


def test_a_book_that_grows_gives_new_rows_to_the_last_rank() -> None:
    grown = BOOK.grown(7)
    assert (grown.bounds, grown.ids(0, 7).tolist()) == ((0, 3, 7), [*ORDER.tolist(), 5, 6])
    assert PartitionBook((0, 2, 5)).grown(6) == PartitionBook((0, 2, 6))
    assert BOOK.grown(5) == BOOK


def test_its_repr_is_short_and_differs_where_books_do() -> None:
    assert repr(PartitionBook((0, 2, 5))) == "PartitionBook((0, 2, 5))"
    assert repr(BOOK).startswith("PartitionBook((0, 3, 5), digest='")
    many = [PartitionBook(tuple(range(0, 10**9 + step, 10**6))) for step in (1, 10**6 + 1)]
    assert repr(many[0]).startswith("PartitionBook((0, 1000000, ..., 1000000000), 1000 ranks, digest='")
    moved = PartitionBook((*many[0].bounds[:2], many[0].bounds[1], *many[0].bounds[3:]))
    assert len({repr(book) for book in (*many, moved, BOOK, PartitionBook((0, 3, 5), ORDER.flip(0)))}) == 5
    assert max(len(repr(book)) for book in many) < 100


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (torch.tensor([0, 1, 2, 3]), r"must be \[5\], each id once.*not of shape \[4\]"),
        (torch.tensor([[0, 1, 2, 3, 4]]), r"not of shape \[1, 5\]"),
        (torch.tensor([0, 1, 2, 3, 5]), "it has ids from 0 to 5"),
        (torch.tensor([0, 1, 2, 3, -1]), "it has ids from -1 to 3"),
        (torch.tensor([0, 1, 2, 3, 3]), "id 4 is not in it"),
        (torch.arange(5.0), "of int32 or int64 on the CPU, not torch.float32 on cpu"),
        (torch.empty(5, dtype=torch.int64, device="meta"), "not torch.int64 on meta"),
    ],
)
def test_an_order_that_is_not_each_id_once_is_refused(order: torch.Tensor, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        PartitionBook((0, 3, 5), order)


@pytest.mark.parametrize("bounds", [(), (1, 5), (0, 3, 2)])
def test_bounds_that_do_not_ascend_from_zero_are_refused(bounds: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match="must ascend from 0"):
        PartitionBook(bounds)


def test_a_spec_takes_the_book_of_its_rows_alone() -> None:
    assert EmbeddingSpec("t", 5, 2, partition=BOOK).partition == TensorSpec("t", (5,), partition=BOOK).partition
    with pytest.raises(SpecError, match=r"'t' has 6 rows, and its partition .* has 5: give it the book of these rows"):
        EmbeddingSpec("t", 6, 2, partition=BOOK)
    with pytest.raises(SpecError, match="tensor store 't' has 6 rows"):
        TensorSpec("t", (6, 5), partition=BOOK)
    with pytest.raises(SpecError, match="partition must be a PartitionBook, not tuple"):
        EmbeddingSpec("t", 5, 2, partition=(0, 3, 5))  # type: ignore[arg-type]


def test_specs_are_compared_by_their_books_too() -> None:
    check_same_spec(EmbeddingSpec("t", 5, 2, partition=BOOK), EmbeddingSpec("t", 5, 2, partition=copy.copy(BOOK)))
    with pytest.raises(NameConflictError, match="They differ in partition"):
        check_same_spec(EmbeddingSpec("t", 5, 2, partition=BOOK), EmbeddingSpec("t", 5, 2))
