from __future__ import annotations

import json
import os
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console

import distgnn
from distgnn.data import LoadedDataset
from distgnn.train import run, threads
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def idle_host_of_16_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 0.0, 0.0))
    monkeypatch.setattr(threads, "_LIMIT", tmp_path / "cpu.max")
    monkeypatch.chdir(tmp_path)
    with distgnn.use("memory"):
        yield


def sizes(task: Any, num_nodes: int, num_graphs: int = 1) -> LoadedDataset:
    return LoadedDataset("any", task, [None] * num_graphs, 7, 2, num_nodes, 2 * num_nodes, 0)


@pytest.mark.parametrize("config", [TrainConfig(), TrainConfig(batch_size=128)])
def test_batches_of_small_graphs_take_one_thread(config: TrainConfig) -> None:
    assert threads.choose_threads(config, sizes("graph", 3371, 188), 16) == 1  # MUTAG's


def test_a_large_graph_takes_the_cores_that_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, large = TrainConfig(), sizes("node", 10**6)
    assert threads.choose_threads(config, large, 16) == 16
    assert threads.choose_threads(config, large, 4) == 4  # a caller has said so
    monkeypatch.setattr(os, "getloadavg", lambda: (9.6, 0.0, 0.0))
    assert threads.choose_threads(config, large, 16) == 6
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {3, 5})
    assert threads.choose_threads(config, large, 16) == 2
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert threads.choose_threads(config, large, 16) == 2
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert threads.choose_threads(config, large, 16) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 0.0, 0.0))
    assert threads.choose_threads(config, large, 16) == 1


def test_a_small_batch_of_a_large_graph_is_not_the_whole_graph() -> None:
    config = TrainConfig(mode="sampled", num_neighbors="2,2", batch_size=64)
    assert threads.choose_threads(config, sizes("node", 10**7), 16) == 1


def test_what_is_said_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.choose_threads(TrainConfig(threads=3), sizes("graph", 3371, 188), 16) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads.choose_threads(TrainConfig(), sizes("graph", 3371, 188), 5) == 5
    assert threads.choose_threads(TrainConfig(threads=3), sizes("graph", 3371, 188), 5) == 3


@pytest.mark.parametrize("told", ["LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"])
def test_ranks_of_one_host_share_its_cores(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(told, "4")
    assert threads.choose_threads(TrainConfig(), sizes("node", 10**6), 16) == 4


def test_ranks_that_meet_on_loopback_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "8", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}.items():
        monkeypatch.setenv(name, value)
    assert threads.choose_threads(TrainConfig(), sizes("node", 10**6), 16) == 2


def test_a_run_says_its_threads_and_puts_back_those_of_its_caller() -> None:
    before = torch.get_num_threads()
    options: dict[str, Any] = {"dataset": "CustomLargeGraph", "num_nodes": 100, "num_edges": 400, "epochs": 1}
    options |= {"use_dist_embedding": True, "embedding_dim": 4, "threads": before + 1}
    shown = StringIO()
    result = run.train(TrainConfig(**options), console=Console(file=shown, width=120))
    assert torch.get_num_threads() == before
    assert json.loads((result.folder / "result.json").read_text())["threads"] == before + 1
    assert f"{before + 1} threads" in shown.getvalue()
