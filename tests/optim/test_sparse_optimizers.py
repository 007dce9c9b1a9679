"""The sparse optimizers as torch.optim.Optimizer: what a training loop of PyTorch does with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import Embedding, Linear, Module, Sequential

from distgnn.nn import DistributedGIN, StoredEmbedding
from distgnn.optim import SparseAdagrad, SparseAdam, SparseOptimizer, SparseRowWiseAdagrad, SparseSGD

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

pytestmark = [
    pytest.mark.usefixtures("memory_backend"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),  # torch's, of its own sparse gradients
]

ROWS = 10
ALL = torch.arange(ROWS)
BATCHES = [torch.tensor(ids) for ids in ([0, 1, 1], [2, 0], [5, 5, 5, 6], [0], [9, 1, 2, 3])]


def twins(name: str = "table") -> tuple[StoredEmbedding, Embedding]:
    """A stored table and torch's with the same rows."""
    stored = StoredEmbedding(ROWS, 3, name=name)
    return stored, Embedding(ROWS, 3, sparse=True, _weight=stored(ALL).detach())


def loss_of(embedding: Module, ids: Tensor) -> Any:
    return embedding(ids).sin().sum()


def assert_same_rows(stored: StoredEmbedding, dense: Embedding) -> None:
    torch.testing.assert_close(stored(ALL), dense.weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SparseSGD, SparseAdagrad, SparseRowWiseAdagrad, SparseAdam])
def test_they_are_optimizers_of_torch(optimizer: type[SparseOptimizer]) -> None:
    made = optimizer(twins()[0], lr=0.25)  # type: ignore[call-arg]  # each of them has lr
    assert isinstance(made, torch.optim.Optimizer)
    assert made.param_groups[0]["lr"] == 0.25


def test_a_forgotten_zero_grad_does_not_apply_gradients_again() -> None:
    stored, dense = twins()
    optimizer, reference = SparseAdagrad(stored, lr=0.1), torch.optim.Adagrad(dense.parameters(), lr=0.1)
    for ids in BATCHES:
        reference.zero_grad()
        loss_of(dense, ids).backward()
        reference.step()
        loss_of(stored, ids).backward()
        optimizer.step()
    assert_same_rows(stored, dense)


def test_zero_grad_drops_gradients_that_were_not_applied() -> None:
    stored, dense = twins()
    optimizer = SparseSGD(stored, lr=0.1)
    loss_of(stored, BATCHES[0]).backward()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(stored(ALL), dense.weight)


@pytest.mark.parametrize(
    ("ours", "torchs"), [(SparseSGD, torch.optim.SGD), (SparseAdam, torch.optim.SparseAdam)], ids=["SGD", "Adam"]
)
def test_backward_passes_before_a_step_add_up(ours: Any, torchs: Any) -> None:
    stored, dense = twins()
    for embedding, optimizer in ((stored, ours(stored, lr=0.1)), (dense, torchs(dense.parameters(), lr=0.1))):
        for _ in range(3):
            optimizer.zero_grad()
            for ids in BATCHES:
                loss_of(embedding, ids).backward()
            optimizer.step()
    assert_same_rows(stored, dense)


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned() -> None:
    stored, dense = twins()
    losses = []
    pairs: list[tuple[Module, Optimizer]] = [
        (stored, SparseSGD(stored, lr=0.1)),
        (dense, torch.optim.SGD(dense.parameters(), lr=0.1)),
    ]
    for embedding, optimizer in pairs:

        def closure(embedding: Module = embedding, optimizer: Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            loss = loss_of(embedding, BATCHES[0])
            loss.backward()
            return float(loss.detach())

        losses.append([optimizer.step(closure) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1])
    assert_same_rows(stored, dense)


def test_state_dict_carries_the_learning_rate_to_another_optimizer() -> None:
    stored, dense = twins()
    first = SparseSGD(stored, lr=0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(first, step_size=1, gamma=0.5)
    first.step()
    scheduler.step()
    second = SparseSGD(stored, lr=9.0)
    second.load_state_dict(first.state_dict())
    reference = torch.optim.SGD(dense.parameters(), lr=0.2)
    loss_of(stored, BATCHES[0]).backward()
    loss_of(dense, BATCHES[0]).backward()
    second.step()
    reference.step()
    assert second.param_groups[0]["lr"] == 0.2
    assert_same_rows(stored, dense)


def test_modules_without_a_stored_embedding_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SparseSGD found no stored embedding in Linear: .*use_dist_embedding=True"):
        SparseSGD(Linear(2, 2))
    with pytest.raises(ValueError, match="SparseAdam found no stored embedding in DistributedGIN, Linear"):
        SparseAdam([DistributedGIN(4, 4, num_layers=1, out_channels=4), Linear(2, 2)])
    with pytest.raises(ValueError, match="found no stored embedding in no module"):
        SparseAdam([])


def test_one_optimizer_trains_the_embeddings_of_several_modules() -> None:
    (first, first_dense), (second, second_dense) = twins("first"), twins("second")
    optimizer = SparseAdagrad([Sequential(first), second, first], lr=0.1)
    reference = torch.optim.Adagrad([first_dense.weight, second_dense.weight], lr=0.1)
    for ids in BATCHES:
        reference.zero_grad()
        (loss_of(first, ids) + loss_of(second, 9 - ids)).backward()
        (loss_of(first_dense, ids) + loss_of(second_dense, 9 - ids)).backward()
        optimizer.step()
        reference.step()
    assert_same_rows(first, first_dense)
    assert_same_rows(second, second_dense)


def test_two_modules_of_one_table_are_one_step_of_it() -> None:
    stored, dense = twins()
    also = StoredEmbedding(ROWS, 3, name="table")
    optimizer: Optimizer = SparseAdam([stored, also], lr=0.1)
    reference: Any = torch.optim.SparseAdam(dense.parameters(), lr=0.1)
    for ids in BATCHES:
        reference.zero_grad()
        (loss_of(dense, ids) + 2 * loss_of(dense, BATCHES[0])).backward()
        (loss_of(stored, ids) + 2 * loss_of(also, BATCHES[0])).backward()
        optimizer.step()
        reference.step()
    assert_same_rows(stored, dense)
    assert_same_rows(also, dense)


def test_an_embedding_of_unknown_size_is_passed_over() -> None:
    stored, dense = twins()
    unsized = StoredEmbedding(None, 3, name="unsized")
    optimizer = SparseSGD([unsized, stored], lr=0.1)
    loss_of(stored, BATCHES[0]).backward()
    loss_of(dense, BATCHES[0]).backward()
    optimizer.step()
    torch.optim.SGD(dense.parameters(), lr=0.1).step()
    assert_same_rows(stored, dense)
    assert unsized.num_embeddings is None


def test_gradients_that_nobody_takes_stay_within_the_size_of_the_table() -> None:
    stored, dense = twins()
    for _ in range(20):
        for ids in BATCHES:
            loss_of(stored, ids).backward()
            loss_of(dense, ids).backward()
    ids, rows = stored.take_gradients()
    assert ids.numel() <= ROWS
    assert dense.weight.grad is not None
    torch.testing.assert_close(torch.zeros(ROWS, 3).index_add(0, ids, rows), dense.weight.grad.to_dense())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_gathered_where_gradients_are_off(mode: Any) -> None:
    stored, dense = twins()
    with mode():
        rows = stored(BATCHES[0])
    assert not rows.requires_grad
    assert torch.equal(rows, dense.weight[BATCHES[0]])
    assert stored.take_gradients()[0].numel() == 0


def test_gradients_of_other_tensors_alone_gather_nothing() -> None:
    stored, _ = twins()
    scale = torch.ones(3, requires_grad=True)
    torch.autograd.grad((stored(BATCHES[0]) * scale).sum(), scale)
    assert stored.take_gradients()[0].numel() == 0


def test_a_graph_that_is_kept_can_be_run_backward_twice() -> None:
    stored, dense = twins()
    pairs: list[tuple[Module, Optimizer]] = [
        (stored, SparseSGD(stored, lr=0.1)),
        (dense, torch.optim.SGD(dense.parameters(), lr=0.1)),
    ]
    for embedding, optimizer in pairs:
        loss = loss_of(embedding, BATCHES[0])
        loss.backward(retain_graph=True)
        loss.backward()
        optimizer.step()
    assert_same_rows(stored, dense)


def test_a_gradient_penalty_trains_the_rows_through_second_derivatives() -> None:
    stored, dense = twins()
    pairs: list[tuple[Module, Optimizer]] = [
        (stored, SparseSGD(stored, lr=0.1)),
        (dense, torch.optim.SGD(dense.parameters(), lr=0.1)),
    ]
    for embedding, optimizer in pairs:
        x = torch.linspace(0, 1, 9).view(3, 3).requires_grad_()
        rows = embedding(BATCHES[0])
        slopes = torch.autograd.grad((x + rows).pow(3).sum(), [x, rows], create_graph=True)
        penalty: Any = slopes[0].square().sum() + slopes[1].sum()
        penalty.backward()
        optimizer.step()
    assert_same_rows(stored, dense)
