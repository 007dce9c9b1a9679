"""A checkpoint goes from one backend and number of ranks to another."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn import SupportsCheckpoint
from distgnn.backends.memory import MemoryBackend
from tests.backends.checkpoint_rank import Job as Training

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from tests.jobs import Job, StartJob


def losses(job: Job) -> list[float]:
    assert set(job.codes(timeout=60)) == {0}, job.errors(0)
    (found,) = re.findall(r"^losses (.*)$", job.output(0), re.MULTILINE)[-1:]
    return [float(number) for number in found.split()]


def contents(path: Path) -> dict[str, Tensor]:
    """Load a checkpoint on the memory backend, and return all that its stores hold."""
    backend = MemoryBackend()
    training = Training(backend, seed=5)
    training.checkpoint.load(path)
    assert training.model.node_features is not None
    stores = {"nodes": training.model.node_features.embedding.open_store(), **training.stores}
    found: dict[str, Tensor] = {}
    for name, store in stores.items():
        assert isinstance(store, SupportsCheckpoint)
        for key, rows in store.export_rows(0, len(store.own_rows)).items():
            found[f"{name}/{key}"] = rows
        for rule, state in store.rule_states().items():
            found[f"{name}/{rule}"] = torch.tensor(state.steps)
    backend.close()
    return found


@pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here")
def test_a_job_goes_on_from_another_backend_and_another_number_of_ranks(start_job: StartJob, tmp_path: Path) -> None:
    rank, folder = "checkpoint_rank.py", str(tmp_path)
    one = start_job(rank, "dgl", folder, "train", "save=a", "train", world_size=2)
    expected = losses(one)
    other = start_job(rank, "pyg", folder, "load=a", "save=b", "train", world_size=3)
    assert losses(other) == pytest.approx(expected, rel=1e-5)
    before, after = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert {"nodes/adam/exp_avg", "words/adagrad/sum"} < before.keys()
    assert before.keys() == after.keys()
    for name, rows in before.items():
        assert torch.equal(rows, after[name]), name
    backend = MemoryBackend()
    alone = Training(backend, seed=6)
    alone.checkpoint.load(tmp_path / "b")
    assert alone.train() == pytest.approx(expected, rel=1e-5)
    assert alone.counts.read(torch.arange(57))[:, 1, 2].tolist() == [6 * row for row in range(57)]
    backend.close()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("pyg", 3, ()), id="three ranks, even"),
        pytest.param(("pyg", 4, ("cut=8",)), id="another partition"),
        pytest.param(("pyg", 4, ("cut=7",)), id="the same partition"),
        pytest.param(("pyg", 2, ("cut=7",)), id="the same order on two ranks"),
        pytest.param(
            ("dgl", 2, ("cut=9",)),
            marks=pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here"),
            id="another backend",
        ),
    ],
)
def test_a_job_goes_on_from_another_placement(
    other: tuple[str, int, tuple[str, ...]], start_job: StartJob, tmp_path: Path
) -> None:
    rank, folder, (name, world_size, words) = "checkpoint_rank.py", str(tmp_path), other
    placed = start_job(rank, "pyg", folder, "cut=7", "train", "save=a", "train", world_size=4)
    expected = losses(placed)
    moved = start_job(rank, name, folder, *words, "load=a", "save=b", "train", world_size=world_size)
    assert losses(moved) == pytest.approx(expected, rel=1e-5)
    back = start_job(rank, "pyg", folder, "cut=5", "load=b", "save=c", "train", world_size=2)
    assert losses(back) == pytest.approx(expected, rel=1e-5)
    before, *after = (contents(tmp_path / each) for each in "abc")
    for found in after:
        assert before.keys() == found.keys()
        for key, rows in before.items():
            assert torch.equal(rows, found[key]), key
    backend = MemoryBackend()
    even = Training(backend, seed=3)
    even.train()
    assert even.train() == pytest.approx(expected, rel=1e-5), "where rows are changes no number"
    backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_a_rank_that_loads_holds_its_own_rows_and_not_the_table(start_job: StartJob, tmp_path: Path) -> None:
    writers = start_job("reloading_rank.py", "save", str(tmp_path), world_size=2)
    assert writers.codes(timeout=60) == [0, 0], writers.errors(0)
    readers = start_job("reloading_rank.py", "load", str(tmp_path), world_size=3)
    assert readers.codes(timeout=60) == [0, 0, 0], readers.errors(0)
    for rank in range(3):
        _, peak, shard = readers.output(rank).split()
        assert float(shard) == pytest.approx(98 / 3, rel=0.01)
        assert float(peak) < float(shard) + 50, "two blocks of 16 MB are on their way, however large the table is"
