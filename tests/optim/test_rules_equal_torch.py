"""The update rules against torch.optim's, through a stored embedding and an nn.Embedding on the same batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import Embedding
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from distgnn.nn import StoredEmbedding
from distgnn.optim import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    RowWiseAdagrad,
    SparseAdagrad,
    SparseAdam,
    SparseAdamW,
    SparseRowWiseAdagrad,
    SparseSGD,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from torch.optim import Optimizer

    from distgnn.storage.protocols import UpdateRule

pytestmark = [
    pytest.mark.usefixtures("memory_backend"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),  # torch's, of its own sparse gradients
]

ROWS, STEPS = 20, 50
ALL = torch.arange(ROWS)

TWINS = [
    pytest.param(SparseSGD, torch.optim.SGD, {"lr": 0.1}, id="SGD"),
    pytest.param(SparseAdagrad, torch.optim.Adagrad, {"lr": 0.1}, id="Adagrad"),
    pytest.param(
        SparseAdagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.05, "eps": 1e-6}, id="Adagrad, decaying"
    ),
    pytest.param(
        SparseAdagrad, torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5}, id="Adagrad, from 0.5"
    ),
    pytest.param(SparseAdam, torch.optim.SparseAdam, {"lr": 0.1}, id="Adam"),
    pytest.param(
        SparseAdam, torch.optim.SparseAdam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-4}, id="Adam, other betas"
    ),
]
SCHEDULERS: list[Callable[[Optimizer], Any]] = [
    lambda optimizer: StepLR(optimizer, step_size=7, gamma=0.5),
    lambda optimizer: CosineAnnealingLR(optimizer, T_max=STEPS),
    lambda optimizer: ReduceLROnPlateau(optimizer, patience=4),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tables this small only lose by threads that wait for each other
    yield
    torch.set_num_threads(threads)


def twins(columns: int = 3, dtype: torch.dtype = torch.float32, **kwargs: Any) -> tuple[StoredEmbedding, Embedding]:
    """A stored table, and torch's with the same rows in float32 or wider."""
    stored = StoredEmbedding(ROWS, columns, name="table", dtype=dtype)
    rows = stored(ALL).detach()
    wide = rows if dtype == torch.float64 else rows.float()
    return stored, Embedding(ROWS, columns, _weight=wide, **{"sparse": True, **kwargs})


def batches() -> Iterator[Tensor]:
    """Another window of the ids at each step, drawn with duplicates: some are touched often, some not for long."""
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        yield (step % 15) + torch.randint(0, 6, (1 + step % 13,), generator=generator)


def whole_batches() -> Iterator[Tensor]:
    """Every id at every step, some twice."""
    for ids in batches():
        yield torch.cat([ids, ALL.flip(0)])


def train(
    embedding: torch.nn.Module,
    optimizer: Optimizer,
    scheduler: Any = None,
    *,
    ids_of: Callable[[], Iterator[Tensor]] = batches,
    loss_of: Callable[[Tensor, Tensor], Any] = lambda rows, weights: (rows.tanh() * weights).sum(),
    after: Callable[[], object] = lambda: None,
) -> Tensor:
    """Take 50 steps, the same for whoever is trained, and return the table."""
    generator = torch.Generator().manual_seed(2)
    for ids in ids_of():
        optimizer.zero_grad()
        rows = embedding(ids)
        loss_of(rows, torch.randn(rows.shape, generator=generator)).backward()
        optimizer.step()
        after()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()
    table: Tensor = embedding(ALL).detach()
    return table


@pytest.mark.parametrize(("ours", "torchs", "numbers"), TWINS)
def test_fifty_steps_give_the_rows_that_torch_gives(ours: Any, torchs: Any, numbers: dict[str, Any]) -> None:
    stored, dense = twins()
    expected = train(dense, torchs(dense.parameters(), **numbers))
    torch.testing.assert_close(train(stored, ours(stored, **numbers)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scheduled", SCHEDULERS, ids=["StepLR", "CosineAnnealingLR", "ReduceLROnPlateau"])
@pytest.mark.parametrize(("ours", "torchs", "numbers"), [TWINS[0], TWINS[1], TWINS[4]])
def test_a_learning_rate_scheduler_of_torch_works_on_both(
    ours: Any, torchs: Any, numbers: dict[str, Any], scheduled: Callable[[Optimizer], Any]
) -> None:
    stored, dense = twins()
    reference, optimizer = torchs(dense.parameters(), **numbers), ours(stored, **numbers)
    expected = train(dense, reference, scheduled(reference))
    torch.testing.assert_close(train(stored, optimizer, scheduled(optimizer)), expected, rtol=0, atol=1e-6)
    assert optimizer.param_groups[0]["lr"] == reference.param_groups[0]["lr"] != numbers["lr"]


@pytest.mark.parametrize(("ours", "torchs", "numbers"), TWINS)
def test_a_float64_table_is_trained_as_torch_trains_one(ours: Any, torchs: Any, numbers: dict[str, Any]) -> None:
    stored, dense = twins(dtype=torch.float64)
    expected = train(dense, torchs(dense.parameters(), **numbers))
    torch.testing.assert_close(train(stored, ours(stored, **numbers)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("ours", "torchs", "numbers"), [TWINS[0], TWINS[1], TWINS[4]])
def test_a_16_bit_table_is_trained_in_float32_and_rounded_after_each_step(
    ours: Any, torchs: Any, numbers: dict[str, Any], dtype: torch.dtype
) -> None:
    stored, dense = twins(dtype=dtype)

    def exact(rows: Tensor, weights: Tensor) -> Tensor:
        return (rows.float() * weights.to(dtype).float()).sum()  # its gradients are 16-bit numbers

    def round_rows() -> None:
        dense.weight.data.copy_(dense.weight.detach().to(dtype))

    expected = train(dense, torchs(dense.parameters(), **numbers), loss_of=exact, after=round_rows)
    actual = train(stored, ours(stored, **numbers), loss_of=exact)
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.float(), expected, rtol=ulp, atol=ulp)
    assert (actual.float() == expected).float().mean() > 0.9


@pytest.mark.parametrize(
    ("ours", "torchs"), [(SparseSGD, torch.optim.SGD), (SparseAdagrad, torch.optim.Adagrad)], ids=["SGD", "Adagrad"]
)
def test_weight_decay_is_that_of_torch_where_every_row_is_touched(ours: Any, torchs: Any) -> None:
    stored, dense = twins(sparse=False)
    numbers = {"lr": 0.1, "weight_decay": 0.2}
    expected = train(dense, torchs(dense.parameters(), **numbers), ids_of=whole_batches)
    actual = train(stored, ours(stored, **numbers), ids_of=whole_batches)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("numbers", [{"lr": 0.1}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-4, "weight_decay": 0.3}])
def test_adamw_is_that_of_torch_where_every_row_is_touched(numbers: dict[str, Any], dtype: torch.dtype) -> None:
    stored, dense = twins(sparse=False, dtype=dtype)
    expected = train(dense, torch.optim.AdamW(dense.parameters(), **numbers), ids_of=whole_batches)
    actual = train(stored, SparseAdamW(stored, **numbers), ids_of=whole_batches)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ours", [SparseSGD, SparseAdagrad, SparseRowWiseAdagrad, SparseAdamW])
def test_weight_decay_leaves_rows_without_gradients_alone(ours: Any) -> None:
    stored, dense = twins()
    optimizer = ours(stored, lr=0.1, weight_decay=0.5)
    stored(torch.tensor([3, 4, 3])).sum().backward()
    optimizer.step()
    touched = (stored(ALL) != dense.weight).all(dim=1)
    assert touched.nonzero().flatten().tolist() == [3, 4]


def test_row_wise_adagrad_is_torchs_adagrad_at_one_column() -> None:
    stored, dense = twins(columns=1)
    expected = train(dense, torch.optim.Adagrad(dense.parameters(), lr=0.1, eps=1e-5))
    actual = train(stored, SparseRowWiseAdagrad(stored, lr=0.1, eps=1e-5))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_row_wise_adagrad_is_torchs_adagrad_where_all_columns_have_one_gradient() -> None:
    stored, dense = twins(columns=5)

    def even(rows: Tensor, weights: Tensor) -> Tensor:
        return (rows * weights[:, :1]).sum()

    expected = train(dense, torch.optim.Adagrad(dense.parameters(), lr=0.1, eps=1e-8), loss_of=even)
    actual = train(stored, SparseRowWiseAdagrad(stored, lr=0.1, eps=1e-8), loss_of=even)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "numbers", "words"),
    [
        (SGD, {"lr": -0.1}, "lr must be finite and at least 0, not -0.1"),
        (SGD, {"lr": float("nan")}, "lr must be finite"),
        (SGD, {"weight_decay": -1.0}, "weight_decay must be finite and at least 0, not -1.0"),
        (Adagrad, {"lr": float("inf")}, "lr must be finite and at least 0, not inf"),
        (Adagrad, {"lr_decay": -1.0}, "lr_decay must be"),
        (Adagrad, {"initial_accumulator_value": -1.0}, "initial_accumulator_value must be"),
        (RowWiseAdagrad, {"eps": -1e-8}, "eps must be"),
        (Adam, {"lr": -1.0}, "lr must be"),
        (Adam, {"betas": (1.0, 0.9)}, r"betas must be in \[0, 1\), not \(1.0, 0.9\)"),
        (Adam, {"betas": (0.9, -0.1)}, "betas must be in"),
        (AdamW, {"betas": (0.9, 1.0)}, "betas must be in"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay must be"),
    ],
)
def test_numbers_that_no_rule_can_have_are_refused(rule: Any, numbers: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rule(**numbers)


@pytest.mark.parametrize(
    "rule", [SGD(), Adagrad(), RowWiseAdagrad(), Adam(), AdamW()], ids=lambda rule: type(rule).__name__
)
def test_rows_that_lie_apart_are_updated_as_others(rule: UpdateRule) -> None:
    def update(lay: Callable[[Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(0)
        rows, gradients = lay(torch.rand(7, 16)), lay(torch.rand(7, 16))
        state = {name: lay(torch.rand(7, spec.width)) for name, spec in rule.state(16).items()}
        rule.update(rows, state, gradients, 3)
        return [rows, *state.values()]

    together, apart = update(torch.clone), update(lambda rows: torch.stack([rows, rows], dim=2)[:, :, 0])
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
