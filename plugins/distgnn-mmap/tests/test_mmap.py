"""What files add to the contract: they may be larger than memory, and outlive the process."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console

import distgnn
from distgnn.optim import SGD, Adagrad, Adam
from distgnn.report.figures import curves
from distgnn.train import run
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from distgnn import EmbeddingStore, UpdateRule

CRASHING = Path(__file__).with_name("crashing.py")
SPEC = distgnn.EmbeddingSpec("table", 1_000, 8)


def bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))


def whole(store: EmbeddingStore) -> torch.Tensor:
    return store.lookup(torch.arange(store.num_embeddings))


def train(store: EmbeddingStore, rule: UpdateRule, steps: range) -> None:
    for step in steps:
        ids = torch.randint(store.num_embeddings, (300,), generator=torch.Generator().manual_seed(step))
        store.apply_gradients(ids, ids[:, None].remainder(7).sub(3).expand(-1, 8).float(), rule)


def test_a_table_larger_than_memory_takes_no_space_until_rows_are_updated(tmp_path: Path) -> None:
    spec = distgnn.EmbeddingSpec("large", 1_000_000_000, 16, torch.float16)
    ids = torch.tensor([0, 999_999_999, 123_456_789])
    with distgnn.use("mmap", folder=tmp_path) as backend:
        store = backend.open_embedding(spec)
        initial = torch.cat([distgnn.initial_rows(spec, row, row + 1) for row in ids.tolist()])
        assert torch.equal(store.lookup(ids), initial)
        assert (tmp_path / "tables/large/rows").stat().st_size == 32_000_000_000
        assert bytes_on_disk(tmp_path) < 100_000
        store.apply_gradients(ids, torch.ones(3, 16), Adam(lr=0.5))
        torch.testing.assert_close(store.lookup(ids), initial - 0.5, rtol=0, atol=2e-3)
        assert bytes_on_disk(tmp_path) < 200_000


@pytest.mark.parametrize("rule", [SGD(lr=0.5), Adam(lr=0.5), Adagrad(lr=0.5, initial_accumulator_value=0.5)])
def test_rows_and_state_outlive_the_backend(tmp_path: Path, rule: UpdateRule) -> None:
    for steps in (range(3), range(3, 7)):
        with distgnn.use("mmap", folder=tmp_path) as backend:
            train(backend.open_embedding(SPEC), rule, steps)
    with distgnn.use("memory") as memory, distgnn.use("mmap", folder=tmp_path) as backend:
        uninterrupted = memory.open_embedding(SPEC)
        train(uninterrupted, rule, range(7))
        torch.testing.assert_close(whole(backend.open_embedding(SPEC)), whole(uninterrupted))


def test_without_a_folder_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with distgnn.use("memory") as memory, distgnn.use("mmap") as backend:
        stores = [each.open_embedding(SPEC) for each in (memory, backend)]
        for store in stores:
            train(store, Adam(lr=0.5), range(3))
        backend.flush()  # type: ignore[attr-defined]  # this backend's own
        torch.testing.assert_close(whole(stores[1]), whole(stores[0]))
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_row_that_an_update_makes_zero_stays_zero(tmp_path: Path, dtype: torch.dtype) -> None:
    spec, ids = replace(SPEC, dtype=dtype), torch.tensor([3, 4])
    with distgnn.use("mmap", folder=tmp_path) as backend:
        store = backend.open_embedding(spec)
        store.apply_gradients(ids, store.lookup(ids), SGD(lr=1.0))
        assert not store.lookup(ids).any()
    with distgnn.use("mmap", folder=tmp_path) as backend:
        assert not backend.open_embedding(spec).lookup(ids).any()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a process that was killed while it updated tables, some steps after a flush."""
    folder = tmp_path_factory.mktemp("killed")
    with subprocess.Popen([sys.executable, str(CRASHING), str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        for _ in range(7):
            assert process.stdout.readline().strip().isdigit()
        process.kill()
    return folder


@pytest.mark.parametrize("torn", [b"", b"a record that", b"garbage" * 99], ids=["killed", "short", "garbage"])
def test_a_crash_leaves_what_the_last_flush_saw(killed: Path, tmp_path: Path, torn: bytes) -> None:
    killed = shutil.copytree(killed, tmp_path / "copy")
    spec = importlib.util.spec_from_file_location("crashing", CRASHING)
    assert spec
    assert spec.loader
    crashing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(crashing)
    journal = killed / "tables/table/rows.journal"
    assert journal.stat().st_size, "rows were changed after the flush"
    with journal.open("ab") as file:
        file.write(torn)
    with distgnn.use("memory") as memory, distgnn.use("mmap", folder=killed) as backend:
        assert not (killed / "tables/other").exists()
        store, uninterrupted = backend.open_embedding(crashing.SPEC), memory.open_embedding(crashing.SPEC)
        for step in range(crashing.STEPS):
            crashing.update(uninterrupted, step)
        assert torch.equal(whole(store), whole(uninterrupted))
        for step in range(crashing.STEPS, crashing.STEPS + 4):  # state and steps are those of the flush, too
            crashing.update(store, step)
            crashing.update(uninterrupted, step)
        assert torch.equal(whole(store), whole(uninterrupted))


def test_a_kept_table_with_another_spec_is_a_conflict_that_shows_both(tmp_path: Path) -> None:
    other = replace(SPEC, seed=1)
    with distgnn.use("mmap", folder=tmp_path) as backend:
        train(backend.open_embedding(SPEC), SGD(), range(1))
    with distgnn.use("mmap", folder=tmp_path) as backend:
        with pytest.raises(distgnn.NameConflictError) as caught:
            backend.open_embedding(other)
        assert str(SPEC) in str(caught.value)
        assert str(other) in str(caught.value)
        backend.open_embedding(SPEC).close()
        assert torch.equal(whole(backend.open_embedding(other)), distgnn.initial_rows(other, 0, 1_000))


def test_a_closed_store_leaves_no_files(tmp_path: Path) -> None:
    with distgnn.use("mmap", folder=tmp_path) as backend:
        store = backend.open_embedding(SPEC)
        train(store, Adam(), range(1))
        backend.flush()  # type: ignore[attr-defined]  # this backend's own
        store.close()
        assert not list((tmp_path / "tables").iterdir())


def test_a_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    with distgnn.use("mmap", folder=tmp_path):
        words = f"the mmap backend cannot open {tmp_path}: another process, or another backend of this one, has it open"
        with pytest.raises(distgnn.BackendError, match=re.escape(words)):
            distgnn.use("mmap", folder=tmp_path)
    with distgnn.use("mmap", folder=tmp_path):
        pass


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(distgnn.BackendError, match="is of format 2, this distgnn-mmap reads 1; install a newer one"):
        distgnn.use("mmap", folder=tmp_path)


def test_training_draws_which_share_of_the_rows_was_in_memory(tmp_path: Path) -> None:
    options = {"dataset": "CustomLargeGraph", "num_nodes": 200, "num_edges": 1000, "epochs": 2, "embedding_dim": 4}
    config = TrainConfig(**options, use_dist_embedding=True, backend="mmap", out=str(tmp_path))  # type: ignore[arg-type]
    result = run.train(config, console=Console(quiet=True))
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["cache_hits"] <= lines[1]["cache_hits"] == 1
    assert "rows found in the cache" in [axes.get_ylabel() for axes in curves(result).axes]


def test_after_a_prefetch_no_row_is_waited_for(tmp_path: Path) -> None:
    spec = distgnn.EmbeddingSpec("rows", 20_000, 256)
    with distgnn.use("mmap", folder=tmp_path) as backend:
        backend.open_embedding(spec).apply_gradients(torch.arange(20_000), torch.ones(20_000, 256), SGD())
    ids = torch.randperm(20_000)[:2_000]

    def waits(prefetched: bool) -> int:
        with (tmp_path / "tables/rows/rows").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with distgnn.use("mmap", folder=tmp_path) as backend:
            store = backend.open_embedding(spec)
            assert isinstance(store, distgnn.SupportsPrefetch)
            finish: Callable[[], torch.Tensor] = store.prefetch(ids) if prefetched else lambda: store.lookup(ids)
            backend._ahead.submit(int).result()  # type: ignore[attr-defined]  # the disk was asked
            before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
            assert torch.isfinite(finish()).all()
            waited = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
            assert isinstance(backend, distgnn.SupportsCache)
            found, counted = backend.cache_counts
            assert (found < counted) == (waited > 0)
            return waited

    if not waits(prefetched=False):
        pytest.skip("the files are in memory here")
    assert not waits(prefetched=True)


def test_a_table_of_the_folder_is_opened_whatever_the_placement(tmp_path: Path) -> None:
    book = distgnn.PartitionBook((0, 2, 5), torch.tensor([4, 3, 2, 1, 0]))
    with distgnn.use("mmap", folder=tmp_path) as backend:
        rows = backend.open_embedding(distgnn.EmbeddingSpec("words", 5, 3, partition=book)).lookup(torch.arange(5))
    for partition in (None, book.grown(5), distgnn.PartitionBook.even(5, 3)):
        with distgnn.use("mmap", folder=tmp_path) as backend:
            store = backend.open_embedding(distgnn.EmbeddingSpec("words", 5, 3, partition=partition))
            assert torch.equal(store.lookup(torch.arange(5)), rows)
