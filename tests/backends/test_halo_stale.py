"""Rows of other parts that serve for some steps, at whatever world size this file is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch_geometric.nn import GIN

from distgnn.checkpoint import Checkpoint
from distgnn.graph import cut_part
from distgnn.nn import DistributedGNN, StoredActivation
from distgnn.train.session import Session
from tests.backends.parts_of_graphs import (
    CLASSES,
    RANK,
    RANKS,
    assert_close,
    forward,
    hashed,
    loss_of,
    make_model,
    random_graph,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch_geometric.data import Data

    from distgnn import Backend


class StaleParts:
    """PyG's GIN over all parts at once: between refreshes, rows of other parts are constants of the last one."""

    def __init__(self, model: DistributedGNN, graph: Data, parts: Tensor, staleness: int) -> None:
        self.model = GIN(5, 8, 3, CLASSES, train_eps=True)
        self.model.load_state_dict(model.state_dict())
        self._graph, self._parts, self._staleness = graph, parts, staleness
        self._kept: list[Tensor] = []
        self._forwards = 0

    def forward(self) -> Tensor:
        fresh = self._forwards % (self._staleness + 1) == 0
        self._forwards += 1
        if fresh:
            self._kept.clear()
        h: Tensor = self._graph.x
        for layer, conv in enumerate(self.model.convs):
            if layer and fresh:
                self._kept.append(h.detach())
            constant = h if fresh or not layer else self._kept[layer - 1]
            owned = [(self._parts == part)[:, None] for part in range(RANKS)]
            outputs = [conv(torch.where(own, h, constant), self._graph.edge_index) * own for own in owned]
            h = torch.stack(outputs).sum(dim=0)
            h = h if layer == 2 else h.relu()
        return h


def test_stale_rows_serve_so_many_steps_and_evaluation_never(opened: Backend) -> None:
    graph, session = random_graph(70, 400), Session(opened)
    del graph.edge_weight  # PyG's GIN has none
    parts = hashed(graph)
    part = cut_part(graph, parts, RANK, RANKS)
    model = make_model("GIN alone", graph, opened, halo_staleness=2)
    oracle = StaleParts(model, graph, parts, 2)
    wrapped = session.wrap(model, sync_batch_norm=True)
    ours, theirs = (torch.optim.SGD(one.parameters(), lr=0.001) for one in (model, oracle.model))
    for _ in range(7):
        out, all_out = forward(wrapped, part), oracle.forward()
        for optimizer, loss in ((ours, loss_of(out, part, 1)), (theirs, loss_of(all_out, graph, 1))):
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert_close([out], [all_out[part.n_id[: len(out)]]])
        assert_close(list(model.parameters()), list(oracle.model.parameters()))
        expected = oracle.model(graph.x, graph.edge_index)[part.n_id[: len(out)]]
        assert_close([forward(model.eval(), part)], [expected])
        with torch.no_grad():
            assert_close([forward(model.train(), part)], [expected])
    model.close()


@pytest.mark.parametrize("way", ["stale", "history"])
def test_a_job_that_goes_on_reads_the_rows_that_earlier_steps_left(way: str, opened: Backend, tmp_path: Path) -> None:
    graph, session = random_graph(70, 400), Session(opened)
    part = cut_part(graph, hashed(graph), RANK, RANKS)
    part.halo = replace(part.halo, history=way == "history")
    folder = Path(session.texts(str(tmp_path))[0]) / "saved"

    def start() -> tuple[DistributedGNN, Checkpoint, Callable[[], list[float]]]:
        model = make_model("GIN alone", graph, opened, halo_staleness=3 if way == "stale" else 0)
        wrapped, optimizer = session.wrap(model, sync_batch_norm=True), torch.optim.SGD(model.parameters(), lr=0.001)

        def steps() -> list[float]:
            losses = []
            for _ in range(5):  # rows come with the first and the fifth, and serve the next step yet
                loss = loss_of(forward(wrapped.train(), part), part, 1)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                with torch.no_grad():
                    out = forward(model.eval(), part)
                losses += [float(loss.detach()), float(out.sum())]
            return losses

        return model, Checkpoint(session, {"model": model, "optimizer": optimizer}), steps

    model, saving, steps = start()
    steps()
    saving.save(folder)
    expected = steps()
    model.close()
    for rows_are_lost in (False, True):
        model, loading, steps = start()
        loading.load(folder)
        for layer in model.activations if rows_are_lost else ():
            assert isinstance(layer, StoredActivation)
            layer.close()
        equal = session.sum([steps() == expected])[0] == RANKS
        assert equal != (rows_are_lost and way == "stale" and RANKS > 1)
        model.close()
