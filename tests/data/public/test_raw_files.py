from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from torch_geometric.datasets import TUDataset

from distgnn.data import load_dataset
from distgnn.data.public import raw_files
from distgnn.errors import DataFormatError, DatasetNotFoundError

if TYPE_CHECKING:
    from pathlib import Path


def write_triangle(home: Path, name: str = "MUTAG", label: int = 1) -> Path:
    """Write a TUDataset of two graphs: a triangle and an edge."""
    raw = home / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / f"{name}_A.txt").write_text("1, 2\n2, 1\n2, 3\n3, 2\n1, 3\n3, 1\n4, 5\n5, 4\n")
    (raw / f"{name}_graph_indicator.txt").write_text("1\n1\n1\n2\n2\n")
    (raw / f"{name}_graph_labels.txt").write_text("0\n1\n")
    (raw / f"{name}_node_labels.txt").write_text(f"0\n0\n{label}\n0\n1\n")
    return raw


def listing(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def test_root_comes_before_the_data_variable_and_that_before_grakel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_triangle(tmp_path / "root", label=3)
    write_triangle(tmp_path / "data", label=1)
    monkeypatch.setenv("DISTGNN_DATA", str(tmp_path / "data"))
    assert load_dataset("MUTAG", root=tmp_path / "root").num_features == 4
    assert load_dataset("MUTAG", root=tmp_path / "empty").num_features == 2
    assert load_dataset("MUTAG").num_features == 2


def test_a_data_set_in_root_is_only_read_and_pyg_reads_it_too(tmp_path: Path, cache: Path) -> None:
    write_triangle(tmp_path / "root")
    before = listing(tmp_path / "root")
    assert len(load_dataset("MUTAG", root=str(tmp_path / "root")).graphs) == 2
    assert listing(tmp_path / "root") == before
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"], "no draft is left"
    assert len(TUDataset(str(tmp_path / "root"), "MUTAG")) == 2, "PyG finds it without distgnn"


def test_the_data_variable_s_folder_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    write_triangle(tmp_path / "data")
    before = listing(tmp_path / "data")
    monkeypatch.setenv("DISTGNN_DATA", str(tmp_path / "data"))
    assert len(load_dataset("MUTAG").graphs) == 2
    assert len(load_dataset("MUTAG").graphs) == 2
    assert listing(tmp_path / "data") == before
    (kept,) = cache.iterdir()
    assert kept.name.startswith("MUTAG-")
    assert kept.suffix == ".safetensors", "no draft is left"


def test_changed_raw_files_are_processed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("DISTGNN_DATA", str(tmp_path / "data"))
    write_triangle(tmp_path / "data", label=1)
    assert load_dataset("MUTAG").num_features == 2
    write_triangle(tmp_path / "data", label=2)
    assert load_dataset("MUTAG").num_features == 3
    assert len(list(cache.iterdir())) == 2


def test_a_folder_without_a_needed_file_is_passed_over(tmp_path: Path) -> None:
    raw = write_triangle(tmp_path, name="NCI1")
    (raw / "NCI1_graph_labels.txt").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"NCI1_graph_labels\.txt"):
        load_dataset("NCI1", root=tmp_path)


def test_broken_raw_files_are_refused_with_their_folder(tmp_path: Path) -> None:
    raw = write_triangle(tmp_path)
    (raw / "MUTAG_A.txt").write_text("1, two\n")
    with pytest.raises(DataFormatError, match=r"MUTAG_A\.txt, line 1: ' two' is not a number") as caught:
        load_dataset("MUTAG", root=tmp_path)
    assert str(raw) in str(caught.value)


def test_without_files_and_internet_the_error_says_which_files_to_put_where(cache: Path) -> None:
    with pytest.raises(DatasetNotFoundError) as caught:
        load_dataset("PROTEINS")
    text = str(caught.value)
    assert "PROTEINS is not on this machine, and downloading it failed (Cannot connect to host 127.0.0.1:9" in text
    assert "put PROTEINS_A.txt, PROTEINS_graph_indicator.txt, PROTEINS_graph_labels.txt" in text
    assert "from https://www.chrsmrrs.com/graphkerneldatasets/PROTEINS.zip, into DIR/PROTEINS/raw" in text
    assert "give DIR as DISTGNN_DATA or as root (--root)" in text
    assert "pip install" not in text
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value.__cause__, OSError)
    assert not list(cache.rglob("draft-*"))


def test_a_cache_that_cannot_be_written_to_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "file" / "cache"))  # root itself cannot write there
    with pytest.raises(
        DatasetNotFoundError, match=r"cannot be written to \(.*file.*name another folder by DISTGNN_CACHE"
    ):
        load_dataset("PROTEINS", root=tmp_path)
    write_triangle(tmp_path / "root")
    assert len(load_dataset("MUTAG", root=tmp_path / "root").graphs) == 2, "files that are there are read without it"


def test_without_files_and_internet_the_planetoid_files_are_named() -> None:
    with pytest.raises(DatasetNotFoundError, match=r"put ind\.citeseer\.x, .*ind\.citeseer\.test\.index"):
        load_dataset("CiteSeer")


def test_without_grakel_and_internet_the_error_for_mutag_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(raw_files, "find_spec", lambda name: None)
    with pytest.raises(DatasetNotFoundError, match=r'or get MUTAG with: pip install "distgnn\[demo\]"'):
        load_dataset("MUTAG")


def test_a_server_that_never_answers_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(raw_files, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(TUDataset, "url", f"https://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DatasetNotFoundError, match=r"downloading it failed \(Connection timeout to host"):
            load_dataset("NCI1")


def test_grakel_is_found_without_being_imported() -> None:
    pytest.importorskip("grakel", reason="its wheel carries MUTAG")
    program = (
        "import sys; from distgnn.data import load_dataset; load_dataset('MUTAG'); sys.exit('grakel' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_two_processes_may_prepare_a_data_set_at_once(tmp_path: Path, cache: Path) -> None:
    shutil.copytree(write_triangle(tmp_path / "data"), tmp_path / "root" / "MUTAG" / "raw")
    program = "from distgnn.data import load_dataset; print(len(load_dataset('MUTAG', root={root!r}).graphs))"
    command = [sys.executable, "-c", program.format(root=str(tmp_path / "root"))]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["2", "2"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["MUTAG"]
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_edited_raw_files_are_read_again_though_their_sizes_and_times_are_the_same(tmp_path: Path) -> None:
    labels = write_triangle(tmp_path) / "MUTAG_graph_labels.txt"
    assert [int(graph.y) for graph in load_dataset("MUTAG", root=tmp_path).graphs] == [0, 1]
    before = labels.stat()
    labels.write_text("1\n0\n")
    os.utime(labels, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [int(graph.y) for graph in load_dataset("MUTAG", root=tmp_path).graphs] == [1, 0]


def test_a_damaged_cache_is_made_anew(tmp_path: Path, cache: Path) -> None:
    write_triangle(tmp_path)
    load_dataset("MUTAG", root=tmp_path)
    (kept,) = cache.iterdir()
    kept.write_bytes(b"\x80\x04garbage")
    assert len(load_dataset("MUTAG", root=tmp_path).graphs) == 2
