"""What users of torch.nn.Embedding do with a module and its rows; torch's own is the oracle."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import Embedding, Linear, Module, Sequential
from torch.optim.swa_utils import AveragedModel

import distgnn
from distgnn.nn import DistributedGIN, StoredEmbedding
from distgnn.optim import SparseSGD

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = [
    pytest.mark.usefixtures("memory_backend"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]

ALL = torch.arange(6)
EDGES = torch.tensor([[0, 1, 2], [1, 2, 3]])


def twins(name: str = "table") -> tuple[StoredEmbedding, Embedding]:
    stored = StoredEmbedding(6, 4, name=name)
    return stored, Embedding(6, 4, sparse=True, _weight=stored(ALL).detach())


def optimizers(stored: Module, dense: Module, lr: float = 1.0) -> tuple[Any, Any]:
    return SparseSGD(stored, lr=lr), torch.optim.SGD(dense.parameters(), lr=lr)


def gin(name: str = "nodes") -> tuple[DistributedGIN, StoredEmbedding]:
    torch.manual_seed(0)  # with some weights every row ends below zero, where nothing changes
    model = DistributedGIN(4, 4, num_layers=1, out_channels=3, use_dist_embedding=True, embedding_name=name)
    model.set_num_embeddings(6)
    assert model.node_features is not None
    return model, model.node_features.embedding


def train(embedding: StoredEmbedding) -> None:
    optimizer = SparseSGD(embedding, lr=1.0)
    embedding(ALL).sum().backward()
    optimizer.step()


def test_a_buffer_of_ids_can_be_filled_anew_before_the_step() -> None:
    stored, dense = twins()
    pairs = zip((stored, dense), optimizers(stored, dense), strict=True)
    for embedding, optimizer in pairs:
        buffer = torch.empty(2, dtype=torch.int64)
        for ids in ([0, 1], [2, 3]):
            buffer.copy_(torch.tensor(ids))
            embedding(buffer).sum().backward()
        buffer.fill_(5)
        optimizer.step()
    torch.testing.assert_close(stored(ALL), dense.weight)


def test_ids_that_change_between_forward_and_backward_are_an_error_as_in_torch() -> None:
    for embedding in twins():
        ids = torch.tensor([0, 1])
        loss = embedding(ids).sum()
        ids += 2
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("whole", [False, True])
def test_a_frozen_table_needs_no_gradient_and_does_not_move(whole: bool) -> None:
    stored, _ = twins()
    module = Sequential(stored, Linear(4, 2)) if whole else stored
    module.requires_grad_(False)
    before, head = stored(ALL), Linear(2 if whole else 4, 1)
    assert not before.requires_grad
    optimizer = SparseSGD(module, lr=1.0)
    head(module(ALL)).sum().backward()
    optimizer.step()
    assert torch.equal(stored(ALL), before)
    module.requires_grad_(True)
    head(module(ALL)).sum().backward()
    optimizer.step()
    assert not torch.equal(stored(ALL), before)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("how", ["module", "container", "optimizer of all parameters"])
def test_zero_grad_drops_what_a_bad_batch_gathered(how: str, set_to_none: bool) -> None:
    stored, dense = twins()
    for embedding, optimizer in zip((stored, dense), optimizers(stored, dense), strict=True):
        container = Sequential(embedding)
        every = torch.optim.SGD(container.parameters(), lr=0.0)
        (embedding(ALL).sum() * float("nan")).backward()
        ways: dict[str, Any] = {"module": embedding, "container": container, "optimizer of all parameters": every}
        ways[how].zero_grad(set_to_none)
        embedding(ALL[:3]).sum().backward()
        optimizer.step()
    torch.testing.assert_close(stored(ALL), dense.weight)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("how", ["module", "container", "optimizer of all parameters", "optimizer"])
def test_a_step_right_after_zero_grad_applies_nothing(how: str, set_to_none: bool) -> None:
    stored, dense = twins()
    for embedding, optimizer in zip((stored, dense), optimizers(stored, dense), strict=True):
        container = Sequential(embedding)
        every = torch.optim.SGD(container.parameters(), lr=0.0)
        ways: dict[str, Any] = {"module": embedding, "container": container, "optimizer of all parameters": every}
        for _ in range(2):
            embedding(ALL).sin().sum().backward()
            optimizer.step()
            embedding(ALL).sum().backward()
            {**ways, "optimizer": optimizer}[how].zero_grad(set_to_none)
            optimizer.step()
    torch.testing.assert_close(stored(ALL), dense.weight)


def test_gradients_of_an_explainer_between_two_steps_are_dropped_with_those_of_the_layers() -> None:
    model, table = gin()
    layers, rows = torch.optim.SGD(model.parameters(), lr=0.1), SparseSGD(model, lr=0.1)
    plain, plain_table = gin("other")
    plain.load_state_dict(model.state_dict())
    plain_layers, plain_rows = torch.optim.SGD(plain.parameters(), lr=0.1), SparseSGD(plain, lr=0.1)
    x = torch.randn(6, 4, requires_grad=True)
    model(x, EDGES).pow(2).sum().backward()  # a saliency map
    for one, dense, sparse in ((model, layers, rows), (plain, plain_layers, plain_rows)):
        dense.zero_grad()
        one(x.detach(), EDGES).sum().backward()
        dense.step()
        sparse.step()
    torch.testing.assert_close(table(ALL), plain_table(ALL))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
@pytest.mark.parametrize("lr", [0.1, 0.0])
def test_optimizers_may_each_step_and_zero_in_turn(kind: Any, lr: float) -> None:
    stored, dense = twins()
    rows, reference = optimizers(stored, dense)
    layers = kind(Sequential(stored, Linear(4, 2)).parameters(), lr=lr)
    for _ in range(3):
        stored(ALL).sin().sum().backward()
        for optimizer in (layers, rows):
            optimizer.step()
            optimizer.zero_grad()
        reference.zero_grad()
        dense(ALL).sin().sum().backward()
        reference.step()
    torch.testing.assert_close(stored(ALL), dense.weight)


def test_autograd_grad_gathers_nothing_whatever_it_is_asked_for() -> None:
    stored, _ = twins()
    torch.autograd.grad(stored(ALL).sum(), list(stored.parameters()))
    assert stored.take_gradients()[0].numel() == 0


def test_several_lookups_of_one_backward_add_up() -> None:
    stored, dense = twins()
    for embedding, optimizer in zip((stored, dense), optimizers(stored, dense), strict=True):
        for _ in range(3):
            (embedding(ALL).sum() + embedding(ALL[:2]).sin().sum()).backward()
        optimizer.step()
    torch.testing.assert_close(stored(ALL), dense.weight)


def test_threads_may_go_backward_at_the_same_time() -> None:
    stored, _ = twins()

    def work() -> None:
        for _ in range(30):
            stored(ALL).sum().backward()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids, rows = stored.take_gradients()
    assert torch.equal(torch.zeros(6, 4).index_add(0, ids, rows), torch.full((6, 4), 120.0))


def test_best_weights_that_are_put_back_bring_the_rows_back() -> None:
    model, table = gin()
    train(table)
    best, kept, saved = model(None, EDGES), copy.deepcopy(model.state_dict()), io.BytesIO()
    torch.save(model.state_dict(), saved)
    for state in (kept, torch.load(io.BytesIO(saved.getvalue()), weights_only=True)):
        train(table)
        assert not torch.equal(model(None, EDGES), best)
        model.load_state_dict(state)
        assert torch.equal(model(None, EDGES), best)


def test_a_state_dict_has_rows_as_torchs_embedding_has_them_and_each_takes_the_others() -> None:
    stored, dense = twins()
    assert stored.state_dict().keys() == dense.state_dict().keys()
    train(stored)
    dense.load_state_dict(stored.state_dict())
    assert torch.equal(dense.weight, stored(ALL))
    other = Embedding(6, 4)
    stored.load_state_dict(other.state_dict())
    assert torch.equal(stored(ALL), other.weight)
    unsized = StoredEmbedding(None, 4, name="unsized")
    assert not unsized.state_dict()
    unsized.load_state_dict(other.state_dict())
    assert torch.equal(unsized(ALL), other.weight)
    for wrong in (Embedding(5, 4), Embedding(6, 3)):
        with pytest.raises(RuntimeError, match="do not fit"):
            stored.load_state_dict(wrong.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        stored.load_state_dict({**other.state_dict(), "bias": torch.zeros(4)})
    assert torch.equal(stored(ALL), other.weight)


def test_weights_without_rows_are_taken_and_trained_rows_that_stay_are_said() -> None:
    model, table = gin()
    weights = DistributedGIN(4, 4, num_layers=1, out_channels=3).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(weights)
    train(table)
    before = table(ALL)
    with pytest.warns(UserWarning, match="has no rows of embedding store 'nodes', which stay as they are"):
        model.load_state_dict(weights)
    assert torch.equal(table(ALL), before)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("opened", [True, False])
def test_a_copy_has_the_rows_of_its_moment_and_its_own_afterwards(how: Any, opened: bool) -> None:
    stored = StoredEmbedding(6, 4, name="table").eval()
    if opened:
        train(stored)
    copied, again = how(stored), how(stored)
    before = stored(ALL)
    assert not copied.training
    train(stored)
    assert torch.equal(copied(ALL), before)
    train(copied)
    assert torch.equal(again(ALL), before)
    assert torch.equal(stored(ALL), copied(ALL))  # both moved by the same step


def test_a_saved_model_brings_its_rows_into_another_process() -> None:
    model, table = gin()
    train(table)
    expected = model(None, EDGES)
    torch.save(model, file := io.BytesIO())
    with distgnn.use("memory"):
        loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        assert torch.equal(loaded(None, EDGES), expected)
        assert loaded.node_features.embedding.name == "nodes"


def test_a_model_made_anew_on_a_trained_table_is_told_so_unless_it_shares_on_purpose() -> None:
    train(StoredEmbedding(6, 4, name="table", seed=0))
    anew = StoredEmbedding(6, 4, name="table", seed=0)
    with pytest.warns(UserWarning, match=r"'table' is open, and was trained by 1 steps.*close\(\).*memory_backend"):
        anew(ALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anew(ALL)
        assert torch.equal(StoredEmbedding(6, 4, name="table", seed=0, shared=True)(ALL), anew(ALL))
        later = StoredEmbedding(6, 4, name="table", seed=0)
        later.shared = True
        later(ALL)
        anew.close()
        StoredEmbedding(6, 4, name="table", seed=0)(ALL)


def test_an_average_of_a_model_says_that_rows_are_not_averaged() -> None:
    model, _ = gin()
    averaged = AveragedModel(model)
    layers, rows = torch.optim.SGD(model.parameters(), lr=0.1), SparseSGD(model, lr=0.1)
    model(None, EDGES).sum().backward()
    layers.step()
    rows.step()
    averaged.update_parameters(model)
    with torch.no_grad(), pytest.warns(UserWarning, match="an optimizer or an average of torch has changed"):
        averaged(None, EDGES)


def test_a_table_that_only_an_optimizer_of_torch_has_is_said() -> None:
    model, _ = gin()
    layers = torch.optim.Adam(model.parameters(), lr=0.1)
    model(None, EDGES).sum().backward()
    layers.step()
    with pytest.warns(UserWarning, match=r"does not reach its rows: train them by .*SparseAdam\(model\)"):
        model(None, EDGES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.parametrize("opened", [False, True])
def test_a_model_of_another_type_gives_outputs_of_it(dtype: torch.dtype, width: int, opened: bool) -> None:
    model = DistributedGIN(4, 4, num_layers=1, out_channels=3, use_dist_embedding=True, embedding_dim=width)
    model.set_num_embeddings(6)
    if opened:
        model(None, EDGES)
    model = model.to(dtype)
    out = model(None, EDGES)
    assert out.dtype == dtype
    out.sum().backward()
    assert model.node_features is not None
    assert model.node_features.embedding.take_gradients()[0].numel()
    assert model.node_features.embedding(ALL).dtype == Embedding(6, 4).to(dtype)(ALL).dtype


def test_rows_are_of_torchs_default_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert StoredEmbedding(6, 4, name="table")(ALL).dtype == Embedding(6, 4)(ALL).dtype
    finally:
        torch.set_default_dtype(torch.float32)


def test_sizes_may_be_integers_of_numpy() -> None:
    stored = StoredEmbedding(np.arange(6).max() + 1, np.int32(4), name="table")  # type: ignore[arg-type]
    assert stored(ALL).shape == (6, 4)
    stored.set_num_embeddings(np.int64(7))  # type: ignore[arg-type]
    assert repr(stored) == "StoredEmbedding(7, 4, name='table')"


def loss_of(module: Module) -> Any:
    return lambda parameters, ids: torch.func.functional_call(module, parameters, (ids,)).pow(2).sum()


def test_torch_func_differentiates_layers_above_rows_and_leaves_no_gradient() -> None:
    stored, dense = twins()
    head, ids = Linear(4, 2), torch.tensor([[1, 2], [3, 3]])
    ours, theirs = Sequential(stored, head), Sequential(dense, head)
    weights = {f"1.{name}": one.detach() for name, one in head.named_parameters()}
    results: list[list[Tensor]] = []
    for module in (ours, theirs):
        each = torch.func.vmap(torch.func.grad(loss_of(module)), in_dims=(None, 0))(weights, ids)
        jacobian = torch.func.jacrev(lambda one, module=module: loss_of(module)(one, ids))(weights)
        results.append([*each.values(), *jacobian.values()])
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(torch.func.vmap(stored)(ids), torch.func.vmap(dense)(ids))
    assert stored.take_gradients()[0].numel() == 0


def test_stacked_models_are_refused_for_only_one_of_them_would_be_looked_up() -> None:
    models = [Sequential(StoredEmbedding(6, 4, name=name)) for name in ("one", "two")]
    parameters, buffers = torch.func.stack_module_state(models)
    with pytest.raises(distgnn.StoreError, match="call the models one by one"):
        torch.func.vmap(lambda one, two: torch.func.functional_call(models[0], (one, two), (ALL,)))(parameters, buffers)


def test_rows_are_no_attribute_and_the_way_to_them_is_said() -> None:
    stored, _ = twins()
    for use in (lambda: stored.weight, lambda: setattr(stored, "weight", torch.zeros(6, 4))):
        with pytest.raises(AttributeError, match=r"'table' has no weight.*load_state_dict\(\{'weight': rows\}\)"):
            use()


def test_nested_ids_are_refused() -> None:
    stored, _ = twins()
    ids = torch.nested.nested_tensor([ALL[:2], ALL[:1]], layout=torch.jagged)
    with pytest.raises(distgnn.IdsError, match=r"look up its values\(\)"):
        stored(ids)


def test_a_model_that_was_made_on_no_device_can_be_moved_to_one() -> None:
    with torch.device("meta"):
        stored = StoredEmbedding(6, 4, name="table")
    train(stored.to_empty(device="cpu"))
    spec = distgnn.EmbeddingSpec("table", 6, 4, seed=stored._seed)
    assert torch.equal(stored(ALL), distgnn.initial_rows(spec, 0, 6) - 1)


def test_sharing_memory_says_that_rows_are_not_shared() -> None:
    stored, _ = twins()
    with pytest.warns(UserWarning, match=r"share_memory\(\) does not share the rows of embedding store 'table'"):
        Sequential(stored, Linear(4, 2)).share_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored.double()
