from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.utils import coalesce, contains_self_loops, is_undirected

from distgnn.data import DataWarning, load_custom_graph
from distgnn.errors import DataFormatError, DatasetNotFoundError


def is_clear(pairs: list[tuple[int, int]]) -> bool:
    return pairs[0] != (0, 1) and pairs[0][1] != len(pairs) - 1


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    """A path of five nodes."""
    return write(tmp_path, "edges.csv", "0,1\n1,2\n2,3\n3,4\n")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def write_edges(folder: Path, pairs: list[tuple[int, int]]) -> list[Path]:
    """Write the same edges in every format."""

    def text(mark: str, header: str = "") -> str:
        return header + "".join(f"{a}{mark}{b}\n" for a, b in pairs)

    paths = [
        write(folder, "plain.csv", text(",")),
        write(folder, "header.csv", text(",", "id_1,id_2\n")),
        write(folder, "quoted.csv", text(",", '"from","to"\n').replace("\n", "\r\n")),
        write(folder, "semicolons.csv", text(";")),
        write(folder, "tabs.tsv", text("\t", "source\ttarget\n")),
        write(folder, "spaces.txt", text("  ")),
        write(folder, "snap.edges", text(" ", "# Directed graph\n# FromNodeId ToNodeId\n")),
        write(folder, "gaps.edgelist", text(" ").replace("\n", "\n\n").rstrip()),
    ]
    for name in ("plain.csv.gz", "header.txt.gz"):
        with gzip.open(folder / name, "wt") as file:
            file.write(text(",", "a,b\n" if name.startswith("header") else ""))
        paths.append(folder / name)
    edge_index = torch.tensor(pairs).t()
    np.savez(folder / "two_rows.npz", edge_index=edge_index.numpy(), other=np.zeros(1))
    np.savez(folder / "one_array.npz", edge_index.numpy())
    np.save(folder / "array.npy", edge_index.numpy().astype(np.int32))
    torch.save(edge_index, folder / "tensor.pt")
    torch.save({"edge_index": edge_index, "other": torch.zeros(1)}, folder / "dictionary.pt")
    paths += [folder / name for name in ("two_rows.npz", "one_array.npz", "array.npy", "tensor.pt", "dictionary.pt")]
    if len(pairs) != 2:
        np.savez(folder / "two_columns.npz", edge_index=edge_index.t().numpy())
        paths.append(folder / "two_columns.npz")
    return paths


@pytest.mark.filterwarnings("ignore::distgnn.data.DataWarning")  # most of these graphs are gaps
# Without a header, 0,1 above other edges and counts of nodes and edges can mean two things.
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20).filter(is_clear))
@settings(max_examples=25, deadline=None)
def test_every_format_gives_back_the_edges_that_were_written(pairs: list[tuple[int, int]]) -> None:
    expected = torch.tensor(pairs).t()
    with TemporaryDirectory() as folder:
        for path in write_edges(Path(folder), pairs):
            data = load_custom_graph(path, undirected=False)
            assert torch.equal(data.edge_index, expected), path.name
            assert data.num_nodes == int(expected.max()) + 1


def test_reverse_edges_are_added_and_doubles_merged(tmp_path: Path) -> None:
    path = write(tmp_path, "edges.csv", "a,b\n0,1\n1,0\n2,2\n0,1\n3,1\n")
    data = load_custom_graph(path)
    assert data.edge_index.tolist() == [[0, 1, 1, 2, 3], [1, 0, 3, 2, 1]]
    assert is_undirected(data.edge_index)
    assert contains_self_loops(data.edge_index)
    assert torch.equal(coalesce(data.edge_index), data.edge_index)


def test_the_musae_github_graph_loads_with_its_labels_by_name(shared_data: Path) -> None:
    folder = shared_data / "musae_git"
    data = load_custom_graph(folder / "git_edges.csv", labels=folder / "git_target.csv", label_column="ml_target")
    assert (data.num_nodes, data.num_edges) == (37_700, 2 * 289_003)
    assert data.y.bincount().tolist() == [27_961, 9_739]
    default = load_custom_graph(folder / "git_edges.csv", labels=folder / "git_target.csv", undirected=False)
    assert default.num_edges == 289_003
    assert torch.equal(default.y, data.y)


@pytest.mark.parametrize("form", ["csv", "npz", "pt"])
def test_features_are_one_float_row_a_node(tmp_path: Path, edges: Path, form: str) -> None:
    x = torch.arange(10.0).view(5, 2) / 4
    path = tmp_path / f"features.{form}"
    if form == "csv":
        np.savetxt(path, x, delimiter=",", header="width,height", comments="")
    elif form == "npz":
        np.savez(path, x=x.numpy())
    else:
        torch.save({"x": x.bfloat16()}, path)
    data = load_custom_graph(edges, features=path)
    assert data.x.dtype == torch.float32
    assert torch.equal(data.x, x)
    assert data.y is None
    assert "train_mask" not in data


def test_labels_may_be_one_number_a_row(tmp_path: Path, edges: Path) -> None:
    with pytest.warns(DataWarning, match=r"y\.txt: of 5 lines 1 are unlabelled, 1 by -1"):
        assert load_custom_graph(edges, labels=write(tmp_path, "y.txt", "0\n1\n2\n-1\n1\n")).y.tolist() == [
            0,
            1,
            2,
            -1,
            1,
        ]
    assert load_custom_graph(edges, labels=write(tmp_path, "y.csv", "label\n0\n1\n2\n0\n1\n")).y.tolist() == [
        0,
        1,
        2,
        0,
        1,
    ]
    torch.save(torch.tensor([4, 3, 2, 1, 0]), tmp_path / "y.pt")
    assert load_custom_graph(edges, labels=tmp_path / "y.pt").y.tolist() == [4, 3, 2, 1, 0]


def test_labels_may_be_a_table_with_ids_and_text(tmp_path: Path, edges: Path) -> None:
    table = write(tmp_path, "y.csv", 'id, name, color, size\n3,"Smith, Jo",1,7\n0,x#y,2,8\n')
    with pytest.raises(DataFormatError, match=r"label is not clear; give label_column .*one of name, color, size"):
        load_custom_graph(edges, labels=table)
    with pytest.warns(DataWarning, match="labels up to 8 make 9 classes, of which 2 are there"):
        assert load_custom_graph(edges, labels=table, label_column="size").y.tolist() == [8, -1, -1, 7, -1]
    for column in ("color", 2, "2", -2):
        with pytest.warns(DataWarning, match="labels up to 2 make 3 classes, of which 2 are there"):
            assert load_custom_graph(edges, labels=table, label_column=column).y.tolist() == [2, -1, -1, 1, -1]


def test_the_split_is_60_20_20_of_the_labelled_nodes_and_follows_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path, "edges.csv", "".join(f"{i},{i + 1}\n" for i in range(119)))
    labels = write(tmp_path, "y.csv", "id,y\n" + "".join(f"{i},{i % 3}\n" for i in range(100)))
    state = torch.get_rng_state()
    data = load_custom_graph(path, labels=labels, seed=1)
    masks = torch.stack([data.train_mask, data.val_mask, data.test_mask])
    assert masks.sum(dim=1).tolist() == [60, 20, 20]
    assert torch.equal(masks.sum(dim=0), (data.y >= 0).long()), "no overlap, and no unlabelled node"
    assert torch.equal(load_custom_graph(path, labels=labels, seed=1).train_mask, data.train_mask)
    assert not torch.equal(load_custom_graph(path, labels=labels, seed=2).train_mask, data.train_mask)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n0,1\nalice,2\n", r"edges\.csv, line 3: 'alice' is not a number; map text to whole numbers first"),
        ("0,bob\n1,2\n", r"edges\.csv, line 1: 'bob' is not a number"),
        ("0,1\n\n1,\n", r"edges\.csv, line 3: '' is not a number"),
        ("0,1\n1,2,3\n", r"edges\.csv, line 2: 3 columns, but the first row has 2; make the rows equally long"),
        ("# note\nid_1,id_2\n0,1\n1\n", r"edges\.csv, line 4: 1 columns, but the first row has 2"),
        ("0,1\n\n1,2\n2,-3\n", r"edges\.csv, line 4: -3 is a negative id; node ids are the integers from 0 to N-1"),
        ("id_1,id_2\n0,1\n1.5,2\n", r"edges\.csv, line 3: 1\.5 is not a whole number; node ids are the integers"),
        ("0,1\nnan,2\n", r"edges\.csv, line 2: nan is not a whole number"),
        ("0,1\n1,1e300\n", r"edges\.csv, line 2: 1e\+300 is not a whole number"),
        ("0,1\n1,5\n", r"edges\.csv, line 2: 5 is not below the number of nodes, 5; give a larger num_nodes"),
        ("", r"edges\.csv is empty: no line of it holds numbers; write one row a line"),
        ("id_1,id_2\n", r"edges\.csv is empty"),
        ("from to\n0 1 2\n", r"edges\.csv, line 2: 3 columns under a header of 2; give every column a name"),
        ("0\n1\n", r"edges\.csv holds a table of shape \[2, 1\]; an edge is two ids"),
        ("0,1\n1,1_0\n", r"edges\.csv cannot be read: could not convert string '1_0'"),
    ],
)
def test_a_broken_edge_file_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, "edges.csv", text)
    with pytest.raises(DataFormatError, match=words) as caught:
        load_custom_graph(path, num_nodes=5)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_broken_line_of_a_gzipped_file_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "edges.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n0,1\n2,x\n"))
    with pytest.raises(DataFormatError, match=r"edges\.csv\.gz, line 3: 'x' is not a number"):
        load_custom_graph(path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[0, 1], [1, -2], [2, 3]]), r"entry 1 \(counted from 0\): -2 is a negative id"),
        (np.array([[0, 1, 2], [1, 2, 1.5]]), r"entry 2 \(counted from 0\): 1\.5 is not a whole number"),
        (np.zeros((3, 3)), r"holds a table of shape \[3, 3\]; an edge is two ids"),
        (np.ones(()), r"holds a table of shape \[1\]"),
        (np.zeros(4), r"holds a table of shape \[4\]"),
        (np.zeros((2, 0)), r"is empty: an array of shape \[2, 0\]"),
        (np.array([["a", "b"]]), r"holds <U1, not numbers; save an array of integers or floats"),
        (np.array([[True, False]]), r"holds bool, not numbers"),
    ],
)
def test_a_wrong_edge_array_is_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.savez(tmp_path / "edges.npz", edge_index=array)
    with pytest.raises(DataFormatError, match=words):
        load_custom_graph(tmp_path / "edges.npz")


def test_an_archive_without_the_array_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "edges.npz", row=np.zeros(2), col=np.zeros(2))
    with pytest.raises(DataFormatError, match=r"edges\.npz holds row, col; name the array 'edge_index'"):
        load_custom_graph(tmp_path / "edges.npz")
    torch.save("text", tmp_path / "edges.pt")
    with pytest.raises(DataFormatError, match=r"edges\.pt holds str, not numbers"):
        load_custom_graph(tmp_path / "edges.pt")
    torch.save({}, tmp_path / "edges.pt")
    with pytest.raises(DataFormatError, match=r"edges\.pt holds nothing"):
        load_custom_graph(tmp_path / "edges.pt")


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"PK\x03\x04garbage", gzip.compress(b"0,1\n" * 999)[:-9]],
    ids=["empty", "garbage", "zip", "gzip"],  # the last holds the time, and processes beside each other need the same
)
@pytest.mark.parametrize("name", ["edges.csv.gz", "edges.npz", "edges.npy", "edges.pt"])
def test_a_corrupt_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError, match=rf"{name} (cannot be read|is empty)"):
        load_custom_graph(tmp_path / name)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path, edges: Path) -> None:
    (tmp_path / "y.csv").write_bytes("id,name,y\n0,J\u00fcrgen,1\n".encode("latin-1"))
    with pytest.raises(DataFormatError, match=r"y\.csv cannot be read as text .*write it again, as UTF-8"):
        load_custom_graph(edges, labels=tmp_path / "y.csv")


def test_a_missing_file_is_not_found(tmp_path: Path, edges: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"there is no file .*none\.csv; check the path"):
        load_custom_graph(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.npz"):
        load_custom_graph(edges, features=tmp_path / "none.npz")


@pytest.mark.parametrize("name", ["edges.parquet", "edges", "edges.npz.gz"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "0,1\n")
    with pytest.raises(DataFormatError, match=r"has the suffix .*known are \.csv, \.tsv, .*with \.gz, and \.npz"):
        load_custom_graph(path)


def test_features_that_do_not_fit_are_refused(tmp_path: Path, edges: Path) -> None:
    short = write(tmp_path, "short.csv", "1,2\n" * 4)
    with pytest.raises(DataFormatError, match=r"short\.csv has 4 feature rows, but the graph has 5 nodes; .*num_nodes"):
        load_custom_graph(edges, features=short)
    gap = write(tmp_path, "gap.csv", "1,2\n3,nan\n" + "1,2\n" * 3)
    with pytest.raises(DataFormatError, match=r"gap\.csv, line 2: nan is not a finite number; fill such gaps first"):
        load_custom_graph(edges, features=gap)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\n1\n", r"y\.csv has 2 labels, but the graph has 5 nodes; write one row a node"),
        ("0\n1\n0.5\n1\n0\n", r"y\.csv, line 3: 0\.5 is not a label; labels are the integers from 0, and -1"),
        ("0\n1\n-2\n1\n0\n", r"y\.csv, line 3: -2 is not a label"),
        ("id,y\n0,1\n7,1\n", r"y\.csv, line 3: 7 is not below the number of nodes, 5"),
        ("id,y\n-1,1\n", r"y\.csv, line 2: -1 is a negative id"),
        ("id,y\n0,1\n2,1\n2,0\n", r"y\.csv, line 3: 2 has more than one label; keep one line a node"),
        ("id,y\n0,spam\n", r"y\.csv, line 2: 'spam' is not a number; map text to whole numbers first"),
        ("id,name,y\n0,a,1\n1,b,c,1\n", r"y\.csv, line 3: 4 columns, but the first row has 3"),
    ],
)
def test_a_broken_label_file_is_refused(tmp_path: Path, edges: Path, text: str, words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        load_custom_graph(edges, labels=write(tmp_path, "y.csv", text))


def test_labels_of_a_wrong_shape_are_refused(tmp_path: Path, edges: Path) -> None:
    np.savez(tmp_path / "y.npz", y=np.zeros((5, 2)))
    with pytest.raises(DataFormatError, match=r"y\.npz holds \[5, 2\]; labels are an array of shape \[N\]"):
        load_custom_graph(edges, labels=tmp_path / "y.npz")


def test_an_unknown_label_column_is_refused_with_the_known_ones(tmp_path: Path, edges: Path) -> None:
    table = write(tmp_path, "y.csv", "id,ml_target\n0,1\n")
    words = r"y\.csv has no column 'target'; it has 2 columns \(id, ml_target\); give one of them"
    with pytest.raises(DataFormatError, match=words):
        load_custom_graph(edges, labels=table, label_column="target")
    with pytest.raises(DataFormatError, match=r"has no column 2; it has 2 columns"):
        load_custom_graph(edges, labels=table, label_column=2)
    with pytest.raises(DataFormatError, match=r"has no column 'y'; it has 2 columns \(no header line\)"):
        load_custom_graph(edges, labels=write(tmp_path, "plain.csv", "0,1\n"), label_column="y")


def test_isolated_nodes_are_counted_with_num_nodes(tmp_path: Path, edges: Path) -> None:
    data = load_custom_graph(edges, num_nodes=7, features=write(tmp_path, "x.csv", "1\n" * 7))
    assert data.num_nodes == 7
    assert data.x.shape == (7, 1)
