"""Groups, clipping, loss scaling and states of optimizers, as torch.optim has them; torch's own is the oracle."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.nn import Embedding, Linear, Sequential

from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdagrad, SparseAdam, SparseSGD, clip_grad_norm_

pytestmark = [
    pytest.mark.usefixtures("memory_backend"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

ALL = torch.arange(6)
IDS = torch.tensor([0, 1, 1, 5])


def twins(name: str = "table", *, sparse: bool = True) -> tuple[StoredEmbedding, Embedding]:
    stored = StoredEmbedding(6, 4, name=name)
    return stored, Embedding(6, 4, sparse=sparse, _weight=stored(ALL).detach().clone())


def test_groups_have_rates_of_their_own_by_constructor_and_by_add_param_group() -> None:
    pairs = [twins(name) for name in ("one", "two", "three")]
    groups: list[dict[str, Any]] = [{"params": pairs[0][0], "lr": 0.5}, {"params": [pairs[1][0]], "name": "mine"}]
    ours: Any = SparseSGD(groups, lr=0.1)
    groups = [{"params": pairs[0][1].weight, "lr": 0.5}, {"params": pairs[1][1].weight}]
    theirs: Any = torch.optim.SGD(groups, lr=0.1)
    ours.add_param_group({"params": pairs[2][0], "lr": 1.0})
    theirs.add_param_group({"params": pairs[2][1].weight, "lr": 1.0})
    assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]
    for stored, dense in pairs:
        for embedding in (stored, dense):
            embedding(IDS).sin().sum().backward()
    for optimizer in (ours, theirs):
        optimizer.step()
    for stored, dense in pairs:
        torch.testing.assert_close(stored(ALL), dense.weight)


def test_what_is_no_module_or_no_number_of_the_rule_is_refused() -> None:
    stored, other = StoredEmbedding(6, 4, name="table"), StoredEmbedding(6, 4, name="other")
    optimizer = SparseSGD(stored, lr=0.1)
    for given in ([other.handle], other.handle, list(other.named_parameters())):
        with pytest.raises(TypeError, match=r"SparseSGD takes modules, not .*\{'params': table, 'lr': 0.1\}"):
            optimizer.add_param_group({"params": given})
    for parameters in (stored.parameters(), stored.named_parameters()):
        with pytest.raises(TypeError, match="SparseAdam takes modules"):
            SparseAdam(parameters)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="SparseSGD has no betas, maximize"):
        optimizer.add_param_group({"params": other, "betas": (0.9, 0.99), "maximize": True})
    with pytest.raises(ValueError, match="lr must be finite and at least 0, not -1"):
        optimizer.add_param_group({"params": other, "lr": -1.0})
    with pytest.raises(ValueError, match="found no stored embedding in Linear"):
        optimizer.add_param_group({"params": Linear(2, 2)})
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": stored})
    assert len(optimizer.param_groups) == 1


def test_a_rate_that_became_negative_is_refused_before_any_row_moves() -> None:
    pairs = [twins(name) for name in ("one", "two")]
    optimizer = SparseSGD([{"params": stored} for stored, _ in pairs], lr=0.1)
    for stored, _ in pairs:
        stored(IDS).sum().backward()
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be"):
        optimizer.step()
    optimizer.param_groups[1]["lr"] = 0.1
    optimizer.step()
    for stored, dense in pairs:
        dense(IDS).sum().backward()
        torch.optim.SGD(dense.parameters(), lr=0.1).step()
        torch.testing.assert_close(stored(ALL), dense.weight)


def test_modules_of_one_table_in_two_groups_are_refused() -> None:
    stored, also = StoredEmbedding(6, 4, name="table"), StoredEmbedding(6, 4, name="table")
    optimizer = SparseSGD([{"params": stored, "lr": 1.0}, {"params": also, "lr": 0.1}])
    stored(ALL).sum().backward()
    with pytest.raises(ValueError, match="'table' is in two groups of SparseSGD"):
        optimizer.step()


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_layers_and_rows_are_clipped_as_one_vector(norm_type: float, max_norm: float) -> None:
    stored, dense = twins(sparse=False)
    heads = [Linear(4, 2), Linear(4, 2)]
    heads[1].load_state_dict(heads[0].state_dict())
    ours, theirs = Sequential(stored, heads[0]), Sequential(dense, heads[1])
    for module in (ours, theirs):
        for _ in range(2):
            (100 * module(IDS).sin()).sum().backward()
    norm = clip_grad_norm_(ours, max_norm, norm_type)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type))
    SparseSGD(ours, lr=1.0).step()
    torch.optim.SGD(theirs.parameters(), lr=1.0).step()
    torch.testing.assert_close(stored(ALL), dense.weight)
    torch.testing.assert_close(heads[0].weight.grad, heads[1].weight.grad)


def test_clipping_without_gradients_of_rows_is_that_of_the_layers() -> None:
    stored, head = StoredEmbedding(6, 4, name="table"), Linear(4, 2)
    assert clip_grad_norm_([stored, head], 1.0) == 0
    head(torch.ones(1, 4)).sum().backward()
    expected = torch.nn.utils.get_total_norm([one.grad for one in head.parameters() if one.grad is not None])
    torch.testing.assert_close(clip_grad_norm_([stored, head], 1.0), expected)


def test_clipping_by_value_says_that_it_does_not_reach_rows() -> None:
    stored, _ = twins()
    optimizer = SparseSGD(stored, lr=1.0)
    stored(ALL).sum().backward()
    torch.nn.utils.clip_grad_value_(stored.parameters(), 1e-3)
    with pytest.warns(UserWarning, match=r"clip_grad_value_ .* 'table' are as they were.*clip_grad_norm_\(model"):
        optimizer.step()


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_torchs_clipping_of_parameters_scales_rows_alike_and_says_what_its_norm_lacks(
    max_norm: float,
) -> None:
    stored, head = StoredEmbedding(6, 4, name="table"), Linear(4, 2)
    module, before = Sequential(stored, head), stored(ALL)
    module(IDS).sum().backward()
    unclipped = head.weight.grad.clone() if head.weight.grad is not None else None
    assert unclipped is not None
    gradient = torch.zeros(6, 4).index_add(0, IDS, head.weight.detach().sum(dim=0).expand(4, 4))
    torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    assert head.weight.grad is not None
    scale = float((head.weight.grad / unclipped).mean())
    with pytest.warns(UserWarning, match=r"distgnn\.optim\.clip_grad_norm_\(model, max_norm\)"):
        SparseSGD(module, lr=1.0).step()
    torch.testing.assert_close(stored(ALL), before - scale * gradient)


@pytest.mark.filterwarnings("ignore:the gradients of parameters")
@pytest.mark.parametrize("unscaled", ["none", "rows", "layers", "both"])
def test_a_loss_scale_is_taken_out_of_rows_once(unscaled: str) -> None:
    stored, dense = twins(sparse=False)
    heads = [Linear(4, 2), Linear(4, 2)]
    heads[1].load_state_dict(heads[0].state_dict())
    modules = Sequential(stored, heads[0]), Sequential(dense, heads[1])
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    layers, rows = torch.optim.SGD(modules[0].parameters(), lr=0.1), SparseSGD(modules[0], lr=0.1)
    scaler.scale(modules[0](IDS).sin().sum()).backward()
    if unscaled in {"layers", "both"}:
        scaler.unscale_(layers)
    if unscaled in {"rows", "both"}:
        scaler.unscale_(rows)
    scaler.step(layers)
    scaler.step(rows)
    scaler.update()
    modules[1](IDS).sin().sum().backward()
    torch.optim.SGD(modules[1].parameters(), lr=0.1).step()
    torch.testing.assert_close(stored(ALL), dense.weight)
    torch.testing.assert_close(heads[0].weight, heads[1].weight)


@pytest.mark.filterwarnings("ignore:the gradients of parameters")
def test_rows_do_not_move_by_gradients_that_a_loss_scale_made_infinite() -> None:
    stored, dense = twins()
    scaler, rows = torch.amp.GradScaler("cpu"), SparseSGD(stored, lr=0.1)
    scaler.scale(stored(IDS).sum() * 1e38).backward()
    scaler.step(rows)
    assert torch.equal(stored(ALL), dense.weight)


def test_micro_batches_whose_gradients_are_averaged_by_hand_move_rows_by_the_mean() -> None:
    stored, dense = twins(sparse=False)
    for embedding, optimizer in (
        (stored, SparseSGD(stored, lr=1.0)),
        (dense, torch.optim.SGD(dense.parameters(), lr=1.0)),
    ):
        for ids in (IDS, ALL, IDS, ALL):
            embedding(ids).sin().sum().backward()
        for parameter in embedding.parameters():
            assert parameter.grad is not None
            parameter.grad /= 4
        if embedding is stored:
            with pytest.warns(UserWarning, match="were scaled by 0.25"):
                optimizer.step()
        else:
            optimizer.step()
    torch.testing.assert_close(stored(ALL), dense.weight)


PAIRS = [(SparseAdam, torch.optim.SparseAdam), (SparseAdagrad, torch.optim.Adagrad), (SparseSGD, torch.optim.SGD)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("through_file", [False, True])
def test_states_of_model_and_optimizer_bring_training_back(ours: Any, theirs: Any, through_file: bool) -> None:
    ends = []
    for embedding, optimizer in zip(
        (pair := twins()), (ours(pair[0], lr=0.1), theirs(pair[1].parameters(), lr=0.1)), strict=True
    ):

        def run(steps: int, embedding: Any = embedding, optimizer: Any = optimizer) -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                embedding(IDS).sin().sum().backward()
                optimizer.step()

        run(3)
        kept = copy.deepcopy((embedding.state_dict(), optimizer.state_dict()))
        if through_file:
            torch.save(kept, file := io.BytesIO())
            kept = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        run(2)
        expected = embedding(ALL).detach().clone()
        run(4)
        embedding.load_state_dict(kept[0])
        optimizer.load_state_dict(kept[1])
        run(2)
        torch.testing.assert_close(embedding(ALL), expected)
        ends.append(expected)
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_state_of_torchs_optimizer_is_taken(ours: Any, theirs: Any) -> None:
    stored, dense = twins()
    optimizer, reference = ours(stored, lr=0.5), theirs(dense.parameters(), lr=0.1)
    for _ in range(3):
        reference.zero_grad()
        dense(IDS).sin().sum().backward()
        reference.step()
    stored.load_state_dict(dense.state_dict())
    optimizer.load_state_dict(reference.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.1
    reference.zero_grad()
    for embedding, one in ((stored, optimizer), (dense, reference)):
        embedding(IDS).sin().sum().backward()
        one.step()
    torch.testing.assert_close(stored(ALL), dense.weight)


def test_the_state_of_another_kind_of_optimizer_is_refused() -> None:
    stored, dense = twins()
    dense(IDS).sum().backward()
    momentum = torch.optim.SGD(dense.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="SparseSGD cannot take the state of an optimizer with momentum"):
        SparseSGD(stored).load_state_dict(momentum.state_dict())
    with pytest.raises(ValueError, match="SparseAdam cannot take the state of an optimizer without betas"):
        SparseAdam(stored).load_state_dict(momentum.state_dict())
    larger = Embedding(7, 4, sparse=True)
    adam: Any = torch.optim.SparseAdam(larger.parameters())
    larger(IDS).sum().backward()
    adam.step()
    with pytest.raises(ValueError, match="'table' cannot take this state of an optimizer"):
        SparseAdam(stored).load_state_dict(adam.state_dict())


@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps])
def test_an_optimizer_cannot_be_copied_and_says_what_to_do(how: Any) -> None:
    with pytest.raises(TypeError, match=r"make one over the copied modules, SparseAdam\(model\)"):
        how(SparseAdam(StoredEmbedding(6, 4, name="table")))


def test_a_compiled_step_moves_rows_as_a_plain_one() -> None:
    stored, dense = twins()
    optimizer = SparseSGD(stored, lr=0.1)
    stored(IDS).sum().backward()
    step: Any = torch.compile(optimizer.step, backend="eager")
    step()
    dense(IDS).sum().backward()
    torch.optim.SGD(dense.parameters(), lr=0.1).step()
    torch.testing.assert_close(stored(ALL), dense.weight)
