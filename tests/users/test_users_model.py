"""A file as users write it: typed, and tested with the memory backend by the fixture that the wheel brings."""

from __future__ import annotations

import torch
from torch import Tensor

import distgnn
from distgnn.data import generate_graph
from distgnn.nn import DistributedGIN, StoredEmbedding
from distgnn.optim import RowWiseAdagrad, SparseAdam


class Recommender(torch.nn.Module):
    def __init__(self, num_nodes: int, channels: int) -> None:
        super().__init__()
        self.nodes = StoredEmbedding(num_nodes, channels, name="nodes", seed=0)
        self.gin = DistributedGIN(channels, channels, num_layers=2)

    def forward(self, edge_index: Tensor, pairs: Tensor) -> Tensor:
        h: Tensor = self.gin(self.nodes(torch.arange(100)), edge_index)
        return (h[pairs[0]] * h[pairs[1]]).sum(dim=-1)


def train_step(model: Recommender, sparse: SparseAdam, edge_index: Tensor) -> float:
    sparse.zero_grad()
    loss = -torch.nn.functional.logsigmoid(model(edge_index, edge_index)).mean()
    torch.autograd.backward(loss)
    sparse.step()
    return loss.item()


def test_a_model_over_stored_rows_learns(memory_backend: distgnn.Backend) -> None:
    torch.manual_seed(0)
    edge_index: Tensor = generate_graph(100, 500).edge_index
    model = Recommender(100, 8)
    sparse = SparseAdam(model, lr=0.1)
    losses = [train_step(model, sparse, edge_index) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_a_store_is_what_its_types_say(memory_backend: distgnn.Backend) -> None:
    store: distgnn.EmbeddingStore = memory_backend.open_embedding(distgnn.EmbeddingSpec("rows", 4, 2))
    ids = torch.tensor([1, 1, 3])
    before: Tensor = store.lookup(ids)
    store.apply_gradients(ids, torch.ones(3, 2), RowWiseAdagrad(lr=0.5))
    assert (store.lookup(ids) < before).all()
