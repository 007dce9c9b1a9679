"""Types and forms of features and edges: what PyG's layers take, ours take with the same results, or refuse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import GIN, MLP, GINConv, GINEConv
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csr_tensor

from distgnn import GraphInputError
from distgnn.nn import DistributedGIN, DistributedGINConv, DistributedGINEConv

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn import Module

pytestmark = [
    pytest.mark.usefixtures("memory_backend"),
    pytest.mark.filterwarnings("ignore:Sparse (invariant checks|CSC tensor|CSR tensor):UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting sparse tensor to CSR format:UserWarning"),
]

# The large one is summed without messages.
SIZES = pytest.mark.parametrize("size", [(7, 12), (3000, 60000)], ids=["small", "large"])
Pair = tuple[Any, Any]


def mlp() -> Module:
    module: Module = MLP([4, 8, 3], norm=None)
    return module


LAYERS: dict[str, Callable[[], Pair]] = {
    "GIN": lambda: (GIN(4, 8, 2, 3), DistributedGIN(4, 8, num_layers=2, out_channels=3)),
    "GINConv": lambda: (GINConv(mlp()), DistributedGINConv(mlp())),
    "GINConv with eps": lambda: (GINConv(mlp(), 0.5, True), DistributedGINConv(mlp(), 0.5, True)),
    "GINEConv": lambda: (GINEConv(mlp(), edge_dim=2), DistributedGINEConv(mlp(), edge_dim=2)),
}


@pytest.fixture(params=LAYERS.values(), ids=list(LAYERS))
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    pygs, ours = request.param()
    ours.load_state_dict(pygs.state_dict())
    return pygs, ours


def graph(size: tuple[int, int], layer: Any) -> tuple[Tensor, ...]:
    """Features, edges and, where the layer takes them, features of edges."""
    nodes, edges = size
    whole = torch.randn(nodes, 4), torch.randint(nodes, (2, edges)), torch.randn(edges, 2)
    return whole if isinstance(layer, GINEConv) else whole[:2]


def cast(inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(rows.to(dtype) if rows.is_floating_point() else rows for rows in inputs)


def error_of(out: Tensor, exact: Tensor) -> float:
    return float((out.detach().double() - exact.detach()).norm() / exact.detach().norm())


@SIZES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weights", ["of the type of the features", "float32"])
def test_outputs_have_pygs_type_and_no_larger_errors(
    pair: Pair, dtype: torch.dtype, weights: str, size: tuple[int, int]
) -> None:
    inputs = cast(graph(size, pair[0]), dtype)
    exact = pair[0].double()(*cast(inputs, torch.float64))
    outs = []
    for layer in pair:
        layer.to(torch.float32 if weights == "float32" else dtype)
        try:
            outs.append(layer(*inputs))
        except RuntimeError as error:
            outs.append(str(error))
    if isinstance(outs[0], str):  # torch's own words, where PyG's layers fail
        assert outs[1] == outs[0]
        return
    assert outs[1].dtype == outs[0].dtype
    assert error_of(outs[1], exact) <= max(1.5 * error_of(outs[0], exact), 1e-6)


@SIZES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_under_autocast_outputs_have_pygs_type_and_no_larger_errors(
    pair: Pair, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    inputs = graph(size, pair[0])
    exact = pair[0].double()(*cast(inputs, torch.float64))
    pair[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        expected, out = (layer(*cast(inputs, dtype)) for layer in pair)
    assert out.dtype == expected.dtype
    assert error_of(out, exact) <= 1.5 * error_of(expected, exact)


def transposed(adjacency: Tensor) -> Any:
    return adjacency.t()


FORMS: dict[str, Callable[[Tensor, int], Any]] = {
    "int32": lambda edges, _: edges.int(),
    "columns first": lambda edges, _: edges.t().contiguous().t(),
    "every other column": lambda edges, _: edges.repeat_interleave(2, dim=1)[:, ::2],
    "no edges": lambda edges, _: edges[:, :0],
    "CSR": lambda edges, nodes: to_torch_csr_tensor(edges.flip(0), size=(nodes, nodes)),
    "COO": lambda edges, nodes: transposed(to_torch_coo_tensor(edges, size=(nodes, nodes))),
    "EdgeIndex": lambda edges, nodes: EdgeIndex(edges, sparse_size=(nodes, nodes)),
    "EdgeIndex by source": lambda edges, nodes: EdgeIndex(edges, sparse_size=(nodes, nodes)).sort_by("row")[0],
    "EdgeIndex of int32": lambda edges, nodes: EdgeIndex(edges.int(), sparse_size=(nodes, nodes)),
}


@SIZES
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("make", [LAYERS["GIN"], LAYERS["GINConv"]], ids=["GIN", "GINConv"])
def test_edges_are_taken_in_every_form_that_pyg_takes(
    make: Callable[[], Pair], form: Callable[[Tensor, int], Any], size: tuple[int, int]
) -> None:
    pygs, ours = make()
    ours.load_state_dict(pygs.state_dict())
    x, edges = graph(size, ours)
    edges = torch.unique(edges, dim=1).contiguous()  # a sparse matrix would count an edge once
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    try:
        expected = pygs(inputs[1], form(edges, size[0]))
    except RuntimeError as refused:  # torch 2.6 sums rows by int64 alone
        with pytest.raises(RuntimeError, match=re.escape(str(refused))):
            ours(inputs[0], form(edges, size[0]))
        return
    out = ours(inputs[0], form(edges, size[0]))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    for outputs in (out, expected):
        outputs.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-3, atol=1e-3)


@SIZES
def test_bipartite_layers_are_pygs(size: tuple[int, int]) -> None:
    for kind in ("GINConv", "GINEConv"):
        pygs, ours = LAYERS[kind]()
        ours.load_state_dict(pygs.state_dict())
        x, edges, *edge_attr = graph(size, pygs)
        for features in ((x, x[:5]), (x, None)):
            ends = torch.stack([edges[0], edges[1] % 5])
            torch.testing.assert_close(
                ours(features, ends, *edge_attr), pygs(features, ends, *edge_attr), rtol=1e-4, atol=1e-4
            )


X, EDGES = torch.randn(4, 4), torch.tensor([[0, 1, 2], [1, 2, 3]])


@pytest.mark.parametrize("make", [LAYERS["GIN"], LAYERS["GINConv"]], ids=["model", "layer"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X[:, 0], r"x must be a tensor of shape \[N, 4\], a row a node, not of shape \[4\]"),
        (X.numpy(), r"x must be a tensor of shape \[N, 4\], a row a node, not of type ndarray"),
        (X.tolist(), "not of type list"),
    ],
)
def test_features_that_are_no_rows_are_refused(make: Callable[[], Pair], x: Any, words: str) -> None:
    with pytest.raises(GraphInputError, match=words):
        make()[1](x, EDGES)


def test_a_model_says_that_two_kinds_of_nodes_are_for_layers() -> None:
    with pytest.raises(GraphInputError, match=r"x=\(x_src, x_dst\) is for layers: DistributedGINConv"):
        LAYERS["GIN"]()[1]((X, X[:2]), EDGES)


@pytest.mark.parametrize("edges", [EDGES.bool(), EDGES.to(torch.int16), torch.empty(2, 0)])
def test_edges_of_other_types_are_refused_by_a_model(edges: Tensor) -> None:
    with pytest.raises(GraphInputError, match=r"edge_index must be int64 of shape \[2, E\]"):
        LAYERS["GIN"]()[1](X, edges)


@SIZES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("when", ["before the table is open", "after"])
@pytest.mark.parametrize("options", [{}, {"use_dist_tensor": True}, {"embedding_dim": 6}])
def test_a_model_over_a_table_follows_the_type_that_it_is_cast_to(
    options: dict[str, Any], when: str, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    ours = DistributedGIN(4, 8, num_layers=2, out_channels=3, use_dist_embedding=True, embedding_std=1.0, **options)
    ours.set_num_embeddings(size[0])
    assert ours.node_features is not None
    edges, ids = graph(size, ours)[1], torch.arange(size[0])
    if when == "after":
        ours(None, edges)
    ours.to(dtype)
    out = ours(None, edges)
    pygs = GIN(4, 8, 2, 3)
    pygs.load_state_dict({name: rows for name, rows in ours.state_dict().items() if "_features" not in name})
    exact = pygs.double()(ours.node_features(None, ids).double(), edges)
    assert out.dtype == dtype
    assert error_of(out, exact) < {torch.float64: 1e-6, torch.float16: 5e-3, torch.bfloat16: 5e-2}[dtype]
    out.sum().backward()
    assert ours.node_features.embedding.take_gradients()[0].numel() > 0
