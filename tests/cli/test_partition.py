from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from distgnn.cli.app import main
from distgnn.graph import open_partition

DATA = Path(os.environ.get("DISTGNN_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def partition(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["distgnn", "partition", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_a_generated_graph_is_cut_and_reported_as_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--num_nodes", "300", "--num-edges", "2000", "--parts", "3", "--method", "hash", "--out", "cut"]
    assert partition("CustomLargeGraph", *words, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    for word in ("3 parts by hash", "edge cut", "balance", "halo", "cut/partition.png"):
        assert word in shown
    parts = [open_partition("cut", part) for part in range(3)]
    assert sum(len(part.node_ids) for part in parts) == 300
    assert set(parts[0].node_features) == {"y", "train_mask", "val_mask", "test_mask"}


def test_an_edge_file_is_cut_and_reported_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edges.csv").write_text("source,target\n0,1\n1,2\n3,4\n4,5\n2,3\n")
    words = ["CustomLargeGraph", "--edges", "edges.csv", "--parts", "2", "--method", "range", "--out", "cut", "--json"]
    assert partition(*words, monkeypatch=monkeypatch) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["edge_cut"], report["edge_cut_ratio"], report["node_balance"]) == (2, 0.2, 1.0)
    assert report["parts"][0] == {"nodes": 3, "edges": 5, "cut_edges": 1, "halo_nodes": 1}
    assert partition(*words, monkeypatch=monkeypatch) == 2
    assert "error: cut is there already" in capsys.readouterr().err
    assert partition(*words, "--overwrite", monkeypatch=monkeypatch) == 0


def test_cora_is_cut_by_metis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pymetis")
    if not (DATA / "Cora" / "raw").is_dir():
        pytest.skip("Cora is not in DISTGNN_DATA")
    monkeypatch.setenv("DISTGNN_DATA", str(DATA))
    assert partition("Cora", "--parts", "4", "--out", "cora", "--json", monkeypatch=monkeypatch) == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(part["nodes"] for part in report["parts"]) == 2708
    assert sum(part["edges"] for part in report["parts"]) == 10556
    assert report["edge_cut_ratio"] < 0.1
    part = open_partition("cora", 2)
    assert part.node_features["x"].shape == (report["parts"][2]["nodes"], 1433)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MUTAGG", "--parts", "2"], "did you mean MUTAG?"),
        (["CustomLargeGraph", "--parts", "0", "--method", "hash"], "at least 1 part, not 0"),
        (["CustomLargeGraph", "--parts", "2", "--method", "best"], "metis, hash, range, not 'best'"),
        (["CustomLargeGraph", "--parts", "2", "--num-nodes", "5"], "200000 distinct edges between 5 nodes"),
        (["CustomLargeGraph", "--parts", "2", "--features", "x.csv"], "features and labels belong to an edge file"),
        (["Cora", "--parts", "2", "--num-nodes", "5"], "num_nodes only go with --dataset CustomLargeGraph"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert partition(*arguments, "--out", "cut", monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not Path("cut").exists()


def test_many_small_graphs_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("grakel", reason="MUTAG's raw files come with the extra demo")
    assert partition("MUTAG", "--parts", "2", "--out", "cut", monkeypatch=monkeypatch) == 2
    assert "MUTAG has 188 small graphs" in capsys.readouterr().err


def test_without_pymetis_parts_are_cut_by_a_hash_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pymetis", None)
    words = ["CustomLargeGraph", "--num-nodes", "20", "--num-edges", "40", "--parts", "2"]
    assert partition(*words, "--out", "cut", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr()
    assert "note: parts are cut by a hash of ids" in shown.err
    assert "2 parts by hash" in shown.out
    assert partition(*words, "--out", "other", "--method", "metis", monkeypatch=monkeypatch) == 2
    assert "pip install 'distgnn[metis]'" in capsys.readouterr().err


def test_a_number_of_parts_that_cannot_be_is_refused_before_anything_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert partition("CustomLargeGraph", "--parts", "0", "--out", "cut", monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    assert shown.err == "error: a graph has at least 1 part, not 0\n"
    assert not shown.out
