"""Answers of finished runs; a plain forward of the model, scikit-learn and what the run reported are the oracles."""

from __future__ import annotations

import gzip
import json
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

import distgnn
from distgnn import CheckpointNotFoundError, ConfigError, RunWriteError
from distgnn.data import generate_graph
from distgnn.graph import partition_graph
from distgnn.predict import Bundle, embed, evaluate, predict
from distgnn.predict.partition import load_whole
from distgnn.train import load_run, run
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs import StartJob

SIZES = {"num_nodes": 200, "num_edges": 1200}
SMALL: dict[str, Any] = {"name": "mine", "epochs": 4, "hidden_channels": 8, "num_layers": 2}
LARGE = {"dataset": "CustomLargeGraph", **SIZES, "use_dist_embedding": True, "embedding_dim": 8, "sparse_lr": 0.05}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with distgnn.use("memory"):
        yield


def train(**options: Any) -> run.Result:
    config = TrainConfig(**{**SMALL, **options})
    with distgnn.use("memory"):
        return run.train(config, console=Console(file=StringIO(), width=160))


def table(path: str) -> dict[str, np.ndarray[Any, Any]]:
    found: dict[str, np.ndarray[Any, Any]] = duckdb.execute(f"SELECT * FROM '{path}'").fetchnumpy()
    return found


@torch.no_grad()
def scores() -> torch.Tensor:
    graph = generate_graph(*SIZES.values(), seed=0)
    model = load_run("runs/mine")
    found: torch.Tensor = model(None, graph.edge_index, node_ids=torch.arange(graph.num_nodes))
    model.close()
    return found


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.csv.gz", "p.tsv"])
def test_classes_of_nodes_are_those_of_a_forward_over_the_whole_graph(name: str) -> None:
    train(**LARGE)
    assert predict("runs/mine", name) == 200
    found, shares = table(name), scores().softmax(-1)
    assert list(found) == [
        "node",
        "prediction",
        "probability",
        *(f"probability_{one}" for one in range(shares.size(1))),
    ]
    assert found["node"].tolist() == list(range(200))
    assert found["prediction"].tolist() == shares.argmax(-1).tolist()
    np.testing.assert_allclose(found["probability"], shares.max(-1).values, rtol=1e-4)
    np.testing.assert_allclose(found["probability_1"], shares[:, 1], rtol=1e-4)
    assert {path.name for path in Path().iterdir()} == {"runs", name}, "nothing else is left"


@pytest.mark.parametrize("options", [{}, {"mode": "sampled", "batch_size": 50}, {"mode": "full"}], ids=str)
def test_the_test_set_scores_what_the_run_reported(options: dict[str, Any]) -> None:
    result = train(**LARGE, **options)
    found = evaluate("runs/mine")
    assert found["test"]["accuracy"] == pytest.approx(result.mean)
    assert found["test"]["macro F1"] == pytest.approx(result.metrics["macro F1"][0])
    graph = generate_graph(*SIZES.values(), seed=0)
    predicted = scores().argmax(-1)
    assert found["all"]["accuracy"] == pytest.approx(accuracy_score(graph.y, predicted))
    assert found["train"]["macro F1"] == pytest.approx(
        f1_score(graph.y[graph.train_mask], predicted[graph.train_mask], average="macro"), abs=1e-6
    )


def test_two_ranks_answer_what_one_does(start_job: StartJob, tmp_path: Path) -> None:
    train(**LARGE)
    predict("runs/mine", "one.csv")
    embed("runs/mine", "rows.csv", of="layer1")
    for words in (
        ["predict", "runs/mine", "--out", "two.csv"],
        ["embed", "runs/mine", "--out", "r.csv", "--of", "layer1"],
    ):
        job = start_job("distgnn_command.py", *words, world_size=2, folders=[tmp_path] * 2)
        assert job.codes(timeout=120) == [0, 0], job.errors(0)
        assert "200 rows" in job.output(0)
        assert not job.output(1)
    for one, two in (("one.csv", "two.csv"), ("rows.csv", "r.csv")):
        expected, found = table(one), table(two)
        for name, column in expected.items():
            np.testing.assert_allclose(found[name], column, rtol=1e-4, atol=1e-6)


def test_graphs_have_an_answer_each() -> None:
    train(dataset="MUTAG", epochs=2)
    assert predict("runs/mine", "p.parquet") == 188
    with Bundle("runs/mine") as bundle:
        dataset = bundle.dataset()
    labels = torch.cat([graph.y for graph in dataset.graphs])
    found = table("p.parquet")
    assert found["graph"].tolist() == list(range(188))
    assert evaluate("runs/mine")["all"]["accuracy"] == pytest.approx(accuracy_score(labels, found["prediction"]))
    embed("runs/mine", "e.parquet")
    assert len(table("e.parquet")) == 3


def test_other_graphs_are_answered_about_and_of_other_kinds_refused() -> None:
    train(dataset="MUTAG", epochs=2)
    predict("runs/mine", "all.csv")
    with Bundle("runs/mine") as bundle:
        dataset = bundle.dataset()
    some = distgnn.data.LoadedDataset(**{**vars(dataset), "graphs": dataset.graphs[5:9]})
    assert predict("runs/mine", "some.csv", data=some) == 4
    np.testing.assert_allclose(table("some.csv")["probability"], table("all.csv")["probability"][5:9], rtol=1e-5)
    other = distgnn.data.LoadedDataset(**{**vars(dataset), "num_features": 3})
    with pytest.raises(ConfigError, match="has learned from 7 features of a node, and 'MUTAG' has 3"):
        predict("runs/mine", "other.csv", data=other)
    assert not Path("other.csv").exists()


def test_numbers_are_predicted_in_their_unit() -> None:
    graph = generate_graph(*SIZES.values(), seed=0)
    np.savetxt("e.csv", graph.edge_index.t().numpy(), fmt="%d", delimiter=",")
    rows = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    np.savetxt("x.csv", rows.numpy(), delimiter=",")
    np.savetxt("y.csv", 40 + 10 * rows[:, 0].numpy(), delimiter=",")
    files = {"edges": "e.csv", "features": "x.csv", "labels": "y.csv"}
    result = train(dataset="CustomLargeGraph", **files, task="node-regression", epochs=30)
    predict("runs/mine", "p.csv")
    found = evaluate("runs/mine")
    predicted, labels = table("p.csv")["prediction"], np.loadtxt("y.csv")
    assert found["all"]["RMSE"] == pytest.approx(root_mean_squared_error(labels, predicted), rel=1e-4)
    assert found["all"]["MAE"] == pytest.approx(mean_absolute_error(labels, predicted), rel=1e-4)
    assert found["test"]["RMSE"] == pytest.approx(result.mean, rel=1e-4)


def test_pairs_of_nodes_are_answered_about_by_the_dot_product_of_their_outputs() -> None:
    train(**LARGE, task="link")
    pairs = torch.tensor([[0, 1, 2], [3, 0, 199]])
    with pytest.raises(ConfigError, match="answers about pairs of nodes: give them as pairs"):
        predict("runs/mine", "p.csv")
    assert predict("runs/mine", "p.csv", pairs=pairs) == 3
    rows = scores()
    found = table("p.csv")
    assert found["destination"].tolist() == [3, 0, 199]
    np.testing.assert_allclose(found["probability"], (rows[pairs[0]] * rows[pairs[1]]).sum(-1).sigmoid(), rtol=1e-4)


def test_rows_of_tables_layers_and_outputs_are_the_models_own() -> None:
    train(**LARGE)
    model = load_run("runs/mine")
    ids = torch.arange(200)
    graph = generate_graph(*SIZES.values(), seed=0)
    assert model.node_features is not None
    assert model.act is not None
    with torch.no_grad():
        learned = model.node_features(None, ids)
        hidden = model.act(model.convs[0](learned, graph.edge_index))
    model.close()
    for of, expected in {"nodes": learned, "layer1": hidden, "outputs": scores(), "layer2": scores()}.items():
        assert embed("runs/mine", "rows.parquet", of=of) == 200
        found = table("rows.parquet")
        assert list(found) == ["node", *(f"e{number}" for number in range(expected.size(1)))]
        np.testing.assert_allclose(np.stack(list(found.values())[1:], axis=1), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="of must be one of outputs, layer1, layer2, nodes for run"):
        embed("runs/mine", "rows.parquet", of="edges")


def test_a_run_over_a_partition_answers_by_the_users_ids() -> None:
    graph = generate_graph(*SIZES.values(), seed=0)
    partition_graph(graph, "cut", 1, method="hash")
    result = train(partition="cut", mode="sampled", use_dist_embedding=True, embedding_dim=8)
    assert evaluate("runs/mine")["test"]["accuracy"] == pytest.approx(result.mean)
    predict("runs/mine", "p.csv")
    assert table("p.csv")["prediction"].tolist() == scores().argmax(-1).tolist()


def test_the_parts_of_a_graph_are_put_together_again() -> None:
    graph = generate_graph(*SIZES.values(), seed=0)
    graph.x, graph.edge_attr = torch.randn(200, 3), torch.randn(graph.num_edges, 2)
    partition_graph(graph, "cut", 3, method="hash")
    whole = load_whole(Path("cut"))
    for name in ("edge_index", "x", "edge_attr", "y", "test_mask"):
        assert torch.equal(whole.graph[name], graph[name]), name
    assert (whole.num_features, whole.edge_dim, whole.num_edges) == (3, 2, graph.num_edges)


def test_what_cannot_be_written_leaves_what_was_there() -> None:
    train(**LARGE)
    Path("p.csv").write_text("before")
    with pytest.raises(ConfigError, match=r"out must end in one of \.parquet, \.csv"):
        predict("runs/mine", "p.txt")
    with pytest.raises(CheckpointNotFoundError, match="has left no model of trial 1"):
        predict("runs/mine", "p.csv", trial=1)
    with pytest.raises(ConfigError):
        predict("runs/mine", "p.csv", pairs=torch.tensor([[0], [1]]))
    assert Path("p.csv").read_text() == "before"
    Path("file").touch()
    with pytest.raises(RunWriteError, match=r"file/p\.csv cannot be written"):
        predict("runs/mine", "file/p.csv")
    predict("runs/mine", "p.csv")
    assert Path("p.csv").read_text().startswith("node,prediction")


def test_the_commands_say_what_they_wrote(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from distgnn.cli.app import main

    train(**LARGE)

    def distgnn_(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["distgnn", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    assert distgnn_("predict", "runs/mine", "--out", "p.csv.gz") == "200 rows in p.csv.gz\n"
    with gzip.open("p.csv.gz", "rt") as file:
        assert file.readline().startswith("node,prediction,probability")
    assert "test" in distgnn_("evaluate", "runs/mine")
    assert json.loads(distgnn_("evaluate", "runs/mine", "--json"))["test"]["accuracy"] >= 0
