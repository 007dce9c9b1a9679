"""Training over the parts of a graph equals training on the whole, at whatever world size this file is run.

Every rank computes the whole graph by itself on its own in-memory backend, as the reference.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch_geometric.data import Data
from torch_geometric.nn import GIN

import distgnn
from distgnn import PartitionBook
from distgnn.backends.memory import MemoryBackend
from distgnn.backends.pyg.backend import PygBackend
from distgnn.checkpoint import Checkpoint
from distgnn.data import load_custom_graph, load_dataset
from distgnn.graph import cut_part, edge_partition, load_part, partition_graph
from distgnn.graph.partition.assign import assign_nodes
from distgnn.nn import DistributedGIN, DistributedGINE, DistributedGNN, StoredActivation, StoredEmbedding
from distgnn.nn.aggregation import layout
from distgnn.optim import SparseAdam, SparseOptimizer, SparseSGD
from distgnn.train.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from distgnn import Backend, EmbeddingStore, TensorSpec

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
CLASSES = 7


def random_graph(num_nodes: int, num_edges: int) -> Data:
    """A directed graph with self loops and, as pairs are drawn again and again, equal edges."""
    draw = torch.Generator().manual_seed(num_nodes)
    return Data(
        x=torch.randn(num_nodes, 5, generator=draw),
        edge_index=torch.randint(num_nodes, (2, num_edges), generator=draw),
        edge_attr=torch.randn(num_edges, 2, generator=draw),
        edge_weight=torch.rand(num_edges, generator=draw),
        y=torch.randint(CLASSES, (num_nodes,), generator=draw),
        train_mask=torch.rand(num_nodes, generator=draw) < 0.6,
    )


def hashed(graph: Data) -> Tensor:
    return assign_nodes(graph.edge_index, graph.num_nodes, RANKS, method="hash")


def metis(graph: Data) -> Tensor:
    pytest.importorskip("pymetis", reason="pymetis is not installed here")
    return assign_nodes(graph.edge_index, graph.num_nodes, RANKS, method="metis")


def one_empty(graph: Data) -> Tensor:
    """The last rank has no nodes, unless it is alone."""
    return torch.arange(graph.num_nodes) % max(1, RANKS - 1)


def one_without_halo(graph: Data) -> Tensor:
    """No edge ends in the nodes of rank 0, but from each other."""
    parts = torch.arange(graph.num_nodes) % RANKS
    sources, destinations = graph.edge_index
    kept = (parts[destinations] > 0) | (parts[sources] == 0)
    graph.edge_index, graph.edge_attr = graph.edge_index[:, kept], graph.edge_attr[kept]
    graph.edge_weight = graph.edge_weight[kept]
    return parts


def assert_close(tensors: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Compare to within the tolerance, relative to the largest element of a tensor where that is above 1."""
    for found, wanted in zip(tensors, expected, strict=True):
        scale = max(1.0, float(wanted.detach().abs().max())) if wanted.numel() else 1.0
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * scale)


def make_model(kind: str, graph: Data, backend: Backend, **options: Any) -> DistributedGNN:
    torch.manual_seed(0)
    sizes = (graph.num_features, 8)
    options |= {
        "num_layers": 3,
        "out_channels": CLASSES,
        "use_dist_tensor": True,
        "backend": backend,
        "train_eps": True,
    }
    if kind != "GIN alone":
        options |= {"use_dist_embedding": True, "embedding_dim": 4, "embedding_name": "nodes", "embedding_std": 0.5}
    if kind == "GINE":
        model: DistributedGNN = DistributedGINE(
            *sizes,
            edge_dim=2,
            use_dist_edge_embedding=True,
            edge_embedding_dim=3,
            edge_embedding_name="edges",
            **options,
        )
        model.set_num_embeddings(num_edges=graph.num_edges)
    else:
        model = DistributedGIN(*sizes, **options)
    model.set_num_embeddings(num_nodes=graph.num_nodes)
    return model


def forward(model: Callable[..., Tensor], data: Data, x: Tensor | None = None) -> Tensor:
    """Compute the outputs of a part, or of a whole graph."""
    options = {"node_ids": data.get("n_id"), "edge_ids": data.get("e_id"), "halo": data.get("halo")}
    options["edge_weight"] = data.get("edge_weight")
    return model(data.x if x is None else x, data.edge_index, data.edge_attr, **options)


def loss_of(out: Tensor, data: Data, targets: int) -> Tensor:
    mask = data.train_mask
    return cross_entropy(out[mask], data.y[mask], reduction="sum") / targets


class Training:
    """A few steps of a model on a part, or on a whole graph."""

    def __init__(self, kind: str, graph: Data, data: Data, backend: Backend, rule: str) -> None:
        self.data, self.targets = data, int(graph.train_mask.sum())
        self.session = Session(backend)
        self.model = make_model(kind, graph, backend).to(graph.x.dtype)
        if "halo" in data and kind != "GIN alone":
            edges = edge_partition(data, backend=backend) if kind == "GINE" else None
            self.model.set_num_embeddings(node_partition=data.halo.partition, edge_partition=edges)
        self.wrapped = self.session.wrap(self.model, sync_batch_norm=True)
        adam = rule == "adam"
        dense = torch.optim.Adam if adam else torch.optim.SGD
        self.dense: torch.optim.Optimizer = dense(self.model.parameters(), lr=0.01 if adam else 0.02)
        self.sparse: SparseOptimizer | None = None
        if kind != "GIN alone":
            self.sparse = SparseAdam(self.model, lr=0.01) if adam else SparseSGD(self.model, lr=0.02)

    def step(self) -> tuple[Tensor, float, list[Tensor]]:
        """Train one step, and return this rank's outputs, the loss over all ranks and the gradients of weights."""
        self.dense.zero_grad()
        out = forward(self.wrapped, self.data)
        loss = loss_of(out, self.data, self.targets)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad.clone() for weight in self.model.parameters() if weight.grad is not None]
        self.dense.step()
        if self.sparse is not None:
            self.sparse.step()
        return out.detach(), self.session.sum([float(loss.detach())])[0], gradients

    def tables(self) -> list[Tensor]:
        stores: list[EmbeddingStore | None] = [
            features.embedding.open_store()
            for features in (self.model.node_features, getattr(self.model, "edge_features", None))
            if features is not None
        ]
        return [store.lookup(torch.arange(store.num_embeddings)) for store in stores if store is not None]


def assert_trains_alike(
    kind: str,
    graph: Data,
    part: Data,
    backend: Backend,
    rule: str,
    monkeypatch: pytest.MonkeyPatch,
    steps: int = 4,
) -> None:
    ours = Training(kind, graph, part, backend, rule)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    whole = Data(**{**graph.to_dict(), "n_id": torch.arange(graph.num_nodes), "e_id": torch.arange(graph.num_edges)})
    theirs = Training(kind, graph, whole, MemoryBackend(), rule)
    for _ in range(steps):
        (out, loss, gradients), (all_out, all_loss, all_gradients) = ours.step(), theirs.step()
        assert_close([out], [all_out[part.n_id[: len(out)]]])
        assert loss == pytest.approx(all_loss, rel=1e-5)
        assert_close(gradients, all_gradients)
    assert_close(ours.tables(), theirs.tables())
    assert_close(list(ours.model.parameters()), list(theirs.model.parameters()))
    ours.model.close()


@pytest.mark.parametrize(("kind", "rule"), [("GIN alone", "sgd"), ("GIN", "adam"), ("GINE", "sgd"), ("GINE", "adam")])
def test_training_over_parts_equals_training_on_the_whole_graph(
    kind: str, rule: str, opened: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_WORTHWHILE", 0)  # as large graphs do: sums go on while rows are on their way
    graph = random_graph(70, 400)
    part = cut_part(graph, metis(graph), RANK, RANKS)
    assert_trains_alike(kind, graph, part, opened, rule, monkeypatch)


@pytest.mark.parametrize(
    ("num_nodes", "num_edges", "assign"),
    [
        (40, 300, one_empty),
        (40, 300, one_without_halo),
        pytest.param(60, 40, hashed, id="most nodes have no in-edges"),
        pytest.param(3, 9, hashed, id="fewer nodes than ranks"),
    ],
)
def test_it_does_for_every_shape_of_part(
    num_nodes: int,
    num_edges: int,
    assign: Callable[[Data], Tensor],
    opened: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = random_graph(num_nodes, num_edges)
    part = cut_part(graph, assign(graph), RANK, RANKS)
    assert_trains_alike("GINE", graph, part, opened, "sgd", monkeypatch)


def test_a_part_from_a_folder_is_the_part_that_is_cut_in_memory(opened: Backend, tmp_path: Path) -> None:
    graph = random_graph(50, 300)
    partition_graph(graph, tmp_path / "cut", RANKS, method="hash")
    loaded, cut = load_part(tmp_path / "cut"), cut_part(graph, hashed(graph), RANK, RANKS)
    assert sorted(loaded.keys()) == sorted(cut.keys())
    for name in set(cut.keys()) - {"halo", "num_nodes"}:
        assert torch.equal(loaded[name], cut[name]), name
    assert torch.equal(loaded.x, graph.x[loaded.n_id])
    assert torch.equal(loaded.halo.own, cut.halo.own)
    assert torch.equal(loaded.halo.remote, cut.halo.remote)
    assert loaded.halo.num_rows == cut.halo.num_rows
    assert loaded.halo.partition == cut.halo.partition
    assert (loaded.halo.border.num_rows, loaded.halo.border.partition) == (
        cut.halo.border.num_rows,
        cut.halo.border.partition,
    )
    for name in ("places", "own", "remote"):
        assert torch.equal(getattr(loaded.halo.border, name), getattr(cut.halo.border, name)), name
    assert torch.equal(cut.halo.own, cut.n_id[: len(cut.halo.own)])
    if RANKS > 1 and opened.name != "memory":
        assert torch.equal(cut.halo.partition.ids(*cut.halo.partition.bounds[RANK : RANK + 2]), cut.halo.own)
        edges = edge_partition(loaded)
        assert edges == edge_partition(cut)
        assert torch.equal(edges.ids(*edges.bounds[RANK : RANK + 2]), cut.e_id)


@pytest.mark.parametrize("name", ["Cora", "musae_git"])
def test_it_does_on_graphs_that_are_published(
    name: str, opened: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.environ.get("DISTGNN_DATA", "")) / name
    if not os.environ.get("DISTGNN_DATA") or not folder.is_dir():
        pytest.skip(f"{name} is not there: set DISTGNN_DATA to a folder that has it")
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path))
    if name == "Cora":
        graph = load_dataset(name).graph
    else:
        graph = load_custom_graph(folder / "git_edges.csv", labels=folder / "git_target.csv")
        graph.x = torch.randn(graph.num_nodes, 5, generator=torch.Generator().manual_seed(0))
    graph.edge_attr = torch.randn(graph.num_edges, 2, generator=torch.Generator().manual_seed(0))
    # In float64: a node of musae_git has 9,458 neighbors, over which sums of float32 round to less than 5 digits.
    graph.x, graph.edge_attr = graph.x.double(), graph.edge_attr.double()
    part = cut_part(graph, metis(graph), RANK, RANKS)
    assert_trains_alike("GINE", graph, part, opened, "adam", monkeypatch, steps=2)


def gradients_of(loss: Tensor, model: DistributedGNN) -> list[Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("way", ["two forwards", "checkpoint", "evaluation between", "backward twice"])
def test_layer_stores_may_be_used_again_before_a_backward(way: str, opened: Backend) -> None:
    graph = random_graph(40, 200)
    other = torch.randn(graph.x.shape, generator=torch.Generator().manual_seed(7))
    part = cut_part(graph, hashed(graph), RANK, RANKS)
    part_of_other = other[part.n_id]
    session = Session(opened)
    model, reference = (make_model("GIN alone", graph, where) for where in (opened, MemoryBackend()))
    expected = loss_of(forward(reference, graph), graph, 1)
    if way == "checkpoint":
        loss = loss_of(checkpoint(lambda x: forward(model, part, x), part.x, use_reentrant=False), part, 1)
    else:
        loss = loss_of(forward(model, part), part, 1)
    if way == "two forwards":
        loss = loss + loss_of(forward(model, part, part_of_other), part, 1)
        expected = expected + loss_of(forward(reference, graph, other), graph, 1)
    elif way == "evaluation between":
        with torch.no_grad():
            forward(model.eval(), part, part_of_other)
    elif way == "backward twice":
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        expected = 2 * expected
    for gradient, whole in zip(gradients_of(loss, model), gradients_of(expected, reference), strict=True):
        summed = torch.tensor(session.sum(gradient.flatten().tolist())).view_as(gradient).float()
        assert_close([summed], [whole])
    model.close()


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
