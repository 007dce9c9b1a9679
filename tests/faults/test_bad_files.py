"""Whatever is in a file, what comes of reading it is the content or one of our errors.

``--hypothesis-profile faults`` draws 10,000 contents for each kind of file.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from distgnn import ConfigError, DataError
from distgnn.data import generate_graph, load_custom_graph
from distgnn.errors import DistGNNError
from distgnn.graph import load_new_ids, open_partition, partition_graph
from distgnn.train.session import read_ip_config
from tests.faults.test_checkpoint_damage import JSON, places, planted_files

if TYPE_CHECKING:
    from pathlib import Path

draws = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
NUMBERS = ["0", "1", "2", "-1", "1.5", "1e3", "1e30", "nan", "inf", "9" * 20, "4294967296", "0x1", chr(0x661)]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "256.0.0.1", "::1", "29500"]
WORDS = [*NUMBERS, *ADDRESSES, "source", '"', "'", "#", "%", "\0", "\u00e9", "\ufeff", ""]
SEPARATORS = [" ", "\n", "\n", ",", "\t", ";", "\r\n", "\r", "\x0b", "\u2028"]
TEXTS = st.lists(st.tuples(st.sampled_from(WORDS) | st.text(max_size=3), st.sampled_from(SEPARATORS)), max_size=16).map(
    lambda pairs: "".join(word + separator for word, separator in pairs)
)
CONTENTS = TEXTS.map(str.encode) | st.binary(max_size=80) | TEXTS.map(lambda text: text.encode("utf-16"))


@draws
@given(content=CONTENTS)
def test_any_cluster_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ip_config.txt"
    path.write_bytes(content)
    with suppress(ConfigError):
        assert [machine.rank for machine in read_ip_config(path)] == [*range(len(read_ip_config(path)))]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt.gz"])
@draws
@given(content=CONTENTS)
@example(content=b"1,2\n3," + b"4" * 200_000)
@example(content=b"1\t" + b"2" * 200_000 + b"\n3")
def test_any_text_as_edges(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"edges.{suffix}"
    path.write_bytes(content)
    read_edges(path)


def arrays() -> list[bytes]:
    """Give whole files of arrays: of edges, and of things that are none."""
    kinds: list[Any] = [
        np.arange(6).reshape(3, 2),
        np.zeros((2, 0)),
        np.float32(3),
        np.array(["a", "b"]),
        np.ones((2, 2, 2), "c8"),
    ]
    files = []
    for kind in kinds:
        for save in (np.save, lambda file, array: np.savez(file, edges=array), np.savez_compressed):
            file = io.BytesIO()
            save(file, kind)
            files.append(file.getvalue())
    sparse = torch.eye(3).to_sparse()
    for value in (torch.arange(6).view(2, 3), {"edge_index": torch.ones(2, 2)}, [1, "two"], sparse, torch.tensor(1j)):
        file = io.BytesIO()
        torch.save(value, file)
        files.append(file.getvalue())
    return files


ARRAYS = arrays()


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """Flip bytes of a content, cut it off, or put something in."""
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(broken) - 1)))
        broken[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    return bytes(broken[: data.draw(st.integers(0, len(broken)) | st.just(len(broken)))])


@pytest.mark.parametrize("suffix", ["npz", "npy", "pt"])
@draws
@given(data=st.data())
def test_any_array_file_as_edges(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    path = tmp_path / f"edges.{suffix}"
    whole = data.draw(st.sampled_from(ARRAYS))
    path.write_bytes(data.draw(st.just(whole) | st.just(damaged(data, whole)) | st.binary(max_size=80)))
    read_edges(path)


def read_edges(path: Path) -> None:
    with suppress(DataError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's and torch's words on what they are asked to read
        graph = load_custom_graph(path)
        assert graph.edge_index.min() >= 0


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """Give a partition."""
    partition_graph(generate_graph(30, 100), tmp_path / "cut", 2, method="range")
    return tmp_path / "cut"


def read_partition(folder: Path) -> None:
    for part in (0, 1):
        with suppress(DistGNNError):
            open_partition(folder, part)
    with suppress(DistGNNError):
        load_new_ids(folder)


@draws
@given(data=st.data())
def test_any_manifest_of_a_partition(cut: Path, data: st.DataObject) -> None:
    path = cut / "manifest.json"
    content = original = path.read_text()
    manifest = copy.deepcopy(json.loads(original))
    where = data.draw(st.sampled_from([*places(manifest)]))
    if where:
        inner: Any = manifest
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = data.draw(JSON | st.integers(-3, 2**70) | st.just("../../../etc/passwd"))
        content = json.dumps(manifest)
    else:
        content = data.draw(JSON.map(json.dumps) | TEXTS)
    try:
        path.write_text(content)
        read_partition(cut)
    finally:
        path.write_text(original)


@draws
@given(data=st.data())
def test_any_file_of_a_partition(cut: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in cut.rglob("*") if path.is_file())))
    original = path.read_bytes()
    try:
        path.write_bytes(damaged(data, original))
        read_partition(cut)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickles_planted_in_a_partition_are_not_executed(cut: Path, tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "executed"
    content = planted_files(mark)[kind]
    for path in [path for path in cut.rglob("*") if path.is_file()]:
        original = path.read_bytes()
        for planted in (content, content + original[len(content) :]):
            path.write_bytes(planted)
            read_partition(cut)
        path.write_bytes(original)
    assert not mark.exists()


@pytest.mark.parametrize("depth", [400, 100_000])
def test_a_manifest_of_a_partition_that_is_nested_deeply(cut: Path, depth: int) -> None:
    (cut / "manifest.json").write_text("[" * depth + "]" * depth)
    with pytest.raises(DataError):
        open_partition(cut, 0)
