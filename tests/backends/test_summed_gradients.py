"""Gradients over ranks equal torch's of the sum of all losses, at whatever world size this file is run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import BatchNorm1d, Linear, Module, Sequential

import distgnn
from distgnn import CallOrderError, ConfigError
from distgnn.nn.norm.sync_batch_norm import convert_sync_batch_norm
from distgnn.train.gradients import SummedGradients
from distgnn.train.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
ROWS = 4  # of each rank
pytestmark = pytest.mark.skipif(WORLD_SIZE == 1, reason="one rank has nothing to sum")


class Heads(Module):
    """Two layers that do not know of each other, and the input as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Linear(3, 2), Linear(3, 2)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"heads": [self.first(x), self.second(x)], "input": [x * 1]}


@pytest.fixture
def session() -> Iterator[Session]:
    with distgnn.use("pyg", timeout=30) as backend:
        yield Session(backend)


def made(module: type[Module]) -> tuple[Module, Module]:
    """Return the same model twice; other ranks than 0 have other numbers in the first, until it is wrapped."""
    torch.manual_seed(0)
    expected = module(3, 2) if module is Linear else module()
    ours = module(3, 2) if module is Linear else module()
    if RANK == 0:
        ours.load_state_dict(expected.state_dict())
    return ours, expected


def batches(number: int) -> list[Tensor]:
    """Return the rows ``[WORLD_SIZE * ROWS, 3]`` of all ranks in each of so many steps."""
    torch.manual_seed(1)
    return list(torch.randn(number, WORLD_SIZE * ROWS, 3))


def mine(rows: Tensor) -> Tensor:
    return rows[RANK * ROWS : (RANK + 1) * ROWS]


def assert_same(ours: Module, expected: Module) -> None:
    for (name, one), (_, other) in zip(ours.named_parameters(), expected.named_parameters(), strict=True):
        if other.grad is None:
            assert one.grad is None, name
        else:
            assert one.grad is not None, name
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("find_unused", [False, True])
def test_gradients_of_several_backwards_add_up_and_those_within_no_sync_are_summed_by_the_next(
    session: Session, find_unused: bool
) -> None:
    ours, expected = made(Linear)
    wrapped = session.wrap(ours, sync_batch_norm=False, find_unused_parameters=find_unused)
    assert isinstance(wrapped, SummedGradients)
    alone, together, more = batches(3)
    with wrapped.no_sync():
        wrapped(mine(alone)).square().sum().backward()
    expected(mine(alone)).square().sum().backward()
    assert_same(ours, expected)
    expected.zero_grad()
    wrapped(mine(together)).square().sum().backward()
    for rows in (alone, together):
        expected(rows).square().sum().backward()
    assert_same(ours, expected)
    wrapped(mine(more)).square().sum().backward()
    expected(more).square().sum().backward()
    assert_same(ours, expected)


@pytest.mark.parametrize("head", [None, 0, 1])
def test_ranks_whose_backward_reaches_no_parameter_take_part(session: Session, head: int | None) -> None:
    """Rank 0's loss is of its input alone; the others' of a head, or of the input too."""
    ours, expected = made(Heads)
    wrapped = session.wrap(ours, sync_batch_norm=False, find_unused_parameters=True)
    for rows in batches(3):
        own = mine(rows).clone().requires_grad_()
        found = wrapped(own)
        used = found["input"][0] if RANK == 0 or head is None else found["heads"][head]
        used.square().sum().backward()
        assert own.grad is not None
        if head is not None:
            expected(rows[ROWS:])["heads"][head].square().sum().backward()
        assert_same(ours, expected)


def test_a_model_that_is_wrapped_again_is_the_new_wrappers(session: Session) -> None:
    ours, expected = made(Linear)
    first = session.wrap(ours, sync_batch_norm=False)
    second = session.wrap(Sequential(ours), sync_batch_norm=False)
    (rows,) = batches(1)
    second(mine(rows)).square().sum().backward()
    expected(rows).square().sum().backward()
    assert_same(ours, expected)
    with pytest.raises(CallOrderError, match=r"was wrapped again.*what Session\.wrap returned last"):
        first(mine(rows))
    for model in (second, Sequential(second)):
        with pytest.raises(ConfigError, match=r"summed over ranks already: call Session\.wrap once"):
            session.wrap(model, sync_batch_norm=False)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (Linear(3, 4), r"rank 0 has weight \[2, 3\] torch.float32, rank 1 weight \[4, 3\] torch.float32"),
        (Linear(3, 2).double(), r"rank 0 has weight \[2, 3\] torch.float32, rank 1 weight \[2, 3\] torch.float64"),
        (Linear(3, 2, bias=False), r"rank 0 has bias \[2\] torch.float32, rank 1 no more"),
        (Sequential(Linear(3, 2), BatchNorm1d(2)), r"rank 0 has weight .*, rank 1 0.weight \[2, 3\]"),
    ],
)
def test_ranks_that_wrap_different_models_all_read_how_they_differ(session: Session, other: Module, text: str) -> None:
    with pytest.raises(ConfigError, match=f"ranks wrap different models: {text}"):
        session.wrap(other if RANK == 1 else Linear(3, 2), sync_batch_norm=False)
    assert session.sum([1.0]) == [WORLD_SIZE]  # the job can go on


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_normalization_of_half_precision_rows_counts_all_of_them(session: Session, dtype: torch.dtype) -> None:
    """bfloat16 has no odd numbers from 257 on, float16 none from 2,049 on: sums in them would be of other rows."""
    torch.manual_seed(2)
    counts = [3_001, 259, *[1] * WORLD_SIZE][:WORLD_SIZE]
    rows = (torch.randn(sum(counts), 3) * 2 + 5).to(dtype)
    weights = torch.randn(sum(counts), 3)
    own = slice(sum(counts[:RANK]), sum(counts[: RANK + 1]))
    torchs, ours = BatchNorm1d(3), convert_sync_batch_norm(BatchNorm1d(3), session.communicator)
    whole, part = rows.float().requires_grad_(), rows[own].clone().requires_grad_()
    expected, found = torchs(whole), ours(part)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected[own].to(dtype))
    (expected * weights).sum().backward()
    (found.float() * weights[own]).sum().backward()
    assert whole.grad is not None
    torch.testing.assert_close(part.grad, whole.grad[own].to(dtype), rtol=0.02, atol=0.02)
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-4)
