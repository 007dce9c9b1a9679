from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.nn import LayerNorm

from distgnn import EmbeddingSpec, GraphInputError, GraphSpec, TensorSpec
from distgnn.backends.memory import MemoryBackend, MemoryTensorStore
from distgnn.data import generate_graph
from distgnn.graph import infer_by_layers
from distgnn.nn import DistributedGIN, DistributedGINE

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn import Backend, GraphStore, TensorStore

NUM_NODES, NUM_EDGES = 90, 700


@pytest.fixture
def edge_index() -> Tensor:
    """The last 10 nodes have no in-edges, some edges are there twice."""
    edges = generate_graph(NUM_NODES - 10, NUM_EDGES - 20, num_classes=2).edge_index
    return torch.cat([edges, edges[:, :20]], dim=1)


@pytest.fixture
def graph(memory_backend: Backend, edge_index: Tensor) -> GraphStore:
    return memory_backend.open_graph(GraphSpec("graph", NUM_NODES, NUM_EDGES), edge_index)


def stored(backend: Backend, name: str, rows: Tensor) -> TensorStore:
    store = backend.open_tensor(TensorSpec(name, tuple(rows.shape)))
    store.write(torch.arange(len(rows)), rows)
    return store


@pytest.fixture
def x() -> Tensor:
    return torch.randn(NUM_NODES, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.5, "norm": "batch_norm", "train_eps": True},
        {"jk": "last"},
        {"jk": "cat"},
        {"jk": "max"},
        {"jk": "lstm"},
        {"readout": "layer_sum"},
        {"use_dist_embedding": True, "embedding_dim": 4},
        {"use_dist_tensor": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_size", [7, 1000])
def test_gin_gives_the_outputs_of_the_full_graph(
    options: dict[str, Any], batch_size: int, memory_backend: Backend, graph: GraphStore, edge_index: Tensor, x: Tensor
) -> None:
    torch.manual_seed(0)
    model = DistributedGIN(6, 8, out_channels=3, num_layers=3, **options)
    model.set_num_embeddings(num_nodes=NUM_NODES) if "use_dist_embedding" in options else None
    model(x, edge_index)  # running statistics of a batch normalization
    out = model.inference(graph, stored(memory_backend, "x", x), batch_size=batch_size, progress=False)
    assert model.training
    expected = model.eval()(x, edge_index)
    assert out.shape == (NUM_NODES, 3)
    assert torch.allclose(out.read(torch.arange(NUM_NODES)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", ["features", "embeddings", "both"])
def test_gine_gives_the_outputs_of_the_full_graph(
    given: str, memory_backend: Backend, graph: GraphStore, edge_index: Tensor, x: Tensor
) -> None:
    torch.manual_seed(0)
    edge_attr = torch.randn(NUM_EDGES, 2)
    learned = given != "features"
    model = DistributedGINE(
        6,
        8,
        num_layers=2,
        out_channels=3,
        edge_dim=2,
        use_dist_embedding=learned,
        use_dist_edge_embedding=learned,
        embedding_std=1.0,
    )
    if learned:
        model.set_num_embeddings(num_nodes=NUM_NODES, num_edges=NUM_EDGES)
    x_, edge_attr_ = (None, None) if given == "embeddings" else (x, edge_attr)
    expected = model(x_, edge_index, edge_attr_)
    features, edge_features = (
        None if rows is None else stored(memory_backend, name, rows)
        for name, rows in (("x", x_), ("edge_attr", edge_attr_))
    )
    out = model.inference(graph, features, edge_features=edge_features, batch_size=16, progress=False)
    assert torch.allclose(out.read(torch.arange(NUM_NODES)), expected, rtol=1e-5, atol=1e-5)


def test_features_may_be_an_embedding_store(memory_backend: Backend, graph: GraphStore, edge_index: Tensor) -> None:
    torch.manual_seed(0)
    table = memory_backend.open_embedding(EmbeddingSpec("table", NUM_NODES, 6))
    model = DistributedGIN(6, 8, num_layers=2, out_channels=3)
    out = model.inference(graph, table, progress=False)
    expected = model(table.lookup(torch.arange(NUM_NODES)), edge_index)
    assert torch.allclose(out.read(torch.arange(NUM_NODES)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("jk", "most"), [(None, 2), ("last", 2), ("cat", 5)])
def test_a_layer_is_freed_when_the_next_is_there_and_batches_are_small(
    jk: str | None, most: int, graph: GraphStore, x: Tensor, edge_index: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    features, live, counts, read = stored(backend, "x", x), set(), [0], [0]
    write, close, gather = MemoryTensorStore.write, MemoryTensorStore.close, MemoryTensorStore.gather

    def writing(self: MemoryTensorStore, ids: Tensor, values: Tensor, **options: bool) -> None:
        live.add(self.spec.name)
        counts.append(len(live))
        write(self, ids, values, **options)

    def closing(self: MemoryTensorStore) -> None:
        live.discard(self.spec.name)
        close(self)

    def gathering(self: MemoryTensorStore, positions: Tensor) -> Tensor:
        read.append(positions.numel())
        return gather(self, positions)

    monkeypatch.setattr(MemoryTensorStore, "write", writing)
    monkeypatch.setattr(MemoryTensorStore, "close", closing)
    monkeypatch.setattr(MemoryTensorStore, "gather", gathering)
    out = DistributedGIN(6, 8, num_layers=4, out_channels=3, jk=jk).inference(
        graph, features, batch_size=1, backend=backend, progress=False
    )
    assert max(counts) == most
    assert len(live) == 1
    assert max(read) <= 1 + int(edge_index[1].bincount().max())
    out.close()


def test_a_model_that_fails_leaves_no_store_and_the_modes_as_they_were(
    memory_backend: Backend, graph: GraphStore, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DistributedGIN(6, 8, num_layers=2, out_channels=3, norm="batch_norm")
    model.norms[0].eval()
    opened: list[TensorStore] = []
    original = MemoryBackend.open_tensor

    def opening(self: MemoryBackend, spec: TensorSpec) -> MemoryTensorStore:
        opened.append(original(self, spec))
        return original(self, spec)

    features = stored(memory_backend, "x", x)
    monkeypatch.setattr(MemoryBackend, "open_tensor", opening)
    monkeypatch.setattr(model.convs[1], "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.inference(graph, features, progress=False)
    assert opened
    assert all(store.closed for store in opened)  # type: ignore[attr-defined]
    assert model.training
    assert not model.norms[0].training


def test_norms_over_all_nodes_are_refused_by_name(graph: GraphStore, memory_backend: Backend, x: Tensor) -> None:
    features = stored(memory_backend, "x", x)
    for norm, options in (("layer_norm", None), ("graph_norm", None), ("batch_norm", {"track_running_stats": False})):
        model = DistributedGIN(6, 8, num_layers=2, out_channels=3, norm=norm, norm_kwargs=options)
        with pytest.raises(GraphInputError, match=r"normalizes over all nodes at once"):
            model.inference(graph, features, progress=False)
    model = DistributedGIN(6, 8, num_layers=2, out_channels=3, norm=LayerNorm(8, mode="node"))
    assert infer_by_layers(model, graph, features, progress=False).shape == (NUM_NODES, 3)
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        model.inference(graph, features, batch_size=0)


def test_progress_is_shown_on_stderr(
    graph: GraphStore, memory_backend: Backend, x: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    DistributedGIN(6, 8, num_layers=2, out_channels=3).inference(graph, stored(memory_backend, "x", x))
    shown = capsys.readouterr()
    assert "inference" in shown.err
    assert "100%" in shown.err
    assert not shown.out
