"""Checkpoints that are damaged, foreign, or cannot be written: an error that says which file and what to do."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distgnn import (
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    DataError,
    EmbeddingSpec,
    EmbeddingStore,
    TensorStore,
)
from distgnn.backends.memory import MemoryBackend
from distgnn.checkpoint import Checkpoint, Stateful, read_manifest
from distgnn.checkpoint.manifest import VERSION
from distgnn.checkpoint.tensors import Layout
from distgnn.data import load_custom_graph
from distgnn.errors import DistGNNError
from distgnn.optim import Adam
from distgnn.train.session import Session, read_ip_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Job:
    """A linear layer, its optimizer and a table."""

    def __init__(self, *, width: int = 3, rows: int = 50, words: str = "words", layer: str = "model") -> None:
        self.backend = MemoryBackend()
        self.table = self.backend.open_embedding(EmbeddingSpec(words, rows, 4, seed=1))
        self.table.apply_gradients(torch.arange(10), torch.ones(10, 4), Adam())
        model = torch.nn.Linear(width, 2)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(1, width)).sum().backward()
        optimizer.step()
        self.parts: dict[str, Stateful] = {layer: model, "optimizer": optimizer}
        self.stores: dict[str, EmbeddingStore | TensorStore] = {words: self.table}
        self.checkpoint = Checkpoint(Session(self.backend), self.parts, self.stores)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Give a checkpoint of a :class:`Job`."""
    Job().checkpoint.save(tmp_path / "step-1")
    return tmp_path / "step-1"


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, and make its checksum right again."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    content = json.dumps(manifest.get("content"), sort_keys=True, separators=(",", ":"))
    manifest["sha256"] = sha256(content.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SHARD, MANIFEST = "rank-0.safetensors", "manifest.json"
DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "no folder": (lambda folder: folder.rename(folder.with_name("x")), CheckpointNotFoundError, "step-1 is no checkp"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), CheckpointNotFoundError, "is no checkpoint: .*json"),
    "no shard": (lambda folder: (folder / SHARD).unlink(), CheckpointNotFoundError, f"{SHARD} is missing; copy"),
    "an empty manifest": (lambda folder: (folder / MANIFEST).write_text(""), CheckpointFormatError, "is no JSON"),
    "a manifest of bytes": (
        lambda folder: (folder / MANIFEST).write_bytes(b"\xff\0"),
        CheckpointFormatError,
        "is no JSON .*load another checkpoint, or copy",
    ),
    "a manifest that is cut off": (
        lambda folder: os.truncate(folder / MANIFEST, 300),
        CheckpointFormatError,
        f"{MANIFEST} is no JSON",
    ),
    "a flipped bit in the manifest": (
        lambda folder: flip(folder / MANIFEST, (folder / MANIFEST).read_text().index('"shape":[50') + 9),
        CheckpointFormatError,
        f"{MANIFEST} was changed after it was written: its checksum differs",
    ),
    "the manifest of something else": (
        lambda folder: (folder / MANIFEST).write_text('{"format": "distgnn partition", "version": 1}'),
        CheckpointFormatError,
        "is not the manifest of a distgnn checkpoint",
    ),
    "a newer version": (
        lambda folder: rewrite(folder, lambda manifest: manifest.update(version=VERSION + 1)),
        CheckpointFormatError,
        f"is of version {VERSION + 1}, and this is distgnn .*reads versions 1 to {VERSION}: load it with",
    ),
    "a manifest that is a pipe": (
        lambda folder: replace_by_pipe(folder / MANIFEST),
        CheckpointFormatError,
        f"{MANIFEST} is no regular file",
    ),
    "a shard that is cut off": (
        lambda folder: os.truncate(folder / SHARD, 1000),
        CheckpointFormatError,
        rf"{SHARD} has 1,000 bytes, not the [\d,]+ it was written with; load another checkpoint",
    ),
    "a shard that is too long": (
        lambda folder: os.truncate(folder / SHARD, 100_000),
        CheckpointFormatError,
        f"{SHARD} has 100,000 bytes",
    ),
    "a flipped bit in the shard's header": (
        lambda folder: flip(folder / SHARD, 20),
        CheckpointFormatError,
        f"{SHARD} begins with other bytes than it was written with",
    ),
    "a flipped bit in the shard's rows": (
        lambda folder: flip(folder / SHARD, -1),
        CheckpointFormatError,
        f"{SHARD} was changed after it was written: rows 0 to 50 of 'stores/words/rows' differ; load another",
    ),
    "a shard that is a pipe": (
        lambda folder: replace_by_pipe(folder / SHARD),
        CheckpointFormatError,
        f"{SHARD} is no regular file",
    ),
    "a shard that is a link": (
        lambda folder: replace_by_link(folder / SHARD),
        CheckpointFormatError,
        f"{SHARD} is no regular file",
    ),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_says_what_is_wrong_with_which_file(saved: Path, damage: str) -> None:
    change, kind, words = DAMAGES[damage]
    change(saved)
    with pytest.raises(CheckpointError, match=words) as caught:
        Job().checkpoint.load(saved)
    assert type(caught.value) is kind


def test_a_sparse_shard_of_terabytes_that_its_manifest_tells_of_is_refused(saved: Path) -> None:
    def enlarge(manifest: dict[str, Any]) -> None:
        tensor = manifest["content"]["files"][0]["tensors"]["state/model/weight"]
        tensor.update(shape=[1 << 37, *tensor["shape"][1:]], block=1 << 37)

    rewrite(saved, enlarge)
    manifest = read_manifest(saved)
    layout = Layout({key: tensor.layout for key, tensor in manifest.files[0].tensors.items()})
    with (saved / SHARD).open("r+b") as file:
        file.write(layout.header)
        file.truncate(layout.size)
    with pytest.raises(CheckpointFormatError, match=r"takes [\d,]+ bytes, and [\d,]+ bytes of memory are free"):
        Job().checkpoint.load(saved)


def test_a_sparse_manifest_of_terabytes_is_refused(saved: Path) -> None:
    os.truncate(saved / MANIFEST, 1 << 41)
    with pytest.raises(CheckpointFormatError, match=r"manifest.json takes [\d,]+ bytes, and [\d,]+ bytes of memory"):
        Job().checkpoint.load(saved)


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_no_flipped_bit_goes_unnoticed(saved: Path, place: int) -> None:
    for file in (SHARD, MANIFEST):
        whole = (saved / file).read_bytes()
        flip(saved / file, len(whole) * place // 100)
        with pytest.raises(CheckpointError):
            Job().checkpoint.load(saved)
        (saved / file).write_bytes(whole)
    Job().checkpoint.load(saved)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"width": 4}, r"another job: model has 'weight' as F32\[2, 3\], and this job has F32\[2, 4\]; load it into"),
        ({"layer": "net"}, "another job: it has the parts model, optimizer, and this job has net, optimizer"),
        ({"rows": 49}, r"another job: it has the stores .*\(50, 4\).*, and this job has .*\(49, 4\)"),
        ({"words": "tags"}, "another job: it has the stores .*words.*, and this job has .*tags"),
    ],
    ids=str,
)
def test_the_checkpoint_of_another_job_is_refused_and_changes_nothing(
    saved: Path, other: dict[str, Any], words: str
) -> None:
    job = Job(**other)
    before = job.table.lookup(torch.arange(job.table.num_embeddings))
    weights = {name: value.clone() for name, value in next(iter(job.parts.values())).state_dict().items()}
    with pytest.raises(CheckpointFormatError, match=words):
        job.checkpoint.load(saved)
    assert torch.equal(job.table.lookup(torch.arange(job.table.num_embeddings)), before)
    assert job.table.rule_states()["adam"].steps == 1
    for name, value in next(iter(job.parts.values())).state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize("where", ["/dev/null/step-1", "/proc/step-1"])
def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(where: str) -> None:
    with pytest.raises(CheckpointWriteError, match=f"in the writing of checkpoint {where}: .*choose another folder"):
        Job().checkpoint.save(where)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_disk_is_an_error_that_names_it(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointWriteError, match=r"Read-only file system.*choose another folder"):
        Job().checkpoint.save(small_disk / "step-1")


def test_a_full_disk_is_an_error_and_leaves_the_checkpoint_before(small_disk: Path) -> None:
    Job().checkpoint.save(small_disk / "step-1")
    with pytest.raises(CheckpointWriteError, match=r"No space left on device; make room.*nothing was changed"):
        Job(rows=40_000).checkpoint.save(small_disk / "step-2")
    assert [path.name for path in small_disk.iterdir()] == ["step-1"]
    Job().checkpoint.load(small_disk / "step-1")


def test_a_file_that_may_not_grow_is_an_error_and_leaves_the_checkpoint_before(saved: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(CheckpointWriteError, match="File too large"):
            Job(rows=40_000).checkpoint.save(saved.with_name("step-2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in saved.parent.iterdir()] == ["step-1"]
    Job().checkpoint.load(saved)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the ways to all values of a nest of dictionaries and lists."""
    yield path
    if isinstance(content, (dict, list)):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*path, key))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_anything_in_any_place_gives_only_our_errors(saved: Path, data: st.DataObject) -> None:
    path = saved / MANIFEST
    original = path.read_text()
    content = json.loads(original)["content"]
    # The states of optimizers have many values; the places above them are few.
    where = data.draw(st.sampled_from([way for way in places(content) if len(way) < 7]))
    value = data.draw(JSON | st.just("../../../etc/passwd"))

    def change(manifest: dict[str, Any]) -> None:
        inner: Any = manifest
        keys = ("content", *where)
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    try:
        rewrite(saved, change)
        with suppress(CheckpointError):  # some entries say nothing
            Job().checkpoint.load(saved)
    finally:
        path.write_text(original)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=100) | JSON.map(lambda found: json.dumps(found).encode()))
def test_any_bytes_as_a_manifest_give_only_our_errors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointFormatError):
        read_manifest(tmp_path)


@pytest.mark.parametrize("depth", [400, 10_000])
def test_a_manifest_that_is_nested_deeply_gives_only_our_errors(saved: Path, depth: int) -> None:
    path = saved / MANIFEST
    state: list[Any] = []
    content = json.loads(path.read_text())["content"]
    content["state"] = state
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    text = text.replace('"state":[]', '"state":' + "[" * depth + "]" * depth)
    digest = sha256(text.encode()).hexdigest()
    path.write_text(f'{{"format":"distgnn checkpoint","version":1,"sha256":"{digest}","content":{text}}}')
    with pytest.raises(CheckpointFormatError):
        Job().checkpoint.load(saved)


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def planted_files(mark: Path) -> dict[str, bytes]:
    """Give pickles, plain and in torch's files, that write ``mark`` when they are read carelessly."""
    plain = pickle.dumps(Planted(mark), protocol=2)
    file = mark.with_name("planted.pt")
    torch.save({"edge_index": torch.zeros(2, 2), "x": Planted(mark)}, file)
    return {"pickle": plain, "torch": file.read_bytes()}


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_planted_pickles_are_not_executed(saved: Path, tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "executed"
    content = planted_files(mark)[kind]
    for name in (MANIFEST, SHARD):
        kept = (saved / name).read_bytes()
        (saved / name).write_bytes(content)
        with pytest.raises(CheckpointFormatError):
            Job().checkpoint.load(saved)
        (saved / name).write_bytes(content + kept[len(content) :])
        with pytest.raises(CheckpointFormatError):
            Job().checkpoint.load(saved)
        (saved / name).write_bytes(kept)
    for suffix in ("pt", "npz", "npy", "csv", "txt", "csv.gz"):
        edges = tmp_path / f"edges.{suffix}"
        edges.write_bytes(content)
        with pytest.raises(DataError):
            load_custom_graph(edges)
    config = tmp_path / "ip_config.txt"
    config.write_bytes(content)
    with pytest.raises(DistGNNError):
        read_ip_config(config)
    assert not mark.exists()
    # The proof that they are what they should be.
    pickle.loads(content) if kind == "pickle" else torch.load(mark.with_name("planted.pt"), weights_only=False)
    assert mark.exists()


def test_nothing_is_imported_because_a_checkpoint_names_it(saved: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        rules = manifest["content"]["stores"]["words"]["rules"]
        rules["antigravity.Rule"] = [1, {}]

    rewrite(saved, change)
    job = Job()
    job.checkpoint.load(saved)
    assert job.table.rule_states()["antigravity.Rule"].steps == 1
    assert "antigravity" not in sys.modules
