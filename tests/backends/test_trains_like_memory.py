"""Training on a backend of several ranks equals training on ``memory``, at whatever world size this file is run.

Every rank trains the reference by itself, on its own in-memory backend.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

import distgnn
from distgnn.data import load_dataset
from distgnn.train.config import TrainConfig
from distgnn.train.part import own_part
from distgnn.train.session import Session
from distgnn.train.trial import Trial

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

STEPS = 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    monkeypatch.delenv("DISTGNN_DATA", raising=False)
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path))


def train(config: TrainConfig, backend: str) -> tuple[list[float], dict[str, Tensor]]:
    """Train, and return the loss of each step, and the final tables."""
    with distgnn.use(backend) as opened:
        session = Session(opened)
        dataset = (
            load_dataset(config.dataset)
            if config.dataset == "MUTAG"
            else load_dataset(config.dataset, num_nodes=120, num_edges=600)
        )
        split = {"train": list(range(70)), "test": list(range(70, 188))} if dataset.task == "graph" else None
        if config.mode == "full":
            dataset = own_part(config, dataset, session, opened)
        trial = Trial(config, dataset, session, 0, split=split)
        losses = [epoch.loss for epoch in trial]
        ends = {}
        for features in (trial.model.node_features, getattr(trial.model, "edge_features", None)):
            if features is not None:
                store = features.embedding.open_store()
                assert store is not None
                ends[features.embedding.name] = store.lookup(torch.arange(store.num_embeddings))
        trial.close()
    return losses, ends


def assert_same_training(config: TrainConfig, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, ends = train(config, backend)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    expected_losses, expected_ends = train(replace(config, mode=None), "memory")
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    assert ends.keys() == expected_ends.keys()
    for name, expected in expected_ends.items():
        assert torch.allclose(ends[name], expected, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "rowwise-adagrad", "adam"])
def test_gine_on_batches_of_graphs_with_node_and_edge_embeddings(
    rule: str, spread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        model="gine",
        epochs=STEPS,
        batch_size=70,  # one step an epoch
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        use_dist_embedding=True,
        embedding_dim=5,
        use_dist_edge_embedding=True,
        edge_embedding_dim=3,
        sparse_optimizer=rule,
        sparse_lr=0.01,
        norm="none",  # it has a test of its own: rounding grows where a bias before it has no true gradient
    )
    assert_same_training(config, spread, monkeypatch)


def test_gin_on_all_nodes_of_a_graph_with_dropout(spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        epochs=STEPS,
        hidden_channels=8,
        num_layers=2,
        lr=0.001,
        use_dist_embedding=True,
        embedding_dim=6,
        sparse_lr=0.01,
    )
    assert_same_training(config, spread, monkeypatch)


@pytest.mark.parametrize("norm", ["none", "batch_norm"])
def test_gin_on_a_part_of_a_graph_on_each_rank(norm: str, spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        mode="full",
        epochs=STEPS,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        norm=norm,
        use_dist_embedding=True,
        embedding_dim=6,
        sparse_lr=0.01,
    )
    assert_same_training(config, spread, monkeypatch)


def test_a_batch_with_fewer_graphs_than_ranks_does_not_stop_the_others(
    spread: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        epochs=10, batch_size=69, hidden_channels=8, num_layers=2, dropout=0.0, use_dist_embedding=True
    )
    losses, _ = train(config, spread)  # 70 graphs: the second batch of an epoch has one
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert losses == pytest.approx(train(config, "memory")[0], rel=1e-3)
