"""PyG's own tests of GINConv and GINEConv, with our layers in the place of theirs.

The functions without a word on their origin are those of ``test/nn/conv/test_gin_conv.py`` of PyTorch Geometric
(https://github.com/pyg-team/pytorch_geometric, MIT licence, copyright PyG Team), with the class names changed and the
parts of PyG's full test run always on.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch_geometric.typing
from torch.nn import Linear as Lin
from torch.nn import ReLU
from torch.nn import Sequential as Seq
from torch_geometric import EdgeIndex
from torch_geometric.nn import GINConv, GINEConv
from torch_geometric.typing import SparseTensor
from torch_geometric.utils import to_torch_csc_tensor

from distgnn.nn import DistributedGINConv, DistributedGINEConv

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sparse (invariant checks|CSC tensor|CSR tensor):UserWarning"),
    pytest.mark.filterwarnings("ignore:Converting sparse tensor to CSR format:UserWarning"),
]

needs_torch_sparse = pytest.mark.skipif(
    not torch_geometric.typing.WITH_TORCH_SPARSE, reason="torch-sparse, which has SparseTensor, is not installed"
)


def script(module: torch.nn.Module) -> Any:
    return torch.jit.script(module)


def compiled(module: torch.nn.Module, **options: Any) -> Any:
    """Compile with the quickest backend; what becomes a graph is decided before it."""
    from torch._dynamo.eval_frame import is_dynamo_supported  # slow, and the other tests do without

    if not is_dynamo_supported():
        pytest.skip("torch.compile does not work with this version of Python")
    return torch.compile(module, backend="aot_eager", **options)


def test_gin_conv() -> None:
    x1 = torch.randn(4, 16)
    x2 = torch.randn(2, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    adj1 = to_torch_csc_tensor(edge_index, size=(4, 4))

    nn = Seq(Lin(16, 32), ReLU(), Lin(32, 32))
    conv = DistributedGINConv(nn, train_eps=True)
    assert str(conv) == (
        "DistributedGINConv(nn=Sequential(\n"
        "  (0): Linear(in_features=16, out_features=32, bias=True)\n"
        "  (1): ReLU()\n"
        "  (2): Linear(in_features=32, out_features=32, bias=True)\n"
        "))"
    )
    out = conv(x1, edge_index)
    assert out.size() == (4, 32)
    assert torch.allclose(conv(x1, edge_index, size=(4, 4)), out, atol=1e-6)
    assert torch.allclose(conv(x1, adj1.t()), out, atol=1e-6)

    jit = script(conv)
    assert torch.allclose(jit(x1, edge_index), out, atol=1e-6)
    assert torch.allclose(jit(x1, edge_index, size=(4, 4)), out, atol=1e-6)

    # Test bipartite message passing:
    adj1 = to_torch_csc_tensor(edge_index, size=(4, 2))

    out1 = conv((x1, x2), edge_index)
    assert out1.size() == (2, 32)
    assert torch.allclose(conv((x1, x2), edge_index, (4, 2)), out1, atol=1e-6)
    assert torch.allclose(conv((x1, x2), adj1.t()), out1, atol=1e-6)

    out2 = conv((x1, None), edge_index, (4, 2))
    assert out2.size() == (2, 32)
    assert torch.allclose(conv((x1, None), adj1.t()), out2, atol=1e-6)

    assert torch.allclose(jit((x1, x2), edge_index), out1)
    assert torch.allclose(jit((x1, x2), edge_index, size=(4, 2)), out1)
    assert torch.allclose(jit((x1, None), edge_index, size=(4, 2)), out2)


@needs_torch_sparse
def test_gin_conv_with_sparse_tensor() -> None:
    x1 = torch.randn(4, 16)
    x2 = torch.randn(2, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    conv = DistributedGINConv(Seq(Lin(16, 32), ReLU(), Lin(32, 32)), train_eps=True)
    jit = script(conv)

    adj2 = SparseTensor.from_edge_index(edge_index, sparse_sizes=(4, 4))
    out = conv(x1, edge_index)
    assert torch.allclose(conv(x1, adj2.t()), out, atol=1e-6)
    assert torch.allclose(jit(x1, adj2.t()), out, atol=1e-6)

    adj2 = SparseTensor.from_edge_index(edge_index, sparse_sizes=(4, 2))
    out1 = conv((x1, x2), edge_index)
    out2 = conv((x1, None), edge_index, (4, 2))
    assert torch.allclose(conv((x1, x2), adj2.t()), out1, atol=1e-6)
    assert torch.allclose(conv((x1, None), adj2.t()), out2, atol=1e-6)
    assert torch.allclose(jit((x1, x2), adj2.t()), out1)
    assert torch.allclose(jit((x1, None), adj2.t()), out2)


def test_gine_conv() -> None:
    x1 = torch.randn(4, 16)
    x2 = torch.randn(2, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    value = torch.randn(edge_index.size(1), 16)

    nn = Seq(Lin(16, 32), ReLU(), Lin(32, 32))
    conv = DistributedGINEConv(nn, train_eps=True)
    assert str(conv) == (
        "DistributedGINEConv(nn=Sequential(\n"
        "  (0): Linear(in_features=16, out_features=32, bias=True)\n"
        "  (1): ReLU()\n"
        "  (2): Linear(in_features=32, out_features=32, bias=True)\n"
        "))"
    )
    out = conv(x1, edge_index, value)
    assert out.size() == (4, 32)
    assert torch.allclose(conv(x1, edge_index, value, size=(4, 4)), out)

    jit = script(conv)
    assert torch.allclose(jit(x1, edge_index, value), out)
    assert torch.allclose(jit(x1, edge_index, value, size=(4, 4)), out)

    # Test bipartite message passing:
    out1 = conv((x1, x2), edge_index, value)
    assert out1.size() == (2, 32)
    assert torch.allclose(conv((x1, x2), edge_index, value, (4, 2)), out1)

    out2 = conv((x1, None), edge_index, value, (4, 2))
    assert out2.size() == (2, 32)

    assert torch.allclose(jit((x1, x2), edge_index, value), out1)
    assert torch.allclose(jit((x1, x2), edge_index, value, size=(4, 2)), out1)
    assert torch.allclose(jit((x1, None), edge_index, value, size=(4, 2)), out2)


@needs_torch_sparse
def test_gine_conv_with_sparse_tensor() -> None:
    x1 = torch.randn(4, 16)
    x2 = torch.randn(2, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    value = torch.randn(edge_index.size(1), 16)
    conv = DistributedGINEConv(Seq(Lin(16, 32), ReLU(), Lin(32, 32)), train_eps=True)
    jit = script(conv)

    adj = SparseTensor.from_edge_index(edge_index, value, (4, 4))
    out = conv(x1, edge_index, value)
    assert torch.allclose(conv(x1, adj.t()), out)
    assert torch.allclose(jit(x1, adj.t()), out)

    adj = SparseTensor.from_edge_index(edge_index, value, (4, 2))
    out1 = conv((x1, x2), edge_index, value)
    out2 = conv((x1, None), edge_index, value, (4, 2))
    assert torch.allclose(conv((x1, x2), adj.t()), out1)
    assert torch.allclose(conv((x1, None), adj.t()), out2)
    assert torch.allclose(jit((x1, x2), adj.t()), out1)
    assert torch.allclose(jit((x1, None), adj.t()), out2)


def test_gine_conv_edge_dim() -> None:
    x = torch.randn(4, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    edge_attr = torch.randn(edge_index.size(1), 8)

    nn: torch.nn.Module = Seq(Lin(16, 32), ReLU(), Lin(32, 32))
    conv = DistributedGINEConv(nn, train_eps=True, edge_dim=8)
    out = conv(x, edge_index, edge_attr)
    assert out.size() == (4, 32)

    nn = Lin(16, 32)
    conv = DistributedGINEConv(nn, train_eps=True, edge_dim=8)
    out = conv(x, edge_index, edge_attr)
    assert out.size() == (4, 32)


def test_static_gin_conv() -> None:
    x = torch.randn(3, 4, 16)
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]])

    nn = Seq(Lin(16, 32), ReLU(), Lin(32, 32))
    conv = DistributedGINConv(nn, train_eps=True)
    out = conv(x, edge_index)
    assert out.size() == (3, 4, 32)


def test_static_gine_conv() -> None:
    x = torch.randn(3, 4, 16)
    edge_index = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]])
    edge_attr = torch.randn(edge_index.size(1), 16)

    nn = Seq(Lin(16, 32), ReLU(), Lin(32, 32))
    conv = DistributedGINEConv(nn, train_eps=True)
    out = conv(x, edge_index, edge_attr)
    assert out.size() == (3, 4, 32)


@pytest.mark.parametrize("embedded", [False, True], ids=["plain", "embedded"])
@pytest.mark.usefixtures("memory_backend")
def test_an_edge_index_of_pyg_gives_what_a_tensor_gives(embedded: bool) -> None:
    """Ours, not PyG's."""
    x = torch.randn(4, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    sorted_index = EdgeIndex(edge_index, sparse_size=(4, 4), sort_order="col")
    gin = DistributedGINConv(Lin(16, 32), use_dist_embedding=embedded)
    gine = DistributedGINEConv(Lin(16, 32), use_dist_embedding=embedded, use_dist_edge_embedding=embedded)
    if embedded:
        gin.set_num_embeddings(4)
        gine.set_num_embeddings(4, 4)
    value = torch.randn(4, 16)
    torch.testing.assert_close(gin(x, sorted_index), gin(x, edge_index))
    torch.testing.assert_close(gine(x, sorted_index, value), gine(x, edge_index, value))


@pytest.mark.parametrize(
    ("ours", "pygs", "edge_attr"),
    [(DistributedGINConv, GINConv, ()), (DistributedGINEConv, GINEConv, (torch.ones(4, 16),))],
    ids=["GIN", "GINE"],
)
def test_torch_compile_makes_one_graph_of_a_layer_as_of_pygs(ours: Any, pygs: Any, edge_attr: tuple[Any, ...]) -> None:
    """Ours, not PyG's."""
    x = torch.randn(4, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    peer, conv = pygs(Lin(16, 32), train_eps=True), ours(Lin(16, 32), train_eps=True)
    conv.load_state_dict(peer.state_dict())
    results = []
    for module in (peer, conv):
        try:
            out = compiled(module, fullgraph=True)(x, edge_index, *edge_attr)
        except Exception as error:
            if module is conv:
                raise
            pytest.skip(f"torch.compile cannot compile PyG's own layer here: {error}")
        out.sum().backward()
        results.append((out, module.nn.weight.grad, module.eps.grad))
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, of its insides
@pytest.mark.usefixtures("memory_backend")
def test_torch_compile_leaves_out_the_lookup_and_gathers_its_gradients() -> None:
    """Ours, not PyG's."""
    x = torch.randn(4, 16)
    edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])
    conv = DistributedGINConv(Lin(16, 32), use_dist_embedding=True)
    conv.set_num_embeddings(4)
    out = compiled(conv)(x, edge_index)
    torch.testing.assert_close(out, conv(x, edge_index))
    out.sum().backward()
    assert conv.node_features is not None
    ids, rows = conv.node_features.embedding.take_gradients()
    slopes = torch.autograd.grad(conv(x.requires_grad_(), edge_index).sum(), x)[0]
    torch.testing.assert_close(torch.zeros(4, 16).index_add(0, ids, rows), slopes)
