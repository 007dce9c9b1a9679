from __future__ import annotations

import json
import sys
from contextlib import closing
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console

import distgnn
from distgnn import DataError
from distgnn.cli.app import main
from distgnn.data import load_dataset
from distgnn.errors import NonFiniteLossError
from distgnn.nn.embedding import layer_parameters
from distgnn.train import run
from distgnn.train.config import TrainConfig
from distgnn.train.epoch import Epoch
from distgnn.train.metrics import Metrics
from distgnn.train.session import Session
from distgnn.train.source import Source
from distgnn.train.tasks import TASKS
from distgnn.train.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

GRAPH = {"dataset": "CustomLargeGraph", "num_nodes": 300, "num_edges": 1500}
SMALL: dict[str, Any] = {
    **GRAPH,
    "use_dist_embedding": True,
    "embedding_dim": 8,
    "hidden_channels": 8,
    "num_layers": 2,
    "epochs": 4,
}
FAR_TOO_LARGE = 1e30


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with distgnn.use("memory"):
        yield


def train(**options: Any) -> run.Result:
    return run.train(TrainConfig(**{**SMALL, **options}), console=Console(quiet=True))


def read_strictly(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def own_graph(feature: str) -> dict[str, Any]:
    """Write a ring of 20 nodes that are all alike, but for a feature of one of them."""
    Path("edges.csv").write_text("".join(f"{node},{(node + 1) % 20}\n" for node in range(20)))
    Path("x.csv").write_text("".join(f"1,{feature if node == 7 else 1}\n" for node in range(20)))
    Path("labels.csv").write_text("node,label\n" + "".join(f"{node},{node % 2}\n" for node in range(20)))
    files = {"edges": "edges.csv", "features": "x.csv", "labels": "labels.csv"}
    return {**files, "num_nodes": None, "num_edges": None}


WAYS: list[dict[str, Any]] = [
    {},
    {"mode": "full"},
    {"mode": "sampled"},
    {"mode": "history"},
    {"task": "link"},
    {"task": "link", "mode": "full"},
    {"task": "link", "mode": "sampled"},
    {"norm": "batch_norm", "use_dist_embedding": False, "dataset": "MUTAG", "num_nodes": None, "num_edges": None},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())) or "whole")
def test_a_run_ends_after_the_epoch_that_is_not_finite_with_its_record_whole(way: dict[str, Any]) -> None:
    if way.get("dataset") == "MUTAG":
        pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    with pytest.raises(NonFiniteLossError, match=r"not finite in epoch|the loss is (nan|inf) in epoch") as caught:
        train(**way, lr=FAR_TOO_LARGE, sparse_lr=FAR_TOO_LARGE, name="mine", checkpoint_every=1)
    lines = [read_strictly(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert [line["finite"] for line in lines] == [True] * (len(lines) - 1) + [False]
    assert f"epoch {len(lines)}" in str(caught.value)
    assert "runs/mine/metrics.jsonl" in str(caught.value)
    kept = [path.name for path in Path("runs/mine").glob("checkpoints/step-*")]
    assert len(kept) == min(3, len(lines) - 1)  # of the epochs before alone


@pytest.mark.parametrize("task", ["node", "link"])
def test_keep_going_says_it_once_and_reports_no_epoch_that_is_not_finite(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(task=task, lr=FAR_TOO_LARGE, keep_going=True, name="mine")
    assert [epoch.epoch for epoch in result.history[0]] == [1, 2, 3, 4]
    assert capsys.readouterr().err.count("training goes on, as keep_going asks") == 1
    lines = [read_strictly(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert lines[-1]["loss"] is None
    found = read_strictly(Path("runs/mine/result.json").read_text())
    assert found["test_scores"] == [None]  # not one epoch was
    assert Path("runs/mine/curve.png").exists()


def test_the_best_epoch_is_one_before_the_loss_was_not_finite() -> None:
    result = train(keep_going=True)
    scores = enumerate((0.3, 0.4, torch.nan), start=1)
    epochs = [Epoch(0, number, 1.0, 0.5, score, score, None, 1.0, 1.0) for number, score in scores]
    again = run._result(TrainConfig(), TASKS["node"], [epochs], [1.0], result.folder, (), 1)
    assert (again.epochs, again.scores) == ([2], [0.4])


def test_a_gradient_that_is_not_finite_is_seen_in_the_weights_after_its_step() -> None:
    config = TrainConfig(**{**SMALL, "eval_every": 4})
    dataset = load_dataset("CustomLargeGraph", num_nodes=300, num_edges=1500)
    with closing(Trial(config, Source(config, dataset, Session(distgnn.get_backend())), 0)) as trial:
        weight = layer_parameters(trial.model)[0]
        weight.register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[no-untyped-call]
        first = next(trial.train())
    assert isfinite(first.loss)
    assert first.val is None
    assert not first.finite


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_measure_with_a_score_that_is_not_finite_is_nan(bad: float) -> None:
    session = Session(distgnn.get_backend())
    accuracy, area = Metrics(TASKS["node"], 2), Metrics(TASKS["link"], 0)
    for scores in (torch.tensor([[0.2, 0.8]]), torch.tensor([[bad, 0.0]]), torch.tensor([[0.2, 0.8]])):
        accuracy.add(scores, torch.tensor([1]))
        area.add(scores[:, 0], torch.tensor([1.0]))
        area.add(scores[:, 1], torch.tensor([0.0]))
    found = accuracy.over_ranks(session) | area.over_ranks(session)
    assert list(found) == ["accuracy", "macro F1", "AUC"]
    assert torch.tensor(list(found.values())).isnan().all()


def test_an_epoch_that_is_not_finite_goes_through_json_and_back() -> None:
    epoch = Epoch(0, 1, torch.nan, torch.inf, torch.nan, None, None, 1.0, 1.0, finite=False)
    again = Epoch.from_dict(read_strictly(json.dumps(epoch.as_dict(), allow_nan=False)))
    assert torch.tensor([again.loss, again.train]).isnan().all()
    assert (again.val, again.test, again.finite) == (None, None, False)


def test_the_command_ends_with_one_line_and_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "train --dataset CustomLargeGraph --num-nodes 300 --num-edges 1500 --use-dist-embedding --embedding-dim 8"
    monkeypatch.setattr(sys, "argv", ["distgnn", *words.split(), "--lr", "1e12", "--epochs", "4", "--json"])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert caught.value.code == 4
    assert said.out == ""
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_features_that_are_not_finite_are_refused_before_training(word: str) -> None:
    with pytest.raises(DataError, match=r"x\.csv, line 8.*not a finite number"):
        train(**own_graph(feature=word))


def test_a_model_that_puts_everything_into_one_class_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    result = train(**own_graph(feature="1"), use_dist_embedding=False, epochs=1, name="mine")
    assert result.classes == [1]
    assert read_strictly(Path("runs/mine/result.json").read_text())["test_classes"] == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: all nodes of the test set were put into one class")
