from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch_geometric.loader import DataLoader

from distgnn.data import DataWarning, load_dataset
from distgnn.errors import DatasetNotFoundError, UnknownDatasetError

if TYPE_CHECKING:
    from pathlib import Path


def write_stars(home: Path, name: str, leaves: list[int]) -> None:
    """Write a TUDataset without node labels, whose graphs are stars."""
    edges, indicator, first = [], [], 1
    for graph, count in enumerate(leaves, 1):
        edges += [(first, first + leaf) for leaf in range(1, count + 1)]
        edges += [(first + leaf, first) for leaf in range(1, count + 1)]
        indicator += [graph] * (count + 1)
        first += count + 1
    raw = home / name / "raw"
    raw.mkdir(parents=True)
    (raw / f"{name}_A.txt").write_text("".join(f"{a}, {b}\n" for a, b in edges))
    (raw / f"{name}_graph_indicator.txt").write_text("".join(f"{graph}\n" for graph in indicator))
    (raw / f"{name}_graph_labels.txt").write_text("".join(f"{count % 2}\n" for count in leaves))


def test_mutag_has_the_numbers_of_the_tu_collection() -> None:
    pytest.importorskip("grakel", reason="its wheel carries MUTAG")
    dataset = load_dataset("MUTAG")
    assert (dataset.name, dataset.task, len(dataset.graphs)) == ("MUTAG", "graph", 188)
    assert (dataset.num_nodes, dataset.num_edges) == (3371, 7442)
    assert (dataset.num_features, dataset.edge_dim, dataset.num_classes) == (7, 4, 2)
    assert sum(int(graph.y) for graph in dataset.graphs) == 125


def test_proteins_has_the_numbers_of_the_tu_collection(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_DATA", str(shared_data))
    dataset = load_dataset("PROTEINS")
    assert (len(dataset.graphs), dataset.num_nodes, dataset.num_edges) == (1113, 43471, 162088)
    assert (dataset.num_features, dataset.edge_dim, dataset.num_classes) == (3, 0, 2)


def test_cora_is_one_graph_with_the_public_split(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_DATA", str(shared_data))
    dataset = load_dataset("Cora")
    graph = dataset.graph
    assert (dataset.task, dataset.num_nodes, dataset.num_edges) == ("node", 2708, 10556)
    assert (dataset.num_features, dataset.edge_dim, dataset.num_classes) == (1433, 0, 7)
    assert [int(mask.sum()) for mask in (graph.train_mask, graph.val_mask, graph.test_mask)] == [140, 500, 1000]
    assert torch.equal(graph.n_id, torch.arange(2708))
    assert torch.equal(graph.e_id, torch.arange(10556))
    assert set(graph.x.unique().tolist()) == {0.0, 1.0}, "x is as PyG gives it, not normalised"


def test_node_and_edge_ids_count_through_the_whole_data_set_and_survive_batching(tmp_path: Path) -> None:
    write_stars(tmp_path, "STARS", [3, 1, 4])
    graphs = load_dataset("STARS", root=tmp_path).graphs
    batch = next(iter(DataLoader(graphs, batch_size=3)))
    assert torch.equal(batch.n_id, torch.arange(11))
    assert torch.equal(batch.e_id, torch.arange(16))
    assert batch.n_id.dtype == batch.e_id.dtype == torch.int64
    last_two = next(iter(DataLoader(graphs[1:], batch_size=2)))
    assert torch.equal(last_two.n_id, torch.arange(4, 11))
    assert torch.equal(last_two.e_id, torch.arange(6, 16))


def test_graphs_without_node_labels_get_their_degrees(tmp_path: Path) -> None:
    write_stars(tmp_path, "STARS", [3, 1])
    dataset = load_dataset("STARS", root=tmp_path)
    assert dataset.num_features == 4
    assert dataset.graphs[0].x.argmax(dim=1).tolist() == [3, 1, 1, 1]
    assert dataset.graphs[1].x.sum(dim=1).tolist() == [1, 1]


def test_graphs_without_node_labels_and_with_great_degrees_get_a_constant(tmp_path: Path) -> None:
    write_stars(tmp_path, "STARS", [501, 1])
    dataset = load_dataset("STARS", root=tmp_path)
    assert dataset.num_features == 1
    assert dataset.graphs[0].x.unique().tolist() == [1.0]


def test_an_unknown_name_is_refused_with_the_known_ones_and_the_closest() -> None:
    with pytest.raises(UnknownDatasetError) as caught:
        load_dataset("mutagg")
    text = str(caught.value)
    assert "no data set is called 'mutagg'; did you mean MUTAG?" in text
    assert "PROTEINS, NCI1, PTC_MR" in text
    assert "Cora, CiteSeer, PubMed, CustomLargeGraph" in text
    assert "put mutagg_A.txt, mutagg_graph_indicator.txt, mutagg_graph_labels.txt into DIR/mutagg/raw" in text
    assert isinstance(caught.value, LookupError)


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(UnknownDatasetError, match=r"no data set is called 'qqqqqq'\. Known are MUTAG"):
        load_dataset("qqqqqq")


def test_a_known_name_without_files_is_not_found_rather_than_unknown() -> None:
    with pytest.raises(DatasetNotFoundError, match="NCI1 is not on this machine"):
        load_dataset("NCI1")


def test_a_graph_task_has_no_single_graph(tmp_path: Path) -> None:
    write_stars(tmp_path, "STARS", [3, 1])
    with pytest.raises(AttributeError, match=r"STARS has 2 graphs and a label for each; use \.graphs"):
        _ = load_dataset("STARS", root=tmp_path).graph


def test_an_option_that_a_data_set_does_not_take_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'splitt'"):
        load_dataset("Cora", splitt="public")


def test_node_attributes_are_loaded_on_request() -> None:
    pytest.importorskip("grakel", reason="its wheel carries Cuneiform")
    plain = load_dataset("Cuneiform")
    full = load_dataset("Cuneiform", use_node_attr=True, use_edge_attr=True)
    assert (len(plain.graphs), plain.num_features, plain.edge_dim) == (267, 7, 2)
    assert (len(full.graphs), full.num_features, full.edge_dim) == (267, 10, 4)


def test_custom_large_graph_is_generated_by_default() -> None:
    dataset = load_dataset("CustomLargeGraph")
    assert (dataset.task, dataset.num_nodes, dataset.num_edges) == ("node", 20_000, 200_000)
    assert (dataset.num_features, dataset.num_classes) == (0, 8)
    assert torch.equal(dataset.graph.e_id, torch.arange(200_000))


def test_custom_large_graph_takes_the_generator_s_options() -> None:
    dataset = load_dataset("CustomLargeGraph", num_nodes=50, num_edges=100, num_classes=3, seed=1)
    assert (dataset.num_nodes, dataset.num_edges, dataset.num_classes) == (50, 100, 3)


def test_custom_large_graph_loads_files_when_it_is_given_edges(tmp_path: Path) -> None:
    (tmp_path / "edges.csv").write_text("0,1\n1,2\n")
    (tmp_path / "labels.csv").write_text("0\n4\n-1\n")
    with pytest.warns(DataWarning):
        dataset = load_dataset("CustomLargeGraph", edges=tmp_path / "edges.csv", labels=str(tmp_path / "labels.csv"))
    assert (dataset.num_nodes, dataset.num_edges, dataset.num_classes) == (3, 4, 5)
    assert load_dataset("CustomLargeGraph", edges=tmp_path / "edges.csv").num_classes == 0
