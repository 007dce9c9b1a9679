"""The modules between layers and stores: embeddings, features with embeddings, and layer outputs."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch.nn import Embedding, Linear, Module, Sequential

import distgnn
from distgnn.backends.memory import MemoryBackend
from distgnn.nn import (
    DistributedGIN,
    DistributedGINConv,
    DistributedGINE,
    Halo,
    StoredActivation,
    StoredAges,
    StoredEmbedding,
    StoredFeatures,
)
from distgnn.optim import SparseSGD
from distgnn.storage import registry

pytestmark = pytest.mark.usefixtures("memory_backend")

ALL = torch.arange(6)
EDGE = torch.tensor([[0], [1]])


def train(embedding: StoredEmbedding) -> None:
    """Move every row."""
    optimizer = SparseSGD(embedding, lr=1.0)
    embedding(ALL).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (1, 4, 2)])
def test_ids_of_any_shape_become_rows_in_that_shape(shape: tuple[int, ...]) -> None:
    embedding = StoredEmbedding(6, 4, name="table")
    ids = torch.randint(0, 6, shape)
    assert embedding(ids).shape == (*shape, 4)
    assert torch.equal(embedding(ids), Embedding(6, 4, _weight=embedding(ALL).detach())(ids))


def test_its_gradient_is_that_of_torchs_embedding() -> None:
    stored = StoredEmbedding(6, 4, name="table")
    dense = Embedding(6, 4, _weight=stored(ALL).detach())
    ids = torch.tensor([[5, 0, 5], [1, 5, 0]])
    stored(ids).pow(3).sum().backward()
    dense(ids).pow(3).sum().backward()
    assert dense.weight.grad is not None
    torch.testing.assert_close(torch.zeros(6, 4).index_add(0, *stored.take_gradients()), dense.weight.grad)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_ids_of_every_integer_type_are_taken(dtype: torch.dtype) -> None:
    embedding = StoredEmbedding(6, 4, name="table")
    assert torch.equal(embedding(ALL.to(dtype)), embedding(ALL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_ids_that_are_no_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(distgnn.IdsError, match=f"'table': ids must be of an integer type, not {dtype}"):
        StoredEmbedding(6, 4, name="table")(torch.zeros(3, dtype=dtype))


def test_without_a_size_the_first_forward_sizes_the_table_and_warns_once() -> None:
    embedding = StoredEmbedding(None, 4, name="table")
    with pytest.warns(UserWarning, match=r"'table' gets 4 rows from the largest id .* set_num_embeddings"):
        embedding(torch.tensor([3, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedding(torch.tensor([0, 3]))
    assert embedding.num_embeddings == 4
    with pytest.raises(distgnn.EmbeddingSizeError, match=r"id 4 is beyond its 4 rows; .* set_num_embeddings"):
        embedding(torch.tensor([4]))


def test_a_first_forward_without_ids_cannot_size_the_table() -> None:
    with pytest.raises(distgnn.StoreError, match="no ids to size it by; call set_num_embeddings"):
        StoredEmbedding(None, 4, name="table")(torch.empty(0, dtype=torch.int64))


@pytest.mark.filterwarnings("ignore:embedding store")
@pytest.mark.parametrize("ids", [[-5], [-1, 1]])
def test_negative_ids_do_not_size_the_table(ids: list[int]) -> None:
    embedding = StoredEmbedding(None, 4, name="table")
    with pytest.raises(distgnn.EmbeddingSizeError, match="negative"):
        embedding(torch.tensor(ids))
    assert embedding.num_embeddings is None


def test_an_open_table_grows_but_does_not_shrink_until_it_is_reset() -> None:
    embedding, larger = (
        StoredEmbedding(6, 4, name="table"),
        StoredEmbedding(7, 4, name="table", backend=MemoryBackend()),
    )
    rows = embedding(ALL)
    for size in (6, 7):
        embedding.set_num_embeddings(size)
        assert torch.equal(embedding(ALL), rows)
    assert torch.equal(embedding(torch.arange(7)), larger(torch.arange(7)))
    with pytest.raises(distgnn.StoreError, match=r"open with 7 rows and cannot become 6.*reset_parameters\(\)"):
        embedding.set_num_embeddings(6)
    embedding.reset_parameters()
    embedding.set_num_embeddings(5)
    assert embedding(torch.arange(5)).shape == (5, 4)


def test_sizes_and_names_that_no_table_can_have_are_refused_at_once() -> None:
    with pytest.raises(distgnn.SpecError, match="at least 1"):
        StoredEmbedding(6, 0, name="table")
    with pytest.raises(distgnn.SpecError, match="cannot be the name of an embedding store"):
        StoredEmbedding(6, 4, name="a table")
    with pytest.raises(distgnn.SpecError, match="at least 1"):
        StoredEmbedding(None, 4, name="table").set_num_embeddings(0)


def test_a_table_of_no_rows_is_refused_at_once() -> None:
    with pytest.raises(distgnn.SpecError, match="at least 1"):
        StoredEmbedding(0, 4, name="table")


def test_torchs_seed_decides_the_initial_rows() -> None:
    tables = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with distgnn.use("memory"):
            tables.append(StoredEmbedding(6, 4, name="table")(ALL))
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_an_own_seed_decides_them_whatever_torchs_is() -> None:
    torch.manual_seed(1)
    rows = StoredEmbedding(6, 4, name="table", seed=7, std=0.5)(ALL)
    assert torch.equal(rows, distgnn.initial_rows(distgnn.EmbeddingSpec("table", 6, 4, seed=7, std=0.5), 0, 6))


@pytest.mark.parametrize("restart", ["reset_parameters", "close"])
def test_reset_parameters_and_close_start_the_rows_anew(restart: str) -> None:
    torch.manual_seed(3)
    embedding = StoredEmbedding(6, 4, name="table")
    initial = embedding(ALL)
    train(embedding)
    assert not torch.equal(embedding(ALL), initial)
    getattr(embedding, restart)()
    assert torch.equal(embedding(ALL), initial)
    torch.manual_seed(4)
    embedding.reset_parameters()
    assert not torch.equal(embedding(ALL), initial)


def test_reset_parameters_leaves_a_table_alone_that_the_module_has_not_opened() -> None:
    embedding, also = StoredEmbedding(6, 4, name="table"), StoredEmbedding(6, 4, name="table", shared=True)
    train(embedding)
    trained = embedding(ALL)
    also.reset_parameters()
    assert torch.equal(also(ALL), trained)


def test_other_modules_of_a_table_that_was_reset_are_told_that_it_is_closed() -> None:
    embedding, also = StoredEmbedding(6, 4, name="table"), StoredEmbedding(6, 4, name="table")
    initial = embedding(ALL)
    assert torch.equal(also(ALL), initial)
    train(embedding)
    embedding.reset_parameters()
    with pytest.raises(distgnn.StoreClosedError, match="'table' is closed"):
        also(ALL)
    also.close()
    assert torch.equal(also(ALL), initial)


def test_a_table_shows_its_size_and_name() -> None:
    assert repr(StoredEmbedding(None, 4, name="table")) == "StoredEmbedding(None, 4, name='table')"


def test_making_modules_opens_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_current", [])
    monkeypatch.setenv("DISTGNN_BACKEND", "unknown-engine")
    embedding = StoredEmbedding(6, 4, name="table")
    conv = DistributedGINConv(Linear(4, 4), use_dist_embedding=True)
    conv.set_num_embeddings(6)
    model = DistributedGINE(
        4,
        4,
        num_layers=2,
        out_channels=4,
        edge_dim=4,
        use_dist_embedding=True,
        use_dist_edge_embedding=True,
        use_dist_tensor=True,
    )
    model.set_num_embeddings(num_nodes=6, num_edges=6)
    copy.deepcopy(model).reset_parameters()
    repr(model)
    SparseSGD(model)
    forwards: list[tuple[Module, Any]] = [(embedding, (ALL,)), (conv, (None, EDGE)), (model, (None, EDGE))]
    for module, inputs in forwards:
        with pytest.raises(distgnn.UnknownBackendError, match="no backend is called 'unknown-engine'"):
            module(*inputs)
    assert DistributedGIN(4, 4, num_layers=2, out_channels=4)(torch.randn(2, 4), EDGE).shape == (2, 4)


@pytest.mark.parametrize("width", [4, 7])
def test_features_and_embeddings_are_summed_through_a_linear_map_where_widths_differ(width: int) -> None:
    features = StoredFeatures(4, width, name="table", std=1.0)
    features.embedding.set_num_embeddings(6)
    rows = Embedding(6, width, _weight=features.embedding(ALL).detach())
    mapped = rows if features.lin is None else Sequential(rows, features.lin)
    x, ids = torch.randn(3, 4), torch.tensor([5, 0, 5])
    assert (features.lin is None) == (width == 4)
    torch.testing.assert_close(features(x, ids), x + mapped(ids))
    torch.testing.assert_close(features(x, None), x + mapped(torch.arange(3)))
    torch.testing.assert_close(features(None, ids), mapped(ids))
    torch.testing.assert_close(features(None, None), mapped(ALL))


def test_features_need_one_id_a_row_or_a_known_number_of_rows() -> None:
    features = StoredFeatures(4, None, name="table", std=1.0)
    with pytest.raises(distgnn.GraphInputError, match=re.escape("call set_num_embeddings(...), or pass ids")):
        features(None, None)
    features.embedding.set_num_embeddings(6)
    with pytest.raises(distgnn.GraphInputError, match=r"ids of shape .2. for 3 rows of features"):
        features(torch.randn(3, 4), torch.tensor([0, 1]))


def test_ids_in_a_column_are_refused_beside_features() -> None:
    features = StoredFeatures(4, None, name="table", std=1.0)
    features.embedding.set_num_embeddings(6)
    with pytest.raises(distgnn.GraphInputError):
        features(torch.randn(3, 4), torch.tensor([[0], [1], [2]]))


def test_whole_numbers_as_features_are_refused_for_embeddings_would_be_rounded_to_them() -> None:
    features = StoredFeatures(4, None, name="table", std=0.1)
    features.embedding.set_num_embeddings(6)
    with pytest.raises(distgnn.GraphInputError, match=r"features of torch.int64; convert them with .float\(\)"):
        features(torch.ones(6, 4, dtype=torch.int64), None)


def test_layer_outputs_are_written_to_a_store_and_passed_on_with_their_gradient() -> None:
    activation = StoredActivation(name="layer")
    values = torch.randn(2, 3, requires_grad=True)
    passed = activation(values, torch.tensor([4, 1]), 5)
    assert passed is values
    assert activation.store is not None
    stored = activation.store.read(torch.arange(5))
    assert torch.equal(stored[[4, 1]], values)
    assert stored[[0, 2, 3]].count_nonzero() == 0
    assert not stored.requires_grad


def test_layer_outputs_of_another_shape_or_type_get_another_store() -> None:
    activation = StoredActivation(name="layer")
    ids = torch.tensor([0])
    for values, rows in (
        (torch.ones(1, 3), 2),
        (torch.ones(1, 4), 2),
        (torch.ones(1, 4), 9),
        (torch.ones(1, 4).half(), 9),
    ):
        activation(values, ids, rows)
        assert activation.store is not None
        assert (activation.store.shape, activation.store.dtype) == ((rows, *values.shape[1:]), values.dtype)


def test_closing_layer_outputs_frees_their_name() -> None:
    activation = StoredActivation(name="layer")
    activation.close()
    activation(torch.ones(1, 3), torch.tensor([0]), 2)
    store = activation.store
    assert store is not None
    activation.close()
    with pytest.raises(distgnn.StoreClosedError, match="'layer' is closed"):
        store.read(torch.tensor([0]))
    assert distgnn.get_backend().open_tensor(distgnn.TensorSpec("layer", (7,))).shape == (7,)


def shared_layers(how: str) -> tuple[DistributedGIN, DistributedGIN]:
    first = DistributedGIN(4, 4, num_layers=1, out_channels=4, embedding_name="shared", use_dist_tensor=True)
    first(torch.ones(3, 4), EDGE)
    return first, copy.deepcopy(first) if how == "copy" else DistributedGIN(
        4, 4, num_layers=1, embedding_name="shared", use_dist_tensor=True
    )


@pytest.mark.parametrize("how", ["copy", "same name"])
def test_two_models_of_one_table_can_see_graphs_of_different_sizes(how: str) -> None:
    train_model, test_model = shared_layers(how)
    assert test_model(torch.ones(5, 4), EDGE).shape == (5, 4)
    assert train_model(torch.ones(3, 4), EDGE).shape == (3, 4)


def test_layer_outputs_keep_their_store_from_batch_to_batch_when_the_number_of_nodes_is_known() -> None:
    model = DistributedGIN(4, 4, num_layers=1, out_channels=2, use_dist_tensor=True)
    model.set_num_embeddings(num_nodes=9)
    edge_index = torch.tensor([[0, 1], [1, 0]])
    for ids in ([7, 8], [0, 3]):
        model(torch.ones(2, 4), edge_index, node_ids=torch.tensor(ids))
    activation = model.activations[0]
    assert isinstance(activation, StoredActivation)
    assert activation.store is not None
    rows = activation.store.read(torch.arange(9)).any(dim=1)
    assert rows.nonzero().flatten().tolist() == [0, 3, 7, 8]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_of_ages_does_not_count_on_rows_that_others_wrote(how: Any) -> None:
    halo = Halo(ALL[:2], ALL[2:], 6, history=True)
    ages = StoredAges(name="ages")
    ages.count(halo)
    ages.note_all_written()
    assert not ages.exceed(0, halo)
    assert how(ages).exceed(0, halo)
    ages.close()
    assert ages.exceed(0, halo)
