"""The initial rows of a table: any piece of them alone, the same for everybody, and normally distributed."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from distgnn import EmbeddingSpec, initial_rows
from distgnn.storage.toolkit import initial_rows_of

TABLE = EmbeddingSpec("table", 1000, 8, seed=5)
WHOLE = initial_rows(TABLE, 0, 1000)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, 128), (127, 129), (128, 256), (130, 131), (1, 999), (640, 1000), (999, 1000), (7, 7), (128, 128)],
)
def test_any_rows_are_a_slice_of_all_rows(start: int, stop: int) -> None:
    assert torch.equal(initial_rows(TABLE, start, stop), WHOLE[start:stop])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shards_make_together_what_one_process_makes(world_size: int) -> None:
    ends = [1000 * rank // world_size for rank in range(world_size + 1)]
    shards = [initial_rows(TABLE, start, stop) for start, stop in itertools.pairwise(ends)]
    assert torch.equal(torch.cat(shards), WHOLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_any_ids_are_those_of_all_rows(dtype: torch.dtype) -> None:
    table, order = replace(TABLE, dtype=dtype), torch.randperm(1000)
    for ids in (order, order[:7], torch.tensor([999, 0, 999]), order[order > 500].sort().values, order[:0]):
        assert torch.equal(initial_rows_of(table, ids), WHOLE[ids].to(dtype))
    rows = torch.zeros(3, 8)
    assert initial_rows_of(TABLE, order[:3], out=rows) is rows
    assert torch.equal(rows, WHOLE[order[:3]])


def test_a_block_is_drawn_once_for_all_of_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    philox = np.random.Philox

    def draw(key: np.ndarray, counter: list[int]) -> np.random.Philox:
        drawn.append(counter[2])
        return philox(key=key, counter=counter)

    monkeypatch.setattr(np.random, "Philox", draw)
    initial_rows_of(TABLE, torch.tensor([700, 3, 300, 5, 701, 0]))
    assert drawn == [0, 2, 5]


def test_a_table_that_grows_keeps_its_rows() -> None:
    assert torch.equal(initial_rows(replace(TABLE, num_embeddings=5000), 0, 1000), WHOLE)
    assert initial_rows(TABLE, 990, 1010).shape == (20, 8)


def test_rows_do_not_depend_on_the_generators_of_torch() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(initial_rows(TABLE, 0, 1000), WHOLE)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_are_the_same_in_another_process() -> None:
    code = "import distgnn; print(distgnn.initial_rows(distgnn.EmbeddingSpec('table', 9, 8, seed=5), 3, 5).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(WHOLE[3:5].tolist())


@pytest.mark.parametrize("other", [replace(TABLE, seed=6), replace(TABLE, name="tables"), replace(TABLE, seed=-5)])
def test_another_seed_or_name_gives_independent_rows(other: EmbeddingSpec) -> None:
    rows = initial_rows(other, 0, 1000)
    correlation = torch.corrcoef(torch.stack([rows.flatten(), WHOLE.flatten()]))[0, 1]
    assert abs(float(correlation)) < 4 / rows.numel() ** 0.5


def test_seed_and_name_are_not_mixed_up() -> None:
    first = initial_rows(EmbeddingSpec("1_a", 4, 8, seed=1), 0, 4)
    assert not torch.equal(first, initial_rows(EmbeddingSpec("a", 4, 8, seed=11), 0, 4))


def test_rows_of_one_table_are_all_different() -> None:
    assert len(set(map(tuple, initial_rows(TABLE, 0, 10_000).tolist()))) == 10_000


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
def test_rows_are_normally_distributed(std: float) -> None:
    numbers = initial_rows(replace(TABLE, std=std), 0, 10_000).double()
    quantiles = torch.special.ndtr(numbers.flatten().sort().values / std)
    steps = torch.linspace(0, 1, quantiles.numel())
    assert float((quantiles - steps).abs().max()) < 1.95 / numbers.numel() ** 0.5  # Kolmogorov-Smirnov at 0.001
    assert float(numbers.mean()) == pytest.approx(0, abs=4 * std / numbers.numel() ** 0.5)
    assert float(numbers.std()) == pytest.approx(std, rel=0.01)
    assert float(numbers.mean(dim=0).abs().max()) < 4 * std / 100


def test_a_deviation_of_zero_starts_from_zeros() -> None:
    assert initial_rows(replace(TABLE, std=0), 0, 300).count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_of_every_type_are_the_float32_rows_rounded(dtype: torch.dtype) -> None:
    rows = initial_rows(replace(TABLE, dtype=dtype), 100, 200)
    assert rows.dtype == dtype
    assert torch.equal(rows, WHOLE[100:200].to(dtype))
