"""Files that are small on the disk and large in memory, and what is no file, are refused before memory is taken."""

from __future__ import annotations

import gzip
import io
import os
import resource
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from distgnn import DataError
from distgnn.data import load_custom_graph, load_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TERABYTE = 1 << 40


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """2 GB more than there is now; what takes more is an error that is not ours."""
    if not os.path.exists("/proc/self/statm"):  # noqa: PTH110  # a plain question
        pytest.skip("the memory of this process is read from /proc")
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def write_header(path: Path, *, fill: int = 0) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (2, TERABYTE)})
    path.write_bytes(file.getvalue() + bytes(fill))


def test_a_line_that_is_longer_than_any_table_s(tmp_path: Path) -> None:
    path = tmp_path / "edges.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"source,target\n0,1\n")
        for _ in range(10):
            file.write(b"1" * (1 << 23))
    with pytest.raises(DataError, match=r"edges\.csv\.gz, line 3 is longer than 67,108,864 characters"):
        load_custom_graph(path)


@pytest.mark.parametrize("name", ["edges.csv", "edges.npy", "edges.npz", "edges.pt", "edges.txt"])
def test_a_sparse_file_of_a_terabyte(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"0,1\n1,2\n")
    os.truncate(path, TERABYTE)
    with pytest.raises(DataError, match=rf"{name} takes 1,099,511,627,776 bytes, and [\d,]+ bytes of memory are free"):
        load_custom_graph(path)


def test_an_array_whose_header_says_more_than_there_is(tmp_path: Path) -> None:
    write_header(tmp_path / "edges.npy")
    with pytest.raises(DataError, match=r"edges\.npy takes [\d,]+ bytes"):
        load_custom_graph(tmp_path / "edges.npy")
    with zipfile.ZipFile(tmp_path / "edges.npz", "w") as archive:
        archive.write(tmp_path / "edges.npy", "edge_index.npy")
    with pytest.raises(DataError, match=r"edges\.npz cannot be read"):
        load_custom_graph(tmp_path / "edges.npz")


@pytest.mark.parametrize("name", ["edges.csv", "edges.npz", "edges.pt"])
def test_a_pipe_or_a_folder(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is a folder, a pipe or a device; give a file"):
        load_custom_graph(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder, a pipe or a device"):
        load_custom_graph(tmp_path / "folder.csv")


def test_raw_files_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path / "cache"))
    raw = tmp_path / "mine" / "raw"
    raw.mkdir(parents=True)
    for part in ("A", "graph_indicator", "graph_labels"):
        (raw / f"mine_{part}.txt").write_text("1\n")
    os.truncate(raw / "mine_A.txt", TERABYTE)
    with pytest.raises(DataError, match=r"mine_A\.txt takes 1,099,511,627,776 bytes"):
        load_dataset("mine", root=tmp_path)
    (raw / "mine_A.txt").write_text("1, 1\n")
    os.mkfifo(raw / "mine_node_labels.txt")
    with pytest.raises(DataError, match=r"mine_node_labels\.txt is a folder, a pipe or a device"):
        load_dataset("mine", root=tmp_path)
