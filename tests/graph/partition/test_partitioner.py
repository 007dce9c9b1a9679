from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from torch_geometric.data import Data
from torch_geometric.datasets import KarateClub
from torch_geometric.utils import to_undirected

import distgnn
from distgnn import ConfigError, DataFormatError, DatasetNotFoundError
from distgnn.data import generate_graph
from distgnn.graph import load_new_ids, load_part, open_part, open_partition, partition_graph
from distgnn.graph.partition.assign import assign_nodes

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ("metis", "hash", "range")


def random_graph(num_nodes: int, num_edges: int, *, undirected: bool = False) -> Data:
    """A graph with self loops, equal edges and, at its end, isolated nodes, and features of many types."""
    generator = torch.Generator().manual_seed(num_nodes)
    edge_index = torch.randint(max(1, num_nodes - 3), (2, num_edges), generator=generator)
    if undirected:
        edge_index = to_undirected(edge_index, num_nodes=num_nodes)
    return Data(
        edge_index=edge_index,
        num_nodes=num_nodes,
        x=torch.randn(num_nodes, 3, generator=generator),
        y=torch.arange(num_nodes),
        half=torch.randn(num_nodes, 2, 2, generator=generator).to(torch.bfloat16),
        train_mask=torch.rand(num_nodes, generator=generator) < 0.5,
        edge_attr=torch.randn(edge_index.size(1), 2, generator=generator),
    )


GRAPHS: dict[str, Callable[[], Data]] = {
    "directed": lambda: random_graph(40, 300),
    "undirected": lambda: random_graph(50, 100, undirected=True),
    "no edges": lambda: random_graph(12, 0),
    "one node with loops": lambda: random_graph(1, 4),
    "two nodes": lambda: random_graph(2, 5),
}


@pytest.mark.parametrize(
    ("num_parts", "method"), [(1, "metis"), (3, "metis"), (60, "metis"), (7, "hash"), (3, "range")]
)
@pytest.mark.parametrize("kind", GRAPHS)
def test_the_parts_together_are_the_graph(kind: str, num_parts: int, method: str, tmp_path: Path) -> None:
    graph = GRAPHS[kind]()
    folder = tmp_path / "cut"
    report = partition_graph(graph, folder, num_parts, method=method)
    parts = [open_partition(folder, part) for part in range(num_parts)]
    new_nodes, new_edges = load_new_ids(folder)
    bounds = parts[0].nodes.bounds
    assert len(bounds) == num_parts + 1

    node_ids, edge_ids = (torch.cat([getattr(part, name) for part in parts]) for name in ("node_ids", "edge_ids"))
    assert torch.equal(node_ids[new_nodes], torch.arange(graph.num_nodes))
    assert torch.equal(edge_ids[new_edges], torch.arange(graph.num_edges))
    edge_index = torch.cat([part.edge_index for part in parts], dim=1)
    assert torch.equal(node_ids[edge_index], graph.edge_index[:, edge_ids])
    for name in ("x", "y", "half", "train_mask"):
        assert torch.equal(torch.cat([part.node_features[name] for part in parts]), graph[name][node_ids])
    assert torch.equal(torch.cat([part.edge_features["edge_attr"] for part in parts]), graph.edge_attr[edge_ids])

    owner = torch.bucketize(new_nodes[graph.edge_index], torch.tensor(bounds[1:]), right=True)
    assert report.edge_cut == int((owner[0] != owner[1]).sum())
    for number, part in enumerate(parts):
        sources = new_nodes[graph.edge_index[0]][owner[1] == number]
        outside = sources[(sources < bounds[number]) | (sources >= bounds[number + 1])]
        assert part.halo.tolist() == sorted(set(outside.tolist()))
        assert torch.equal(part.halo_ids, node_ids[part.halo])
        assert (report.parts[number].nodes, report.parts[number].edges) == (len(part.node_ids), len(part.edge_ids))
        assert report.parts[number].cut_edges == outside.numel()
        assert part.node_ids.tolist() == sorted(part.node_ids.tolist())


def test_metis_counts_the_cut_that_we_count_and_cuts_less_than_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pymetis")
    counted = tmp_path / "counted"
    # METIS runs in a process of its own, which finds this when it starts.
    (tmp_path / "sitecustomize.py").write_text(f"""
import pathlib, pymetis
original = pymetis.part_graph
def counting(*arguments, **options):
    result = original(*arguments, **options)
    pathlib.Path({str(counted)!r}).write_text(str(result[0]))
    return result
pymetis.part_graph = counting
""")
    monkeypatch.syspath_prepend(tmp_path)
    graph = generate_graph(2000, 20_000, num_classes=4, homophily=0.95)
    cuts = {method: partition_graph(graph, tmp_path / method, 4, method=method) for method in METHODS}
    assert int(counted.read_text()) == cuts["metis"].edge_cut
    assert cuts["metis"].edge_cut < 0.5 * cuts["hash"].edge_cut
    assert cuts["metis"].node_balance < 1.1
    assert cuts["range"].node_balance == 1.0
    assert cuts["hash"].node_balance < 1.2


def test_the_two_clubs_of_karate_are_found(tmp_path: Path) -> None:
    pytest.importorskip("pymetis")
    graph = KarateClub()[0]
    report = partition_graph(graph, tmp_path / "karate", 2)
    assert report.edge_cut <= 2 * 11  # 10 undirected edges is what METIS finds in this graph
    assert report.parts[0].nodes == report.parts[1].nodes == 17


def test_another_seed_is_another_hash_and_the_same_the_same() -> None:
    edge_index = torch.empty(2, 0, dtype=torch.int64)
    one, again, other = (assign_nodes(edge_index, 1000, 8, method="hash", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_files_are_safetensors_and_json_and_a_picture(tmp_path: Path) -> None:
    graph = random_graph(40, 300)
    report = partition_graph(graph, tmp_path / "cut", 2, method="range")
    names = {path.relative_to(tmp_path / "cut").as_posix() for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    kinds = ("graph", "nodes", "edges")
    parts = {f"part-{part}/{kind}.safetensors" for part in (0, 1) for kind in kinds}
    assert names == {"manifest.json", "ids.safetensors", "partition.png"} | parts
    assert torch.equal(load_file(tmp_path / "cut" / "part-1" / "nodes.safetensors")["x"], graph.x[20:])
    assert (tmp_path / "cut" / "partition.png").read_bytes()[:4] == b"\x89PNG"
    manifest = json.loads((tmp_path / "cut" / "manifest.json").read_text())
    assert {"folder": report.folder, **manifest["report"]} == json.loads(json.dumps(report.as_dict()))


def test_a_part_opens_as_stores_of_the_whole_graph(tmp_path: Path, memory_backend: distgnn.Backend) -> None:
    graph = random_graph(40, 300)
    partition_graph(graph, tmp_path / "cut", 1, method="hash")
    features, store = open_part(load_part(tmp_path / "cut"))
    whole = memory_backend.open_graph(distgnn.GraphSpec("whole", 40, 300), graph.edge_index)
    nodes = torch.arange(40)
    for one, other in zip(store.in_neighbors(nodes), whole.in_neighbors(nodes), strict=True):
        assert torch.equal(one, other)
    assert features is not None
    assert torch.equal(features.read(nodes), graph.x)


def test_what_has_no_rows_is_named_and_left_out(tmp_path: Path) -> None:
    graph = random_graph(10, 30)
    graph.title, graph.edge_label_index = "ten nodes", graph.edge_index.clone()
    assert set(partition_graph(graph, tmp_path / "cut", 2, method="hash").left_out) == {"title", "edge_label_index"}


def test_a_folder_that_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    graph, folder = random_graph(10, 30), tmp_path / "cut"
    partition_graph(graph, folder, 2, method="range")
    with pytest.raises(ConfigError, match=r"cut is there already; choose another folder"):
        partition_graph(graph, folder, 3, method="range")
    assert open_partition(folder, 0).nodes.bounds == (0, 5, 10)
    partition_graph(graph, folder, 5, method="range", overwrite=True)
    assert open_partition(folder, 4).nodes.bounds == (0, 2, 4, 6, 8, 10)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="is no partition, so it is not overwritten"):
        partition_graph(graph, tmp_path / "mine", 2, method="range", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "mine"]


def test_a_run_that_fails_leaves_no_folder_and_the_old_one(tmp_path: Path) -> None:
    graph, folder = random_graph(10, 30), tmp_path / "cut"
    partition_graph(graph, folder, 2, method="range")
    graph.z = torch.zeros(10, dtype=torch.complex64)
    with pytest.raises(DataFormatError, match=r"'z' is of torch.complex64"):
        partition_graph(graph, folder, 2, method="range", overwrite=True)
    with pytest.raises(DataFormatError, match=r"'z'"):
        partition_graph(graph, tmp_path / "new", 2, method="range")
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]
    open_partition(folder, 1)


@pytest.mark.parametrize("kind", ["graph", "nodes", "edges"])
def test_a_missing_or_truncated_file_is_named_and_other_parts_load(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    partition_graph(random_graph(40, 300), folder, 3, method="range")
    path = folder / "part-1" / f"{kind}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(DataFormatError, match=rf"part-1/{kind}.safetensors has [\d,]+ bytes, not the [\d,]+ it was"):
        open_partition(folder, 1)
    path.write_bytes(b"\xff" * len(content))
    with pytest.raises(DataFormatError, match=rf"part-1/{kind}.safetensors is not what was written: its checksum"):
        open_partition(folder, 1)
    path.unlink()
    with pytest.raises(DatasetNotFoundError, match=rf"part-1/{kind}.safetensors is missing"):
        open_partition(folder, 1)
    for part in (0, 2):
        open_partition(folder, part)


def test_the_manifest_is_checked_and_names_no_file_outside(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    partition_graph(random_graph(40, 300), folder, 2, method="range")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())

    def changed(**entries: object) -> None:
        path.write_text(json.dumps({**manifest, **entries}))

    inside = "part-0/graph.safetensors"
    outside = folder.parent / "outside.safetensors"
    outside.write_bytes((folder / inside).read_bytes())
    others = {name: about for name, about in manifest["files"].items() if name != inside}
    changed(files={"../outside.safetensors": manifest["files"][inside], **others})
    with pytest.raises(DataFormatError, match=rf"cut/{inside} has [\d,]+ bytes, not the 0"):
        open_partition(folder, 0)
    for entries, words in (
        ({"node_bounds": [0, 10, 99]}, "do not fit the graph"),
        ({"node_bounds": [0, 30, 20, 40]}, "spoils"),
        ({"files": ["a"]}, "spoils"),
        ({"version": 99}, "version 1 or 2"),
        ({"node_bounds": [0, 10, 40]}, "node_ids has 20 rows, not 10"),
    ):
        changed(**entries)
        with pytest.raises(DataFormatError, match=words):
            open_partition(folder, 0)
    path.write_text("{")
    with pytest.raises(DataFormatError, match=r"manifest\.json is no JSON"):
        open_partition(folder, 0)
    path.unlink()
    with pytest.raises(DatasetNotFoundError, match="cut is no partition"):
        open_partition(folder, 0)


def test_mistakes_are_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph(10, 30)
    for options, words in (
        ({"num_parts": 0}, "at least 1 part, not 0"),
        ({"num_parts": 2, "method": "spectral"}, "metis, hash, range, not 'spectral'"),
    ):
        with pytest.raises(ConfigError, match=words):
            partition_graph(graph, tmp_path / "cut", **options)
    with pytest.raises(DataFormatError, match="no graph to cut"):
        partition_graph(Data(x=torch.zeros(3, 1)), tmp_path / "cut", 2)
    for edges, words in (
        (torch.tensor([[0, 1], [9, 10]]), "holds nodes 0 to 10, the graph has nodes 0 to 9"),
        (torch.tensor([[0], [-1]]), "holds nodes -1 to 0"),
        (torch.tensor([[0], [1]], dtype=torch.int32), r"torch\.int64, not torch\.int32"),
    ):
        with pytest.raises(DataFormatError, match=words):
            partition_graph(Data(edge_index=edges, num_nodes=10), tmp_path / "cut", 2)
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(ConfigError, match=r"pip install 'distgnn\[metis\]'"):
        partition_graph(graph, tmp_path / "cut", 2)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written to .*file/cut: .*; choose another folder"):
        partition_graph(graph, tmp_path / "file" / "cut", 2, method="hash")
    partition_graph(graph, tmp_path / "cut", 2, method="hash")
    with pytest.raises(ConfigError, match="has parts 0 to 1, not 2"):
        open_partition(tmp_path / "cut", 2)


def test_features_larger_than_memory_are_streamed(tmp_path: Path) -> None:
    program = """
import resource, sys, torch
from torch_geometric.data import Data
from distgnn.graph import partition_graph
torch.set_num_threads(1)
folder, rows = sys.argv[1], 200_000
x = torch.from_file(folder + "/x.bin", shared=True, size=rows * 256).view(rows, 256)
edge_index = torch.randint(rows, (2, rows), generator=torch.Generator().manual_seed(0))
graph = Data(edge_index=edge_index, num_nodes=rows)
partition_graph(graph, folder + "/warm", 4, method="hash")
graph.x = x
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used * 1024 + 100_000_000,) * 2)
try:
    x.index_select(0, torch.arange(rows))
except RuntimeError:
    partition_graph(graph, folder + "/cut", 4, method="hash")
    print("streamed")
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("the limit of memory is set by way of /proc")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=100, check=False
    )
    # 205 MB of features with 100 MB of memory for them.
    assert done.stdout == "streamed\n", done.stderr
    assert open_partition(tmp_path / "cut", 3).node_features["x"].shape[1] == 256
