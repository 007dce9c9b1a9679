"""A plan is compared with the run that it is about."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from distgnn import ConfigError
from distgnn.cli.app import main
from distgnn.data import generate_graph
from distgnn.graph import partition_graph
from distgnn.plan.estimate import IMPORTED, estimate, fewest_machines
from distgnn.plan.job import Job, even_part, parts_of
from distgnn.plan.sample import run_sample

if TYPE_CHECKING:
    from pathlib import Path

BILLION = Job(10**9, 10**10)
# So that an allocation that is freed goes back to the system, as it does where tensors have more than 32 MB.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@pytest.mark.parametrize(
    "job",
    [
        Job(60_000, 600_000),
        Job(
            60_000,
            300_000,
            embedding_dim=128,
            hidden_channels=32,
            num_layers=2,
            num_features=16,
            rule="rowwise-adagrad",
        ),
    ],
    ids=str,
)
def test_memory_and_bytes_of_a_real_run_are_as_planned(job: Job, tmp_path: Path) -> None:
    found = run_sample(job, 2, tmp_path, environment=RETURNED)
    planned = [estimate(job, part, 2, network=1e9) for part in parts_of(tmp_path / "parts-2")]
    for one, plan in zip(found, planned, strict=True):
        assert one.sent == pytest.approx(plan.bytes_sent - plan.sent["dense"], rel=0.05)
    needed = max(plan.bytes_needed for plan in planned) - IMPORTED
    assert max(one.memory for one in found) == pytest.approx(needed, rel=0.15)


def test_bytes_of_a_run_on_unequal_halos_are_as_planned_for_each_rank(tmp_path: Path) -> None:
    pytest.importorskip("pymetis", reason="pymetis is not installed here")
    job = Job(3_000, 15_000)
    found = run_sample(job, 3, tmp_path, method="metis")
    parts = parts_of(tmp_path / "parts-3")
    assert len({part.halo for part in parts}) == 3
    assert sum(part.halo for part in parts) == sum(part.asked for part in parts)
    for one, part in zip(found, parts, strict=True):
        plan = estimate(job, part, 3, network=1e9)
        assert one.sent == pytest.approx(plan.bytes_sent - plan.sent["dense"], rel=0.05)


@pytest.mark.parametrize("ranks", [2, 8])
def test_the_halo_that_is_expected_is_the_mean_of_parts_cut_at_random(ranks: int, tmp_path: Path) -> None:
    job = Job(20_000, 100_000)
    partition_graph(generate_graph(job.nodes, job.edges), tmp_path / "cut", ranks, method="hash")
    halos = [part.halo for part in parts_of(tmp_path / "cut")]
    assert sum(halos) / ranks == pytest.approx(even_part(job, ranks).halo, rel=0.01)


def test_the_fewest_machines_fit_and_one_less_does_not() -> None:
    fewest = fewest_machines(BILLION, 256e9)
    fits = [estimate(BILLION, even_part(BILLION, one), one, network=1e9).bytes_needed for one in (fewest, fewest - 1)]
    assert fits[0] <= 256e9 < fits[1]
    with pytest.raises(ConfigError, match=r"each needs more than 0\.1 GB"):
        fewest_machines(BILLION, 0.1e9)


def test_halves_of_the_state_and_better_cuts_need_less() -> None:
    def needed(job: Job, halo: float | None = None) -> float:
        return estimate(job, even_part(job, 64, halo), 64, network=1e9).bytes_needed

    adam, rowwise = Job(10**9, 10**10), Job(10**9, 10**10, rule="rowwise-adagrad")
    assert needed(adam) - needed(rowwise) == pytest.approx(10**9 / 64 * (2 * 64 - 1) * 4)
    assert needed(adam, 0.5) < needed(adam) / 2


def run(words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["distgnn", "plan", *words.split()])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_a_partition_is_planned_and_drawn_with_the_time_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partition_graph(generate_graph(2_000, 20_000), tmp_path / "cut", 4, method="range")
    assert run(f"--graph {tmp_path}/cut --json --picture {tmp_path}/plan.png", monkeypatch) == 0
    (one,) = json.loads(capsys.readouterr().out)["estimates"]
    assert (one["ranks"], one["nodes"]) == (4, 500)
    assert one["steps_a_second"] == pytest.approx(1 / sum(one["seconds"].values()))
    assert one["seconds"]["computing"] > 0
    assert (tmp_path / "plan.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--nodes many --edges 5", "'many' is no whole number, such as 1000000, 1,000,000 or 1e6"),
        ("--nodes 1e3 --edges 1e4 --ranks 2,x", "ranks must be whole numbers from 1, joined by commas"),
        ("--nodes 1e3 --edges 1e4 --memory 0", "memory must be above 0, not 0.0"),
        ("--nodes 1e3 --edges 1e4 --halo -1", "halo must be at least 0, not -1.0"),
        (
            "--nodes 1e3 --edges 1e4 --sparse-optimizer adamm",
            "one of sgd, adagrad, rowwise-adagrad, adam, adamw, not 'adamm'",
        ),
        ("--nodes 1e3 --edges 1e4 --no-measure --picture nowhere/x.png", "the picture nowhere/x.png cannot be written"),
        ("--graph nowhere", "nowhere is no partition"),
        ("--graph nowhere --nodes 4", "--graph brings nodes, edges, halos and ranks: leave them out"),
        ("--nodes 0 --edges 4", "nodes must be at least 1, not 0"),
    ],
)
def test_a_users_mistake_is_said(
    words: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words, monkeypatch) == 2
    assert text in capsys.readouterr().err
