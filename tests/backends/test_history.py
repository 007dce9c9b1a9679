"""Training on batches with the rows that earlier batches left, at whatever world size this file is run.

The oracle is PyG's layers, with histories in plain tensors that every rank keeps for the whole graph.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.nn import GIN

from distgnn import GraphSpec, TensorSpec
from distgnn.backends.memory import MemoryBackend
from distgnn.graph import batch_halo, neighbor_loader
from distgnn.nn import Ages, DistributedGIN, DistributedGINE, DistributedGNN, StoredEmbedding
from distgnn.train.session import Session

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.loader import NodeLoader

    from distgnn import Backend, GraphStore, TensorStore

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
NUM_NODES, NUM_EDGES, CLASSES, LAYERS = 70, 400, 7, 3
BATCH = 23  # the last of four batches is one node: ranks but the first have none of it
OPTIONS: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "seed": 5}
NODES = torch.arange(NUM_NODES)


def whole_graph() -> Data:
    draw = torch.Generator().manual_seed(0)
    return Data(
        x=torch.randn(NUM_NODES, 5, generator=draw),
        edge_index=torch.randint(NUM_NODES, (2, NUM_EDGES), generator=draw),
        edge_attr=torch.randn(NUM_EDGES, 2, generator=draw),
        y=torch.randint(CLASSES, (NUM_NODES,), generator=draw),
    )


def stored(backend: Backend, graph: Data) -> tuple[GraphStore, dict[str, TensorStore], TensorStore]:
    """The graph, the features of its nodes and those of its edges."""
    stores = {}
    for name in ("x", "y", "edge_attr"):
        rows = graph[name]
        stores[name] = backend.open_tensor(TensorSpec(name, tuple(rows.shape), rows.dtype))
        stores[name].write(torch.arange(len(rows))[RANK::RANKS], rows[RANK::RANKS])
    edge_attr = stores.pop("edge_attr")
    return backend.open_graph(GraphSpec("graph", NUM_NODES, NUM_EDGES), graph.edge_index), stores, edge_attr


def make_loader(backend: Backend, graph: Data) -> NodeLoader:
    structure, features, edge_attr = stored(backend, graph)
    return neighbor_loader((features, structure), [-1], edge_features=edge_attr, backend=backend, **OPTIONS)


def make_model(kind: str, backend: Backend) -> DistributedGNN:
    torch.manual_seed(0)
    sizes = (5, 8)
    options: dict[str, Any] = {
        "num_layers": LAYERS,
        "out_channels": CLASSES,
        "use_dist_tensor": True,
        "backend": backend,
        "train_eps": True,
    }
    if kind == "GIN alone":
        return DistributedGIN(*sizes, **options)
    options |= {"use_dist_embedding": True, "embedding_dim": 4, "embedding_name": "nodes", "embedding_std": 0.5}
    if kind == "GIN":
        model: DistributedGNN = DistributedGIN(*sizes, **options)
        model.set_num_embeddings(NUM_NODES)
        return model
    edges: dict[str, Any] = {"use_dist_edge_embedding": True, "edge_embedding_dim": 3, "edge_embedding_name": "edges"}
    model = DistributedGINE(*sizes, edge_dim=2, **(edges | options))
    model.set_num_embeddings(NUM_NODES, NUM_EDGES)
    return model


def forward(model: Any, batch: Data) -> Tensor:
    halo = batch_halo(batch, NUM_NODES)
    out: Tensor = model(batch.x, batch.edge_index, batch.edge_attr, node_ids=batch.n_id, edge_ids=batch.e_id, halo=halo)
    assert len(out) == batch.batch_size
    return out


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.detach().abs().max())))


@pytest.mark.parametrize("kind", ["GIN alone", "GIN", "GINE"])
def test_after_a_pass_for_every_layer_the_outputs_are_those_of_the_full_graph(kind: str, opened: Backend) -> None:
    graph = whole_graph()
    loader, model = make_loader(opened, graph), make_model(kind, opened)
    reference = make_model(kind, MemoryBackend())
    expected = reference(graph.x, graph.edge_index, graph.edge_attr, node_ids=NODES, edge_ids=torch.arange(NUM_EDGES))
    with torch.no_grad():
        for _ in range(LAYERS):
            outputs = {tuple(batch.n_id[: batch.batch_size].tolist()): forward(model, batch) for batch in loader}
    for nodes, out in outputs.items():
        if nodes:
            assert_close(out, expected[list(nodes)])
    model.close()


class Histories:
    """PyG's GIN, whose layers' outputs for the nodes of other batches are constants: what was pushed last."""

    def __init__(self, model: DistributedGNN, graph: Data) -> None:
        self.model = GIN(5, 8, LAYERS, CLASSES, train_eps=True)
        self.model.load_state_dict(model.state_dict())
        self._graph = graph
        self._rows = [torch.zeros(NUM_NODES, 8) for _ in range(LAYERS - 1)]
        self._written = torch.zeros(NUM_NODES, dtype=torch.int64)
        self._step = 0

    def step(self, batches: list[Tensor]) -> tuple[Tensor, list[Ages]]:
        """Compute the loss of one batch a rank, all at once, and the ages of what each reads."""
        self._step += 1
        destinations = self._graph.edge_index[1]
        edges = [self._graph.edge_index[:, torch.isin(destinations, nodes)] for nodes in batches]
        inputs = [self._graph.x] * len(batches)
        for layer, conv in enumerate(self.model.convs):
            outputs = [conv(x, some)[nodes] for x, some, nodes in zip(inputs, edges, batches, strict=True)]
            if layer == LAYERS - 1:
                break
            outputs = [rows.relu() for rows in outputs]
            for nodes, rows in zip(batches, outputs, strict=True):
                self._rows[layer][nodes] = rows.detach()
            inputs = [self._rows[layer].index_put((nodes,), rows) for nodes, rows in zip(batches, outputs, strict=True)]
        for nodes in batches:
            self._written[nodes] = self._step
        ages = []
        for some, nodes in zip(edges, batches, strict=True):
            read = self._written[[node for node in some[0].unique().tolist() if node not in nodes]]
            known = self._step - read[read > 0]
            ages.append(Ages(len(read), len(read) - len(known), int(known.sum()), max([0, *known.tolist()])))
        losses = [
            cross_entropy(out, self._graph.y[nodes], reduction="sum")
            for out, nodes in zip(outputs, batches, strict=True)
        ]
        return torch.stack(losses).sum(), ages


def test_training_equals_pygs_layers_with_histories_in_plain_tensors(opened: Backend) -> None:
    graph, session = whole_graph(), Session(opened)
    loader, model = make_loader(opened, graph), make_model("GIN alone", opened)
    oracle = Histories(model, graph)
    wrapped = session.wrap(model, sync_batch_norm=True)
    ours, theirs = (torch.optim.SGD(one.parameters(), lr=0.003) for one in (model, oracle.model))
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        everyone = make_loader(MemoryBackend(), graph)
        everyone.batch_sampler.set_epoch(epoch)
        for batch, whole in zip(loader, everyone, strict=True):
            seeds = whole.n_id[: whole.batch_size]
            loss = cross_entropy(forward(wrapped, batch), batch.y[: batch.batch_size], reduction="sum")
            expected, ages = oracle.step([seeds[rank::RANKS] for rank in range(RANKS)])
            for optimizer, one in ((ours, loss), (theirs, expected)):
                optimizer.zero_grad()
                one.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            assert session.sum([float(loss.detach())])[0] == pytest.approx(float(expected.detach()), rel=1e-5)
            assert model.ages.take() == ages[RANK]
    for weight, other in zip(model.parameters(), oracle.model.parameters(), strict=True):
        assert_close(weight, other)
    model.close()


def test_inference_can_refresh_all_rows_before_one_is_too_old(opened: Backend) -> None:
    graph, session = whole_graph(), Session(opened)
    structure, features, edge_attr = stored(opened, graph)
    model = make_model("GINE", opened)
    for module in model.modules():
        if isinstance(module, StoredEmbedding):
            module.requires_grad_(False)  # the layers alone are trained
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
    wrapped = session.wrap(model, sync_batch_norm=True)
    data, bound, refreshed = (features, structure), 1, []
    for step, batch in enumerate(neighbor_loader(data, [-1], edge_features=edge_attr, backend=opened, **OPTIONS)):
        if model.ages.exceed(bound, batch_halo(batch, NUM_NODES)):
            refreshed.append(step)
            model.inference(
                structure, features["x"], edge_features=edge_attr, backend=opened, progress=False, refresh=True
            ).close()
        optimizer.zero_grad()
        loss = cross_entropy(forward(wrapped, batch), batch.y[: batch.batch_size], reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        ages = model.ages.take()
        assert (ages.never, ages.oldest <= (0 if step in refreshed else bound)) == (0, True)
    assert refreshed == [0, 2]  # at first nothing is written, and two steps later some rows are those of the first pass
    with torch.no_grad():
        out = model.inference(structure, features["x"], edge_features=edge_attr, progress=False, refresh=True)
        (batch,) = neighbor_loader(data, [-1], NODES[:20], edge_features=edge_attr, batch_size=20, backend=opened)
        assert_close(forward(model, batch), out.read(batch.n_id[: batch.batch_size]))
    model.close()
