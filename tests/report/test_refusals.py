"""What a run leaves in its folder: nothing where it was refused, and whole files always."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

import distgnn
from distgnn import CheckpointError, CheckpointFormatError, CheckpointNotFoundError, ConfigError, RunWriteError
from distgnn.report import files
from distgnn.report.lock import FolderLock
from distgnn.train import run
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs import Job, StartJob

SMALL: dict[str, Any] = {
    "dataset": "CustomLargeGraph",
    "num_nodes": 60,
    "num_edges": 240,
    "hidden_channels": 4,
    "num_layers": 2,
    "use_dist_embedding": True,
    "embedding_dim": 4,
    "epochs": 3,
    "name": "mine",
}
WORDS = ["--dataset", "CustomLargeGraph", "--num-nodes", "60", "--num-edges", "240", "--use-dist-embedding"]
WORDS += ["--embedding-dim", "4"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with distgnn.use("memory"):
        yield


def train(**options: Any) -> run.Result:
    return run.train(TrainConfig(**{**SMALL, **options}), console=Console(file=StringIO(), width=160))


def tree(folder: str = ".") -> dict[str, tuple[bytes, int] | None]:
    """Return the content and time of change of every file, and the names of folders."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
        for path in Path(folder).rglob("*")
    }


def metrics(name: str = "mine") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("runs", name, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "other", [{"lr": 0.5}, {"hidden_channels": 8}, {"seed": 1}, {"sparse_optimizer": "sgd"}, {"epochs": 2}]
)
def test_a_refused_resume_changes_nothing(other: dict[str, Any]) -> None:
    train(checkpoint_every=1)
    before = tree()
    with pytest.raises((CheckpointFormatError, ConfigError), match="of a run with"):
        train(**{"epochs": 6, **other}, checkpoint_every=1, resume="latest")
    assert tree() == before


@pytest.mark.parametrize("file", ["manifest.json", "rank-0.safetensors"])
def test_a_resume_from_a_damaged_checkpoint_changes_nothing(file: str) -> None:
    train(checkpoint_every=1)
    damaged = Path("runs/mine/checkpoints/step-3", file)
    content = bytearray(damaged.read_bytes())
    content[-40] ^= 1
    damaged.write_bytes(content)
    before = tree()
    with pytest.raises(CheckpointFormatError):
        train(epochs=6, checkpoint_every=1, resume="latest")
    assert tree() == before


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({}, ConfigError, "runs/mine is there already; choose another --name"),
        ({"resume": "latest"}, ConfigError, "is a run that has ended, without a checkpoint to go on from"),
        ({"name": "new", "resume": "nothere"}, CheckpointNotFoundError, "nothere does not exist"),
        ({"name": "new", "resume": "runs/mine"}, CheckpointNotFoundError, "runs/mine is neither a checkpoint nor"),
        ({"name": "new", "folds": 3}, ConfigError, "folds cross-validate graphs"),
        ({"name": "new", "use_dist_embedding": False, "embedding_dim": None}, ConfigError, "has no node features"),
    ],
)
def test_what_is_refused_leaves_what_was_there(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    train()
    before = tree()
    with pytest.raises(kind, match=words):
        train(**options)
    assert tree() == before


def test_a_refused_first_run_leaves_no_folder_of_runs() -> None:
    with pytest.raises(ConfigError, match="has no node features"):
        train(use_dist_embedding=False, embedding_dim=None, out="some/where")
    assert tree() == {}


@pytest.mark.parametrize("name", ["../x", "..", "/tmp/x", "a/../../x", ".", "", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_of_runs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name must be that of a folder within out"):
        TrainConfig(name=name)


def test_epochs_before_the_checkpoint_stay_until_the_first_new_one_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    train(epochs=3, checkpoint_every=2, eval_every=1)
    shutil.rmtree("runs/mine/checkpoints/step-3")  # as if it had been killed in its third epoch
    Path("runs/mine/result.json").unlink()
    before = Path("runs/mine/metrics.jsonl").read_text()

    def dies(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("distgnn.train.trial.Trial._train_epoch", dies)
        with pytest.raises(MemoryError):
            train(epochs=3, checkpoint_every=2, resume="latest")
    assert Path("runs/mine/metrics.jsonl").read_text() == before
    train(epochs=3, checkpoint_every=2, resume="latest")
    assert [line["epoch"] for line in metrics()] == [1, 2, 3]
    assert [line["loss"] for line in metrics()] == [json.loads(line)["loss"] for line in before.splitlines()]


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again_with_the_same_options_alone() -> None:
    train()
    Path("runs/mine/result.json").unlink()
    before = tree()
    with pytest.raises(CheckpointFormatError, match=r"runs/mine is of a run with other options: lr left out, now 0\.5"):
        train(lr=0.5, resume="latest")
    assert tree() == before
    train(resume="latest")
    assert [line["epoch"] for line in metrics()] == [1, 2, 3]


def test_a_folder_that_is_no_runs_is_not_gone_on_in() -> None:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/notes.txt").write_text("mine")
    before = tree()
    with pytest.raises(ConfigError, match="runs/mine is there, and no run's folder"):
        train(resume="latest")
    assert tree() == before


def test_trials_that_have_ended_keep_their_number_of_epochs() -> None:
    train(runs=2, checkpoint_every=3)
    with pytest.raises(ConfigError, match="3 epochs a trial, and epochs=4 are more, and a trial has ended"):
        train(runs=2, checkpoint_every=3, epochs=4, resume="latest")


def test_one_process_at_a_time_is_in_a_folder(tmp_path: Path) -> None:
    train(checkpoint_every=1)
    script = "import sys, distgnn.report.lock as l, pathlib\n"
    script += "l.FolderLock(pathlib.Path(sys.argv[1]))\nprint(flush=True)\ninput()"
    command = [sys.executable, "-c", script, "runs/mine"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before = tree()
        for options in ({}, {"resume": "latest", "epochs": 4}):
            with pytest.raises(ConfigError, match=f"runs/mine is being written by process {other.pid} on .*: wait"):
                train(checkpoint_every=1, **options)
        assert tree() == before
        other.kill()  # what it leaves locks nobody out
        other.wait()
    assert Path("runs/mine/.lock").exists()
    train(checkpoint_every=1, resume="latest", epochs=4)
    assert [line["epoch"] for line in metrics()] == [1, 2, 3, 4]
    assert not Path("runs/mine/.lock").exists()
    lock = FolderLock(tmp_path / "runs/mine")
    with pytest.raises(ConfigError, match=f"is being written by process {os.getpid()} on"):
        FolderLock(Path("runs/mine"))
    lock.release()


def test_a_backend_without_checkpoints_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from distgnn.storage.toolkit.row_shard import RowShard

    monkeypatch.delattr(RowShard, "export_rows")
    with pytest.raises(CheckpointError, match=r"store 'node_embedding' cannot be saved: .*SupportsCheckpoint"):
        train(checkpoint_every=1)
    assert tree() == {}


def started(start_job: StartJob, *words: str) -> Job:
    """Start a run without an end, and wait for its first epoch."""
    options = ("train", *WORDS, "--epochs", "100000", "--name", "mine", *words)
    job = start_job("distgnn_command.py", *options, world_size=None)
    job.wait_for_file(Path("runs/mine/metrics.jsonl"))
    return job


def test_ctrl_c_saves_where_checkpoints_are_written(start_job: StartJob) -> None:
    job = started(start_job, "--checkpoint-every", "99999")
    job.send(0, signal.SIGINT)
    assert job.codes(timeout=60) == [3], job.errors(0)
    assert "stopped by SIGINT after step" in job.errors(0)
    saved = next(Path("runs/mine/checkpoints").iterdir())
    assert saved.name == f"step-{len(metrics())}"


def test_ctrl_c_without_checkpoints_says_what_stays(start_job: StartJob) -> None:
    job = started(start_job)
    job.send(0, signal.SIGINT)
    assert job.codes(timeout=60) == [130], job.errors(0)
    assert job.errors(0) == "runs/mine keeps what was measured so far\ninterrupted\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("only root mounts file systems")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk_is_named_and_the_last_whole_line_kept(small_disk: Path) -> None:
    with pytest.raises(RunWriteError, match=r"disk/mine/metrics.jsonl cannot be written: No space left .*; make room"):
        train(out=str(small_disk), epochs=1000, save_model=False)
    lines = (small_disk / "mine/metrics.jsonl").read_text()
    assert lines.endswith("}\n")
    assert [json.loads(line)["epoch"] for line in lines.splitlines()] == list(range(1, lines.count("\n") + 1))


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises((RunWriteError, ConfigError), match=r"disk/mine.* cannot be written: .*No space left"):
        train(out=str(small_disk))
    assert {path.name for path in small_disk.iterdir()} == {"filling"}


def test_a_result_whose_picture_finds_no_room_is_shown(small_disk: Path) -> None:
    shown, told = StringIO(), list[dict[str, Any]]()
    config = TrainConfig(**{**SMALL, "out": str(small_disk), "save_model": False})
    with pytest.raises(RunWriteError, match=r"disk/mine/curve.png cannot be written: No space left"):
        run.train(config, console=Console(file=shown, width=160), show=told.append)
    assert "test accuracy" in shown.getvalue()
    assert told[0] == {**json.loads((small_disk / "mine/result.json").read_text()), "folder": f"{small_disk}/mine"}
    assert {path.name for path in (small_disk / "mine").iterdir()} >= {"config.json", "metrics.jsonl", "result.json"}
    assert not [path for path in (small_disk / "mine").iterdir() if path.name.startswith(".")]


def test_a_file_takes_the_place_of_another_when_it_is_whole(small_disk: Path) -> None:
    files.replace_file(small_disk / "some", "first")
    with pytest.raises(RunWriteError, match="some cannot be written"):
        files.replace_file(small_disk / "some", b"x" * 70_000)
    assert [(path.name, path.read_text()) for path in small_disk.iterdir()] == [("some", "first")]


def fill(folder: Path) -> None:
    with (folder / "filling").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
