"""What holds for every command, the next one too: it must be in the tables below."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from distgnn import CheckpointNotFoundError, ConfigError, DataFormatError
from distgnn.cli.app import app, main
from distgnn.data import generate_graph
from distgnn.errors import DistGNNError, UnknownDatasetError
from distgnn.graph import partition_graph
from distgnn.train.config import TrainConfig
from distgnn.train.run import train

COMMANDS: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # an app of several is a group
LARGE = "CustomLargeGraph --num-nodes 60 --num-edges 200"
WORKS = {  # what is given, and a part of what is printed
    "backends": ("", "rows in this process"),
    "bench": (f"{Path(__file__).parents[2]}/docs/results", "asked"),
    "doctor": ("", "rows in this process: opened, and a row was looked up"),
    "embed": ("runs/mine --of nodes --out rows.csv", "60 rows in rows.csv"),
    "evaluate": ("runs/mine", "macro F1"),
    "inspect": ("cut", "2 parts by hash"),
    "partition": (f"{LARGE} --parts 2 --method hash --out new --overwrite", "2 parts by hash"),
    "plan": ("--nodes 1e6 --edges 1e7 --no-measure", "memory a machine"),
    "predict": ("runs/mine --out answers.csv", "60 rows in answers.csv"),
    "train": (f"--dataset {LARGE} --use-dist-embedding --embedding-dim 4 --epochs 2", "test accuracy"),
}
MISTAKES: dict[str, tuple[str, type[DistGNNError], str]] = {  # none where nothing can be given
    "bench": ("empty", ConfigError, "the folder empty has no results of benchmarks"),
    "embed": ("runs/mine --of layer9 --out rows.csv", ConfigError, "of must be one of outputs, layer1, layer2, nodes"),
    "evaluate": ("empty", CheckpointNotFoundError, "empty has left no model of trial 0"),
    "inspect": ("empty", DataFormatError, "empty is no checkpoint"),
    "partition": ("MUTTAG --parts 2 --out new", UnknownDatasetError, "did you mean MUTAG?"),
    "predict": ("runs/mine --out answers.xls", ConfigError, "out must end in one of .parquet, .csv"),
    "plan": ("--nodes 10", ConfigError, "say how large the graph is by --nodes and --edges"),
    "train": ("--epochs 0", ConfigError, "epochs must be at least 1, not 0"),
}
CONTROL = re.compile(r"[^\n\x20-\x7e\u00a0-\uffff]")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DISTGNN_DISABLE_PLUGINS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("DISTGNN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave a run."""
    where = tmp_path_factory.mktemp("trained")
    options: dict[str, Any] = {"num_nodes": 60, "num_edges": 200, "use_dist_embedding": True, "embedding_dim": 4}
    config = TrainConfig(dataset="CustomLargeGraph", name="mine", out=str(where / "runs"), epochs=2, **options)
    train(config, console=Console(quiet=True))
    return where / "runs"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; give its exit code, and what it wrote on stdout and stderr, which are no terminals."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["distgnn", *words])
        with pytest.raises(SystemExit) as exit_, torch.random.fork_rng():
            main()
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def test_the_tables_have_every_command() -> None:
    given = {name for name, command in COMMANDS.items() if {one.opts[0] for one in command.params} - {"--json"}}
    assert set(WORKS) == set(COMMANDS)
    assert set(MISTAKES) == given


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_of_the_command_itself(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100"}).output
    example = re.fullmatch(r"Example: distgnn (\S+)(.*)", shown.strip().splitlines()[-1].strip())
    assert example, shown
    assert example[1] == command
    COMMANDS[command].make_context(command, example[2].split())


@pytest.mark.parametrize("command", COMMANDS)
def test_into_a_pipe_no_control_character_is_written(command: str, run: Any) -> None:
    partition_graph(generate_graph(60, 200), "cut", 2, method="hash")
    words, shown = WORKS[command]
    code, out, error = run(command, *words.split())
    assert (code, error) == (0, "")
    assert shown in out
    assert not CONTROL.findall(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_all_that_is_printed_on_request(command: str, run: Any) -> None:
    partition_graph(generate_graph(60, 200), "cut", 2, method="hash")
    code, out, error = run(command, *WORKS[command][0].split(), "--json")
    assert (code, error) == (0, "")
    assert json.loads(out)


@pytest.mark.parametrize("command", MISTAKES)
def test_a_users_mistake_is_a_line_on_stderr_and_exit_code_2(command: str, run: Any) -> None:
    words, kind, text = MISTAKES[command]
    code, out, error = run(command, *words.split())
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: .*{re.escape(text)}.*\n", error)
    with pytest.raises(kind, match=re.escape(text)):
        run(command, *words.split(), "--debug")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_named_with_exit_code_2(command: str, run: Any) -> None:
    code, out, error = run(command, "--nope")
    assert (code, out) == (2, "")
    assert "No such option: --nope" in error


def test_a_command_that_is_interrupted_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distgnn.cli._doctor.examine", interrupted)
    assert run("doctor")[::2] == (130, "interrupted\n")
