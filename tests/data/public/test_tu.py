"""Sets of small graphs as their authors write them: read as PyG reads them, or refused with file and line."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch_geometric.datasets import TUDataset

from distgnn.data import DataWarning, load_dataset
from distgnn.errors import DataFormatError, UnknownDatasetError

if TYPE_CHECKING:
    from pathlib import Path

RAW = {
    "A": "1, 2\n2, 1\n2, 3\n3, 2\n1, 3\n3, 1\n4, 5\n5, 4\n6, 7\n7, 6\n",
    "graph_indicator": "1\n1\n1\n2\n2\n3\n3\n",
    "graph_labels": "1\n-1\n1\n",
    "node_labels": "3\n5\n3\n3\n4\n3\n3\n",
}
ATTRIBUTES = {"node_attributes": "".join(f"0.{n}, 1.5\n" for n in range(7))}
EDGE_ATTRIBUTES = {"edge_attributes": "".join(f"0.{n}\n" for n in range(10))}
EDGE_LABELS = {"edge_labels": "".join(f"{n // 2 % 2 - 1}\n" for n in range(10))}


def write(home: Path, **parts: str | None) -> Path:
    raw = home / "mine" / "raw"
    raw.mkdir(parents=True)
    for part, text in {**RAW, **parts}.items():
        if text is not None:
            (raw / f"mine_{part}.txt").write_text(text)
    return home


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"node_labels": None, **ATTRIBUTES},
        {**ATTRIBUTES, **EDGE_ATTRIBUTES},
        {**EDGE_LABELS, **ATTRIBUTES, **EDGE_ATTRIBUTES},
        {"graph_labels": "7\n7\n9\n", "node_labels": "1, 0\n" * 6 + "2, 3\n"},
        {"A": RAW["A"] + "1, 1\n1, 2\n"},
    ],
)
def test_a_set_is_what_pyg_makes_of_it(tmp_path: Path, parts: dict[str, str | None]) -> None:
    write(tmp_path / "ours", **parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        ours = load_dataset("mine", root=tmp_path / "ours", use_node_attr=True, use_edge_attr=True).graphs
    theirs = TUDataset(str(write(tmp_path / "theirs", **parts)), "mine", use_node_attr=True, use_edge_attr=True)
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        for name in other.keys():  # noqa: SIM118  # it is no dictionary
            assert torch.equal(one[name], other[name]), name


def test_marks_between_numbers_make_no_difference(tmp_path: Path) -> None:
    whole = load_dataset("mine", root=write(tmp_path / "commas")).graphs
    for place, mark in (("blanks", " "), ("tabs", "\t"), ("semicolons", ";"), ("crlf", ", ")):
        text = RAW["A"].replace(", ", mark)
        text += "\n\n"
        parts = {"A": text.replace("\n", "\r\n") if place == "crlf" else text, "graph_labels": "1.0\n-1.0\n1.0\n"}
        for one, other in zip(load_dataset("mine", root=write(tmp_path / place, **parts)).graphs, whole, strict=True):
            assert torch.equal(one.edge_index, other.edge_index)
            assert torch.equal(one.y, other.y)


def test_attributes_are_used_where_there_are_no_labels(tmp_path: Path) -> None:
    alone = load_dataset("mine", root=write(tmp_path / "1", node_labels=None, **ATTRIBUTES, **EDGE_ATTRIBUTES))
    assert (alone.num_features, alone.edge_dim) == (2, 1)
    with pytest.warns(DataWarning, match=r"mine_node_attributes\.txt is not used beside node labels; give use"):
        both = load_dataset("mine", root=write(tmp_path / "2", **ATTRIBUTES))
    assert both.num_features == 3


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"A": "0, 1\n1, 0\n"},
            r"mine_A\.txt, line 1: 0 is not a node: they count from 1 .*add 1 if yours",
        ),
        ({"A": "1, 2\n2, 8\n"}, r"mine_A\.txt, line 2: 8 is not a node: graph_indicator has 7 lines"),
        ({"A": "1, 2\n3, 4\n"}, r"mine_A\.txt, line 2: 1 is the graph of its source, and its target is in another"),
        ({"A": "1, 2, 3\n"}, r"mine_A\.txt has 3 columns; an edge is two nodes"),
        ({"A": "1, two\n"}, r"mine_A\.txt, line 1: ' two' is not a number"),
        ({"A": ""}, r"mine_A\.txt is empty"),
        ({"graph_indicator": "0\n0\n0\n1\n1\n2\n2\n"}, r"indicator\.txt, line 1: 0 is not .*; graphs count from 1"),
        (
            {"graph_indicator": "1\n1\n1\n3\n3\n4\n4\n"},
            r"indicator\.txt, line 4: 3 leaves a number out: a graph",
        ),
        ({"graph_indicator": "1\n1\n2\n1\n2\n3\n3\n"}, r"indicator\.txt, line 4: 1 comes again after a later graph"),
        ({"graph_labels": "1\n0\n"}, r"graph_labels\.txt has 2 labels, and graph_indicator has 3 graphs"),
        ({"graph_labels": "1\n\n0\n"}, r"graph_labels\.txt has 2 labels, and graph_indicator has 3 graphs"),
        ({"graph_labels": "ring\nstar\nring\n"}, r"graph_labels\.txt is empty|line [12]: '\w+' is not a number"),
        ({"graph_labels": "1\n0.5\n0\n"}, r"graph_labels\.txt, line 2: 0\.5 is not a class; .*regression"),
        ({"graph_labels": "1, 0\n0, 1\n1, 1\n"}, r"graph_labels\.txt has 2 columns; a graph has one class"),
        ({"graph_attributes": "0.5\n0.1\n1\n"}, r"graph_attributes\.txt holds numbers to be predicted \(regression\)"),
        (
            {"graph_attributes": "0.5\n0.1\n1\n", "graph_labels": None},
            r"graph_attributes\.txt holds numbers to be predicted \(regression\)",
        ),
        ({"node_labels": "1\n2\n"}, r"node_labels\.txt has 2 lines for 7 nodes; write one for each"),
        ({"node_labels": "1\n" * 6 + "1.5\n"}, r"node_labels\.txt, line 7: 1\.5 is not a label; .*into attributes"),
        ({"node_labels": "1\n" * 6 + "3000000000\n"}, r"labels span 3,000,000,000 numbers of which 2 are there"),
        ({"node_attributes": "1, 2\n" * 6 + "1, nan\n"}, r"node_attributes\.txt, line 7: nan is not a finite number"),
        ({"edge_labels": "1\n" * 9}, r"edge_labels\.txt has 9 lines for 10 edges"),
    ],
)
def test_a_mistake_is_told_by_file_and_line(tmp_path: Path, parts: dict[str, str | None], words: str) -> None:
    with pytest.raises(DataFormatError, match=words):
        load_dataset("mine", root=write(tmp_path, **parts))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match=r"mine_A\.txt: of 12 edges 10 are kept: self loops are left out, and equal"):
        load_dataset("mine", root=write(tmp_path / "1", A=RAW["A"] + "1, 1\n1, 2\n"))
    with pytest.warns(DataWarning, match=r"mine_A\.txt has edges in one direction alone"):
        load_dataset("mine", root=write(tmp_path / "2", A="1, 2\n2, 3\n4, 5\n6, 7\n"))
    with pytest.raises(UnknownDatasetError, match=r"mine_graph_labels\.txt"):
        load_dataset("mine", root=write(tmp_path / "3", graph_labels=None))
