"""Layers and models against PyG's with the same weights, without and with stored embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import Embedding, Linear, Module
from torch_geometric.nn import (
    GIN,
    MLP,
    GINConv,
    GINEConv,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
)

from distgnn.nn import DistributedGIN, DistributedGINConv, DistributedGINE, DistributedGINEConv, StoredFeatures

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.usefixtures("memory_backend")

NODES, EDGES, WIDTH = 7, 12, 4
GRAPHS = {
    "random": (NODES, torch.tensor([[0, 3, 5, 2, 1, 6, 0, 4, 2], [1, 1, 2, 6, 0, 3, 5, 4, 0]])),
    "isolated nodes": (NODES, torch.tensor([[0, 1], [1, 0]])),
    "no edges": (NODES, torch.empty(2, 0, dtype=torch.int64)),
    "one node": (1, torch.empty(2, 0, dtype=torch.int64)),
    "no nodes": (0, torch.empty(2, 0, dtype=torch.int64)),
    "self loops": (3, torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1]])),
    "duplicates": (3, torch.tensor([[0, 0, 0, 2, 2], [1, 1, 1, 0, 0]])),
}
graphs = pytest.mark.parametrize(("nodes", "edge_index"), GRAPHS.values(), ids=GRAPHS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def table_of(features: Any, rows: int) -> Module:
    """What torch has for stored features: an Embedding of the same rows, and a copy of the linear map."""
    assert isinstance(features, StoredFeatures)
    features.embedding.set_num_embeddings(rows)
    initial = features.embedding(torch.arange(rows)).detach()
    table: Module = Embedding(rows, initial.size(1), _weight=initial)
    if features.lin is None:
        return table
    lin = Linear(features.lin.in_features, features.lin.out_features, bias=False)
    lin.load_state_dict(features.lin.state_dict())
    return torch.nn.Sequential(table, lin)


def gradient_of(features: Any, rows: int) -> Tensor:
    ids, gradients = features.embedding.take_gradients()
    return torch.zeros(rows, features.embedding.embedding_dim).index_add(0, ids, gradients)


def assert_same_gradients(ours: Module, pygs: Module) -> None:
    actual = {name: weight.grad for name, weight in ours.named_parameters() if "_features" not in name}
    expected = {name: weight.grad for name, weight in pygs.named_parameters()}
    torch.testing.assert_close(actual, expected)


@graphs
@pytest.mark.parametrize("edge_dim", [None, 3])
def test_without_flags_a_layer_is_pygs(nodes: int, edge_index: Tensor, edge_dim: int | None) -> None:
    x = torch.randn(nodes, WIDTH)
    edge_attr = torch.randn(edge_index.size(1), edge_dim or WIDTH)
    pairs: list[tuple[Any, Any, tuple[Tensor, ...]]] = [
        (DistributedGINConv, GINConv, ()),
        (DistributedGINEConv, GINEConv, (edge_attr,)),
    ]
    for ours, pygs, attributes in pairs:
        kwargs: dict[str, Any] = {"eps": 0.25, "train_eps": True}
        if attributes:
            kwargs["edge_dim"] = edge_dim
        conv, peer = ours(MLP([WIDTH, 8, 5], norm=None), **kwargs), pygs(MLP([WIDTH, 8, 5], norm=None), **kwargs)
        conv.load_state_dict(peer.state_dict())
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        out, expected = conv(inputs[0], edge_index, *attributes), peer(inputs[1], edge_index, *attributes)
        assert torch.equal(out, expected)
        out.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
        assert_same_gradients(conv, peer)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize("norm", [None, "batch_norm", "layer_norm"])
@pytest.mark.parametrize("jk", [None, "last", "cat", "max", "lstm"])
def test_without_flags_gin_takes_the_weights_of_pygs_and_computes_the_same(
    jk: str | None, norm: str | None, num_layers: int
) -> None:
    nodes, edge_index = GRAPHS["random"]
    pygs = GIN(WIDTH, 8, num_layers, 3, jk=jk, norm=norm, train_eps=True, eps=0.5)
    ours = DistributedGIN(WIDTH, 8, num_layers=num_layers, out_channels=3, jk=jk, norm=norm, train_eps=True)
    ours.load_state_dict(pygs.state_dict())
    x = torch.randn(nodes, WIDTH)
    for _ in range(2):  # the first pass moves the running means of batch_norm
        out, expected = ours(x, edge_index), pygs(x, edge_index)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)
    out.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(ours, pygs)
    torch.testing.assert_close(ours.eval()(x, edge_index), pygs.eval()(x, edge_index), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "jk",
    [
        None,
        "last",
        "cat",
        "max",
        "lstm",
    ],
)
def test_the_same_seed_gives_the_weights_that_pyg_draws(jk: str | None) -> None:
    weights = []
    for make in (
        lambda: GIN(WIDTH, 8, 3, 5, jk=jk),
        lambda: DistributedGIN(WIDTH, 8, num_layers=3, out_channels=5, jk=jk),
    ):
        torch.manual_seed(1)
        weights.append(make().state_dict())
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)


@graphs
@pytest.mark.parametrize("embedding_dim", [None, 6])
def test_an_embedded_layer_is_pygs_fed_with_features_plus_embeddings(
    nodes: int, edge_index: Tensor, embedding_dim: int | None
) -> None:
    conv = DistributedGINConv(Linear(WIDTH, 5), use_dist_embedding=True, embedding_dim=embedding_dim)
    peer, embed = GINConv(Linear(WIDTH, 5)), table_of(conv.node_features, 20)
    peer.nn.load_state_dict(conv.nn.state_dict())
    x, ids = torch.randn(nodes, WIDTH), torch.randint(0, 20, (nodes,))
    torch.testing.assert_close(conv(x, edge_index), peer(x + embed(torch.arange(nodes)), edge_index))
    torch.testing.assert_close(conv(None, edge_index, node_ids=ids), peer(embed(ids), edge_index))
    out, expected = conv(x, edge_index, node_ids=ids), peer(x + embed(ids), edge_index)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(conv, peer)
    torch.testing.assert_close(gradient_of(conv.node_features, 20), next(embed.parameters()).grad)


@graphs
@pytest.mark.parametrize("widths", [(None, None), (6, 2)], ids=["equal widths", "linear maps"])
def test_an_embedded_edge_layer_is_pygs_fed_with_sums(
    nodes: int, edge_index: Tensor, widths: tuple[int | None, int | None]
) -> None:
    conv = DistributedGINEConv(
        Linear(WIDTH, 5),
        edge_dim=3,
        use_dist_embedding=True,
        use_dist_edge_embedding=True,
        embedding_dim=widths[0],
        edge_embedding_dim=widths[1],
    )
    peer = GINEConv(Linear(WIDTH, 5), edge_dim=3)
    peer.load_state_dict({name: weight for name, weight in conv.state_dict().items() if "_features" not in name})
    nodes_of, edges_of = table_of(conv.node_features, 20), table_of(conv.edge_features, 30)
    x, edge_attr = torch.randn(nodes, WIDTH), torch.randn(edge_index.size(1), 3)
    node_ids, edge_ids = torch.randint(0, 20, (nodes,)), torch.randint(0, 30, (edge_index.size(1),))
    out = conv(x, edge_index, edge_attr, node_ids=node_ids, edge_ids=edge_ids)
    expected = peer(x + nodes_of(node_ids), edge_index, edge_attr + edges_of(edge_ids))
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(
        conv(None, edge_index, node_ids=node_ids),
        peer(nodes_of(node_ids), edge_index, edges_of(torch.arange(edge_index.size(1)))),
    )
    out.square().sum().backward()
    expected.square().sum().backward()
    assert_same_gradients(conv, peer)
    torch.testing.assert_close(gradient_of(conv.node_features, 20), next(nodes_of.parameters()).grad)
    torch.testing.assert_close(gradient_of(conv.edge_features, 30), next(edges_of.parameters()).grad)


def test_bipartite_layers_take_a_pair_of_node_ids() -> None:
    conv = DistributedGINConv(Linear(WIDTH, 5), use_dist_embedding=True)
    peer, embed = GINConv(Linear(WIDTH, 5)), table_of(conv.node_features, 20)
    peer.nn.load_state_dict(conv.nn.state_dict())
    edge_index = torch.tensor([[0, 1, 2, 2], [0, 0, 1, 1]])
    x, y = torch.randn(3, WIDTH), torch.randn(2, WIDTH)
    ids = torch.tensor([9, 3, 9]), torch.tensor([3, 0])
    both = (x + embed(ids[0]), y + embed(ids[1]))
    torch.testing.assert_close(conv((x, y), edge_index, node_ids=ids), peer(both, edge_index))
    torch.testing.assert_close(
        conv((x, None), edge_index, size=(3, 2), node_ids=ids), peer((both[0], None), edge_index, size=(3, 2))
    )


def test_embedded_models_are_pygs_layers_fed_with_sums() -> None:
    nodes, edge_index = GRAPHS["random"]
    x, edge_attr = torch.randn(nodes, WIDTH), torch.randn(edge_index.size(1), 3)
    gin = DistributedGIN(
        WIDTH, 8, num_layers=2, out_channels=5, use_dist_embedding=True, embedding_dim=6, use_dist_tensor=True
    )
    pygs, embed = GIN(WIDTH, 8, 2, 5), table_of(gin.node_features, 20)
    pygs.load_state_dict({name: weight for name, weight in gin.state_dict().items() if "_features" not in name})
    ids = torch.randint(0, 20, (nodes,))
    torch.testing.assert_close(gin(x, edge_index, node_ids=ids), pygs(x + embed(ids), edge_index))

    gine = DistributedGINE(
        WIDTH, 8, num_layers=2, out_channels=5, edge_dim=3, use_dist_edge_embedding=True, edge_embedding_dim=2
    )
    edges_of = table_of(gine.edge_features, 30)
    edge_ids = torch.randint(0, 30, (edge_index.size(1),))
    h = x
    for index, (conv, width) in enumerate(zip(gine.convs, ((WIDTH, 8), (8, 5)), strict=True)):
        peer = GINEConv(MLP([width[0], width[1], width[1]], norm=None), edge_dim=3)
        peer.load_state_dict(conv.state_dict())
        h = peer(h, edge_index, edge_attr + edges_of(edge_ids))
        h = h if index else h.relu()
    torch.testing.assert_close(gine(x, edge_index, edge_attr, edge_ids=edge_ids), h)


@pytest.mark.parametrize(
    ("readout", "pool"), [("sum", global_add_pool), ("mean", global_mean_pool), ("max", global_max_pool)]
)
def test_a_readout_is_pygs_pooling_of_node_outputs(readout: str, pool: Any) -> None:
    nodes, edge_index = GRAPHS["random"]
    model = DistributedGIN(WIDTH, 8, num_layers=2, out_channels=5, readout=readout)
    x, batch = torch.randn(nodes, WIDTH), torch.tensor([0, 0, 0, 1, 1, 3, 3])
    out = model(x, edge_index)
    torch.testing.assert_close(model(x, edge_index, batch=batch), pool(out, batch))
    torch.testing.assert_close(model(x, edge_index, batch=batch, batch_size=6), pool(out, batch, 6))


def test_the_papers_readout_sums_a_linear_map_of_each_layers_pooled_features() -> None:
    nodes, edge_index = GRAPHS["random"]
    model = DistributedGIN(WIDTH, 8, num_layers=3, out_channels=5, norm="batch_norm", readout="layer_sum").eval()
    assert model.heads is not None
    x, batch = torch.randn(nodes, WIDTH), torch.tensor([0, 0, 0, 1, 1, 3, 3])
    layers = [x]
    for conv, norm in zip(model.convs, model.norms, strict=True):
        peer = GINConv(MLP([layers[-1].size(1), 8, 8], norm="batch_norm")).eval()
        peer.load_state_dict(conv.state_dict())
        layers.append(norm(peer(layers[-1], edge_index)).relu())
    heads = list(zip(model.heads, layers, strict=True))
    pooled = torch.stack([head(global_add_pool(h, batch)) for head, h in heads]).sum(dim=0)
    torch.testing.assert_close(model(x, edge_index, batch=batch), pooled)
    torch.testing.assert_close(model(x, edge_index), torch.stack([head(h) for head, h in heads]).sum(dim=0))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_papers_readout_trains_the_papers_network(dropout: float) -> None:
    """Written with torch alone from the paper and the options of its code: dropout is on the scores of each layer."""
    nodes, edge_index = GRAPHS["random"]
    x, batch = torch.randn(nodes, WIDTH), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    model = DistributedGIN(
        WIDTH, 8, out_channels=5, num_layers=3, norm="batch_norm", readout="layer_sum", dropout=dropout
    )
    assert model.heads is not None
    adjacency = torch.eye(nodes).index_put_((edge_index[1], edge_index[0]), torch.ones(()), accumulate=True)
    pool = torch.nn.functional.one_hot(batch).T.float()

    def scores(parts: dict[str, Tensor]) -> Tensor:
        h, total = x, torch.zeros(3, 5)
        for layer in range(4):
            head = torch.nn.functional.linear(pool @ h, parts[f"heads.{layer}.weight"], parts[f"heads.{layer}.bias"])
            total = total + torch.nn.functional.dropout(head, dropout)
            if layer < 3:
                h = adjacency @ h
                for part in ("nn.lins.0", "nn.norms.0.module", "nn.lins.1"):
                    weight, bias = (parts[f"convs.{layer}.{part}.{kind}"] for kind in ("weight", "bias"))
                    if weight.dim() == 2:
                        h = torch.nn.functional.linear(h, weight, bias)
                    else:
                        h = torch.nn.functional.batch_norm(h, None, None, weight, bias, training=True).relu()
                weight, bias = parts[f"norms.{layer}.module.weight"], parts[f"norms.{layer}.module.bias"]
                h = torch.nn.functional.batch_norm(h, None, None, weight, bias, training=True).relu()
        return total

    parts = {name: weight.detach().clone().requires_grad_() for name, weight in model.named_parameters()}
    torch.manual_seed(3)
    expected = scores(parts)
    torch.manual_seed(3)
    out = model(x, edge_index, batch=batch)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(
        {name: weight.grad for name, weight in model.named_parameters()},
        {name: weight.grad for name, weight in parts.items()},
        rtol=1e-4,
        atol=1e-4,
    )


def test_gin_takes_the_weights_of_pygs_with_a_norm_given_as_a_module() -> None:
    pygs = GIN(WIDTH, 8, 2, 5, norm=torch.nn.LayerNorm(8))
    DistributedGIN(WIDTH, 8, num_layers=2, out_channels=5, norm=torch.nn.LayerNorm(8)).load_state_dict(
        pygs.state_dict()
    )


def test_a_norm_by_graph_is_given_the_batch() -> None:
    nodes, edge_index = 4, torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    x, batch = torch.randn(nodes, WIDTH), torch.tensor([0, 0, 1, 1])
    pygs, ours = (
        GIN(WIDTH, 8, 2, 5, norm="graph_norm"),
        DistributedGIN(WIDTH, 8, num_layers=2, out_channels=5, norm="graph_norm"),
    )
    ours.load_state_dict(pygs.state_dict())
    expected = global_add_pool(pygs(x, edge_index, batch=batch), batch)
    torch.testing.assert_close(ours(x, edge_index, batch=batch), expected)


def test_gin_takes_static_graphs_as_pygs() -> None:
    nodes, edge_index = GRAPHS["random"]
    pygs, ours = GIN(WIDTH, 8, 2, 5), DistributedGIN(WIDTH, 8, num_layers=2, out_channels=5)
    ours.load_state_dict(pygs.state_dict())
    x = torch.randn(3, nodes, WIDTH)
    torch.testing.assert_close(ours(x, edge_index), pygs(x, edge_index))
