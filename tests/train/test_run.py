from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console
from torch_geometric.nn import GIN, global_add_pool

import distgnn
from distgnn import ConfigError
from distgnn.train import run
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

GENERATED = {"dataset": "CustomLargeGraph", "num_nodes": 400, "num_edges": 4000}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    monkeypatch.delenv("DISTGNN_DATA", raising=False)
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with distgnn.use("memory"):
        yield


def train(**options: Any) -> tuple[run.Result, str]:
    """Run small, and return what came out and what was shown."""
    shown = StringIO()
    small = {"epochs": 2, "hidden_channels": 8, "num_layers": 2}
    return run.train(TrainConfig(**{**small, **options}), console=Console(file=shown, width=160)), shown.getvalue()


def test_a_run_on_mutag_leaves_options_metrics_result_and_a_picture() -> None:
    result, shown = train(name="mine", epochs=3)
    assert result.folder == Path("runs/mine")
    assert json.loads((result.folder / "config.json").read_text())["epochs"] == 3
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(0 <= line[part] <= 1 for line in lines for part in ("train", "val", "test"))
    assert json.loads((result.folder / "result.json").read_text())["test_scores"] == result.scores
    picture = matplotlib.image.imread(result.folder / "curve.png")
    assert picture.shape[0] > 400
    assert np.unique(picture.reshape(-1, picture.shape[2]), axis=0).shape[0] > 50  # curves, not an empty page
    assert "188 graphs, 3,371 nodes, 7,442 edges" in shown
    assert "test accuracy" in shown
    assert f"{result.mean:.2%}" in shown


def test_folds_choose_one_epoch_for_all_by_the_papers_rule_and_say_so() -> None:
    result, shown = train(folds=3, epochs=4)
    test = np.array([[epoch.test for epoch in trial] for trial in result.history])
    assert test.shape == (3, 4)
    assert result.mean == pytest.approx(test.mean(axis=0).max())
    assert len(set(result.epochs)) == 1
    assert "the GIN paper's rule" in shown
    assert all(epoch.val is None for trial in result.history for epoch in trial)


def test_without_folds_the_epoch_is_chosen_by_validation() -> None:
    result, _ = train(epochs=5)
    (trial,) = result.history
    best = max(epoch.val or 0.0 for epoch in trial)
    assert result.epochs[0] == next(epoch.epoch for epoch in trial if epoch.val == best)
    assert result.scores == [trial[result.epochs[0] - 1].test]


def test_the_same_seed_gives_the_same_losses_and_another_seed_others() -> None:
    first, second, other = (train(seed=seed, use_dist_embedding=True)[0] for seed in (1, 1, 2))
    losses = [[epoch.loss for epoch in result.history[0]] for result in (first, second, other)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise-adagrad", "adam"])
def test_gine_with_every_flag_trains_with_every_rule(optimizer: str) -> None:
    result, _ = train(
        model="gine",
        use_dist_embedding=True,
        embedding_dim=4,
        use_dist_edge_embedding=True,
        edge_embedding_dim=3,
        use_dist_tensor=True,
        sparse_optimizer=optimizer,
    )
    assert np.isfinite([epoch.loss for epoch in result.history[0]]).all()


def test_a_generated_graph_is_learned_from_its_structure_alone() -> None:
    result, _ = train(**GENERATED, use_dist_embedding=True, embedding_dim=16, sparse_lr=0.05, epochs=60, runs=2)
    assert result.mean > 0.4  # eight classes: chance is an eighth
    assert result.history[0][-1].loss < result.history[0][0].loss / 2


WATCHED = """
import json
import os

import distgnn
from distgnn.backends.memory import MemoryBackend


class Watched(MemoryBackend):
    name = "watched"

    def __init__(self):
        super().__init__()
        self.opened = []

    def watched(self, store):
        if store not in self.opened:
            self.opened.append(store)
        return store

    def open_embedding(self, spec):
        return self.watched(super().open_embedding(spec))

    def open_tensor(self, spec):
        return self.watched(super().open_tensor(spec))

    def close(self):
        with open(os.environ["WATCHED"], "w") as file:
            json.dump([[store.spec.name, store.closed] for store in self.opened], file)
        super().close()


@distgnn.hookimpl
def distgnn_backend():
    return Watched
"""


def test_every_store_of_a_run_is_closed_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "watched.py").write_text(WATCHED)
    info = tmp_path / "watched-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: watched\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[distgnn]\nwatched = watched\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WATCHED", str(tmp_path / "stores.json"))
    train(use_dist_embedding=True, use_dist_tensor=True, runs=2, backend="watched")
    stores = json.loads((tmp_path / "stores.json").read_text())
    assert len(stores) == 6, "a table and the outputs of two layers in each of two trials"
    assert all(closed for _, closed in stores), stores


def test_one_part_is_the_whole_graph_whether_cut_in_memory_or_loaded(tmp_path: Path) -> None:
    from distgnn.data import load_dataset
    from distgnn.graph import partition_graph

    options = {"use_dist_embedding": True, "embedding_dim": 8, "dropout": 0.0, "epochs": 5}
    partition_graph(load_dataset("CustomLargeGraph", num_nodes=400, num_edges=4000).graph, tmp_path / "cut", 1)
    runs = [
        train(**GENERATED, **options)[0],
        train(**GENERATED, **options, mode="full")[0],
        train(mode="full", partition=str(tmp_path / "cut"), **options)[0],
    ]
    whole, *parts = ([(epoch.loss, epoch.val, epoch.test) for epoch in result.history[0]] for result in runs)
    for part in parts:
        assert np.array(part) == pytest.approx(np.array(whole), rel=1e-5)
    assert runs[2].folder.name.startswith("cut-gin-memory-")


@pytest.mark.parametrize("task", ["node", "link"])
def test_batches_with_all_neighbors_train_as_the_whole_graph(task: str) -> None:
    options = {"task": task, "use_dist_embedding": True, "embedding_dim": 8, "dropout": 0.0, "epochs": 5}
    whole, _ = train(**GENERATED, **options)
    batch, _ = train(**GENERATED, **options, mode="sampled", num_neighbors="-1,-1", batch_size=10_000)
    found, expected = (
        [(epoch.loss, epoch.train, epoch.val, epoch.test) for epoch in result.history[0]] for result in (batch, whole)
    )
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-4)
    assert len({epoch.test for epoch in whole.history[0]}) > 1


def test_one_batch_of_all_nodes_needs_no_history() -> None:
    options = {"use_dist_embedding": True, "embedding_dim": 8, "dropout": 0.0, "epochs": 4}
    runs = [train(**GENERATED, **options)[0], train(**GENERATED, **options, mode="history", batch_size=400)[0]]
    whole, batch = ([(epoch.loss, epoch.val, epoch.test) for epoch in result.history[0]] for result in runs)
    assert np.array(batch) == pytest.approx(np.array(whole), rel=1e-5)
    assert [epoch.staleness and epoch.staleness["rows"] for epoch in runs[1].history[0]] == [0] * 4


def test_the_ages_of_rows_are_bounded_counted_and_shown() -> None:
    options: dict[str, Any] = {"use_dist_embedding": True, "embedding_dim": 8, "mode": "history", "batch_size": 50}
    free, shown = train(**GENERATED, **options, epochs=4, eval_every=4)
    bounded, _ = train(**GENERATED, **options, epochs=4, eval_every=4, staleness=3)
    first, second, *_ = (epoch.staleness for epoch in free.history[0])
    assert first
    assert second
    assert first["never"] > 0 == second["never"]
    assert 8 < second["oldest"] <= 15  # of two passes of eight batches
    for epoch in bounded.history[0]:
        assert epoch.staleness
        assert epoch.staleness["never"] == 0
        assert 0 < epoch.staleness["mean"] <= epoch.staleness["oldest"] <= 3
    assert "steps old" in shown


def test_weights_make_up_for_the_neighbors_that_are_not_sampled() -> None:
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(300, (6000, 2), generator=generator)  # 20 in-edges a node
    Path("edges.csv").write_text("".join(f"{source},{target}\n" for source, target in edges.tolist()))
    torch.save(1 + 0.5 * torch.randn(300, 8, generator=generator), "x.pt")  # sums of few are far from those of all
    Path("labels.csv").write_text("node,label\n" + "".join(f"{node},{node % 4}\n" for node in range(300)))
    options: dict[str, Any] = {"dataset": "CustomLargeGraph", "edges": "edges.csv", "features": "x.pt"}
    options |= {"labels": "labels.csv", "num_layers": 1, "dropout": 0.0, "mode": "sampled", "epochs": 1, "runs": 3}
    full, less, weighted = (
        [epochs[0].loss for epochs in train(**options, num_neighbors=number, rescale=rescale)[0].history]
        for number, rescale in (("-1", False), ("3", False), ("3", True))
    )
    for of_all, of_few, of_weighted in zip(full, less, weighted, strict=True):
        assert abs(of_weighted - of_all) < 0.7 * abs(of_few - of_all)


def test_links_of_communities_are_learned_and_named_in_all_that_a_run_leaves() -> None:
    result, shown = train(
        **GENERATED, task="link", use_dist_embedding=True, embedding_dim=16, sparse_lr=0.05, batch_size=256, epochs=15
    )
    assert result.measure == "AUC"
    assert result.mean > 0.6
    written = json.loads((result.folder / "result.json").read_text())
    assert written["test_auc_mean"] == result.mean
    assert "test AUC" in shown
    assert "400 nodes, 4,000 edges, links" in shown
    assert json.loads((result.folder / "config.json").read_text())["mode"] == "sampled"  # it was asked for batches


def test_no_held_out_edge_is_among_those_that_messages_take_in_either_direction() -> None:
    from distgnn.train.links import split_edges

    pairs = torch.randint(100, (2, 3000), generator=torch.Generator().manual_seed(0))
    edges = torch.cat([pairs, pairs.flip(0)], dim=1)
    sets = split_edges(edges, 100, seed=0)
    assert sorted(torch.cat(list(sets.values())).tolist()) == list(range(6000))
    ends = {part: {frozenset(edge) for edge in edges[:, places].t().tolist()} for part, places in sets.items()}
    assert not ends["train"] & (ends["val"] | ends["test"])
    assert not ends["val"] & ends["test"]
    assert [len(sets[part]) / 6000 for part in ("train", "val", "test")] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert any(not torch.equal(sets[part], other) for part, other in split_edges(edges, 100, seed=1).items())


def test_epochs_that_are_not_evaluated_are_left_out_of_the_choice() -> None:
    result, _ = train(**GENERATED, use_dist_embedding=True, embedding_dim=8, epochs=5, eval_every=2)
    (trial,) = result.history
    assert [epoch.epoch for epoch in trial if epoch.test is not None] == [2, 4, 5]
    assert result.epochs[0] in {2, 4, 5}
    assert result.scores == [trial[result.epochs[0] - 1].test]
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["val"] is None


def test_an_epoch_may_have_fewer_steps_than_batches() -> None:
    options = {"use_dist_embedding": True, "embedding_dim": 8, "batch_size": 20, "epochs": 1}
    short, long = (train(**GENERATED, **options, steps_per_epoch=steps)[0] for steps in (2, None))
    rows = [result.history[0][0].train * seeds for result, seeds in ((short, 40), (long, 240))]
    assert rows == pytest.approx([round(row) for row in rows])  # hits among 40 of the 240 labels, and among all


def test_the_memory_and_the_speed_of_a_run_are_reported() -> None:
    import psutil

    result, shown = train(**GENERATED, use_dist_embedding=True, embedding_dim=8)
    written = json.loads((result.folder / "result.json").read_text())
    (peak,) = written["peak_memory_mb"]
    assert peak >= psutil.Process().memory_info().rss / 2**20 * 0.9
    assert written["rows_per_second"] > 0
    assert f"{peak:,.0f} MiB" in shown
    assert "rows/s in training" in shown


def test_training_on_mutag_equals_a_plain_pyg_loop() -> None:
    from distgnn.data import load_dataset
    from distgnn.train.models import make_model
    from distgnn.train.session import Session
    from distgnn.train.source import Source
    from distgnn.train.trial import Trial

    dataset = load_dataset("MUTAG")
    config = TrainConfig(epochs=3, hidden_channels=8, num_layers=2, dropout=0.0, batch_size=188)
    split = {"train": list(range(100)), "test": list(range(100, 188))}
    source = Source(config, dataset, Session(distgnn.get_backend()))
    ours = [epoch.loss for epoch in Trial(config, source, 0, split=split).train()]

    torch.manual_seed(0)
    initial = make_model(config, dataset, distgnn.get_backend()).state_dict()
    body = GIN(dataset.num_features, 8, 2, norm="batch_norm", jk="last", out_channels=2)
    body.lin = torch.nn.Identity()
    heads = torch.nn.ModuleList(torch.nn.Linear(width, 2) for width in (dataset.num_features, 8, 8))
    body.load_state_dict({name: value for name, value in initial.items() if not name.startswith("heads")})
    heads.load_state_dict({name[6:]: value for name, value in initial.items() if name.startswith("heads")})
    layers: list[torch.Tensor] = []
    for norm in body.norms:
        norm.register_forward_hook(lambda _module, _inputs, output: layers.append(output.relu()))
    optimizer = torch.optim.Adam([*body.parameters(), *heads.parameters()], lr=0.01)
    from torch_geometric.data import Batch

    batch = Batch.from_data_list([dataset.graphs[position] for position in split["train"]])
    theirs = []
    for _ in range(3):
        layers[:] = [batch.x]
        optimizer.zero_grad()
        body(batch.x, batch.edge_index)
        scores = sum(head(global_add_pool(h, batch.batch)) for head, h in zip(heads, layers, strict=True))
        loss = torch.nn.functional.cross_entropy(scores, batch.y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        theirs.append(float(loss.detach()))
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "full"}, "'MUTAG' has 188 small graphs"),
        ({"mode": "sampled"}, "'MUTAG' has 188 small graphs"),
        ({"rescale": True}, "rescale only go with mode='sampled'"),
        ({"task": "link"}, "'MUTAG' is for task 'graph', not 'link'"),
        ({**GENERATED, "task": "graph"}, "is for task 'node' or 'link', not 'graph'"),
        ({"mode": "sampled", "partition": "cut", "task": "link"}, "batches of links need all edges on every rank"),
        ({"mode": "full", "partition": "cut", "task": "graph"}, "a partition is one graph"),
        (
            {**GENERATED, "num_nodes": 2, "num_edges": 2, "use_dist_embedding": True, "embedding_dim": 4},
            "the nodes of data set 'CustomLargeGraph' are too few .*1 for train, 0 for val",
        ),
        ({"partition": "cut"}, "a partition needs a mode: say which of full, sampled, history"),
        ({"mode": "whole"}, "mode must be one of full, sampled, history, not 'whole'"),
        ({"mode": "full", "partition": "cut", "edges": "e.csv"}, "brings its own graph: leave out edges"),
        ({"out": "/dev/null/runs"}, "cannot be written: .*choose another --out"),
        (GENERATED, "has no node features: learn them with use_dist_embedding"),
        ({**GENERATED, "use_dist_embedding": True}, "use_dist_embedding and an embedding_dim"),
        (
            {**GENERATED, "use_dist_embedding": True, "embedding_dim": 4, "model": "gine"},
            "has no edge features: use model 'gin'",
        ),
        ({**GENERATED, "folds": 10}, "folds cross-validate graphs"),
        ({"folds": 100}, "more than the rarest class"),
        ({"num_nodes": 3}, "num_nodes only go with --dataset CustomLargeGraph"),
        ({"dataset": "CustomLargeGraph", "labels": "y.csv"}, "belong to an edge file: give edges too"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "sampled", "batch_size": 64, "num_neighbors": "3,3"},
        {"mode": "sampled", "batch_size": 500, "num_neighbors": "3,3", "task": "link"},
        {"mode": "full", "task": "link"},
        {"mode": "history", "batch_size": 100},
        {"mode": "history", "batch_size": 100, "staleness": 5},
        {"dataset": "MUTAG", "num_nodes": None, "num_edges": None, "embedding_dim": None},
    ],
    ids=str,
)
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(options: dict[str, Any]) -> None:
    options = {**GENERATED, "use_dist_embedding": True, "embedding_dim": 8, "epochs": 3, "num_layers": 2, **options}
    expected, _ = train(**options, name="calm", checkpoint_every="1steps", keep=100)
    folders = Path("runs/calm/checkpoints").glob("step-*")
    steps = sorted(int(path.name[5:]) for path in folders)
    assert steps == list(range(1, steps[-1] + 1)), "some are within an epoch, where it has several steps"
    for step in {2, steps[-1] // 2, steps[-1] - 1}:
        distgnn.use("memory")
        result, _ = train(**options, name=f"torn-{step}", resume=f"runs/calm/checkpoints/step-{step}")
        for found, wanted in zip(result.history[0], expected.history[0], strict=True):
            assert replace(found, seconds=wanted.seconds, rows_per_second=wanted.rows_per_second) == wanted


def test_checkpoints_come_after_so_many_steps_epochs_or_minutes() -> None:
    options = {**GENERATED, "use_dist_embedding": True, "embedding_dim": 4, "num_layers": 2, "keep": 100}
    options |= {"mode": "sampled", "batch_size": 80, "num_neighbors": "2,2", "epochs": 4}
    for every, expected in {
        "5steps": [5, 10, 12],
        "2": [6, 12],
        "1000min": [12],
        "0.00001 min": [*range(1, 13)],
    }.items():
        distgnn.use("memory")
        train(**options, name=every, checkpoint_every=every)
        found = Path("runs", every, "checkpoints").glob("step-*")
        assert sorted(int(path.name[5:]) for path in found) == expected, every


def test_a_run_does_not_overwrite_another() -> None:
    train(name="mine")
    with pytest.raises(ConfigError, match="is there already; choose another --name"):
        train(name="mine")
    first, second = (train()[0].folder for _ in range(2))
    assert first != second
