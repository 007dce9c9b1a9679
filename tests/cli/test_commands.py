from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distgnn import __version__
from distgnn.cli.app import main

if TYPE_CHECKING:
    from tests.jobs import StartJob

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DISTGNN_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def distgnn(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["distgnn", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_help_is_answered_without_heavy_imports() -> None:
    heavy = "{'torch', 'numpy', 'torch_geometric', 'matplotlib', 'sklearn'}"
    program = (
        "import sys, distgnn.cli.app as app\n"
        "sys.argv = ['distgnn', 'train', '--help']\n"
        "try: app.main()\n"
        f"finally: assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Train a GIN or GINE" in done.stdout
    assert "Example: distgnn train" in done.stdout


@pytest.mark.parametrize("chosen", ["", "WARNING"])
def test_what_torch_says_of_lost_connections_is_shown_to_those_alone_who_ask(chosen: str) -> None:
    program = (
        "import os, socket, sys, threading, distgnn.cli.app as app\n"
        "sys.argv = ['distgnn', '--version']\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "from datetime import timedelta\n"
        "from torch.distributed import TCPStore\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "closing = iter(lambda: listener.accept()[0].close(), 'never')\n"
        "threading.Thread(target=list, args=(closing,), daemon=True).start()\n"
        "try: TCPStore('127.0.0.1', listener.getsockname()[1], None, False, timedelta(seconds=1))\n"
        "except RuntimeError: os._exit(0)\n"
    )
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": chosen}
    if not chosen:
        del environment["TORCH_CPP_LOG_LEVEL"]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert ("TCPStore.cpp" in done.stderr) == bool(chosen), done.stderr


def test_what_pyg_asks_of_torch_is_no_warning_of_a_command() -> None:
    program = (
        "import sys, warnings, distgnn.cli.app as app\n"
        "sys.argv = ['distgnn', '--version']\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "import torch_geometric\n"
        "warnings.warn('`torch.jit.script` is deprecated. Please switch.', FutureWarning)\n"
        "warnings.warn('another one', FutureWarning)\n"
    )
    command = [sys.executable, "-W", "always::DeprecationWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "another one" in done.stderr
    assert "torch.jit.script" not in done.stderr


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert distgnn("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"distgnn {__version__}\n"


def test_backends_are_listed_as_a_table_and_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distgnn("backends", monkeypatch=monkeypatch) == 0
    assert "memory" in capsys.readouterr().out
    assert distgnn("backends", "--json", monkeypatch=monkeypatch) == 0
    (memory,) = [backend for backend in json.loads(capsys.readouterr().out) if backend["name"] == "memory"]
    assert memory.pop("about") == "rows in this process"
    assert memory == {"name": "memory", "source": f"distgnn {__version__}", "available": True, "reason": ""}


@pytest.mark.parametrize("spelling", ["--hidden_channels", "--hidden-channels"])
def test_train_takes_options_in_both_spellings_and_prints_json(
    spelling: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    assert distgnn("train", "--epochs", "1", spelling, "8", "--json", monkeypatch=monkeypatch) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["test_accuracy_mean"] <= 1
    assert json.loads(Path(result["folder"], "config.json").read_text())["hidden_channels"] == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "error: epochs must be at least 1, not 0"),
        (["--dataset", "MUTAGG"], "did you mean MUTAG?"),
        (["--dataset", "CustomLargeGraph", "--edges", "nowhere.csv"], "nowhere.csv"),
        (["--backend", "nosuch", "--use-dist-embedding"], "no backend is called 'nosuch'; known here: memory"),
        (["--out", "/dev/null/x"], "cannot be written"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    assert distgnn("train", *arguments, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_run_that_is_asked_to_end_has_saved_and_exit_code_3(start_job: StartJob, tmp_path: Path) -> None:
    words = "train --dataset CustomLargeGraph --num-nodes 60 --num-edges 200 --use-dist-embedding --embedding-dim 4"
    words += " --mode sampled --batch-size 2 --num-layers 1 --checkpoint-every 1steps --name one"
    job = start_job("distgnn_command.py", *words.split(), world_size=None)
    job.wait_for_file(tmp_path / "runs/one/checkpoints")
    job.send(0, signal.SIGTERM)
    assert job.codes(timeout=60) == [3]
    error = job.errors(0)
    assert "error: stopped by SIGTERM after step" in error
    (step,) = re.findall(r"--resume \S+/step-(\d+)", error)
    assert (tmp_path / "runs" / "one" / "checkpoints" / f"step-{step}" / "manifest.json").is_file()


@pytest.mark.parametrize(
    "options",
    [
        "--dataset MUTAG --hidden_channels 64 --num_layers 3 --batch_size 32 --epochs 100",
        "--dataset Cora --use_dist_embedding --embedding_dim 64 --hidden_channels 128 --num_layers 2",
    ],
)
def test_the_founding_command_lines_run_as_written(start_job: StartJob, options: str, tmp_path: Path) -> None:
    dataset = options.split()[1]
    if not (DATA / dataset / "raw").is_dir():
        pytest.skip(f"{dataset} is not in DISTGNN_DATA")
    shutil.copy(ROOT / "examples" / "distributed_gin_example.py", tmp_path)
    script = str(tmp_path / "distributed_gin_example.py")
    job = start_job(script, *options.split(), world_size=None, DISTGNN_DATA=str(DATA.resolve()))
    assert job.codes(timeout=280) == [0], job.errors(0)
    assert "test accuracy" in job.output(0)
    assert list(tmp_path.glob(f"runs/{dataset}-*/curve.png"))
