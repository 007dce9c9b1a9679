"""A run leaves the model of its reported epoch, and it comes back with the score that was reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from sklearn.metrics import accuracy_score

import distgnn
from distgnn import CheckpointError, CheckpointFormatError, CheckpointNotFoundError
from distgnn.checkpoint import Checkpoint
from distgnn.data import generate_graph
from distgnn.nn import DistributedGIN, DistributedGNN
from distgnn.train import load_run, run
from distgnn.train.config import TrainConfig
from distgnn.train.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"num_nodes": 200, "num_edges": 1200}
SMALL: dict[str, Any] = {
    "dataset": "CustomLargeGraph",
    **SIZES,
    "name": "mine",
    "epochs": 12,
    "sparse_lr": 0.05,
    "hidden_channels": 8,
    "num_layers": 2,
    "use_dist_embedding": True,
    "embedding_dim": 8,
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with distgnn.use("memory"):
        yield


def train(**options: Any) -> run.Result:
    return run.train(TrainConfig(**{**SMALL, **options}), console=Console(file=StringIO(), width=160))


def metrics() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]


@torch.no_grad()
def accuracy_of(model: DistributedGNN) -> float:
    graph = generate_graph(*SIZES.values(), seed=0)
    scores = model(None, graph.edge_index, node_ids=torch.arange(graph.num_nodes))
    return float(accuracy_score(graph.y[graph.test_mask], scores.argmax(-1)[graph.test_mask]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "full"},
        {"mode": "sampled", "batch_size": 50},
        {"mode": "history", "batch_size": 50},
        {"norm": "batch_norm", "use_dist_tensor": True, "eval_every": 2},
    ],
    ids=str,
)
def test_the_model_of_the_reported_epoch_has_its_test_score(options: dict[str, Any]) -> None:
    result = train(**options)
    assert [path.name for path in Path("runs/mine/model").iterdir()] == [f"trial-0-epoch-{result.epochs[0]}"]
    with distgnn.use("memory"):
        model = load_run("runs/mine")
        assert not model.training
        assert accuracy_of(model) == pytest.approx(metrics()[result.epochs[0] - 1]["test"])


def test_each_trial_leaves_its_own_and_all_can_be_had_at_once() -> None:
    result = train(runs=2)
    models = [load_run("runs/mine", trial=trial) for trial in range(2)]
    assert [accuracy_of(model) for model in models] == pytest.approx(result.scores)
    assert json.loads(Path("runs/mine/result.json").read_text())["models"] == [
        f"model/trial-{trial}-epoch-{epoch}" for trial, epoch in enumerate(result.epochs)
    ]


def test_what_two_ranks_have_trained_predicts_on_one(tmp_path: Path) -> None:
    options = [word for name, value in SMALL.items() for word in (f"--{name}", str(value)) if value is not True]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "distgnn"]
    command += ["train", *options, "--use-dist-embedding", "--backend", "pyg", "--mode", "full", "--json"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    model = load_run("runs/mine")
    assert accuracy_of(model) == pytest.approx(metrics()[result["epochs"][0] - 1]["test"])


def test_a_run_that_goes_on_elsewhere_takes_the_model_along() -> None:
    result = train(checkpoint_every=4)
    train(name="new", resume="runs/mine", epochs=12)
    assert [path.name for path in Path("runs/new/model").iterdir()] == [f"trial-0-epoch-{result.epochs[0]}"]


def test_the_checkpoint_of_the_reported_epoch_stays() -> None:
    result = train(checkpoint_every=1, keep=2, epochs=15)
    steps = {f"step-{step}" for step in (14, 15, result.epochs[0])}
    assert {path.name for path in Path("runs/mine/checkpoints").iterdir()} == steps


def test_folds_leave_the_model_of_each_ones_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    monkeypatch.delenv("DISTGNN_DATA", raising=False)
    monkeypatch.setenv("DISTGNN_CACHE", "cache")
    train(**dict.fromkeys(SIZES), dataset="MUTAG", folds=3, epochs=2)
    assert {path.name for path in Path("runs/mine/model").iterdir()} == {f"trial-{n}-epoch-2" for n in range(3)}


def test_no_model_is_left_where_none_is_wanted() -> None:
    train(save_model=False)
    assert not Path("runs/mine/model").exists()
    with pytest.raises(CheckpointNotFoundError, match="runs/mine has left no model of trial 0"):
        load_run("runs/mine")
    with pytest.raises(CheckpointNotFoundError, match="nothere does not exist"):
        load_run("nothere")


@pytest.mark.parametrize("file", ["manifest.json", "rank-0.safetensors"])
def test_a_damaged_model_is_refused(file: str) -> None:
    train()
    (path,) = Path("runs/mine/model").glob(f"*/{file}")
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointFormatError):
        load_run("runs/mine")


def test_a_part_of_a_checkpoint_is_loaded_on_request() -> None:
    train(checkpoint_every=12)
    saved = Path("runs/mine/checkpoints/step-12")
    model = DistributedGIN(
        8, 8, out_channels=8, num_layers=2, use_dist_embedding=True, embedding_dim=8, embedding_name="node_embedding"
    ).eval()
    model.set_num_embeddings(num_nodes=200)
    session, state = Session(distgnn.get_backend()), torch.get_rng_state()
    Checkpoint(session, {"model": model}).load(saved, only=["model"])
    assert torch.equal(torch.get_rng_state(), state)
    assert accuracy_of(model) == pytest.approx(metrics()[-1]["test"])
    with pytest.warns(UserWarning, match=r"has dense, schedule, epoch, sparse too, .*: say only=\['model'\]"):
        Checkpoint(session, {"model": model}).load(saved)
    with pytest.raises(CheckpointError, match="only='model' is to be a list of some of the parts model"):
        Checkpoint(session, {"model": model}).load(saved, only="model")
