"""Rows that are saved by places come back by their ids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn import CheckpointFormatError, EmbeddingSpec, PartitionBook
from distgnn.backends.memory import MemoryBackend, MemoryEmbeddingStore
from distgnn.checkpoint import Checkpoint
from distgnn.checkpoint.placed import import_placed
from distgnn.optim import Adam
from distgnn.train.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

BOOK = PartitionBook((0, 777), torch.randperm(777, generator=torch.Generator().manual_seed(0)))


class ByPlaces(MemoryEmbeddingStore):
    """Gives out rows by the places of a book, as a rank of several does."""

    partition = BOOK

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        ids = self.partition.ids(first, last)
        return {name: rows[ids] for name, rows in super().export_rows(0, self.num_embeddings).items()}

    def import_rows(self, first: int, rows: dict[str, Tensor]) -> None:  # type: ignore[override]
        ids = self.partition.ids(first, first + rows["rows"].size(0))
        every = {name: one.clone() for name, one in super().export_rows(0, self.num_embeddings).items()}
        for name, one in rows.items():
            every[name][ids] = one
        super().import_rows(0, every)


class ByOtherPlaces(ByPlaces):
    partition = PartitionBook((0, 777), torch.arange(777).flip(0))


def table(kind: type[MemoryEmbeddingStore], seed: int = 1, num_rows: int = 777) -> MemoryEmbeddingStore:
    return kind(EmbeddingSpec("words", num_rows, 3, seed=seed), torch.device("cpu"))


def checkpoint(store: MemoryEmbeddingStore, block_bytes: int = 1 << 24) -> Checkpoint:
    return Checkpoint(Session(MemoryBackend()), {}, {"words": store}, block_bytes=block_bytes)


def trained(kind: type[MemoryEmbeddingStore]) -> MemoryEmbeddingStore:
    store = table(kind)
    store.apply_gradients(torch.arange(400), torch.randn(400, 3), Adam(lr=1.0))
    return store


def by_ids(store: MemoryEmbeddingStore) -> dict[str, Tensor]:
    return MemoryEmbeddingStore.export_rows(store, 0, 777)


@pytest.mark.parametrize("block_bytes", [100, 1 << 24])
@pytest.mark.parametrize("goal", [MemoryEmbeddingStore, ByPlaces, ByOtherPlaces])
@pytest.mark.parametrize("source", [MemoryEmbeddingStore, ByPlaces])
def test_every_placement_reads_what_every_other_wrote(
    source: type[MemoryEmbeddingStore],
    goal: type[MemoryEmbeddingStore],
    block_bytes: int,
    tmp_path: Path,
) -> None:
    first, second = trained(source), table(goal, seed=2)
    checkpoint(first, block_bytes).save(tmp_path / "one")
    checkpoint(second).load(tmp_path / "one")
    for name, rows in by_ids(first).items():
        assert torch.equal(rows, by_ids(second)[name]), name
    assert first.rule_states() == second.rule_states()


def test_a_file_without_places_has_the_version_that_older_releases_read(tmp_path: Path) -> None:
    for kind, version in ((MemoryEmbeddingStore, 2), (ByPlaces, 3)):
        checkpoint(trained(kind)).save(tmp_path / kind.__name__)
        manifest = json.loads((tmp_path / kind.__name__ / "manifest.json").read_text())
        assert manifest["version"] == version


def test_a_larger_table_keeps_its_own_rows_beyond_those_that_are_loaded(tmp_path: Path) -> None:
    small, large = trained(ByPlaces), table(MemoryEmbeddingStore, seed=2, num_rows=900)
    new = large.export_rows(777, 900)["rows"].clone()
    checkpoint(small).save(tmp_path / "one")
    checkpoint(large).load(tmp_path / "one")
    assert torch.equal(large.export_rows(0, 777)["rows"], by_ids(small)["rows"])
    assert torch.equal(large.export_rows(777, 900)["rows"], new)


@pytest.mark.parametrize("most_bytes", [1, 1000, 1 << 20])
def test_as_many_rows_are_put_together_at_a_time_as_there_is_room_for(most_bytes: int) -> None:
    first, second = trained(ByPlaces), table(ByOtherPlaces, seed=2)
    second.reset_rule_states(first.rule_states())
    times = 0

    def rows_by_id() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        nonlocal times
        times += 1
        for begin in range(0, 777, 100):
            end = min(begin + 100, 777)
            yield BOOK.ids(begin, end), first.export_rows(begin, end)

    assert sum(import_placed(second, 777, rows_by_id, most_bytes=most_bytes)) == 777 * 3 * 3 * 4
    assert times == -(-777 // max(1, most_bytes // 36))
    for name, rows in by_ids(first).items():
        assert torch.equal(rows, by_ids(second)[name]), name


def test_rows_that_are_there_twice_are_damage() -> None:
    store = table(ByPlaces)
    rows = store.export_rows(0, 777)
    pieces = [(torch.zeros(777, dtype=torch.int64), rows)]
    with pytest.raises(CheckpointFormatError, match=r"does not have row .* and another twice"):
        list(import_placed(store, 777, lambda: iter(pieces), most_bytes=1 << 20))
