"""DGL's own embeddings and optimizers on our stores, at whatever world size this file is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import distgnn

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def test_dgls_own_adam_trains_the_rows_of_a_store_as_torchs() -> None:
    if WORLD_SIZE == 1 and not dist.is_initialized():
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    spec = distgnn.EmbeddingSpec("words", 40, 3)
    weight = distgnn.initial_rows(spec, 0, 40).requires_grad_()
    oracle = torch.optim.Adam([weight], lr=0.1)
    mine = torch.arange(RANK, 40, WORLD_SIZE)  # DGL takes means over ranks that name the same row, and torch has sums
    with distgnn.use("dgl", timeout=20) as backend:
        store = backend.open_embedding(spec)
        import dgl

        table = store.dist_embedding  # type: ignore[attr-defined]  # only this backend's has it
        assert isinstance(table, dgl.distributed.DistEmbedding)
        optimizer = dgl.distributed.optim.SparseAdam([table], lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            (table(mine) * (step - mine[:, None])).sum().backward()
            optimizer.step()
            oracle.zero_grad()
            (weight * (step - torch.arange(40)[:, None])).sum().backward()  # type: ignore[no-untyped-call]
            oracle.step()
        torch.testing.assert_close(store.lookup(torch.arange(40)), weight.detach())


@pytest.mark.skipif(WORLD_SIZE > 1, reason="the page's example is of one process")
def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[3] / "docs" / "how-to" / "choose-a-backend.md"
    (example,) = [block for block in page.read_text().split("```") if "store.dist_embedding" in block]
    with distgnn.use("memory"):  # which is in use again afterwards
        exec(compile(example.removeprefix("python\n"), str(page), "exec"), {})
    assert capsys.readouterr().out == "torch.Size([2, 8])\n"


def test_a_table_that_dgl_cannot_have_says_so() -> None:
    with distgnn.use("dgl", timeout=20) as backend:
        store = backend.open_embedding(distgnn.EmbeddingSpec("wide", 4, 3, dtype=torch.float64))
        with pytest.raises(distgnn.SpecError, match="DistEmbedding has float32 rows only"):
            store.dist_embedding  # type: ignore[attr-defined]  # noqa: B018  # the property raises
        with pytest.raises(distgnn.SpecError, match=r"no rows of torch.bfloat16.* use one of torch.float32"):
            backend.open_embedding(distgnn.EmbeddingSpec("brief", 4, 3, dtype=torch.bfloat16))


def test_a_store_is_a_distributed_tensor_of_dgl() -> None:
    with distgnn.use("dgl", timeout=20) as backend:
        import dgl

        store = backend.open_tensor(distgnn.TensorSpec("layer", (6, 2)))
        store.write(torch.arange(6), torch.ones(6, 2))
        tensor = store.tensor  # type: ignore[attr-defined]  # as above
        assert isinstance(tensor, dgl.distributed.DistTensor)
        assert tensor.shape == (6, 2)
        assert torch.equal(tensor[torch.tensor([5, 0])], torch.ones(2, 2))
