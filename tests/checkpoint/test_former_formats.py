"""What the first version wrote is read by every later one: runs go on as they did then."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import distgnn
from distgnn import optim
from distgnn.checkpoint import Checkpoint, read_manifest
from distgnn.checkpoint.summary import summarize_checkpoint
from distgnn.graph.partition.summary import summarize_partition
from distgnn.storage.capabilities import SupportsCheckpoint
from distgnn.testing.witness_rules import CountUses
from distgnn.train import run
from distgnn.train.config import SPARSE_OPTIMIZERS, TrainConfig
from distgnn.train.session import Session

if TYPE_CHECKING:
    from torch import Tensor

FIRST = Path(__file__).parents[1] / "formats" / "first"
RUNS = {"adam": optim.Adam, "rowwise": optim.RowWiseAdagrad, "two": optim.Adagrad}


def saved_in(name: str) -> Path:
    (saved,) = (FIRST / name / "checkpoints").iterdir()
    return saved


def go_on(name: str, folder: Path) -> Path:
    shutil.copytree(FIRST / name, folder / name)
    options: Any = read_manifest(saved_in(name)).notes
    changed = {"epochs": 5, "resume": "latest", "out": str(folder), "backend": "memory"}
    with distgnn.use("memory"):
        run.train(TrainConfig(**{**options["config"], **changed}), console=Console(file=StringIO()))
    return folder / name


@pytest.mark.parametrize("name", ["adam", "rowwise"])
def test_a_run_goes_on_with_the_losses_of_the_version_that_wrote_it(name: str, tmp_path: Path) -> None:
    lines, expected = (
        [json.loads(line)["loss"] for line in path.read_text().splitlines()]
        for path in (go_on(name, tmp_path) / "metrics.jsonl", FIRST / name / "went-on.jsonl")
    )
    assert lines == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_the_version_that_is_told_is_that_of_the_file(name: str) -> None:
    saved = saved_in(name)
    written = json.loads((saved / "manifest.json").read_text())["version"]
    assert summarize_checkpoint(saved).format.endswith(f"version {written}")


@pytest.mark.parametrize("name", RUNS)
def test_rules_go_on_counting_their_steps(name: str, tmp_path: Path) -> None:
    folder = go_on(name, tmp_path)
    before, after = saved_in(name), max((folder / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    steps = {path: int(path.name.removeprefix("step-")) for path in (before, after)}
    assert steps[after] > steps[before]
    counted = 0
    for path, expected in steps.items():
        for store in read_manifest(path).stores.values():
            for state in store.rules.values():
                assert state.steps == expected
                counted += 1
    assert counted >= 2


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore:.*which is not loaded")
def test_rows_and_the_state_beside_them_are_those_of_the_files(name: str) -> None:
    saved = saved_in(name)
    files = [load_file(path) for path in sorted(saved.glob("rank-*.safetensors"))]
    manifest = json.loads((saved / "manifest.json").read_text())
    tables = {key: one for key, one in manifest["content"]["stores"].items() if one["rules"]}
    assert manifest["version"] == 1
    assert tables
    with distgnn.use("memory") as backend:
        stores = {key: backend.open_embedding(distgnn.EmbeddingSpec(key, *one["shape"])) for key, one in tables.items()}
        Checkpoint(Session(backend), {}, stores).load(saved)
        for key, store in stores.items():
            assert isinstance(store, SupportsCheckpoint)
            found = store.export_rows(0, store.num_embeddings)
            prefix = f"stores/{key}/"
            expected: dict[str, Tensor] = {
                path.removeprefix(prefix): torch.cat([file[path] for file in files])
                for path in files[0]
                if path.startswith(prefix)
            }
            assert found.keys() == expected.keys()
            for path, rows in expected.items():
                assert torch.equal(found[path], rows), path
            ((former, (steps, _)),) = tables[key]["rules"].items()
            ids = torch.tensor([1])
            store.apply_gradients(ids, torch.ones(1, store.embedding_dim), RUNS[name]())
            assert {rule: one.steps for rule, one in store.rule_states().items()} == {former: steps + 1}


def test_a_table_on_disk_goes_on_with_the_state_of_its_rules(tmp_path: Path) -> None:
    pytest.importorskip("distgnn_mmap")
    shutil.copytree(FIRST / "mmap", tmp_path / "mmap")
    spec, ids = distgnn.EmbeddingSpec("rows", 12, 4, seed=3), torch.tensor([0, 3, 11])
    with distgnn.use("mmap", folder=tmp_path / "mmap") as backend:
        store = backend.open_embedding(spec)
        before = store.lookup(ids)
        store.apply_gradients(ids, torch.full((3, 4), 4.0), optim.Adam(lr=0.1))
        change = store.lookup(ids) - before
    rows = torch.zeros(3, 4, requires_grad=True)
    torch_adam = torch.optim.Adam([rows], lr=0.1)
    for step in range(4):
        last = rows.detach().clone()
        rows.grad = torch.full((3, 4), 1.0 + step)
        torch_adam.step()
    torch.testing.assert_close(change, rows.detach() - last, rtol=1e-4, atol=1e-5)


def test_an_optimizer_over_a_table_of_the_first_version_has_its_state_and_takes_it_back(tmp_path: Path) -> None:
    pytest.importorskip("distgnn_mmap")
    shutil.copytree(FIRST / "mmap", tmp_path / "mmap")
    with distgnn.use("mmap", folder=tmp_path / "mmap"):
        table = distgnn.nn.StoredEmbedding(12, 4, name="rows", seed=3, shared=True)
        table(torch.tensor([3])).sum().backward()
        optimizer = optim.SparseAdam(table, lr=0.1)
        state = optimizer.state_dict()["state"][0]
        assert state["step"] == 3
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        assert optimizer.state_dict()["state"][0]["step"] == 4


def test_the_parts_of_a_partition_are_summed_up() -> None:
    found = summarize_partition(FIRST / "partition")
    assert not [file.problem for file in found.files.values() if file.problem]


def test_options_name_the_rules_and_state_is_kept_by_the_same_keys() -> None:
    assert tuple(optim.RULES) == SPARSE_OPTIMIZERS
    for key, rule in optim.RULES.items():
        with distgnn.use("memory") as backend:
            store = backend.open_embedding(distgnn.EmbeddingSpec("rows", 3, 2))
            store.apply_gradients(torch.tensor([1]), torch.ones(1, 2), rule())
            assert isinstance(store, SupportsCheckpoint)
            assert [*store.rule_states()] == [key]


def test_the_state_of_rules_of_others_is_kept_by_the_names_of_their_classes() -> None:
    class Mine(optim.Adam):
        """Has the key of the class before it, and is not it."""

    with distgnn.use("memory") as backend:
        store = backend.open_embedding(distgnn.EmbeddingSpec("rows", 3, 2))
        for rule in (CountUses(), Mine(), optim.Adam()):
            store.apply_gradients(torch.tensor([1]), torch.ones(1, 2), rule)
        assert isinstance(store, SupportsCheckpoint)
        assert [name.rpartition(".")[2] for name in store.rule_states()] == ["CountUses", "Mine", "adam"]
        assert store.rule_states()["adam"].steps == 1
