"""Arguments of the models: PyG's mean what they mean there, and what can be read in two ways is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.nn import GIN
from torch_geometric.utils import k_hop_subgraph

from distgnn import GraphInputError
from distgnn.nn import DistributedGIN, DistributedGINE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("memory_backend")

X = torch.randn(9, 4)
EDGES = torch.randint(9, (2, 30))


ANY_GIN: Any = DistributedGIN
ANY_GINE: Any = DistributedGINE


def pair(**options: Any) -> tuple[GIN, DistributedGIN]:
    pygs, ours = GIN(4, 8, **options), DistributedGIN(4, 8, **options)
    ours.load_state_dict(pygs.state_dict())
    return pygs, ours


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ANY_GIN(16, 32, 2, 4),
            (
                "since (16, 32, 2, 4) can be read in two ways: as torch_geometric.nn.GIN does, write "
                "DistributedGIN(16, 32, num_layers=2, out_channels=4); as earlier versions of distgnn did, write "
                "DistributedGIN(16, 32, out_channels=2, num_layers=4)"
            ),
        ),
        (
            lambda: ANY_GIN(16, 32, 2),
            (
                "write DistributedGIN(16, 32, num_layers=2); as earlier versions of distgnn did, write "
                "DistributedGIN(16, 32, out_channels=2)"
            ),
        ),
        (
            lambda: ANY_GIN(16, 32, 2, num_layers=4),
            "write DistributedGIN(16, 32, num_layers=2)",
        ),
        (
            lambda: ANY_GIN(16, 32, 2, 4, 0.5, "elu"),
            "num_layers=2, out_channels=4, dropout=0.5, act='elu')",
        ),
        (
            lambda: ANY_GINE(16, 32, 2, 4, edge_dim=3),
            "write DistributedGINE(16, 32, num_layers=2, out_channels=4)",
        ),
    ],
)
def test_what_pyg_and_distgnn_read_differently_is_refused_with_both_readings(
    make: Callable[[], Any], words: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(words)):
        make()


def test_a_call_that_only_distgnn_takes_is_read_as_it_was_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match=r"write DistributedGIN\(16, 32, out_channels=2, num_layers=4\); it is read"):
        model = ANY_GIN(16, 32, 2, 4, use_dist_embedding=True)
    assert (model.out_channels, model.num_layers) == (2, 4)
    with pytest.raises(TypeError, match="can be read in two ways"):
        ANY_GIN(16, 32, 2, num_layers=4, use_dist_embedding=True, out_channels=2)


def test_a_subclass_may_take_what_it_wants_by_position() -> None:
    class Fixed(DistributedGIN):
        def __init__(self, width: int, hidden: int, layers: int, classes: int) -> None:
            super().__init__(width, hidden, num_layers=layers, out_channels=classes)

    assert Fixed(4, 8, 2, 3)(X, EDGES).shape == (9, 3)


@pytest.mark.parametrize("jk", [None, "last", "cat"])
@pytest.mark.parametrize("out_channels", [None, 3])
@pytest.mark.parametrize("norm", [None, "batch_norm", "graph_norm"])
@pytest.mark.parametrize(
    "act",
    [
        {"act_first": True},
        {"act": "leaky_relu", "act_kwargs": {"negative_slope": 0.7}, "act_first": True},
        {"act": "elu", "act_kwargs": {"alpha": 2.5}},
        {"act": None, "act_first": True},
    ],
)
def test_activations_and_widths_are_pygs(
    act: dict[str, Any], norm: str | None, out_channels: int | None, jk: str | None
) -> None:
    pygs, ours = pair(num_layers=3, out_channels=out_channels, norm=norm, jk=jk, **act)
    assert ours.out_channels == pygs.out_channels
    torch.testing.assert_close(ours(X, EDGES), pygs(X, EDGES))
    torch.testing.assert_close(ours.eval()(X, EDGES), pygs.eval()(X, EDGES))


@pytest.mark.parametrize("jk", [None, "cat"])
def test_a_width_of_minus_one_comes_from_the_first_features(jk: str | None) -> None:
    outs = []
    for make in (GIN, DistributedGIN):
        torch.manual_seed(0)
        outs.append(make(-1, 8, num_layers=2, out_channels=3, jk=jk)(X, EDGES))
    torch.testing.assert_close(outs[1], outs[0])


@pytest.mark.parametrize("norm", ["graph_norm", "layer_norm", "batch_norm"])
def test_without_a_readout_batch_goes_to_the_normalizations_alone_as_in_pyg(norm: str) -> None:
    pygs, ours = GIN(4, 8, 2, 3, norm=norm), DistributedGIN(4, 8, num_layers=2, out_channels=3, norm=norm, readout=None)
    ours.load_state_dict(pygs.state_dict())
    batch = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, 3])
    torch.testing.assert_close(ours(X, EDGES, batch=batch), pygs(X, EDGES, batch=batch))
    torch.testing.assert_close(ours(X, EDGES, batch=batch, batch_size=4), pygs(X, EDGES, batch=batch, batch_size=4))


def sampled_by_hops() -> tuple[list[int], list[int], torch.Tensor, torch.Tensor]:
    """Nodes and edges of two hops around node 0, in the order in which PyG's loaders give them."""
    hops = [torch.tensor([0])]
    for hop in (1, 2):
        nodes = k_hop_subgraph(0, hop, EDGES)[0]
        hops.append(nodes[~torch.isin(nodes, torch.cat(hops))])
    nodes = torch.cat(hops)
    places = torch.full((9,), -1).scatter(0, nodes, torch.arange(nodes.numel()))
    edges = [places[EDGES[:, torch.isin(EDGES[1], hop)]] for hop in hops[:2]]
    return [hop.numel() for hop in hops], [edge.size(1) for edge in edges], nodes, torch.cat(edges, dim=1)


@pytest.mark.parametrize("jk", [None, "last"])
def test_samples_are_trimmed_layer_by_layer_as_in_pyg(jk: str | None) -> None:
    num_nodes, num_edges, nodes, edges = sampled_by_hops()
    assert min(num_nodes) > 0
    pygs, ours = pair(num_layers=2, out_channels=3, jk=jk)
    hops = {"num_sampled_nodes_per_hop": num_nodes, "num_sampled_edges_per_hop": num_edges}
    out = ours(X[nodes], edges, **hops)
    torch.testing.assert_close(out, pygs(X[nodes], edges, **hops))
    torch.testing.assert_close(out[0], pygs(X, EDGES)[0])
    assert len(out) < len(nodes)


def test_edge_features_are_trimmed_with_their_edges() -> None:
    num_nodes, num_edges, nodes, edges = sampled_by_hops()
    model = DistributedGINE(
        4, 8, num_layers=2, edge_dim=3, use_dist_embedding=True, use_dist_edge_embedding=True, embedding_std=1.0
    )
    model.set_num_embeddings(9, 30)
    edge_ids = torch.randperm(30)[: edges.size(1)]
    out = model(
        X[nodes],
        edges,
        node_ids=nodes,
        edge_ids=edge_ids,
        num_sampled_nodes_per_hop=num_nodes,
        num_sampled_edges_per_hop=num_edges,
    )
    torch.testing.assert_close(out[0], model(X[nodes], edges, node_ids=nodes, edge_ids=edge_ids)[0])


HOPS = {"num_sampled_nodes_per_hop": [1, 8], "num_sampled_edges_per_hop": [10, 20]}


@pytest.mark.parametrize(
    ("options", "inputs", "words"),
    [
        ({}, {"edge_weight": torch.ones(29)}, "edge_weight must be floating point numbers of shape [30]"),
        ({}, {"edge_attr": torch.ones(30)}, "one number an edge is a weight: pass edge_weight=edge_attr"),
        ({}, {"num_sampled_nodes_per_hop": [1, 8]}, "belong together: pass both"),
        ({}, {**HOPS, "batch": torch.zeros(9, dtype=torch.int64)}, "leave out num_sampled_nodes_per_hop"),
        ({"jk": "cat"}, HOPS, "leave out num_sampled_nodes_per_hop"),
        ({"use_dist_tensor": True}, HOPS, "leave out num_sampled_nodes_per_hop"),
        ({"readout": "layer_sum"}, HOPS, "leave out num_sampled_nodes_per_hop"),
    ],
)
def test_what_a_model_cannot_take_names_the_way(options: dict[str, Any], inputs: dict[str, Any], words: str) -> None:
    model = DistributedGIN(4, 8, num_layers=2, **options)
    with pytest.raises(GraphInputError, match=re.escape(words)):
        model(X, EDGES, **inputs)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"norms": "batch_norm"}, TypeError, "DistributedGIN has no argument 'norms': did you mean norm?"),
        ({"use_embedding": True}, TypeError, "has no argument 'use_embedding': did you mean use_dist_embedding?"),
        ({"edge_dim": 3}, TypeError, "it is GINE, DistributedGINE or DistributedGINEConv, that has features of edges"),
        ({"use_dist_edge_embedding": True}, TypeError, "that has features of edges"),
        ({"v2": True}, TypeError, "known are act, act_first"),
        ({"jk": "sum"}, ValueError, "jk is one of None, 'last', 'cat', 'max', 'lstm', not 'sum'"),
        ({"in_channels": -1, "use_dist_embedding": True}, ValueError, "say the width of the features"),
        ({"in_channels": -1, "readout": "layer_sum"}, ValueError, "say the width of the features"),
    ],
)
def test_unknown_and_impossible_arguments_are_refused_by_the_models_own_words(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        DistributedGIN(**{"in_channels": 4, "hidden_channels": 8, "num_layers": 2, **options})


def test_pygs_arguments_of_layers_reach_them() -> None:
    pygs, ours = pair(num_layers=2, out_channels=3, aggr="mean", flow="target_to_source", eps=0.5)
    torch.testing.assert_close(ours(X, EDGES), pygs(X, EDGES))


@pytest.mark.parametrize("options", [{}, {"readout": "layer_sum"}, {"norm": torch.nn.BatchNorm1d(8)}])
def test_one_row_under_batch_normalization_says_what_to_do(options: dict[str, Any]) -> None:
    model = DistributedGIN(4, 8, num_layers=2, **{"norm": "batch_norm", **options})
    alone = X[:1], torch.empty(2, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"BatchNorm1d.* of one row, and this batch is one node: .*drop_last=True"):
        model(*alone)
    assert model(X, EDGES).shape == (9, 8)
    assert model.eval()(*alone).shape == (1, 8)


def test_one_row_is_taken_where_pygs_batch_normalization_takes_it() -> None:
    pygs, ours = pair(num_layers=2, norm="batch_norm", norm_kwargs={"allow_single_element": True})
    alone = X[:1], torch.empty(2, 0, dtype=torch.int64)
    torch.testing.assert_close(ours(*alone), pygs(*alone))
