from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.data import Data

from distgnn import ConfigError, DataFormatError, DatasetNotFoundError
from distgnn.graph import open_partition, partition_from_dgl, partition_graph, partition_to_dgl
from distgnn.graph.partition import dgl as dgl_partition
from distgnn.graph.partition.dgl import _import_dgl

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("pandas", reason="DGL needs it")


@pytest.fixture
def dgl() -> Any:
    try:
        return _import_dgl()
    except ConfigError:
        pytest.skip("DGL is not installed")


@pytest.fixture
def graph() -> Data:
    generator = torch.Generator().manual_seed(0)
    return Data(
        edge_index=torch.randint(47, (2, 300), generator=generator),
        num_nodes=50,
        x=torch.randn(50, 3, generator=generator),
        train_mask=torch.rand(50, generator=generator) < 0.5,
        edge_attr=torch.randn(300, 2, generator=generator),
    )


@pytest.mark.parametrize("num_parts", [1, 3])
def test_dgl_loads_what_we_write(
    num_parts: int, dgl: Any, graph: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DGL_DIST_DEBUG", "1")  # DGL then checks what it loads
    partition_graph(graph, tmp_path / "ours", num_parts, method="hash")
    config = partition_to_dgl(tmp_path / "ours", tmp_path / "dgls", graph_name="mine")
    seen = torch.zeros(300, dtype=torch.int64)
    for number in range(num_parts):
        part = open_partition(tmp_path / "ours", number)
        loaded, nodes, edges, book, name, _, _ = dgl.distributed.load_partition(str(config), number)
        assert name == "mine"
        assert book.partid2nids(number).tolist() == list(range(*part.nodes.bounds[number : number + 2]))
        node_ids, edge_ids = nodes["_N/orig_id"], edges["_N:_E:_N/orig_id"]
        assert torch.equal(nodes["_N/x"], graph.x[node_ids])
        assert torch.equal(nodes["_N/train_mask"].bool(), graph.train_mask[node_ids])
        assert torch.equal(edges["_N:_E:_N/edge_attr"], graph.edge_attr[edge_ids])
        ends = torch.stack([loaded.ndata[dgl.NID][end] for end in loaded.edges()])
        assert torch.equal(ends, part.edge_index)
        assert torch.equal(book.nid2partid(loaded.ndata[dgl.NID]), loaded.ndata["part_id"])
        seen[edge_ids] += 1
    assert (seen == 1).all()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # DGL leaves a file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("num_parts", [1, 3])
def test_we_load_what_dgl_writes(num_parts: int, dgl: Any, graph: Data, tmp_path: Path) -> None:
    theirs = dgl.graph(tuple(graph.edge_index), num_nodes=50)
    theirs.ndata["x"], theirs.edata["edge_attr"] = graph.x, graph.edge_attr
    with contextlib.redirect_stdout(io.StringIO()):
        orig_nodes, orig_edges = dgl.distributed.partition_graph(
            theirs, "theirs", num_parts, str(tmp_path / "dgls"), part_method="random", return_mapping=True
        )
    report = partition_from_dgl(tmp_path / "dgls" / "theirs.json", tmp_path / "ours")
    assert report.method == "DGL's random"
    seen = torch.zeros(300, dtype=torch.int64)
    for number in range(num_parts):
        part = open_partition(tmp_path / "ours", number)
        *_, book, _, _, _ = dgl.distributed.load_partition(str(tmp_path / "dgls" / "theirs.json"), number)
        assert torch.equal(part.node_ids, book.partid2nids(number))
        assert torch.equal(part.node_features["x"], graph.x[orig_nodes[part.node_ids]])
        edges = orig_edges[part.edge_ids]
        assert torch.equal(part.edge_features["edge_attr"], graph.edge_attr[edges])
        assert torch.equal(orig_nodes[part.edge_index], graph.edge_index[:, edges])
        seen[edges] += 1
    assert (seen == 1).all()


def test_there_and_back_is_the_same_partition(dgl: Any, graph: Data, tmp_path: Path) -> None:
    del graph.train_mask  # it comes back as uint8
    partition_graph(graph, tmp_path / "ours", 3, method="hash")
    partition_from_dgl(partition_to_dgl(tmp_path / "ours", tmp_path / "dgls"), tmp_path / "again")
    for number in range(3):
        for kind in ("graph", "nodes", "edges"):
            name = f"part-{number}/{kind}.safetensors"
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    ids = "ids.safetensors"
    assert (tmp_path / "again" / ids).read_bytes() == (tmp_path / "ours" / ids).read_bytes()


def test_mistakes_are_refused(dgl: Any, graph: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partition_graph(graph, tmp_path / "ours", 2, method="hash")
    config = partition_to_dgl(tmp_path / "ours", tmp_path / "dgls")
    with pytest.raises(ConfigError, match="is there"):
        partition_to_dgl(tmp_path / "ours", tmp_path / "dgls")
    with pytest.raises(ConfigError, match="is there already"):
        partition_from_dgl(config, tmp_path / "ours")
    with pytest.raises(DatasetNotFoundError, match=r"nowhere\.json cannot be read"):
        partition_from_dgl(tmp_path / "nowhere.json", tmp_path / "new")
    content = json.loads(config.read_text())
    for changed, words in (
        ({**content, "ntypes": {"a": 0, "b": 1}}, "several types"),
        ({"num_parts": 3}, "no partition of DGL's"),
    ):
        config.write_text(json.dumps(changed))
        with pytest.raises(DataFormatError, match=words):
            partition_from_dgl(config, tmp_path / "new")
    graph.half = graph.x.to(torch.bfloat16)
    partition_graph(graph, tmp_path / "half", 2, method="hash")
    with pytest.raises(DataFormatError, match=r"'half' is of torch\.bfloat16"):
        partition_to_dgl(tmp_path / "half", tmp_path / "half-dgl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dgls", "half", "ours"]

    def missing() -> None:
        raise ImportError("No module named 'dgl'")

    monkeypatch.setattr(dgl_partition, "import_dgl", missing)
    with pytest.raises(ConfigError, match=r"pip install 'distgnn\[dgl\]'"):
        partition_to_dgl(tmp_path / "ours", tmp_path / "new")
