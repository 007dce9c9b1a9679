from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from distgnn import ConfigError
from distgnn.cli.app import main
from distgnn.train.config import TrainConfig
from distgnn.train.config_file import read_config, write_config

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ["--dataset", "CustomLargeGraph", "--num-nodes", "40", "--num-edges", "160", "--epochs", "2"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def distgnn(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["distgnn", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_the_config_of_a_run_is_given_back_and_gives_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*SMALL, "--use-dist-embedding", "--embedding-dim", "4", "--dropout", "0.25", "-o", "share_memory=False"]
    assert distgnn("train", *words, "--backend", "pyg", "--name", "first", monkeypatch=monkeypatch) == 0
    again = ["--config", "runs/first/config.yaml", "--name", "second"]
    assert distgnn("train", *again, monkeypatch=monkeypatch) == 0
    configs = [json.loads((tmp_path / "runs" / name / "config.json").read_text()) for name in ("first", "second")]
    assert configs[1] == {**configs[0], "name": "second"}
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    ]
    assert losses[0] == losses[1]


def test_the_command_line_comes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text(
        "dataset: CustomLargeGraph\nnum-nodes: 40\nnum_edges: 160\nepochs: 3\nuse_dist_embedding: true\n"
        "embedding_dim: 4\nnum_neighbors: [3, 2]\nname: mine\nlabels:\n"
    )
    assert distgnn("train", "--config", "run.yaml", "--epochs", "1", monkeypatch=monkeypatch) == 0
    config = json.loads((tmp_path / "runs/mine/config.json").read_text())
    expected = {"epochs": 1, "num_nodes": 40, "use_dist_embedding": True, "num_neighbors": "3,2", "labels": None}
    assert {name: config[name] for name in expected} == expected


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    config = TrainConfig(lr=1e-4, name="a: b", option=["a=1", "b='#'"], task="node", weight_decay=0.0)
    path = tmp_path / "config.yaml"
    path.write_text(write_config(config))
    assert TrainConfig(**read_config(path)) == config
    assert "# epochs: 100\n" in path.read_text()  # a default can be seen, and edited
    path.write_text(json.dumps(config.as_dict()))
    assert TrainConfig(**read_config(path)) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch: 3", "names an option that there is not: 'epoch'; did you mean 'epochs'?"),
        ("epochs: 3\nepochs: 4", "gives epochs twice"),
        ("num-nodes: 3\nnum_nodes: 4", "gives num_nodes twice"),
        ("- epochs", "must hold lines of 'name: value', not a list"),
        ("model: {gin: 3}", "model must be one value"),
        ("a: [", "cannot be read: while parsing a flow node"),
        ("!!python/object/apply:os.system ['touch planted']", "cannot be read: could not determine a constructor"),
        (None, "cannot be read: [Errno 2] No such file or directory"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(
    text: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="config file"):
        read_config(path)
    assert distgnn("train", "--config", str(path), monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert {one.name for one in tmp_path.iterdir()} <= {"run.yaml"}


def test_an_empty_file_leaves_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(None))
    assert read_config(tmp_path / "run.yaml") == {}
