from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from distgnn import CheckpointError, CheckpointFormatError, CheckpointWriteError, EmbeddingSpec
from distgnn.backends.memory import MemoryBackend
from distgnn.checkpoint import Checkpoint, Stateful, latest_checkpoint, prune_checkpoints
from distgnn.checkpoint.plain_state import decode, encode, tensor_names
from distgnn.checkpoint.writer import Table, write_tables
from distgnn.data import generate_graph
from distgnn.nn import DistributedGIN
from distgnn.optim import SGD, Adagrad, Adam, SparseAdam
from distgnn.train.session import Session

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

GRAPH = generate_graph(200, 1000)


class Plain:
    """Something with a state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


class Training:
    """A model that is trained on all nodes with dropout, and what it needs to go on."""

    def __init__(self, seed: int, *, num_nodes: int | None = 200) -> None:
        torch.manual_seed(seed)
        self.backend = MemoryBackend()
        self.model = DistributedGIN(
            8,
            8,
            num_layers=2,
            dropout=0.5,
            norm="batch_norm",
            use_dist_embedding=True,
            embedding_name="nodes",
            backend=self.backend,
        )
        if num_nodes is not None:
            self.model.set_num_embeddings(num_nodes=num_nodes)
        self.dense, self.sparse = torch.optim.Adam(self.model.parameters(), lr=0.1), SparseAdam(self.model, lr=0.1)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.dense, [2, 4], 0.5)
        self.position = Plain({"epoch": 0, "names": ("a", None, 0.5, True)})
        parts: dict[str, Stateful] = {"model": self.model, "dense": self.dense, "sparse": self.sparse}
        self.checkpoint = Checkpoint(
            Session(self.backend), {**parts, "schedule": self.schedule, "position": self.position}
        )

    def losses(self, steps: int) -> list[float]:
        losses = []
        self.model.train()
        for _ in range(steps):
            self.dense.zero_grad()
            loss = cross_entropy(self.model(None, GRAPH.edge_index), GRAPH.y)
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in (self.dense, self.sparse, self.schedule):
                optimizer.step()
            losses.append(float(loss.detach()))
        return losses


@pytest.mark.parametrize("num_nodes", [200, None], ids=["sized", "not sized yet"])
def test_a_job_that_is_loaded_goes_on_as_if_it_had_never_ended(tmp_path: Path, num_nodes: int | None) -> None:
    first = Training(0)
    first.losses(3)
    first.position.state["epoch"] = 3
    first.checkpoint.save(tmp_path / "deep" / "step-3")
    expected = first.losses(3)
    second = Training(7, num_nodes=num_nodes)
    second.checkpoint.load(tmp_path / "deep" / "step-3")
    assert second.position.state == {"epoch": 3, "names": ("a", None, 0.5, True)}
    assert second.losses(3) == expected
    for one, other in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not [path for path in (tmp_path / "deep").iterdir() if path.name != "step-3"]


def test_a_larger_table_keeps_its_own_rows_beyond_those_that_are_loaded(tmp_path: Path) -> None:
    small, large = (MemoryBackend().open_embedding(EmbeddingSpec("words", rows, 2)) for rows in (50, 80))
    small.apply_gradients(torch.arange(50), torch.randn(50, 2), Adam(lr=1.0))
    new = large.export_rows(50, 80)["rows"].clone()
    Checkpoint(Session(MemoryBackend()), {}, {"words": small}).save(tmp_path / "one")
    Checkpoint(Session(MemoryBackend()), {}, {"words": large}).load(tmp_path / "one")
    assert large.rule_states() == small.rule_states()
    for name, rows in small.export_rows(0, 50).items():
        assert torch.equal(large.export_rows(0, 50)[name], rows), name
        assert torch.equal(large.export_rows(50, 80)[name], new if name == "rows" else torch.zeros(30, rows.size(1)))


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_tables_come_back_bit_for_bit_whatever_the_blocks(tmp_path: Path, dtype: torch.dtype, block_bytes: int) -> None:
    backend = MemoryBackend()
    stores = [backend.open_embedding(EmbeddingSpec(name, 777, 3, dtype, seed=len(name))) for name in ("one", "other")]
    for rule in (SGD(lr=1.0), Adagrad(lr=1.0), Adam(lr=1.0)):
        ids = torch.randint(0, 777, (400,))
        stores[0].apply_gradients(ids, torch.randn(400, 3), rule)
    session = Session(backend)
    done: list[int] = []
    saving = Checkpoint(session, {}, {"words": stores[0]}, report=done.append, block_bytes=block_bytes)
    saving.save(tmp_path / "one")
    assert len(done) >= sum(rows.nbytes for rows in stores[0].export_rows(0, 777).values()) // max(block_bytes, 1000)
    Checkpoint(session, {}, {"words": stores[1]}).load(tmp_path / "one")
    expected, found = (store.export_rows(0, 777) for store in stores)
    assert expected.keys() == found.keys()
    assert len(found) == 4
    for name, rows in expected.items():
        assert torch.equal(rows, found[name]), name
    assert stores[0].rule_states() == stores[1].rule_states()
    assert sum(done) >= sum(rows.nbytes for rows in expected.values())


def test_a_file_is_the_same_however_often_the_disk_is_waited_for(tmp_path: Path) -> None:
    rows = torch.randn(777, 3)
    tables = [Table(range(777), lambda first, last: {"rows": rows[first:last]})]
    files = []
    for often in (1, 5000, 1 << 30):
        files.append(tmp_path / str(often))
        list(write_tables(files[-1], tables, block_bytes=1000, unsynced_bytes=often))
    first, *others = (file.read_bytes() for file in files)
    assert all(other == first for other in others)


def test_a_state_of_numbers_texts_and_tensors_survives_json() -> None:
    state = OrderedDict(
        {
            "empty": {},
            "by number": {0: {"step": torch.tensor(3.0), 1: [None, True, -1, 2.5, "text"]}, 1: ()},
            "a/b": torch.ones(2),
            "a": {"b": torch.zeros(0, 3), "c": torch.tensor([True])},
            "nested": [[(1, (2,))], []],
            "infinite": float("inf"),
        }
    )
    tensors: dict[str, Tensor] = {}
    found: Any = decode(encode(state, tensors, "state"), tensors)
    assert len(tensors) == 4
    assert sorted(tensor_names(encode(state, {}, "state"))) == sorted(tensors)
    assert repr(found) == repr(dict(state))


@pytest.mark.parametrize("thing", [{1, 2}, object(), torch.eye(2).to_sparse(), torch.zeros(1, dtype=torch.complex64)])
def test_what_would_need_a_pickle_is_refused_by_name(tmp_path: Path, thing: object) -> None:
    checkpoint = Checkpoint(Session(MemoryBackend()), {"mine": Plain({"odd": [thing]})})
    with pytest.raises(CheckpointFormatError, match=r"state/mine/odd/0 is .*give another state_dict"):
        checkpoint.save(tmp_path / "one")
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    class OnlyRows:
        num_embeddings, embedding_dim = 3, 2

    checkpoint = Checkpoint(Session(MemoryBackend()), {}, {"words": OnlyRows()})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match="'words' cannot be saved: its OnlyRows has not the members of Supports"):
        checkpoint.save(tmp_path / "one")


def test_a_checkpoint_does_not_overwrite_another(tmp_path: Path) -> None:
    training = Training(0)
    training.checkpoint.save(tmp_path / "one")
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "one").iterdir())
    with pytest.raises(CheckpointWriteError, match="is there already; choose another name"):
        training.checkpoint.save(tmp_path / "one")
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "one").iterdir()) == before


def test_the_last_checkpoints_are_kept_and_what_crashes_left_is_removed(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (2, 10, 9):
        Training(0).checkpoint.save(tmp_path / f"step-{step}")
    for name in (".step-11.draft", ".step-1.old", "notes", "step-x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-12").write_text("no folder")
    assert latest_checkpoint(tmp_path) == tmp_path / "step-10"
    prune_checkpoints(tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-9", "step-10", "notes", "step-x", "step-12"}
    prune_checkpoints(tmp_path, keep=0)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-10"
    Training(1).checkpoint.load(tmp_path / "step-10")


def test_state_of_another_rule_is_refused_when_the_rule_is_used() -> None:
    backend = MemoryBackend()
    store = backend.open_embedding(EmbeddingSpec("words", 5, 2))
    store.apply_gradients(torch.tensor([1]), torch.ones(1, 2), Adam())
    ((name, state),) = store.rule_states().items()
    store.reset_rule_states({name: state._replace(tensors={"exp_avg": state.tensors["exp_avg"]})})
    with pytest.raises(ValueError, match=r"the state that was loaded for adam has columns"):
        store.apply_gradients(torch.tensor([1]), torch.ones(1, 2), Adam())
