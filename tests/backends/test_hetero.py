"""GIN and GINE on a heterogeneous graph with a stored table for each type, beside PyG's with ``torch.nn.Embedding``.

At whatever world size this file is run; every rank trains the reference by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import Embedding, Module, ModuleDict
from torch.nn.functional import cross_entropy
from torch_geometric.data import HeteroData
from torch_geometric.nn import MLP, GINConv, GINEConv, HeteroConv, to_hetero

import distgnn
from distgnn.nn import DistributedGINConv, DistributedGINEConv, StoredEmbedding
from distgnn.optim import SparseAdam
from distgnn.train.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

STEPS = 20


@pytest.fixture(scope="module")
def data() -> HeteroData:
    generator = torch.Generator().manual_seed(0)
    graph = HeteroData()
    sizes = {"author": 30, "paper": 40, "venue": 5}
    for kind, size in sizes.items():
        graph[kind].num_nodes = size
    for source, relation in [("author", "writes"), ("paper", "cites"), ("venue", "prints")]:
        ends = torch.rand(2, 120, generator=generator) * torch.tensor([[sizes[source]], [sizes["paper"]]])
        graph[source, relation, "paper"].edge_index = ends.long()
        graph["paper", f"rev_{relation}", source].edge_index = ends.long().flip(0)
    graph["paper"].y = torch.randint(3, (40,), generator=generator)
    return graph


def stored(name: str, size: int, columns: int) -> Module:
    return StoredEmbedding(size, columns, name=name, seed=1)


def plain(name: str, size: int, columns: int) -> Module:
    rows = distgnn.initial_rows(distgnn.EmbeddingSpec(name, size, columns, seed=1), 0, size)
    return Embedding(size, columns, sparse=True, _weight=rows)


class Tables(Module):
    """Tables by type, and a model over their rows."""

    def __init__(self, data: HeteroData, make: Callable[[str, int, int], Module], model: Module) -> None:
        super().__init__()
        sizes: dict[Any, int] = {kind: data[kind].num_nodes for kind in data.node_types}
        sizes |= {"__".join(kind): data[kind].num_edges for kind in data.edge_types}
        self.tables = ModuleDict({kind: make(kind, size, 8) for kind, size in sizes.items()})
        self.model = model

    def forward(self, data: HeteroData) -> Tensor:
        x = {kind: self.tables[kind](torch.arange(data[kind].num_nodes)) for kind in data.node_types}
        edges = {kind: self.tables["__".join(kind)](torch.arange(data[kind].num_edges)) for kind in data.edge_types}
        papers: Tensor = self.model(x, data.edge_index_dict, edges)["paper"]
        return papers


class Homogeneous(Module):
    """What ``to_hetero`` copies to each type."""

    def __init__(self, layer: Callable[[MLP], Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = layer(MLP([8, 8, 8], norm=None)), layer(MLP([8, 8, 3], norm=None))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x, edge_index, edge_attr).relu(), edge_index, edge_attr)
        return out


class ByHand(Module):
    """One ``HeteroConv`` a layer."""

    def __init__(self, data: HeteroData, layer: Callable[[MLP], Module], *, edges: bool) -> None:
        super().__init__()
        self.edges = edges
        self.conv1, self.conv2 = (
            HeteroConv({kind: layer(MLP([8, 8, out], norm=None)) for kind in data.edge_types}) for out in (8, 3)
        )

    def forward(self, x: Mapping[str, Tensor], edge_index: Any, edge_attr: Any) -> Mapping[str, Tensor]:
        edges = {"edge_attr_dict": edge_attr} if self.edges else {}
        h = {kind: rows.relu() for kind, rows in self.conv1(x, edge_index, **edges).items()}
        out: Mapping[str, Tensor] = self.conv2(h, edge_index, **edges)
        return out


MODELS: dict[str, Callable[[HeteroData, bool], Module]] = {
    "gin": lambda data, ours: ByHand(data, DistributedGINConv if ours else GINConv, edges=False),
    "gine": lambda data, ours: ByHand(data, DistributedGINEConv if ours else GINEConv, edges=True),
    "gine_by_to_hetero": lambda data, ours: to_hetero(
        Homogeneous(DistributedGINEConv if ours else GINEConv), data.metadata()
    ),
}


def train(data: HeteroData, model: Tables, sparse: torch.optim.Optimizer, session: Session | None) -> list[float]:
    dense = torch.optim.SGD(model.model.parameters(), lr=0.01)
    # The last layers of types without labels are in no loss.
    wrapped = session.wrap(model, sync_batch_norm=False, find_unused_parameters=True) if session else model
    rank, world_size = (0, 1) if session is None else (session.rank, session.world_size)
    mine = torch.arange(rank, 40, world_size)
    losses = []
    for _ in range(STEPS):
        dense.zero_grad()
        sparse.zero_grad()
        loss = cross_entropy(wrapped(data)[mine], data["paper"].y[mine], reduction="sum") / 40
        loss.backward()  # type: ignore[no-untyped-call]
        dense.step()
        sparse.step()
        losses.append(loss.item() if session is None else session.sum([loss.item()])[0])
    return losses


@pytest.mark.parametrize("kind", MODELS)
def test_tables_by_type_train_as_pygs_layers_over_embeddings_of_torch(
    data: HeteroData, kind: str, opened: distgnn.Backend
) -> None:
    torch.manual_seed(0)
    ours = Tables(data, stored, MODELS[kind](data, True))
    peer = Tables(data, plain, MODELS[kind](data, False))
    peer.model.load_state_dict(ours.model.state_dict())
    losses = train(data, ours, SparseAdam(ours, lr=0.01), Session(opened))
    expected = train(data, peer, torch.optim.SparseAdam(peer.tables.parameters(), lr=0.01), None)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]
    for name, table in peer.tables.items():
        assert isinstance(table, Embedding)
        rows = ours.tables[name](torch.arange(table.num_embeddings))
        torch.testing.assert_close(rows, table.weight, rtol=1e-4, atol=1e-5)
