"""Ranks that do not make the same calls, on every backend of several ranks."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs import StartJob

NEEDS_DGL = pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here")


@pytest.mark.parametrize(
    ("backend", "within", "asks"),
    [
        pytest.param("pyg", 30, "rank ", id="pyg"),
        pytest.param("dgl", 50, "rank 0 asks for Embedding", id="dgl", marks=NEEDS_DGL),
    ],
)
def test_another_spec_and_then_another_order_of_calls_are_refused_by_every_rank(
    start_job: StartJob, backend: str, within: float, asks: str
) -> None:
    job = start_job("failing_rank.py", backend, "disagreements", "10", world_size=3, DISTGNN_DEBUG="1")
    assert job.codes(timeout=within) == [1, 1, 1]
    for rank in range(3):
        assert "NameConflictError: " in job.output(rank), job.errors(rank)
        refused = job.output(rank).splitlines()[1]
        assert refused.startswith(f"NameConflictError: ranks open different stores at once: {asks}")
        assert "embedding_dim=16" in refused
        assert "embedding_dim=32" in refused
        assert job.last_error(rank).startswith(
            "CallOrderError: ranks make different store calls: rank 0 calls lookup of embedding store 'words', "
            "rank 2 calls lookup of embedding store 'tags'; every rank must make the same calls in the same order"
        )


GRAPH = "train --dataset CustomLargeGraph --num-nodes 60 --num-edges 200 --epochs 1 --use-dist-embedding --timeout 30"


@pytest.mark.parametrize(
    ("backend", "option", "words"),
    [
        ("pyg", "--lr 0.3", "ranks differ in lr: 0.003 on rank 0, 0.3 on rank 1; start every rank with the same"),
        ("pyg", "--epochs 2", "ranks differ in epochs: 1 on rank 0, 2 on rank 1"),
        pytest.param("pyg", "--backend dgl", "ranks differ in backend: pyg on rank 0, dgl on rank 1", marks=NEEDS_DGL),
        ("pyg", "--edges {other}", "ranks differ in data, by checksum: "),
        pytest.param("dgl", "--sparse-lr 0.5", "ranks differ in sparse_lr: ", marks=NEEDS_DGL),
    ],
)
def test_a_rank_of_other_options_or_data_ends_all_of_them_before_the_first_step(
    start_job: StartJob, tmp_path: Path, backend: str, option: str, words: str
) -> None:
    for name, last in (("edges.csv", 0), ("other.csv", 1)):
        edges = [f"{node},{(node + 1) % 60}" for node in range(59)] + [f"59,{last}"]
        (tmp_path / name).write_text("\n".join(["source,target", *edges]))
    command = [*GRAPH.split(), "--backend", backend, "--out", str(tmp_path / "runs"), "--name", "run"]
    if "edges" in option:
        command[5:7] = ["--edges", str(tmp_path / "edges.csv")]
    second = [*command, *option.format(other=tmp_path / "other.csv").split()]
    job = start_job("differing_rank.py", json.dumps([command, second]), world_size=2)
    assert job.codes(timeout=60) == [2, 2], job.errors(0) + job.errors(1)
    for rank in range(2):
        said = [line for line in job.errors(rank).splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        assert said[0].startswith(f"error: {words}"), said
        assert "Traceback" not in job.errors(rank)
    assert not (tmp_path / "runs" / "run").exists()


def test_what_is_usual_may_be_left_out_on_one_rank_and_said_on_another(start_job: StartJob, tmp_path: Path) -> None:
    usual = f"{GRAPH} --embedding-dim 8 --backend pyg --mode sampled --checkpoint-every 1 --name run --out"
    first = [*usual.split(), str(tmp_path)]
    said = "--lr 0.003 --num-layers 2 --num-neighbors 10,10 --batch-size 1024 --norm none --checkpoint-every 1epochs"
    job = start_job("differing_rank.py", json.dumps([first, [*first, *said.split()]]), world_size=2)
    assert job.codes(timeout=60) == [0, 0], job.errors(0) + job.errors(1)


@pytest.mark.parametrize("backend", ["pyg", pytest.param("dgl", marks=NEEDS_DGL)])
def test_a_rule_that_differs_in_a_users_own_script_is_named_at_the_first_update(
    start_job: StartJob, backend: str
) -> None:
    job = start_job(
        "differing_rank.py", json.dumps([["script", backend, "0.1"], ["script", backend, "0.2"]]), world_size=2
    )
    assert job.codes(timeout=60) == [1, 1], job.errors(0) + job.errors(1)
    for rank in range(2):
        error = job.last_error(rank)
        assert error.startswith("CallOrderError: ranks call apply_gradients of embedding store 'words' with different")
        assert "lr=0.1" in error
        assert "lr=0.2" in error
