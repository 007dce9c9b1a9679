"""Bad input to layers and models: the error, its words, and that nothing has changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import Linear, Module
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.utils import to_torch_csr_tensor

from distgnn import EmbeddingSizeError, GraphInputError, IdsError, SpecError, StoreError
from distgnn.nn import (
    DistributedGIN,
    DistributedGINConv,
    DistributedGINE,
    DistributedGINEConv,
    StoredActivation,
    StoredEmbedding,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("memory_backend")

ROWS = 9
X, IDS = torch.randn(4, 6), torch.arange(4)
EDGES, ATTRIBUTES = torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.randn(3, 5)
BOTH: dict[str, Any] = {"use_dist_embedding": True, "use_dist_edge_embedding": True}


def sized(module: Any, **sizes: int) -> Any:
    module.set_num_embeddings(**sizes)
    return module


MODULES: dict[str, Callable[[], Any]] = {
    "plain GIN": lambda: DistributedGIN(6, 8, num_layers=2, out_channels=2),
    "GIN": lambda: sized(
        DistributedGIN(6, 8, num_layers=2, out_channels=2, use_dist_embedding=True, use_dist_tensor=True),
        num_nodes=ROWS,
    ),
    "plain GINE": lambda: DistributedGINE(6, 8, num_layers=2, out_channels=2, edge_dim=5),
    "GINE": lambda: sized(
        DistributedGINE(6, 8, num_layers=2, out_channels=2, edge_dim=5, **BOTH), num_nodes=ROWS, num_edges=ROWS
    ),
    "plain GINConv": lambda: DistributedGINConv(Linear(6, 2)),
    "GINConv": lambda: sized(DistributedGINConv(Linear(6, 2), use_dist_embedding=True), num_nodes=ROWS),
    "plain GINEConv": lambda: DistributedGINEConv(Linear(6, 2), edge_dim=5),
    "GINEConv": lambda: sized(DistributedGINEConv(Linear(6, 2), edge_dim=5, **BOTH), num_nodes=ROWS, num_edges=ROWS),
    "unsized GIN": lambda: DistributedGIN(6, 8, num_layers=2, out_channels=2, use_dist_embedding=True),
    "unsized GINConv": lambda: DistributedGINConv(Linear(6, 2), use_dist_embedding=True),
}


def state_of(module: Module) -> list[Any]:
    """Everything that a call could change: weights, buffers, sizes, rows, gathered gradients, open stores."""
    state: list[Any] = [weight.clone() for weight in module.state_dict().values()]
    for part in module.modules():
        if isinstance(part, StoredEmbedding):
            state.append(part.num_embeddings or 0)
            state.append(part(torch.arange(part.num_embeddings or 0)).detach() if part.num_embeddings else 0)
            state.append(part.take_gradients()[0].numel())
        if isinstance(part, StoredActivation):
            state.append(part.store is None)
    return state


def case(module: str, error: type[Exception], words: str, *inputs: Any, **keywords: Any) -> Any:
    return pytest.param(module, error, words, inputs, keywords, id=f"{module}, {words}")


G, SIZE = GraphInputError, EmbeddingSizeError
CASES = [
    case("plain GIN", G, "edge_index holds nodes 5 to 8, the graph has nodes 0 to 3", X, EDGES + 5),
    case("GIN", G, "edge_index holds nodes -1 to 2, the graph has nodes 0 to 3", X, EDGES - 1),
    case("GIN", G, "nodes 1 to 4, the graph has nodes 0 to 3; it seems to count from 1: subtract 1", X, EDGES + 1),
    case("GINE", G, "edge_index must be int64 of shape [2, E], not torch.int64 of [3, 2]", X, EDGES.t(), ATTRIBUTES),
    case("GIN", G, "edge_index must be int64 of shape [2, E], not torch.float32 of [2, 3]", X, EDGES.float()),
    case("GIN", G, "edge_index must be int64 of shape [2, E], not torch.int64 of [6]", X, EDGES.flatten()),
    case("plain GIN", G, "x has 5 features a node, the model was made for 6", X[:, :5], EDGES),
    case("GIN", G, "x has 1 features a node, the model was made for 6", X[:, :1], EDGES),
    case("plain GIN", G, "x=None needs stored node embeddings: make the model with", None, EDGES),
    case("unsized GIN", G, "call set_num_embeddings(...), or pass ids", None, EDGES),
    case("plain GINE", G, "GINE needs edge features: pass edge_attr of shape [E, D]", X, EDGES),
    case("GINE", G, "edge_attr has 4 features an edge, the layer takes 5", X, EDGES, ATTRIBUTES[:, :4]),
    case("GINE", G, "edge_attr of shape [2, 5] for 3 edges; there must be one row an edge", X, EDGES, ATTRIBUTES[:2]),
    case("GINE", G, "ids of shape [2] for 3 rows of features", X, EDGES, ATTRIBUTES, edge_ids=IDS[:2]),
    case("GIN", G, "ids of shape [3] for 4 rows of features; ids must be a vector", X, EDGES, node_ids=IDS[:3]),
    case("GIN", SIZE, "id -1 is negative; ids go from 0 to 8", X, EDGES, node_ids=IDS - 1),
    case("GIN", SIZE, "id 9 is beyond its 9 rows; make room for it with set_num_emb", X, EDGES, node_ids=IDS + 6),
    case("GINE", SIZE, "id 9 is beyond its 9 rows", X, EDGES, ATTRIBUTES, edge_ids=IDS[:3] + 7),
    case("GIN", IdsError, "ids must be of an integer type, not torch.float32", X, EDGES, node_ids=IDS.float()),
    case("plain GINConv", G, "x has 5 features a node, the layer was made for 6", X[:, :5], EDGES),
    case("plain GINConv", G, "x=None needs stored node embeddings: make the layer with", None, EDGES),
    case("unsized GINConv", G, "call set_num_embeddings(...), or pass ids", None, EDGES),
    case("plain GINEConv", G, "GINE needs edge features", X, EDGES),
    case("plain GINEConv", G, "edge_attr of shape [2, 5] for 3 edges", X, EDGES, ATTRIBUTES[:2]),
    case("GINConv", G, "ids of shape [2] for 4 rows of features", X, EDGES, node_ids=IDS[:2]),
    case("GINConv", G, "ids of shape [3] for 4 rows of features", (X, X), EDGES, node_ids=(IDS, IDS[:3])),
    case("GINConv", G, "x=(x_src, x_dst) needs node_ids=(source_ids, destination_ids)", (X, X), EDGES, node_ids=IDS),
    case("GINConv", G, "ids=(source_ids, destination_ids) needs a bipartite x", X, EDGES, node_ids=(IDS, IDS)),
    case("GINConv", SIZE, "id -1 is negative", X, EDGES, node_ids=IDS - 1),
    case("GINEConv", SIZE, "id 10 is beyond its 9 rows", X, EDGES, ATTRIBUTES, node_ids=IDS + 7),
    case("GINConv", G, "x has 1 features", X[:, :1], EDGES),
    case("GINConv", G, "x has 5 features", X[:, :5], EDGES),
    case("GINEConv", G, "edge_attr has 1", X, EDGES, ATTRIBUTES[:, :1]),
    case("GINEConv", G, "edge_attr has 4", X, EDGES, ATTRIBUTES[:, :4]),
    case("plain GINEConv", G, "edge_attr has 4", X, EDGES, ATTRIBUTES[:, :4]),
    case("plain GINE", G, "edge_attr", X, EDGES, torch.randn(5)),
    case("GIN", G, "ids of shape [4, 1]", X, EDGES, node_ids=IDS.view(4, 1)),
    case("unsized GIN", G, "subtract 1", X, EDGES + 1),
]


@pytest.mark.filterwarnings("ignore:embedding store .* gets")
@pytest.mark.parametrize(("module", "error", "words", "inputs", "keywords"), CASES)
def test_a_forward_with_bad_input_says_what_is_wrong_and_changes_nothing(
    module: str, error: type[Exception], words: str, inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    made = MODULES[module]()
    before = state_of(made)
    with pytest.raises(error, match=re.escape(words)):
        made(*inputs, **keywords)
    torch.testing.assert_close(state_of(made), before, rtol=0, atol=0)


def test_only_edges_that_fit_when_1_is_subtracted_are_said_to_count_from_1() -> None:
    with pytest.raises(GraphInputError, match=r"edge_index holds nodes 1 to 7, the graph has nodes 0 to 3$"):
        MODULES["plain GIN"]()(X, EDGES * 2 + 1)


@pytest.mark.filterwarnings("ignore:Sparse (invariant checks|CSR tensor):UserWarning")
def test_stored_edge_embeddings_are_refused_beside_a_sparse_matrix() -> None:
    with pytest.raises(GraphInputError, match=r"need edge_index of shape \[2, E\], not a sparse matrix"):
        MODULES["GINEConv"]()(X, to_torch_csr_tensor(EDGES, size=(4, 4)))


@pytest.mark.parametrize(
    ("module", "sizes", "words"),
    [
        ("plain GIN", {"num_nodes": 5}, "got 5 for an embedding that this layer has not: set use_dist_embedding=True"),
        ("GIN", {"num_edges": 5}, "got 5 for an embedding that this layer has not: set use_dist_edge_embedding=True"),
        ("plain GINE", {"num_edges": 5}, "set use_dist_edge_embedding=True"),
        ("plain GINConv", {"num_nodes": 5}, "set use_dist_embedding=True"),
        ("plain GINEConv", {"num_edges": 5}, "set use_dist_edge_embedding=True"),
    ],
)
def test_sizes_of_embeddings_that_are_not_there_are_refused(module: str, sizes: dict[str, int], words: str) -> None:
    with pytest.raises(GraphInputError, match=words):
        MODULES[module]().set_num_embeddings(**sizes)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(SpecError, match="every size must be a whole number of at least 1"):
        MODULES["unsized GIN"]().set_num_embeddings(0)
    model = MODULES["GIN"]()
    model(X, EDGES)
    with pytest.raises(StoreError, match=r"open with 9 rows and cannot become 8: set it before the first forward"):
        model.set_num_embeddings(8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DistributedGIN(6, 8, num_layers=0, out_channels=2), "DistributedGIN needs at least 1 layer, not 0"),
        (
            lambda: DistributedGINE(6, 8, num_layers=-1, out_channels=2, edge_dim=5),
            "DistributedGINE needs at least 1 layer, not -1",
        ),
        (
            lambda: DistributedGIN(6, 8, num_layers=2, out_channels=2, readout="layer_sum", jk="cat"),
            "readout='layer_sum' takes the place of jk; leave out jk='cat'",
        ),
        (
            lambda: DistributedGINE(6, 8, num_layers=2, out_channels=2),
            "DistributedGINE needs the width of the edge features: pass edge_dim",
        ),
        (
            lambda: DistributedGIN(6, 8, num_layers=2, out_channels=2, readout="no such pooling"),
            "Could not resolve 'no such pooling'",
        ),
        (
            lambda: DistributedGINConv(torch.nn.ReLU(), use_dist_embedding=True),
            "a stored embedding needs the input width of nn, which cannot be told from it",
        ),
        (
            lambda: DistributedGINEConv(torch.nn.LazyLinear(3), use_dist_edge_embedding=True),
            "begin nn with a Linear or an MLP of known input width",
        ),
        (
            lambda: DistributedGIN(
                6, 8, num_layers=2, out_channels=2, use_dist_embedding=True, embedding_name="my table"
            ),
            "'my table' cannot be the name of an embedding store",
        ),
    ],
)
def test_modules_that_cannot_be_are_refused_when_they_are_made(make: Callable[[], Module], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.mark.parametrize("layer", [DistributedGINConv, DistributedGINEConv])
def test_an_argument_that_no_layer_has_is_answered_with_those_that_it_has(layer: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"{layer.__name__} has no argument 'use_embedding': did you mean use_dist_emb"
    ):
        layer(Linear(6, 2), use_embedding=True)


def test_a_loader_is_no_graph_to_infer_over() -> None:
    loader = DataLoader([Data(x=X, edge_index=EDGES)])
    with pytest.raises(GraphInputError, match="not a DataLoader: pass a GraphStore and features in a store"):
        MODULES["plain GIN"]().inference(loader)
