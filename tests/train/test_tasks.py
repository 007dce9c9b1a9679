"""What is learned: labels, losses and metrics, and which epoch they choose."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

import distgnn
from distgnn import ConfigError
from distgnn.data import load_custom_graph, load_dataset
from distgnn.graph import partition_graph
from distgnn.train import load_run, run
from distgnn.train.config import TrainConfig
from distgnn.train.metrics import Metrics
from distgnn.train.session import Session
from distgnn.train.source import Source
from distgnn.train.tasks import TASKS
from distgnn.train.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs import StartJob

NODES = 240
FILES: dict[str, Any] = {
    "dataset": "CustomLargeGraph",
    "edges": "edges.csv",
    "features": "x.csv",
    "labels": "values.csv",
    "task": "node-regression",
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write a graph on whose nodes the number to predict is a sum over neighbors."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NODES, 3, generator=generator)
    edges = torch.randint(NODES, (2, 2 * NODES), generator=generator)
    edges = edges[:, edges[0] != edges[1]]
    Path("edges.csv").write_text("source,target\n" + "".join(f"{a},{b}\n" for a, b in edges.t().tolist()))
    Path("x.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in x.tolist()))
    graph = load_custom_graph("edges.csv", num_nodes=NODES)
    values = x.index_add(0, graph.edge_index[1], x[graph.edge_index[0]]) @ torch.tensor([0.5, -0.25, 1.0])
    values[::17] = torch.nan
    lines = ("" if value != value else f"{value}" for value in values.tolist())  # noqa: PLR0124  # is it NaN
    Path("values.csv").write_text("node,value\n" + "".join(f"{node},{line}\n" for node, line in enumerate(lines)))
    with distgnn.use("memory"):
        yield


def train(**options: Any) -> run.Result:
    return run.train(TrainConfig(**{"num_nodes": NODES, **options}), console=Console(quiet=True))


def metrics_of(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore::distgnn.data.DataWarning")
def test_a_number_that_is_a_function_of_features_is_learned_and_the_smallest_error_is_the_best() -> None:
    result = train(**FILES, epochs=100, num_layers=1, dropout=0.0, hidden_channels=32, lr=0.01, name="mine")
    y = load_custom_graph("edges.csv", num_nodes=NODES, labels="values.csv", regression=True).y
    spread = float(y[~y.isnan()].std())
    assert result.mean < 0.2 * spread
    vals = [epoch.val for epoch in result.history[0]]
    assert result.epochs == [int(np.argmin(np.array(vals, dtype=float))) + 1]
    written = json.loads(Path("runs/mine/result.json").read_text())
    assert written["test_rmse_mean"] == result.mean
    assert 0 < written["test_mae_mean"] < written["test_rmse_mean"]
    assert Path("runs/mine/curve.png").exists()


@pytest.mark.filterwarnings("ignore::distgnn.data.DataWarning")
@pytest.mark.parametrize("way", [{}, {"mode": "full"}, {"mode": "sampled", "batch_size": 50}, {"mode": "history"}])
def test_errors_of_a_run_are_those_of_scikit_learn_in_every_mode(way: dict[str, Any]) -> None:
    result = train(**FILES, **way, epochs=3, dropout=0.0, name="mine", metric="mae")
    assert result.measure == "MAE"
    graph = load_custom_graph("edges.csv", num_nodes=NODES, features="x.csv", labels="values.csv", regression=True)
    graph.generate_ids()
    with closing(load_run("runs/mine")) as model, torch.no_grad():
        out = model(graph.x, graph.edge_index, node_ids=graph.n_id).mean(dim=-1)
    y, found = graph.y[graph.test_mask].numpy(), out[graph.test_mask].numpy()
    assert result.metrics["MAE"] == pytest.approx([mean_absolute_error(y, found)], rel=1e-5)
    assert result.metrics["RMSE"] == pytest.approx([mean_squared_error(y, found) ** 0.5], rel=1e-5)
    line = metrics_of("runs/mine")[result.epochs[0] - 1]
    assert line["test"] == line["metrics"]["test"]["MAE"] == result.scores[0]
    assert set(line["metrics"]) == {"train", "val", "test"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("words", ["", "--mode full", "--mode sampled --num-neighbors -1,-1 --batch-size 60"])
def test_two_ranks_measure_what_one_does(start_job: StartJob, words: str) -> None:
    given = [word for name, value in FILES.items() for word in (f"--{name}", value)]
    given += ["--num-nodes", str(NODES), "--epochs", "3", "--dropout", "0", *words.split()]
    for size, backend in ((None, "memory"), (2, "pyg")):
        options = ("train", *given, "--backend", backend, "--name", backend)
        job = start_job("distgnn_command.py", *options, world_size=size)
        assert job.codes(timeout=100) == [0] * (size or 1), job.errors(0)
    one, two = metrics_of("runs/memory"), metrics_of("runs/pyg")
    for first, second in zip(one, two, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        for part in ("train", "val", "test"):
            assert second["metrics"][part] == pytest.approx(first["metrics"][part], rel=1e-4)


@pytest.mark.filterwarnings("ignore::distgnn.data.DataWarning")
def test_a_partition_with_numbers_trains_and_its_classes_do_not() -> None:
    graph = load_custom_graph("edges.csv", num_nodes=NODES, features="x.csv", labels="values.csv", regression=True)
    partition_graph(graph, "parts", 1)
    options: dict[str, Any] = {"dataset": "MUTAG", "partition": "parts", "num_nodes": None, "epochs": 2, "dropout": 0.0}
    for mode in ("full", "sampled"):
        assert train(**options, mode=mode, task="node-regression").metrics["RMSE"][0] > 0
    with pytest.raises(ConfigError, match=r"labels of partition parts are numbers .*choose task 'node-regression'"):
        train(**options, mode="full")


def test_metrics_are_scikit_learns_whichever_way_they_come() -> None:
    session = Session(distgnn.get_backend())
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (1000,), generator=generator)
    scores = torch.randn(1000, 5, generator=generator)  # of one class no target is
    classes, numbers, links = Metrics(TASKS["node"], 5), Metrics(TASKS["node-regression"], 0), Metrics(TASKS["link"], 0)
    logits, ends = 60 * scores[:, 0] + 40, (labels % 2).float()  # through a sigmoid most of them would be 1
    for piece in torch.split(torch.arange(1000), 77):
        classes.add(scores[piece], labels[piece])
        numbers.add(scores[piece, 0], scores[piece, 1])
        links.add(logits[piece], ends[piece])
    found = scores.argmax(dim=1)
    assert classes.over_ranks(session) == pytest.approx(
        {"accuracy": accuracy_score(labels, found), "macro F1": f1_score(labels, found, average="macro")}, rel=1e-12
    )
    x, y = scores[:, 0].double(), scores[:, 1].double()
    assert numbers.over_ranks(session) == pytest.approx(
        {"RMSE": mean_squared_error(y, x) ** 0.5, "MAE": mean_absolute_error(y, x)}, rel=1e-12
    )
    assert links.over_ranks(session) == pytest.approx({"AUC": roc_auc_score(ends, logits)}, rel=1e-12)


@pytest.mark.parametrize("task", ["node", "node-regression", "link"])
def test_metrics_go_on_from_what_was_gathered(task: str) -> None:
    session = Session(distgnn.get_backend())
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (90,), generator=generator)
    scores = torch.randn((90, 2) if task == "node" else (90,), generator=generator)
    labels = labels if task == "node" else labels.float()
    whole, before, after = (Metrics(TASKS[task], 2) for _ in range(3))
    whole.add(scores, labels)
    before.add(scores[:50], labels[:50])
    after.load(before.gather(session), session)
    after.add(scores[50:], labels[50:])
    assert after.over_ranks(session) == pytest.approx(whole.over_ranks(session), rel=1e-12)


def test_metrics_go_on_from_a_checkpoint_of_before() -> None:
    session = Session(distgnn.get_backend())
    accuracy, area = Metrics(TASKS["node"], 2), Metrics(TASKS["link"], 0)
    accuracy.load_former(torch.tensor([[3.0, 4.0], [1.0, 2.0]], dtype=torch.float64), session)
    accuracy.add(torch.tensor([[0.0, 1.0]] * 4), torch.tensor([1, 1, 0, 0]))
    found = accuracy.over_ranks(session)
    assert found["accuracy"] == 0.6
    assert np.isnan(found["macro F1"])  # of the steps before nobody knows
    area.load_former(torch.tensor([[0.1, 0.0], [0.7, 1.0], [0.2, 1.0]]), session)
    area.add(torch.tensor([0.6]), torch.tensor([0.0]))
    assert area.over_ranks(session) == {"AUC": roc_auc_score([0, 1, 1, 0], [0.1, 0.7, 0.2, 0.6])}


WAYS: list[dict[str, Any]] = [{}, {"mode": "full"}, {"mode": "sampled"}, {"mode": "history"}]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_balanced_weights_are_scikit_learns_of_the_training_set(way: dict[str, Any]) -> None:
    dataset = load_dataset("CustomLargeGraph", num_nodes=300, num_edges=1500)
    graph = dataset.graph
    labels = graph.y[graph.train_mask]
    config = TrainConfig(use_dist_embedding=True, embedding_dim=4, class_weight="balanced", **way)
    with ExitStack() as at_the_end:
        source = Source(config, dataset, Session(distgnn.get_backend()))
        at_the_end.callback(source.close)
        trial = at_the_end.enter_context(closing(Trial(config, source, 0)))
        weights = trial.task.class_weights
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.arange(dataset.num_classes), y=labels.numpy())
    assert weights.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    scores = torch.randn(len(labels), dataset.num_classes, generator=torch.Generator().manual_seed(0))
    weighted = cross_entropy(scores, labels, weight=weights)
    assert float(trial.task.loss(scores, labels) / len(labels)) == pytest.approx(float(weighted), rel=1e-5)


def test_macro_f1_stands_beside_the_accuracy_and_may_choose_the_epoch() -> None:
    options: dict[str, Any] = {"dataset": "CustomLargeGraph", "num_nodes": 300, "num_edges": 1500, "epochs": 6}
    options |= {"use_dist_embedding": True, "embedding_dim": 8, "class_weight": "balanced"}
    result = train(**options, metric="macro-f1", name="mine")
    lines = metrics_of("runs/mine")
    assert [line["val"] for line in lines] == [line["metrics"]["val"]["macro F1"] for line in lines]
    assert result.epochs == [int(np.argmax([line["val"] for line in lines])) + 1]
    written = json.loads(Path("runs/mine/result.json").read_text())
    assert "macro F1" in written["selection"]
    chosen = lines[result.epochs[0] - 1]["metrics"]["test"]
    assert (written["test_macro_f1_mean"], written["test_accuracy_mean"]) == (chosen["macro F1"], chosen["accuracy"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "node", "metric": "auc"}, "metric must be one of accuracy, macro-f1 in task 'node', not 'auc'"),
        ({"metric": "auc"}, "metric must be one of accuracy, macro-f1 in task 'node', not 'auc'"),
        ({"metric": "f2"}, "metric must be one of accuracy, macro-f1, auc, rmse, mae, not 'f2'"),
        ({"task": "link", "class_weight": "balanced"}, "class_weight weighs classes, and task 'link' has none"),
        ({"class_weight": "even"}, "class_weight must be one of balanced, not 'even'"),
        ({"task": "node-regression"}, "whose labels are classes, is for task 'node' or 'link', not 'node-regression'"),
    ],
)
def test_what_a_task_does_not_have_is_refused_with_what_it_has(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(dataset="CustomLargeGraph", num_edges=1000, use_dist_embedding=True, embedding_dim=4, **options)
    assert not Path("runs").exists()
