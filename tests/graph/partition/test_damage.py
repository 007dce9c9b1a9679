"""Partitions of before, damaged and crafted ones, and what killed commands leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from distgnn import DataError, DataFormatError
from distgnn.data import generate_graph
from distgnn.graph import load_new_ids, open_partition, partition_graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

VERSION_1 = Path(__file__).parents[2] / "formats" / "partition-v1"


def test_a_partition_of_version_1_is_read() -> None:
    sources = torch.tensor([(7 * k + 3) % 12 for k in range(40)])
    destinations = torch.tensor([(5 * k + k // 12) % 12 for k in range(40)])
    new_nodes, new_edges = load_new_ids(VERSION_1)
    assert torch.equal(new_edges.sort().values, torch.arange(40))
    parts = [open_partition(VERSION_1, part) for part in (0, 1)]
    user = torch.cat([part.node_ids for part in parts])
    for part in parts:
        assert torch.equal(user[part.edge_index], torch.stack([sources, destinations])[:, part.edge_ids])
        assert torch.equal(part.node_features["x"], (torch.arange(24.0).view(12, 2) / 4)[part.node_ids])
        assert torch.equal(part.edge_features["edge_attr"], part.edge_ids.float().view(-1, 1))
        assert torch.equal(new_nodes[part.node_ids], torch.arange(*part.nodes.bounds[part.part : part.part + 2]))


def change(folder: Path, tensors: Callable[[dict[str, Tensor]], None], name: str = "part-0/graph.safetensors") -> None:
    """Change a file of a partition of version 1, which has no checksums."""
    found = load_file(folder / name)
    tensors(found)
    save_file(found, folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A partition that can be changed."""
    return Path(shutil.copytree(VERSION_1, tmp_path / "old"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sources", 300, r"sources holds ids \d+ to 300, the graph has 0 to 11"),
        ("sources", -1, r"sources holds ids -1 to"),
        ("node_ids", 12, r"node_ids holds ids \d+ to 12, the graph has 0 to 11"),
        ("edge_ids", 40, r"edge_ids holds ids \d+ to 40, the graph has 0 to 39"),
        ("halo", 0, r"halo is not the nodes of other parts that the edges come from"),
        ("halo_ids", 99, r"halo_ids holds ids \d+ to 99"),
        ("colptr", 999, r"colptr does not go from 0 to 28 in steps of 0 or more"),
    ],
)
def test_ids_that_lead_outside_are_refused(old: Path, name: str, value: int, words: str) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[name][2] = value

    change(old, spoil)
    with pytest.raises(DataFormatError, match=rf"part-0/graph\.safetensors: {words}"):
        open_partition(old, 0)


def test_tensors_of_another_type_or_shape_are_refused(old: Path) -> None:
    change(old, lambda tensors: tensors.update(sources=tensors["sources"].float()))
    with pytest.raises(DataFormatError, match=r"sources is of torch\.float32 and shape \[28\]"):
        open_partition(old, 0)
    change(old, lambda tensors: tensors.update(nodes=torch.zeros(12, dtype=torch.int64)), "ids.safetensors")
    with pytest.raises(DataFormatError, match="nodes does not name each of 12 once"):
        load_new_ids(old)


def test_a_changed_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    partition_graph(generate_graph(30, 100), folder, 2, method="range")
    path = folder / "part-0" / "graph.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match=r"part-0/graph\.safetensors is not what was written: its checksum"):
        open_partition(folder, 0)
    open_partition(folder, 1)


def test_a_file_that_says_it_is_a_terabyte_is_refused_before_memory_is_taken(old: Path) -> None:
    path = old / "part-0" / "nodes.safetensors"
    size = 1 << 42
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    manifest = json.loads((old / "manifest.json").read_text())
    manifest["files"]["part-0/nodes.safetensors"] = path.stat().st_size
    (old / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataFormatError, match=r"bytes of memory are free; cut the graph into more parts"):
        open_partition(old, 0)


def test_a_pipe_or_a_sparse_file_in_the_place_of_a_manifest_is_refused(old: Path) -> None:
    path = old / "manifest.json"
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataFormatError, match="is no file of at most"):
        open_partition(old, 0)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"manifest\.json is no file of at most"):
        open_partition(old, 0)


PROGRAM = """
import sys, torch
from distgnn.data import generate_graph
from distgnn.graph import partition_graph
def stay(part):
    print("written", flush=True)
    sys.stdin.readline()
partition_graph(generate_graph(30, 100), sys.argv[1], 2, method="range", overwrite=True, progress=stay)
"""


def test_what_a_killed_process_leaves_is_removed_by_the_next_and_the_name_was_never_half_written(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "p.q"
    partition_graph(generate_graph(30, 100, seed=1), folder, 1, method="range")
    before = (folder / "manifest.json").read_text()
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder)]

    def write() -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        return process

    with write() as killed:
        killed.kill()
    assert len(list(tmp_path.iterdir())) == 2
    with write() as running:
        names = sorted(path.name for path in tmp_path.iterdir())
        assert len(names) == 2, "that of the killed one is gone"
        assert f".{running.pid}.unfinished" in names[0]
        partition_graph(generate_graph(30, 100), tmp_path / "p", 2, method="range")
        with pytest.raises(Exception, match="is there already"):
            partition_graph(generate_graph(30, 100), folder, 2, method="range")
        assert any(str(running.pid) in path.name for path in tmp_path.iterdir()), "of one that runs it stays"
        assert (folder / "manifest.json").read_text() == before
        running.kill()
    # Killed between the two names: what was to be replaced is put back.
    left = next(path for path in tmp_path.iterdir() if path.suffix == ".unfinished")
    folder.rename(left.with_suffix(".replaced"))
    with pytest.raises(Exception, match="is there already"):
        partition_graph(generate_graph(30, 100), folder, 2, method="range")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "p.q"]
    assert (folder / "manifest.json").read_text() == before


def test_a_command_that_is_asked_to_end_leaves_nothing(tmp_path: Path) -> None:
    words = "partition CustomLargeGraph --num-nodes 200000 --num-edges 400000 --parts 2000 --method hash --out cut"
    with subprocess.Popen([sys.executable, "-m", "distgnn", *words.split()], cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".cut.*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
