"""What inspect tells is what was written, and what was done to the files afterwards."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distgnn import EmbeddingSpec, UpdateRule
from distgnn.backends.memory import MemoryBackend
from distgnn.checkpoint import Checkpoint
from distgnn.cli.app import main
from distgnn.data import generate_graph
from distgnn.graph import partition_graph
from distgnn.optim import Adam, RowWiseAdagrad
from distgnn.train.session import Session


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run the command on a path; give its exit code, and what it printed on stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["distgnn", "inspect", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a run with two checkpoints of a layer and a table that two rules were applied to."""
    backend = MemoryBackend()
    table = backend.open_embedding(EmbeddingSpec("words", 50, 4))
    ids, gradients = torch.arange(10), torch.ones(10, 4)
    checkpoint = Checkpoint(Session(backend), {"model": torch.nn.Linear(3, 2)}, {"words": table})
    rules: list[UpdateRule] = [Adam(), RowWiseAdagrad()]
    for step, rule in enumerate(rules, 9):
        table.apply_gradients(ids, gradients, rule)
        checkpoint.save(tmp_path / f"run/checkpoints/step-{step}", notes={"by": "hand"})
    return tmp_path / "run"


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    graph = generate_graph(300, 2000)
    graph.x = torch.randn(300, 4)
    partition_graph(graph, tmp_path / "cut", 3, method="hash")
    return tmp_path / "cut"


def test_the_last_checkpoint_of_a_run_is_told_as_json(inspect: Any, run_folder: Path) -> None:
    code, out, _ = inspect(str(run_folder), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["kind"] == "checkpoint"
    assert found["folder"].endswith("step-10")
    assert found["notes"] == {"by": "hand"}
    assert found["stores"]["words"] == {
        "dtype": "F32",
        "shape": [50, 4],
        "size": 50 * 4 * 4,
        "rules": {
            "adam": {"steps": 1, "widths": {"exp_avg": 4, "exp_avg_sq": 4}, "size": 50 * 8 * 4},
            "rowwise-adagrad": {"steps": 1, "widths": {"sum": 1}, "size": 50 * 4},
        },
        "rows_by_rank": [[0, 50]],
    }
    assert found["parts"]["model"] == {"tensors": 2, "size": (3 * 2 + 2) * 4}
    assert found["size"] == sum(path.stat().st_size for path in Path(found["folder"]).iterdir())


def test_a_checkpoint_is_told_as_a_table(inspect: Any, run_folder: Path) -> None:
    code, out, _ = inspect(str(run_folder / "checkpoints" / "step-9"))
    assert code == 0
    for words in ("store words", "50 x 4", "adam's exp_avg", "applied 1 times", "CRC-32", "each as it was written"):
        assert words in out, out


def test_options_and_epoch_of_a_run_are_told(
    inspect: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "train --dataset CustomLargeGraph --num-nodes 60 --num-edges 200 --epochs 2 --name one --checkpoint-every 1"
    words += " --use-dist-embedding --embedding-dim 4 --json"
    monkeypatch.setattr(sys, "argv", ["distgnn", *words.split()])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    code, out, _ = inspect("runs/one")
    assert code == 0
    assert "epoch 2 of 2, trial 0, loss" in out
    assert "checkpoint_every=1, dataset=CustomLargeGraph, embedding_dim=4, epochs=2" in out
    _, out, _ = inspect("runs/one", "--json")
    assert json.loads(out)["config"]["num_nodes"] == 60
    assert json.loads(out)["last_epoch"]["epoch"] == 2


def test_a_partition_is_told_as_it_was_cut(inspect: Any, cut: Path) -> None:
    code, out, _ = inspect(str(cut), "--json")
    found, manifest = json.loads(out), json.loads((cut / "manifest.json").read_text())
    assert code == 0
    assert (found["kind"], found["num_nodes"], found["num_edges"]) == ("partition", 300, 2000)
    assert {name: found["report"][name] for name in manifest["report"]} == manifest["report"]
    assert found["features"]["nodes"]["x"] == ["F32", [300, 4]]
    code, out, _ = inspect(str(cut))
    assert "3 parts by hash" in out
    assert f"{manifest['report']['halo_ratio']:.3f} nodes of other parts" in out


def test_rows_are_not_looked_at_but_sizes_are(inspect: Any, run_folder: Path, cut: Path) -> None:
    file = run_folder / "checkpoints" / "step-10" / "rank-0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 4
    file.write_bytes(content)
    assert inspect(str(run_folder))[0] == 0
    file.write_bytes(content[:-1])
    (cut / "part-1" / "nodes.safetensors").unlink()
    for path, words in ((run_folder, f"not the {len(content):,}"), (cut, "part-1/nodes.safetensors: missing")):
        code, out, _ = inspect(str(path))
        assert code == 1
        assert words in out


def test_dgls_partition_is_told_without_dgl(inspect: Any, tmp_path: Path) -> None:
    # What dgl.distributed.partition_graph of DGL 2.1 writes for two types of nodes, without the parts' files.
    metadata = {
        "graph_name": "papers",
        "num_nodes": 9,
        "num_edges": 8,
        "part_method": "metis",
        "num_parts": 2,
        "halo_hops": 1,
        "node_map": {"author": [[0, 2], [2, 3]], "paper": [[0, 4], [4, 6]]},
        "edge_map": {"author:writes:paper": [[0, 5], [5, 8]]},
        "ntypes": {"author": 0, "paper": 1},
        "etypes": {"author:writes:paper": 0},
        "part-0": {"part_graph": "part0/graph.dgl"},
        "part-1": {"part_graph": "part1/graph.dgl"},
    }
    folder = tmp_path / "theirs"
    (folder / "part0").mkdir(parents=True)
    (folder / "part0" / "graph.dgl").write_bytes(b"0" * 10)
    (folder / "papers.json").write_text(json.dumps(metadata))
    for path in (folder, folder / "papers.json"):
        code, out, _ = inspect(str(path), "--json")
        found = json.loads(out)
        assert code == 1
        assert (found["nodes"], found["edges"]) == ([6, 3], [5, 3])
        assert found["types"] == {"author": 3, "paper": 6, "author:writes:paper": 8}
        assert [file["problem"] for file in found["files"].values()] == ["", "missing"]
    assert "2 parts by metis" in inspect(str(folder))[1]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "nowhere is not there; give the folder of a checkpoint, a run or a partition"),
        (
            "empty",
            "empty is no checkpoint, no run's folder with one, and no partition of distgnn's or DGL's: it is empty",
        ),
        ("run/metrics.jsonl", "it is some other file"),
        ("run", "there are metrics.jsonl"),
        ("damaged", "manifest.json lacks or spoils bounds or files"),
    ],
)
def test_anything_else_is_an_error(inspect: Any, tmp_path: Path, path: str, words: str) -> None:
    for folder in ("empty", "run", "damaged"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "damaged" / "manifest.json").write_text('{"format": "distgnn partition", "version": 1}')
    code, _, error = inspect(path)
    assert code == 2
    assert words in error
    assert "Traceback" not in error
