"""Training on a backend of several ranks equals training on ``memory``, at whatever world size this file is run.

Every rank trains the reference by itself, on its own in-memory backend.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch

import distgnn
from distgnn.data import load_dataset
from distgnn.graph import partition_graph
from distgnn.optim import SGD
from distgnn.train.config import TrainConfig
from distgnn.train.session import Session
from distgnn.train.source import Source
from distgnn.train.timeline import Timeline
from distgnn.train.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from distgnn.data import LoadedDataset
    from distgnn.train.epoch import Epoch

STEPS = 20
RANKS = int(os.environ.get("WORLD_SIZE", "1"))


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DISTGNN_DATA", raising=False)
        patch.setenv("DISTGNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def train(config: TrainConfig, backend: str) -> tuple[list[Epoch], dict[str, Tensor]]:
    """Train, and return what each epoch measured, and the final tables."""
    with distgnn.use(backend) as opened:
        dataset = load_dataset("MUTAG") if config.dataset == "MUTAG" else generated(config)
        split = {"train": list(range(70)), "test": list(range(70, 188))} if dataset.task == "graph" else None
        source = Source(config, None if config.partition else dataset, Session(opened))
        trial = Trial(config, source, 0, split=split)
        epochs = list(trial.train())
        ends = {}
        for features in (trial.model.node_features, getattr(trial.model, "edge_features", None)):
            if features is not None:
                store = features.embedding.open_store()
                assert store is not None
                ends[features.embedding.name] = store.lookup(torch.arange(store.num_embeddings))
        trial.close()
        source.close()
    return epochs, ends


@cache
def reference(config: TrainConfig) -> tuple[list[Epoch], dict[str, Tensor]]:
    """Train on ``memory``, once for all backends, and return what :func:`train` does."""
    with pytest.MonkeyPatch.context() as alone:
        alone.delenv("RANK", raising=False)
        alone.delenv("WORLD_SIZE", raising=False)
        return train(config, "memory")


def generated(config: TrainConfig) -> LoadedDataset:
    """Generate a graph; one for GINE has features of nodes and edges."""
    dataset = load_dataset(config.dataset, num_nodes=config.num_nodes or 120, num_edges=config.num_edges or 600)
    if config.model == "gine":
        draw = torch.Generator().manual_seed(0)
        dataset.graph.x = torch.randn(dataset.num_nodes, 5, generator=draw)
        dataset.graph.edge_attr = torch.randn(dataset.num_edges, 2, generator=draw)
        dataset = replace(dataset, num_features=5, edge_dim=2)
    return replace(dataset, task="link") if config.task == "link" else dataset


def test_the_timeline_tells_who_waits_for_whom(spread: str) -> None:
    with distgnn.use(spread) as opened:
        session = Session(opened, Timeline(on=True))
        table = session.backend.open_embedding(distgnn.EmbeddingSpec("table", 8, 4))
        session.begin_epoch()
        for _ in range(3):
            if session.rank == RANKS - 1:
                time.sleep(0.2)
            table.apply_gradients(torch.arange(8), torch.ones(8, 4), SGD())
        spent = session.spent()
        table.close()
    assert spent is not None
    *others, last = spent["wait"]
    assert len(others) == RANKS - 1
    assert all(seconds > 0.5 for seconds in others), spent
    assert last < 0.2, spent
    assert spent["compute"][-1] > 0.5


def assert_same_training(config: TrainConfig, backend: str) -> None:
    epochs, ends = train(config, backend)
    # Parts together are the whole graph.
    expected, expected_ends = reference(
        replace(config, mode=None if config.mode == "full" else config.mode, partition=None)
    )
    assert len(epochs) == config.epochs
    assert epochs[-1].loss < epochs[0].loss
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in expected], rel=1e-5)
    # Scores may change places by rounding, one or two of them.
    tests, expected_tests = ([epoch.test for epoch in both if epoch.test is not None] for both in (epochs, expected))
    assert tests == pytest.approx(expected_tests, abs=0.02)
    assert ends.keys() == expected_ends.keys()
    for name, rows in expected_ends.items():
        assert torch.allclose(ends[name], rows, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("rule", ["sgd", "adagrad", "rowwise-adagrad", "adam"])
def test_gine_on_batches_of_graphs_with_node_and_edge_embeddings(rule: str, spread: str) -> None:
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
    assert_same_training(config, spread)


def test_gin_on_all_nodes_of_a_graph_with_dropout(spread: str) -> None:
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
    assert_same_training(config, spread)


@pytest.mark.parametrize("norm", ["none", "batch_norm"])
def test_gin_on_a_part_of_a_graph_on_each_rank(norm: str, spread: str) -> None:
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
    assert_same_training(config, spread)


def test_gine_on_a_part_of_a_graph_with_node_and_edge_embeddings(spread: str) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        mode="full",
        model="gine",
        epochs=STEPS,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        norm="none",
        use_dist_embedding=True,
        embedding_dim=6,
        use_dist_edge_embedding=True,
        edge_embedding_dim=4,
        sparse_lr=0.01,
    )
    assert_same_training(config, spread)


def test_a_batch_with_fewer_graphs_than_ranks_does_not_stop_the_others(spread: str) -> None:
    config = TrainConfig(
        epochs=10, batch_size=69, hidden_channels=8, num_layers=2, dropout=0.0, use_dist_embedding=True
    )
    epochs, _ = train(config, spread)  # 70 graphs: the second batch of an epoch has one
    expected, _ = reference(config)
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in expected], rel=1e-3)


@pytest.mark.parametrize(
    ("task", "rescale", "in_parts"),
    [("node", False, False), ("node", True, True), ("link", True, False)],
)
def test_gine_on_batches_of_sampled_neighborhoods(
    task: str, rescale: bool, in_parts: bool, spread: str, tmp_path: Path
) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        task=task,
        mode="sampled",
        model="gine",
        epochs=4,
        batch_size=30,
        num_neighbors="3,3",
        rescale=rescale,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        use_dist_embedding=True,
        embedding_dim=6,
        use_dist_edge_embedding=True,
        edge_embedding_dim=3,
        sparse_lr=0.01,
    )
    if in_parts:
        partition_graph(generated(config).graph, tmp_path / "cut", RANKS, method="hash")
        config = replace(config, partition=str(tmp_path / "cut"))
    assert_same_training(config, spread)


@pytest.mark.parametrize("model", ["gin", "sage"])
def test_batches_with_histories(model: str, spread: str) -> None:
    config = TrainConfig(
        model=model,
        dataset="CustomLargeGraph",
        mode="history",
        epochs=4,
        eval_every=3,
        batch_size=30,
        staleness=5,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        use_dist_embedding=True,
        embedding_dim=6,
        sparse_lr=0.01,
    )
    epochs, _ = train(config, spread)
    expected, _ = reference(config)
    # Between seeds of different ranks no gradients go, so that several ranks do not train quite as one.
    tolerance = 1e-5 if RANKS == 1 else 1e-2
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in expected], rel=tolerance)
    assert epochs[-1].loss < epochs[0].loss
    for epoch in epochs:
        assert epoch.staleness
        assert epoch.staleness["never"] == 0 < epoch.staleness["rows"]
        assert epoch.staleness["oldest"] <= 5


def test_stale_rows_of_parts_are_used_when_they_are_allowed(spread: str) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        mode="full",
        epochs=6,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        use_dist_embedding=True,
        embedding_dim=6,
    )
    (exact, _), (stale, _) = (train(replace(config, staleness=staleness), spread) for staleness in (None, 2))
    assert stale[0].loss == pytest.approx(exact[0].loss, rel=1e-6)
    assert stale[-1].loss < stale[0].loss
    assert (stale[-1].loss != exact[-1].loss) == (RANKS > 1)


def test_links_over_the_parts_of_a_graph(spread: str) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        task="link",
        mode="full",
        epochs=8,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        use_dist_embedding=True,
        embedding_dim=6,
        sparse_lr=0.01,
    )
    assert_same_training(config, spread)


@pytest.mark.parametrize("mode", ["full", "sampled"])
def test_ranks_without_nodes_do_not_stop_the_others(mode: str, spread: str) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        num_nodes=4,  # of which two are trained on, and one is in each of the other sets
        num_edges=6,
        mode=mode,
        epochs=3,
        batch_size=1 if mode == "sampled" else None,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        use_dist_embedding=True,
        embedding_dim=6,
    )
    assert_same_training(config, spread)


@pytest.mark.parametrize("mode", [None, "full", "sampled"])
def test_sage_on_one_graph(mode: str | None, spread: str) -> None:
    config = TrainConfig(
        dataset="CustomLargeGraph",
        model="sage",
        mode=mode,
        epochs=4,
        batch_size=30 if mode == "sampled" else None,
        num_neighbors="3,3" if mode == "sampled" else None,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        use_dist_embedding=True,
        embedding_dim=6,
        sparse_lr=0.01,
    )
    assert_same_training(config, spread)


def test_sage_on_batches_of_graphs(spread: str) -> None:
    config = TrainConfig(
        model="sage",
        epochs=4,
        batch_size=70,
        hidden_channels=8,
        num_layers=2,
        dropout=0.0,
        lr=0.001,
        use_dist_embedding=True,
        embedding_dim=5,
        sparse_lr=0.01,
        norm="none",
    )
    assert_same_training(config, spread)
