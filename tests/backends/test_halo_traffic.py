"""What an exchange of halos opens and moves, at whatever world size this file is run."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import distgnn
from distgnn import PartitionBook
from distgnn.backends.pyg.backend import PygBackend
from distgnn.data import load_dataset
from distgnn.graph import cut_part
from distgnn.nn import StoredActivation, StoredEmbedding
from distgnn.train.session import Session
from tests.backends.parts_of_graphs import RANK, RANKS, forward, hashed, loss_of, make_model, metis, random_graph

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn import Backend, TensorSpec


def open_things() -> tuple[int, int]:
    """Count this process's shared mappings and open files."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    mapped = sum("/memfd:" in line or "/dev/shm" in line for line in maps.splitlines())
    return mapped, len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("way", ["exact", "stale", "history"])
def test_what_an_exchange_opens_is_closed_also_when_it_fails(
    way: str, opened: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = random_graph(40, 200)
    part = cut_part(graph, hashed(graph), RANK, RANKS)
    part.halo = replace(part.halo, history=way == "history")
    model = make_model("GIN alone", graph, opened, halo_staleness=int(way == "stale"))
    exchanges = way == "history" or RANKS > 1
    made: list[tuple[str, Any]] = []
    open_tensor = opened.open_tensor

    def opening(spec: TensorSpec) -> Any:
        made.append((spec.name, open_tensor(spec)))
        return made[-1][1]

    monkeypatch.setattr(opened, "open_tensor", opening)

    def failing(here: bool) -> AbstractContextManager[object]:
        """On all ranks alike."""
        if not (here and exchanges):
            return nullcontext()
        stack = ExitStack()
        stack.enter_context(monkeypatch.context()).setattr(type(made[0][1]), "read", burning)
        stack.enter_context(pytest.raises(RuntimeError, match="the disk is on fire"))
        return stack

    def still_open() -> set[str]:
        return {name for name, store in made if not store.closed}

    def use(failure: str) -> None:
        with closing(model), failing(failure == "forward"):
            loss = loss_of(forward(model, part) + forward(model, part), part, 1)
            kept, sums = still_open(), {f"{layer.name}_gradients" for layer in model.activations}
            with failing(failure == "backward" and way != "history"):  # where no gradients are exchanged
                loss.backward()  # type: ignore[no-untyped-call]
            assert still_open() <= kept | (set() if failure == "backward" else sums)
        assert still_open() == set()

    use("no failure")
    before = open_things()
    for failure in ("no failure", "forward", "backward", "no failure"):
        use(failure)
    assert all(now <= then for now, then in zip(open_things(), before, strict=True))  # gloo may close some of its own


def burning(*_: object) -> Tensor:
    raise RuntimeError("the disk is on fire")


def test_a_layer_moves_the_rows_of_its_halo_and_no_more() -> None:
    graph = random_graph(4000, 12000)
    width = 256
    with distgnn.use("pyg", timeout=20, share_memory=False) as opened:
        assert isinstance(opened, PygBackend)
        ranks = opened._ranks
        assert ranks is not None
        session = Session(opened)
        part = cut_part(graph, hashed(graph), RANK, RANKS)
        layer = StoredActivation(name="layer", backend=opened)
        rows = torch.randn(part.halo.own.numel(), width, requires_grad=True)
        (halo_rows,) = session.sum([part.halo.remote.numel()])
        expected = halo_rows * width * rows.element_size()
        for _ in range(3):
            before = ranks.bytes_sent
            extended = layer.extend(rows, part.halo).together()
            forward_bytes, before = ranks.bytes_sent - before, ranks.bytes_sent
            extended.sum().backward()
            moved = session.sum([forward_bytes, ranks.bytes_sent - before])
            print("bytes forward, backward:", *moved, "halo rows * width * element size:", expected)  # noqa: T201
            if RANKS > 1:
                assert moved == pytest.approx([expected] * 2, rel=0.05)  # of which ids are 8 / 1024
        layer.staleness = 1
        layer.extend(rows, part.halo).together()
        before = ranks.bytes_sent
        layer.extend(rows, part.halo).together().sum().backward()
        assert ranks.bytes_sent == before, "rows that are used again move nothing"
        layer.close()


@pytest.mark.parametrize("backend", ["pyg"])
def test_tables_lie_where_parts_are_so_that_a_lookup_moves_the_rows_of_the_halo_alone(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (Path(os.environ.get("DISTGNN_DATA", "")) / "Cora").is_dir():
        pytest.skip("Cora is not there: set DISTGNN_DATA to a folder that has it")
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path))
    graph = load_dataset("Cora").graph
    part = cut_part(graph, metis(graph), RANK, RANKS)
    with distgnn.use(backend, timeout=20, share_memory=False) as opened:
        assert isinstance(opened, PygBackend)
        session, placed = Session(opened), part.halo.partition
        (halo,) = map(int, session.sum([part.halo.remote.numel()]))
        fetched = {}
        for cut, book in (("evenly", None), ("as the graph is", placed)):
            moved = []
            for width in (64, 128):
                table = StoredEmbedding(graph.num_nodes, width, name=f"of_{width}", partition=book, backend=opened)
                for _ in range(4):  # the first find the sizes of messages
                    before = opened.bytes_sent
                    table(part.n_id)
                (total,) = session.sum([float(opened.bytes_sent - before)])
                moved.append(total)
                table.close()
            fetched[cut] = round((moved[1] - moved[0]) / (64 * 4))  # ids are as many for both widths
        print("rows of other ranks in a lookup:", fetched)  # noqa: T201
        assert fetched["as the graph is"] == halo
        if RANKS > 1:
            elsewhere = PartitionBook.even(graph.num_nodes, RANKS).own(RANK)
            missing = sum(int(node) not in elsewhere for node in part.n_id)
            assert fetched["evenly"] == session.sum([float(missing)])[0]
            assert fetched["evenly"] > 3 * halo
