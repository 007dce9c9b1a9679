"""A table means what its header says; what can mean two things is refused, and what is left out is said."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch_geometric.utils import to_undirected

from distgnn.data import DataWarning, load_custom_graph
from distgnn.data.splits import random_masks
from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EDGES = [(0, 3), (3, 5), (5, 1), (1, 4), (4, 2), (2, 0), (0, 5)]
RIGHT = to_undirected(torch.tensor(EDGES).T, num_nodes=6)
ORDER = [4, 0, 5, 2, 1, 3]
X = [[float(node), node / 2] for node in range(6)]
Y = [0, 1, 2, 0, 1, 2]


def rows(*lines: Sequence[object], mark: str = ",") -> str:
    return "".join(mark.join(map(str, line)) + "\n" for line in lines)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    return write(tmp_path, "edges.csv", "source,target\n" + rows(*EDGES))


@pytest.mark.parametrize(
    "text",
    [
        ",source,target\n" + rows(*((k, *e) for k, e in enumerate(EDGES))),
        "Unnamed: 0,a,b\n" + rows(*((k, *e) for k, e in enumerate(EDGES))),
        "edge_id;src;dst\n" + rows(*((k, *e) for k, e in enumerate(EDGES)), mark=";"),
        "index,userA,userB\n" + rows(*((k + 7, *e) for k, e in enumerate(EDGES))),
        "target,source\n" + rows(*(e[::-1] for e in EDGES)),
        "to\tfrom\n" + rows(*(e[::-1] for e in EDGES), mark="\t"),
        "FromNodeId,ToNodeId\n" + rows(*EDGES),
        "id_1,id_2\n" + rows(*EDGES),
        "user,item\n" + rows(*EDGES),
        "source|target\n" + rows(*EDGES, mark="|"),
        '"source","target",""\r\n' + rows(*((*e, "") for e in EDGES)).replace("\n", "\r\n"),
        "\ufeffsource,target\n" + rows(*((f" {a}.0 ", f'"{b}"') for a, b in EDGES)),
        "# a comment\n\n" + rows(*EDGES, mark="  ") + "\n\n",
    ],
)
def test_the_header_says_which_columns_are_the_ends_of_an_edge(tmp_path: Path, text: str) -> None:
    data = load_custom_graph(write(tmp_path, "edges.csv", text))
    assert torch.equal(data.edge_index, RIGHT)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("weight,source,target\n" + rows(*((k % 3, *e) for k, e in enumerate(EDGES))), "'weight'"),
        ("source,target,kind\n" + rows(*((*e, "likes") for e in EDGES)), "'kind'"),
        ("source,target,since,w\n" + rows(*((*e, "2024-05-01", 1) for e in EDGES)), "'since', 'w'"),
        ("source_type,source,target_type,target\n" + rows(*(("u", a, "u", b) for a, b in EDGES)), "source_type"),
        (rows(*((*e, 0.5) for e in EDGES)), "2 .from 0."),
    ],
)
def test_a_column_that_is_not_read_is_named(tmp_path: Path, text: str, left_out: str) -> None:
    with pytest.warns(DataWarning, match=rf"edges\.csv: not read is column .*{left_out}.*, as weights and features of"):
        data = load_custom_graph(write(tmp_path, "edges.csv", text))
    assert torch.equal(data.edge_index, RIGHT)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "0,1\n" + rows(*EDGES),
            r"line 1: 0,1 may be an edge, or a data frame's names of columns; write a header line",
        ),
        ("6,7\n" + rows(*EDGES), r"line 1: 6 and 7 look like the numbers of nodes and edges; remove the line"),
        (rows(*((k, *e) for k, e in enumerate(EDGES))), r"the first of 3 columns counts the lines; write a header"),
        (
            "node,time,user\n" + rows(*((k, *e) for k, e in enumerate(EDGES))),
            r"its header is node, time, user; call two",
        ),
        ("index,source\n" + rows(*EDGES), r"does not say which columns are the ends of an edge"),
        (
            "node,label\n" + rows(*EDGES),
            r"does not say which columns are the ends of an edge: its header is node, label",
        ),
        ("source,source\n" + rows(*EDGES), r"several columns called source; give each a name of its own"),
        ("My graph\nsource,target\n" + rows(*EDGES), r"give every column a name, or remove line 1 if it is a title"),
        (
            "source,target\nanna,bert\n",
            r"2 columns that hold what is not a number: 'source' \('anna', line 2\), 'target'",
        ),
    ],
)
def test_edges_that_can_mean_two_things_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        load_custom_graph(write(tmp_path, "edges.csv", text))


@pytest.mark.parametrize(
    "text",
    [
        "node,a,b\n" + rows(*((k, *X[k]) for k in ORDER)),
        "a,b,node_id\n" + rows(*((*X[k], k) for k in ORDER)),
        ",userId,a,b\n" + rows(*((n, k, *X[k]) for n, k in enumerate(ORDER))),
        ",a,b\n" + rows(*((k, *X[k]) for k in range(6))),
        ",0,1\n" + rows(*((k, *X[k]) for k in range(6))),
        "a,b\n" + rows(*X),
    ],
)
def test_features_go_to_the_nodes_that_the_header_names(tmp_path: Path, edges: Path, text: str) -> None:
    assert load_custom_graph(edges, features=write(tmp_path, "x.csv", text)).x.tolist() == X


def test_a_first_line_of_column_numbers_is_no_node(tmp_path: Path, edges: Path) -> None:
    path = write(tmp_path, "x.csv", "0,1\n" + rows(*((b, a) for a, b in X)))
    with pytest.warns(DataWarning, match=r"x\.csv: its first line, 0 to 1, is taken for the names of columns"):
        assert load_custom_graph(edges, features=path).x.tolist() == [[b, a] for a, b in X]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            rows(*X, mark=" "),
            r"the first column numbers the nodes, and there is no header line; write one",
        ),
        (
            ",a,b\n" + rows(*((k, *X[k]) for k in ORDER)),
            r"column '?0?.*looks like the number of the row, and is not: call",
        ),
        (
            "node,a\n" + rows(*((min(k, 4), 1) for k in range(6))),
            r"x\.csv, line 6: 4 is in column 'node' more than once",
        ),
        ("node,a\n" + rows(*((k + 1, 1) for k in range(6))), r"line 7: 6 is not below the number of nodes, 6"),
        (
            "node,a,color\n" + rows(*((k, 1, "red") for k in range(6))),
            r"line 2: 'red' is not a number|columns that hold",
        ),
        ("node\n" + rows(*((k,) for k in range(6))), r"no columns of features beside 'node'"),
        ("node,vertex,a\n" + rows(*((k, k, 1) for k in range(6))), r"several columns that may be the id of the node"),
        ("a,b\n" + rows(*X[:5]), r"has 5 feature rows, but the graph has 6 nodes; .*do ids count from 1\?"),
        ("a,b\n" + rows(*X[:5], (1, "inf")), r"line 7: inf is not a finite number"),
        ("a,b\n" + rows(*X[:5], (1, "")), r"line 7: '' is not a number; fill the empty field"),
        ("a;b\n" + rows(*((1, "0,5") for _ in X), mark=";"), r"'0,5' is not a number; .*with a point before decimals"),
    ],
)
def test_features_that_can_mean_two_things_are_refused(tmp_path: Path, edges: Path, text: str, words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        load_custom_graph(edges, features=write(tmp_path, "x.csv", text))


def test_all_columns_that_are_no_numbers_are_told_at_once(tmp_path: Path, edges: Path) -> None:
    path = write(tmp_path, "x.csv", "a,color,b,day\n1,2,3,4\n" + rows(*((1, "red", 2, "Monday") for _ in range(5))))
    with pytest.raises(DataFormatError, match=r"2 columns .*: 'color' \('red', line 3\), 'day' \('Monday', line 3\)"):
        load_custom_graph(edges, features=path)


def test_ids_labels_and_splits_of_a_table_of_nodes_are_no_features(tmp_path: Path, edges: Path) -> None:
    sets = ["train", "train", "val", "test", "train", ""]
    table = rows(*((k, *X[k], sets[k], Y[k]) for k in ORDER))
    path = write(tmp_path, "nodes.csv", "node,a,b,split,community\n" + table)
    with pytest.warns(DataWarning) as said:
        data = load_custom_graph(edges, features=path, labels=path, label_column="community")
    assert data.x.tolist() == X
    assert data.y.tolist() == Y
    assert data.train_mask.nonzero().flatten().tolist() == [0, 1, 4]
    texts = " ".join(str(warning.message) for warning in said)
    assert "no feature is 'split', 'community'" in texts
    assert "1 nodes with a label are in no set" in texts
    path = write(tmp_path, "n.csv", rows(*((k, *X[k], Y[k]) for k in ORDER)))
    with pytest.raises(DataFormatError, match="no header line, so that ids and labels cannot be told from features"):
        load_custom_graph(edges, features=path, labels=path, label_column=3)


def test_a_label_in_another_table_is_no_feature(tmp_path: Path, edges: Path) -> None:
    features = write(tmp_path, "x.csv", "node,a,b,kind\n" + rows(*((k, *X[k], Y[k]) for k in ORDER)))
    labels = write(tmp_path, "y.csv", "node,kind\n" + rows(*enumerate(Y)))
    with pytest.warns(DataWarning, match="no feature is 'kind', which is what is to be learned"):
        assert load_custom_graph(edges, features=features, labels=labels, label_column="kind").x.tolist() == X


def test_a_feature_that_equals_the_labels_is_said(tmp_path: Path) -> None:
    edges = write(tmp_path, "e.csv", "source,target\n" + rows(*((k, (k + 1) % 40) for k in range(40))))
    labels = write(tmp_path, "y.csv", "node,label\n" + rows(*((k, k % 3) for k in range(40))))
    np.save(tmp_path / "x.npy", np.stack([np.ones(40), np.arange(40) % 3], axis=1))
    with pytest.warns(DataWarning, match=r"feature 1 \(from 0\) is every labelled node's label; is it a leak\?"):
        load_custom_graph(edges, features=tmp_path / "x.npy", labels=labels)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (",node,label\n" + rows(*((n, k, Y[k]) for n, k in enumerate(ORDER))), None),
        (",label\n" + rows(*((k, Y[k]) for k in ORDER)), None),
        ("label,node\n" + rows(*((Y[k], k) for k in ORDER)), None),
        ("node,label,seconds\n" + rows(*((k, Y[k], k) for k in ORDER)), None),
        ("id,ml_target,name\n" + rows(*((k, Y[k], "x") for k in ORDER)), None),
        ("id,community\n" + rows(*((k, f"{Y[k]}.0") for k in ORDER)), None),
        ("paper,topic\n" + rows(*((k, Y[k]) for k in ORDER)), None),
        ("label,colour\n" + rows(*((Y[k], "red") for k in range(6))), None),
        (rows(*((k, "x", Y[k]) for k in ORDER)), 2),
        (rows(*((k, "x", Y[k]) for k in ORDER)), "-1"),
    ],
)
def test_labels_go_to_the_nodes_that_the_table_names(
    tmp_path: Path, edges: Path, text: str, column: str | int | None
) -> None:
    path = write(tmp_path, "y.csv", text)
    assert load_custom_graph(edges, labels=path, label_column=column).y.tolist() == Y


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node,a,b\n0,1,1\n", r"which column is the label is not clear; give label_column .*one of a, b"),
        ("node,label,class\n0,1,1\n", r"not clear; give label_column .*one of label, class"),
        ("0,1,1\n1,0,1\n", r"3 columns and no header: which one is the label is not clear"),
        ("node,label\n0,-1\n1,1\n2,1\n", r"labels -1 and 1 alone: if -1 is a class, number the classes 0 and 1"),
        ("node,label\n0,\n1,\n", r"no node has a label"),
        ("node,label\n0,1.5\n1,2\n", r"line 2: 1\.5 is not a label; .*\(regression\) are not trained here"),
        ("node,label\n0,-100\n1,2\n", r"line 2: -100 is not a label; labels are the integers from 0.*an empty field"),
        ("node,year\n0,2018\n1,2019\n2,2020\n", r"labels up to 2,020, which makes 2,021 classes of which 3 are there"),
        ("node,label\n0,cat\n1,dog\n", r"line 2: 'cat' is not a number; map text to whole numbers first"),
        ("node,label,split\n0,1,train\n1,0,tst\n", r"line 3: 'tst' is no set; write train, val, test, or nothing"),
        ("node,label,train,val,test\n0,1,1,1,0\n1,0,1,0,0\n", r"line 2: 2 sets have this node"),
        (
            "node,label,train,val,test\n0,1,2,0,0\n1,0,1,0,0\n",
            r"line 2: 2 is no mask; write 1 for the nodes of the set",
        ),
        ("node,label,split\n0,1,train\n1,0,test\n", r"no labelled node is in val; a split has train, val and test"),
    ],
)
def test_labels_that_can_mean_two_things_are_refused(tmp_path: Path, edges: Path, text: str, words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        load_custom_graph(edges, labels=write(tmp_path, "y.csv", text))


@pytest.mark.parametrize("gap", ["", "NaN", "NA", "None", "-1", " "])
def test_an_empty_label_is_a_node_without_one_and_counted(tmp_path: Path, edges: Path, gap: str) -> None:
    path = write(tmp_path, "y.csv", f"node,label\n0,1.0\n1,{gap}\n2,0.0\n3,{gap}\n")
    with pytest.warns(
        DataWarning, match=rf"of 4 lines 2 are unlabelled, 2 by {'-1' if gap == '-1' else 'an empty field'}"
    ):
        data = load_custom_graph(edges, labels=path)
    assert data.y.tolist() == [1, -1, 0, -1, -1, -1]


def test_true_and_false_are_two_classes(tmp_path: Path, edges: Path) -> None:
    path = write(tmp_path, "y.csv", "node,fraud\n" + rows(*((k, k % 2 == 1) for k in range(6))))
    assert load_custom_graph(edges, labels=path).y.tolist() == [0, 1] * 3


def test_masks_are_the_split(tmp_path: Path, edges: Path) -> None:
    masks = [(1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 0, 1)]
    table = "id,train_mask,label,val_mask,is_test\n" + rows(*((k, masks[k][0], Y[k], *masks[k][1:]) for k in ORDER))
    data = load_custom_graph(edges, labels=write(tmp_path, "y.csv", table))
    assert data.y.tolist() == Y
    found = torch.stack([data.train_mask, data.val_mask, data.test_mask], dim=1)
    assert found.long().tolist() == [[*mask] for mask in masks]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([(0, 300_000), (1, 300_001)], "ids up to 300,001 make 300,002 nodes, and 100 % of them have no edge"),
        ([(1, 2), (2, 3), (3, 1)], "ids count from 1, so that node 0 has no edge"),
    ],
)
def test_nodes_without_an_edge_are_said(tmp_path: Path, pairs: list[tuple[int, int]], words: str) -> None:
    with pytest.warns(DataWarning, match=words):
        load_custom_graph(write(tmp_path, "e.csv", "a,b\n" + rows(*pairs)))


def test_ids_that_are_telephone_numbers_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "e.csv", "a,b\n" + rows(*((3_000_000_000 + k, 3_000_000_001 + k) for k in range(40))))
    labels = write(tmp_path, "y.csv", "node,label\n3000000000,1\n")
    with pytest.raises(
        DataFormatError, match=r"makes 3,000,000,041 nodes, of which 41 have an edge; number nodes anew"
    ):
        load_custom_graph(path, labels=labels)
    with pytest.raises(DataFormatError, match=r"makes 1,000,000,000,000 nodes, whose labels and split takes? .* bytes"):
        load_custom_graph(path, labels=labels, num_nodes=10**12, undirected=False)


def test_nothing_is_said_of_tables_that_are_as_they_should_be(tmp_path: Path, edges: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = write(tmp_path, "x.csv", "node,a,b\n" + rows(*((k, *X[k]) for k in ORDER)))
        labels = write(tmp_path, "y.csv", "node,label\n" + rows(*enumerate(Y)))
        load_custom_graph(edges, features=features, labels=labels)


@pytest.mark.parametrize("seed", range(20))
def test_every_class_is_in_every_set_as_scikit_learn_has_it(seed: int) -> None:
    y = torch.zeros(2000, dtype=torch.int64)
    y[torch.randperm(2000, generator=torch.Generator().manual_seed(seed))[:20]] = 1
    y[:100] = -1
    masks = random_masks(y, seed=seed)
    labelled = (y >= 0).nonzero().flatten().numpy()
    rest, test = train_test_split(labelled, test_size=0.2, stratify=y[labelled], random_state=seed)
    assert int(masks["test_mask"].sum()) == len(test)
    assert int(masks["train_mask"].sum() + masks["val_mask"].sum()) == len(rest)
    for name in ("test_mask", "val_mask"):
        assert abs(int(y[masks[name]].sum()) - int(y[test].sum())) <= 1
