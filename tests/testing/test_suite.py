"""What the suites share, and the kit's face."""

from __future__ import annotations

import pytest
import torch

import distgnn.testing
from distgnn import GraphSpec, SpecError
from distgnn.testing.suite import BackendFixture, eighths, skip_if_refused


class TestBackendFixture(BackendFixture):
    def test_without_an_override_it_says_what_to_override(self, request: pytest.FixtureRequest) -> None:
        with pytest.raises(
            pytest.fail.Exception, match="TestBackendFixture tests no backend yet: override the fixture"
        ):
            request.getfixturevalue("backend")

    @pytest.mark.parametrize("word", ["a/b", "ä" * 200, "..", "", "a" * 200], ids=str)
    def test_every_test_has_a_name_that_a_store_can_have(self, store_name: str, word: str) -> None:
        assert GraphSpec(store_name, 1, 0).name == store_name

    @pytest.mark.parametrize("world_size", [1, 2, 3, 9])
    def test_ranks_share_all_rows(self, world_size: int) -> None:
        ids, rows, shares = self.ids(4, 0, 4, 2, 1), eighths(5, 3, device=self.device), []
        for rank in range(world_size):
            suite = BackendFixture()
            suite.rank, suite.world_size = rank, world_size
            shares.append(suite.share(ids, rows))
        shared_ids, shared_rows = (torch.cat(parts) for parts in zip(*shares, strict=True))
        pairs = [*zip(ids.tolist(), rows.tolist(), strict=True)]
        assert sorted(zip(shared_ids.tolist(), shared_rows.tolist(), strict=True)) == sorted(pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_dtype_that_a_backend_may_refuse_skips_the_test(dtype: torch.dtype) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"the backend has no stores of {dtype}"), skip_if_refused(dtype):
        raise SpecError("mine are larger")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
def test_a_dtype_that_every_backend_has_is_not_skipped(dtype: torch.dtype) -> None:
    with pytest.raises(SpecError, match="mine are larger"), skip_if_refused(dtype):
        raise SpecError("mine are larger")


def test_the_kit_offers_its_suites_and_a_way_to_run_them_on_ranks() -> None:
    suites = [
        "BackendTests",
        "CommunicatorTests",
        "EmbeddingStoreTests",
        "GraphStoreTests",
        "LostRankTests",
        "TensorStoreTests",
    ]
    assert distgnn.testing.__all__ == [*suites, "run_on_ranks"]
    assert all(hasattr(distgnn.testing, name) for name in distgnn.testing.__all__)
