"""Planetoid's raw files give what PyG makes of them, and run nothing."""

from __future__ import annotations

import pickle
import shutil
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch_geometric.datasets import Planetoid
from torch_geometric.io.planetoid import read_planetoid_data

from distgnn.data import load_dataset
from distgnn.data.public.planetoid import read_planetoid
from distgnn.errors import DataError, DataFormatError

if TYPE_CHECKING:
    from pathlib import Path

TRAIN, ALL, TEST = 6, 530, 5  # nodes


def write(raw: Path, name: str, protocol: int = 2, **parts: Any) -> Path:
    """Write a small data set as Planetoid's, the test nodes of CiteSeer with a gap."""
    random = np.random.default_rng(0)
    test = [530, 533, 532, 531, 536] if name == "citeseer" else [534, 530, 532, 531, 533]
    count = 537 if name == "citeseer" else 535

    def one_hot(rows: int) -> np.ndarray:
        return np.eye(3, dtype=np.int32)[random.integers(0, 3, rows)]

    graph = defaultdict(list, {node: random.integers(0, count, 3).tolist() for node in range(count)})
    contents = {
        "x": csr_matrix(random.random((TRAIN, 4)).astype(np.float32)),
        "tx": csr_matrix(random.random((TEST, 4))),
        "allx": csr_matrix((random.random((ALL, 4)) > 0.5).astype(np.float32)),
        "y": one_hot(TRAIN),
        "ty": one_hot(TEST),
        "ally": np.asfortranarray(one_hot(ALL)),
        "graph": graph,
        **parts,
    }
    raw.mkdir(parents=True)
    for part, content in contents.items():
        text = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
        (raw / f"ind.{name}.{part}").write_bytes(text)
    (raw / f"ind.{name}.test.index").write_text("".join(f"{node}\n" for node in test))
    return raw


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("name", ["Cora", "CiteSeer"])
def test_a_data_set_is_what_pyg_makes_of_it(tmp_path: Path, name: str, protocol: int) -> None:
    raw = write(tmp_path / "raw", name.lower(), protocol)
    ours, theirs = read_planetoid(raw, name), read_planetoid_data(str(raw), name)
    for key in theirs.keys():  # noqa: SIM118  # it is no dictionary
        assert torch.equal(ours[key], theirs[key]), key


def test_cora_is_what_pyg_makes_of_it(tmp_path: Path, shared_data: Path) -> None:
    if not (shared_data / "Cora" / "raw").is_dir():
        pytest.skip("Cora is not among the data sets")
    shutil.copytree(shared_data / "Cora" / "raw", tmp_path / "Cora" / "raw")
    ours, theirs = load_dataset("Cora", root=tmp_path).graph, Planetoid(str(tmp_path), "Cora")[0]
    for key in theirs.keys():  # noqa: SIM118  # it is no dictionary
        assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"x": b""}, r"ind\.cora\.x cannot be read"),
        ({"x": [1, 2]}, r"ind\.cora\.x holds list, not a matrix of numbers"),
        ({"y": np.array(["a"])}, r"ind\.cora\.y holds a damaged matrix \(an array of 'U1'"),
        ({"y": np.zeros((2, 3), dtype=object)}, r"an array of 'O8', which are no numbers"),
        ({"ty": np.zeros(5)}, r"ind\.cora\.ty holds an array of shape \[5\], not a matrix"),
        ({"graph": [1]}, r"ind\.cora\.graph holds list, not a dictionary of neighbors"),
        ({"graph": {0: ["a"]}}, r"ind\.cora\.graph holds neighbors that are no lists of ids"),
        ({"graph": {0: [99_999]}}, r"ind\.cora\.graph names nodes that the other files have not"),
        ({"tx": csr_matrix(np.ones((3, 4)))}, r"do not go together: ind\.cora\.test\.index names other nodes"),
        ({"x": csr_matrix(np.ones((6, 9)))}, r"do not go together: rows of unequal length"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    write(tmp_path / "Cora" / "raw", "cora", **parts)
    with pytest.raises(DataFormatError, match=words):
        load_dataset("Cora", root=tmp_path)


def test_a_matrix_whose_indices_lead_outside_is_refused(tmp_path: Path) -> None:
    crafted = csr_matrix(np.ones((TRAIN, 4)))
    crafted.indices[:] = 10**6
    write(tmp_path / "Cora" / "raw", "cora", x=crafted)
    with pytest.raises(DataError, match="damaged matrix"):
        load_dataset("Cora", root=tmp_path)


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@pytest.mark.parametrize("part", ["x", "tx", "allx", "y", "ty", "ally", "graph"])
def test_code_planted_in_a_file_does_not_run(tmp_path: Path, part: str) -> None:
    mark = tmp_path / "executed"
    places: list[Any] = [Planted(mark), {0: [Planted(mark)]}, [np.zeros((2, 2)), Planted(mark)]]
    for place, planted in enumerate(places):
        write(tmp_path / str(place) / "Cora" / "raw", "cora", **{part: planted})
        with pytest.raises(DataError, match=rf"ind\.cora\.{part} cannot be read \(it names \w+\.exec"):
            load_dataset("Cora", root=tmp_path / str(place))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Planted(mark)))  # the proof that it is what it should be
    assert mark.exists()
