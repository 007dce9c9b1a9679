"""Specs refuse what no store can be, and what no store can be asked for, in words."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch

from distgnn import (
    EmbeddingSizeError,
    EmbeddingSpec,
    GraphSpec,
    IdRangeError,
    IdsError,
    NameConflictError,
    NonFiniteGradientError,
    RowsError,
    SpecError,
    TensorSpec,
)
from distgnn.storage.specs import check_same_spec

CPU = torch.device("cpu")
TABLE = EmbeddingSpec("table", 5, 2)
TENSOR = TensorSpec("tensor", (5, 2))
GRAPH = GraphSpec("graph", 5, 2)
LONG = torch.int64


@pytest.mark.parametrize("name", ["a", "_", "7", "layer_1.conv-2", "x" * 128])
def test_names_of_letters_digits_and_a_few_signs_are_taken(name: str) -> None:
    assert EmbeddingSpec(name, 1, 1).name == TensorSpec(name, (1,)).name == GraphSpec(name, 1, 0).name == name


@pytest.mark.parametrize("name", ["", ".", "-a", "a b", "a/b", "../a", "ä", "a\n", "x" * 129, None, 7])
def test_names_that_are_no_file_names_are_refused(name: Any) -> None:
    words = re.escape(f"{name!r} cannot be the name of") + ".*use 1 to 128 letters, digits"
    for make in (lambda: EmbeddingSpec(name, 1, 1), lambda: TensorSpec(name, (1,)), lambda: GraphSpec(name, 1, 0)):
        with pytest.raises(SpecError, match=words):
            make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EmbeddingSpec("t", 0, 2), "embedding store 't': every size must be a whole number of at least 1"),
        (lambda: EmbeddingSpec("t", 2, -1), "at least 1, in EmbeddingSpec"),
        (lambda: EmbeddingSpec("t", 2.0, 2), "whole number"),  # type: ignore[arg-type]
        (
            lambda: EmbeddingSpec("t", 2, 2, torch.int64),
            "'t': rows of torch.int64 cannot be trained; use one of torch.float32",
        ),
        (lambda: EmbeddingSpec("t", 2, 2, std=-1.0), "std must be finite and at least 0, not -1.0"),
        (lambda: EmbeddingSpec("t", 2, 2, std=float("nan")), "std must be finite and at least 0, not nan"),
        (lambda: EmbeddingSpec("t", 2, 2, std=float("inf")), "std must be finite and at least 0, not inf"),
        (lambda: TensorSpec("t", ()), "tensor store 't': every size must be"),
        (lambda: TensorSpec("t", (3, 0)), "tensor store 't': every size must be"),
        (lambda: GraphSpec("t", 0, 0), "graph store 't': every size must be"),
        (lambda: GraphSpec("t", 1, -1), "graph store 't': every size must be"),
    ],
)
def test_sizes_and_types_that_no_store_can_have_are_refused(make: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tables_of_every_float_type_can_be(dtype: torch.dtype) -> None:
    assert EmbeddingSpec("t", 1, 1, dtype, std=0).dtype == dtype


def test_tables_of_eight_bits_cannot_be() -> None:
    with pytest.raises(SpecError):
        EmbeddingSpec("t", 1, 1, torch.float8_e4m3fn)


def test_specs_are_frozen_and_equal_by_value() -> None:
    assert TensorSpec("t", [2, 3]) == TensorSpec("t", (2, 3))  # type: ignore[arg-type]  # a list is taken too
    assert len({EmbeddingSpec("t", 2, 3), EmbeddingSpec("t", 2, 3), EmbeddingSpec("t", 2, 3, seed=1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("check", "label", "range_error", "hint"),
    [
        (TABLE.check_ids, "embedding store 'table'", EmbeddingSizeError, "make room for it with set_num_embeddings"),
        (TENSOR.check_ids, "tensor store 'tensor'", IdRangeError, "open a larger store"),
        (GRAPH.check_nodes, "graph store 'graph'", IdRangeError, "the graph ends there"),
    ],
)
def test_ids_are_checked_with_the_stores_name(check: Any, label: str, range_error: type[Exception], hint: str) -> None:
    check(torch.tensor([4, 0, 4]), CPU)
    check(torch.empty(0, dtype=LONG), CPU)
    for ids, error, words in (
        (torch.tensor([1], dtype=torch.int32), IdsError, r"must be torch.int64, not torch.int32; .* ids.long\(\)"),
        (torch.tensor([1.0]), IdsError, "must be torch.int64, not torch.float32"),
        (torch.tensor([[1]]), IdsError, r"must have shape \[K\], not \[1, 1\]; flatten them"),
        (torch.tensor(1), IdsError, r"must have shape \[K\], not \[\]"),
        (torch.empty(2, dtype=LONG, device="meta"), IdsError, r"ids are on meta, the store is on cpu; move them"),
        (torch.tensor([2, -3]), range_error, "id -3 is negative; ids go from 0 to 4"),
        (torch.tensor([2, 5]), range_error, f"id 5 is beyond its 5 rows; {hint}"),
    ):
        with pytest.raises(error, match=f"{label}: .*{words}"):
            check(ids, CPU)


@pytest.mark.parametrize(
    ("gradients", "words"),
    [
        (torch.zeros(3, 2), r"'table': gradients must have shape \[2, 2\], not \[3, 2\]"),
        (torch.zeros(2, 1), r"must have shape \[2, 2\], not \[2, 1\]"),
        (torch.zeros(2, 2, dtype=torch.float64), "must be torch.float32, not torch.float64; convert them"),
        (torch.zeros(2, 2, device="meta"), "gradients are on meta, the store is on cpu"),
    ],
)
def test_gradients_that_do_not_fit_the_rows_are_refused(gradients: torch.Tensor, words: str) -> None:
    with pytest.raises(RowsError, match=words):
        TABLE.check_gradients(torch.tensor([1, 2]), gradients, CPU)


def test_gradients_may_be_of_the_tables_type_or_float32() -> None:
    half = EmbeddingSpec("half", 5, 2, torch.float16)
    for dtype in (torch.float16, torch.float32):
        half.check_gradients(torch.tensor([1]), torch.zeros(1, 2, dtype=dtype), CPU)
    with pytest.raises(RowsError, match=r"must be torch.float16 or torch.float32, not torch.bfloat16"):
        half.check_gradients(torch.tensor([1]), torch.zeros(1, 2, dtype=torch.bfloat16), CPU)
    with pytest.raises(EmbeddingSizeError, match="id 5 is beyond"):
        half.check_gradients(torch.tensor([5]), torch.zeros(1, 2), CPU)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_gradients_are_searched_for_nan_when_asked(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, gradients = torch.tensor([3, 1, 4]), torch.tensor([[1.0, 2.0], [0.0, number], [number, number]])
    monkeypatch.delenv("DISTGNN_DEBUG", raising=False)
    TABLE.check_gradients(ids, gradients, CPU)
    monkeypatch.setenv("DISTGNN_DEBUG", "1")
    TABLE.check_gradients(ids, gradients.nan_to_num(0, 0), CPU)
    words = "gradients of 2 ids hold NaN or infinity, the first is id 1; nothing was changed"
    with pytest.raises(NonFiniteGradientError, match=words):
        TABLE.check_gradients(ids, gradients, CPU)


def test_values_must_be_rows_of_the_store_to_the_type() -> None:
    ids = torch.tensor([1, 2])
    TENSOR.check_values(ids, torch.zeros(2, 2), CPU)
    TensorSpec("vector", (5,), torch.bool).check_values(ids, torch.zeros(2, dtype=torch.bool), CPU)
    with pytest.raises(RowsError, match=r"'tensor': values must have shape \[2, 2\], not \[2\]"):
        TENSOR.check_values(ids, torch.zeros(2), CPU)
    with pytest.raises(RowsError, match=r"values must be torch.float32, not torch.float16; convert them"):
        TENSOR.check_values(ids, torch.zeros(2, 2).half(), CPU)


def test_edges_must_be_the_graphs() -> None:
    GRAPH.check_edges(torch.tensor([[0, 4], [4, 4]]))
    with pytest.raises(RowsError, match=r"'graph': edges must have shape \[2, 2\], not \[2, 1\]"):
        GRAPH.check_edges(torch.tensor([[0], [1]]))
    with pytest.raises(RowsError, match=r"edges must be torch.int64, not torch.float32"):
        GRAPH.check_edges(torch.zeros(2, 2))
    with pytest.raises(IdRangeError, match="id 5 is beyond its 5 rows"):
        GRAPH.check_edges(torch.tensor([[0, 5], [4, 4]]))


def test_attaching_with_another_spec_shows_both_and_where_they_differ() -> None:
    check_same_spec(TABLE, EmbeddingSpec("table", 5, 2))
    with pytest.raises(NameConflictError) as caught:
        check_same_spec(TABLE, EmbeddingSpec("table", 6, 2, seed=1))
    assert str(caught.value) == (
        f"the name 'table' is open as {TABLE}, and was asked for as {EmbeddingSpec('table', 6, 2, seed=1)}. "
        "They differ in num_embeddings, seed. Choose another name, or close() the open store first"
    )
    with pytest.raises(NameConflictError, match=r"is open as EmbeddingSpec.*was asked for as TensorSpec"):
        check_same_spec(TABLE, TensorSpec("table", (5, 2)))
