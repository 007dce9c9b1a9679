"""Graphs, their parts, and training on either.

Every rank computes the whole graph by itself on its own in-memory backend, as the reference.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data

from distgnn.backends.memory import MemoryBackend
from distgnn.graph import edge_partition
from distgnn.graph.partition.assign import assign_nodes
from distgnn.nn import DistributedGIN, DistributedGINE, DistributedGNN
from distgnn.optim import SparseAdam, SparseOptimizer, SparseSGD
from distgnn.train.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from distgnn import Backend, EmbeddingStore

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
CLASSES = 7


def random_graph(num_nodes: int, num_edges: int) -> Data:
    """A directed graph with self loops and, as pairs are drawn again and again, equal edges."""
    draw = torch.Generator().manual_seed(num_nodes)
    return Data(
        x=torch.randn(num_nodes, 5, generator=draw),
        edge_index=torch.randint(num_nodes, (2, num_edges), generator=draw),
        edge_attr=torch.randn(num_edges, 2, generator=draw),
        edge_weight=torch.rand(num_edges, generator=draw),
        y=torch.randint(CLASSES, (num_nodes,), generator=draw),
        train_mask=torch.rand(num_nodes, generator=draw) < 0.6,
    )


def hashed(graph: Data) -> Tensor:
    return assign_nodes(graph.edge_index, graph.num_nodes, RANKS, method="hash")


def metis(graph: Data) -> Tensor:
    pytest.importorskip("pymetis", reason="pymetis is not installed here")
    return assign_nodes(graph.edge_index, graph.num_nodes, RANKS, method="metis")


def one_empty(graph: Data) -> Tensor:
    """The last rank has no nodes, unless it is alone."""
    return torch.arange(graph.num_nodes) % max(1, RANKS - 1)


def one_without_halo(graph: Data) -> Tensor:
    """No edge ends in the nodes of rank 0, but from each other."""
    parts = torch.arange(graph.num_nodes) % RANKS
    sources, destinations = graph.edge_index
    kept = (parts[destinations] > 0) | (parts[sources] == 0)
    graph.edge_index, graph.edge_attr = graph.edge_index[:, kept], graph.edge_attr[kept]
    graph.edge_weight = graph.edge_weight[kept]
    return parts


def assert_close(tensors: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Compare to within the tolerance, relative to the largest element of a tensor where that is above 1."""
    for found, wanted in zip(tensors, expected, strict=True):
        scale = max(1.0, float(wanted.detach().abs().max())) if wanted.numel() else 1.0
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


def make_model(kind: str, graph: Data, backend: Backend, **options: Any) -> DistributedGNN:
    torch.manual_seed(0)
    sizes = (graph.num_features, 8)
    options |= {
        "num_layers": 3,
        "out_channels": CLASSES,
        "use_dist_tensor": True,
        "backend": backend,
        "train_eps": True,
    }
    if kind != "GIN alone":
        options |= {"use_dist_embedding": True, "embedding_dim": 4, "embedding_name": "nodes", "embedding_std": 0.5}
    if kind == "GINE":
        model: DistributedGNN = DistributedGINE(
            *sizes,
            edge_dim=2,
            use_dist_edge_embedding=True,
            edge_embedding_dim=3,
            edge_embedding_name="edges",
            **options,
        )
        model.set_num_embeddings(num_edges=graph.num_edges)
    else:
        model = DistributedGIN(*sizes, **options)
    model.set_num_embeddings(num_nodes=graph.num_nodes)
    return model


def forward(model: Callable[..., Tensor], data: Data, x: Tensor | None = None) -> Tensor:
    """Compute the outputs of a part, or of a whole graph."""
    options = {"node_ids": data.get("n_id"), "edge_ids": data.get("e_id"), "halo": data.get("halo")}
    options["edge_weight"] = data.get("edge_weight")
    return model(data.x if x is None else x, data.edge_index, data.edge_attr, **options)


def loss_of(out: Tensor, data: Data, targets: int) -> Tensor:
    mask = data.train_mask
    return cross_entropy(out[mask], data.y[mask], reduction="sum") / targets


class Training:
    """A few steps of a model on a part, or on a whole graph."""

    def __init__(self, kind: str, graph: Data, data: Data, backend: Backend, rule: str) -> None:
        self.data, self.targets = data, int(graph.train_mask.sum())
        self.session = Session(backend)
        self.model = make_model(kind, graph, backend).to(graph.x.dtype)
        if "halo" in data and kind != "GIN alone":
            edges = edge_partition(data, backend=backend) if kind == "GINE" else None
            self.model.set_num_embeddings(node_partition=data.halo.partition, edge_partition=edges)
        self.wrapped = self.session.wrap(self.model, sync_batch_norm=True)
        adam = rule == "adam"
        dense = torch.optim.Adam if adam else torch.optim.SGD
        self.dense: torch.optim.Optimizer = dense(self.model.parameters(), lr=0.01 if adam else 0.02)
        self.sparse: SparseOptimizer | None = None
        if kind != "GIN alone":
            self.sparse = SparseAdam(self.model, lr=0.01) if adam else SparseSGD(self.model, lr=0.02)

    def step(self) -> tuple[Tensor, float, list[Tensor]]:
        """Train one step, and return this rank's outputs, the loss over all ranks and the gradients of weights."""
        self.dense.zero_grad()
        out = forward(self.wrapped, self.data)
        loss = loss_of(out, self.data, self.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad.clone() for weight in self.model.parameters() if weight.grad is not None]
        self.dense.step()
        if self.sparse is not None:
            self.sparse.step()
        return out.detach(), self.session.sum([float(loss.detach())])[0], gradients

    def tables(self) -> list[Tensor]:
        stores: list[EmbeddingStore | None] = [
            features.embedding.open_store()
            for features in (self.model.node_features, getattr(self.model, "edge_features", None))
            if features is not None
        ]
        return [store.lookup(torch.arange(store.num_embeddings)) for store in stores if store is not None]


def assert_trains_alike(
    kind: str,
    graph: Data,
    part: Data,
    backend: Backend,
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
    steps: int = 4,
) -> None:
    ours = Training(kind, graph, part, backend, rule)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    whole = Data(**{**graph.to_dict(), "n_id": torch.arange(graph.num_nodes), "e_id": torch.arange(graph.num_edges)})
    theirs = Training(kind, graph, whole, MemoryBackend(), rule)
    for _ in range(steps):
        (out, loss, gradients), (all_out, all_loss, all_gradients) = ours.step(), theirs.step()
        assert_close([out], [all_out[part.n_id[: len(out)]]])
        assert loss == pytest.approx(all_loss, rel=1e-5)
        assert_close(gradients, all_gradients)
    assert_close(ours.tables(), theirs.tables())
    assert_close(list(ours.model.parameters()), list(theirs.model.parameters()))
    ours.model.close()
