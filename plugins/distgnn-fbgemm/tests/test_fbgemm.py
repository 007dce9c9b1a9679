"""What the kit does not know: when FBGEMM's kernel is used, and what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import distgnn
from distgnn.optim import RowWiseAdagrad

if TYPE_CHECKING:
    from collections.abc import Iterator

fbgemm_gpu = pytest.importorskip("fbgemm_gpu", reason="FBGEMM is not installed: pip install fbgemm-gpu-cpu==1.8.0")


@pytest.fixture
def backends() -> Iterator[tuple[distgnn.Backend, distgnn.Backend]]:
    with distgnn.use("memory") as memory, distgnn.use("fbgemm") as fbgemm:
        yield memory, fbgemm


@pytest.mark.parametrize("columns", [1, 3, 64, 300])
@pytest.mark.parametrize("weight_decay", [0.0, 0.25], ids=["fused", "with_weight_decay"])
def test_row_wise_adagrad_has_the_numbers_of_memory_on_many_duplicates(
    backends: tuple[distgnn.Backend, distgnn.Backend], columns: int, weight_decay: float
) -> None:
    spec = distgnn.EmbeddingSpec("rows", 1_000, columns)
    generator = torch.Generator().manual_seed(columns)
    rule = RowWiseAdagrad(lr=0.5, weight_decay=weight_decay)
    stores = [backend.open_embedding(spec) for backend in backends]
    for _ in range(5):
        ids = torch.rand(20_000, generator=generator).pow(4).mul(1_000).long()
        gradients = torch.randn(20_000, columns, generator=generator)
        for store in stores:
            store.apply_gradients(ids, gradients, rule)
    memory, fbgemm = (store.lookup(torch.arange(1_000)) for store in stores)
    torch.testing.assert_close(fbgemm, memory, rtol=1e-4, atol=1e-4)


def test_the_fused_kernel_is_called_for_row_wise_adagrad_alone(
    backends: tuple[distgnn.Backend, distgnn.Backend],
) -> None:
    store = backends[1].open_embedding(distgnn.EmbeddingSpec("rows", 7, 4))
    calls = {}
    for rule in (RowWiseAdagrad(), RowWiseAdagrad(weight_decay=0.1), distgnn.optim.Adagrad(), distgnn.optim.Adam()):
        with torch.profiler.profile() as profile:
            store.apply_gradients(torch.tensor([1, 1, 3]), torch.ones(3, 4), rule)
        calls[str(rule)] = [event.key for event in profile.key_averages() if event.key.startswith("fbgemm::")]
    fused, *others = calls.values()
    assert fused == ["fbgemm::split_embedding_backward_codegen_rowwise_adagrad_cpu"]
    assert others == [[], [], []]


def test_rows_that_are_not_float32_are_refused(backends: tuple[distgnn.Backend, distgnn.Backend]) -> None:
    with pytest.raises(distgnn.SpecError, match="rows of float32 alone; the memory backend has others"):
        backends[1].open_embedding(distgnn.EmbeddingSpec("rows", 7, 4, dtype=torch.float16))
