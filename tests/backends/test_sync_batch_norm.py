"""Batch normalization over ranks equals torch's over all rows, at whatever world size this file is run."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn import BatchNorm1d, Linear, ReLU, Sequential

import distgnn
from distgnn import GraphInputError
from distgnn.nn.norm.sync_batch_norm import SyncBatchNorm1d, convert_sync_batch_norm

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
COUNTS = (5, 0, 2, 9)  # rows of each rank; one has none


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_several_steps_on_parts_equal_torchs_on_the_whole(affine: bool, momentum: float | None) -> None:
    torch.manual_seed(0)
    counts = COUNTS[:WORLD_SIZE]
    mine = slice(sum(counts[:RANK]), sum(counts[: RANK + 1]))
    with distgnn.use("pyg"):  # joins the ranks
        torchs = BatchNorm1d(3, affine=affine, momentum=momentum)
        ours = convert_sync_batch_norm(BatchNorm1d(3, affine=affine, momentum=momentum))
        assert isinstance(ours, SyncBatchNorm1d)
        for _ in range(3):
            rows = torch.randn(sum(counts), 3) * 4 + 100  # a large mean, where sums of squares would lose digits
            weights = torch.randn(sum(counts), 3)
            whole, part = rows.clone().requires_grad_(), rows[mine].clone().requires_grad_()
            expected, found = torchs(whole), ours(part)
            (expected * weights).sum().backward()
            (found * weights[mine]).sum().backward()
            torch.testing.assert_close(found, expected[mine], rtol=1e-4, atol=1e-4)
            assert whole.grad is not None
            torch.testing.assert_close(part.grad, whole.grad[mine], rtol=1e-4, atol=1e-4)
        for name, value in torchs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.eval()(rows), torchs.eval()(rows))


@pytest.mark.skipif(WORLD_SIZE == 1, reason="a job of one rank is torch's own")
@pytest.mark.parametrize("owner", [None, 0, WORLD_SIZE - 1])
def test_one_row_of_all_ranks_together_is_refused_on_every_rank(owner: int | None) -> None:
    with distgnn.use("pyg"):
        ours = SyncBatchNorm1d(3)
        with pytest.raises(GraphInputError, match=r"of [01] rows, and all ranks' batches together have no more"):
            ours(torch.randn(int(owner == RANK), 3))
        assert int(ours.num_batches_tracked or 0) == 0


def test_every_batch_norm_within_a_module_is_converted_with_its_state() -> None:
    module = Sequential(Linear(2, 3), BatchNorm1d(3), Sequential(ReLU(), BatchNorm1d(3)))
    state = {name: torch.randn_like(value.float()).to(value.dtype) for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    convert_sync_batch_norm(module)
    assert sum(isinstance(part, SyncBatchNorm1d) for part in module.modules()) == 2
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())
