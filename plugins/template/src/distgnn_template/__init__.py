"""The ``template`` backend: rows in NumPy arrays of this process, to be replaced by an engine of your own."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

import distgnn
from distgnn.optim import sum_by_id

if TYPE_CHECKING:
    from torch import Tensor

CPU = torch.device("cpu")
Kept = TypeVar("Kept", bound="Store")


class Store:
    """What the three stores share: a spec, rows, and being closed."""

    def __init__(self, spec: Any, rows: Tensor) -> None:
        if rows.dtype == torch.bfloat16:
            raise distgnn.SpecError(f"{spec}: NumPy has no bfloat16; use float32 or float16")
        self.spec, self.rows, self.closed = spec, rows.numpy(), False

    def check_open(self) -> None:
        if self.closed:
            raise distgnn.StoreClosedError(f"store {self.spec.name!r} is closed; open it again from its backend")

    def close(self) -> None:
        self.rows, self.closed = self.rows[:0], True


class TemplateEmbeddingStore(Store):
    """Learnable rows, and beside them the state of each rule that was used."""

    def __init__(self, spec: distgnn.EmbeddingSpec) -> None:
        super().__init__(spec, distgnn.initial_rows(spec, 0, spec.num_embeddings))
        self.num_embeddings, self.embedding_dim = spec.num_embeddings, spec.embedding_dim
        self.state: dict[type, dict[str, Any]] = {}
        self.steps: Counter[type] = Counter()

    def lookup(self, ids: Tensor) -> Tensor:
        self.check_open()
        self.spec.check_ids(ids, CPU)
        return torch.from_numpy(self.rows[ids.numpy()])

    @torch.no_grad()
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: distgnn.UpdateRule) -> None:
        self.check_open()
        self.spec.check_gradients(ids, gradients, CPU)
        self.steps[type(rule)] += 1
        if type(rule) not in self.state:
            specs = rule.state(self.embedding_dim)
            self.state[type(rule)] = {
                name: np.full((self.num_embeddings, spec.width), spec.initial, dtype=np.float32)
                for name, spec in specs.items()
            }
        kept = self.state[type(rule)]
        wide = torch.float64 if self.spec.dtype == torch.float64 else torch.float32
        distinct, sums = sum_by_id(ids, gradients.to(wide))
        touched = distinct.numpy()
        rows = torch.from_numpy(self.rows[touched]).to(wide)
        state = {name: torch.from_numpy(values[touched]) for name, values in kept.items()}
        rule.update(rows, state, sums, self.steps[type(rule)])
        self.rows[touched] = rows.to(self.spec.dtype).numpy()
        for name, values in kept.items():
            values[touched] = state[name].numpy()


class TemplateTensorStore(Store):
    """Rows of any shape, zero at first."""

    def __init__(self, spec: distgnn.TensorSpec) -> None:
        super().__init__(spec, torch.zeros(spec.shape, dtype=spec.dtype))
        self.shape, self.dtype = spec.shape, spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        self.check_open()
        self.spec.check_ids(ids, CPU)
        return torch.from_numpy(self.rows[ids.numpy()])

    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        self.check_open()
        self.spec.check_values(ids, values, CPU)
        if accumulate:
            ids, sums = sum_by_id(ids, values.detach())
            values = (self.read(ids).to(sums.dtype) + sums).to(self.dtype)
        self.rows[ids.numpy()] = values.detach().numpy()


class TemplateGraphStore(Store):
    """Edges; ``rows`` is the ``edge_index``."""

    def __init__(self, spec: distgnn.GraphSpec, edge_index: Tensor) -> None:
        super().__init__(spec, edge_index.clone())
        self.num_nodes, self.num_edges = spec.num_nodes, spec.num_edges
        self.edges_into: dict[int, list[int]] = {}
        for edge, node in enumerate(edge_index[1].tolist()):
            self.edges_into.setdefault(node, []).append(edge)

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> distgnn.InEdges:
        self.check_open()
        self.spec.check_query(nodes, fanout, CPU)
        found: list[int] = []
        for node in nodes.tolist():
            edges = self.edges_into.get(node, [])
            if 0 <= fanout < len(edges):
                drawn = random.Random(f"{seed}/{node}")  # noqa: S311  # a sample is no secret
                edges = sorted(drawn.sample(edges, fanout))
            found += edges
        sources, destinations = torch.from_numpy(self.rows[:, found])
        return distgnn.InEdges(sources, destinations, torch.tensor(found, dtype=torch.int64))


class TemplateBackend:
    """Opens the stores. Arguments of ``__init__`` would be options of ``distgnn.use("template", ...)``."""

    name = "template"

    def __init__(self) -> None:
        self.stores: dict[str, Store] = {}
        self.closed = False

    def open_embedding(self, spec: distgnn.EmbeddingSpec) -> TemplateEmbeddingStore:
        return self.attached(spec) or self.keep(TemplateEmbeddingStore(spec))

    def open_tensor(self, spec: distgnn.TensorSpec) -> TemplateTensorStore:
        return self.attached(spec) or self.keep(TemplateTensorStore(spec))

    def open_graph(self, spec: distgnn.GraphSpec, edge_index: Tensor | None = None) -> TemplateGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store: TemplateGraphStore | None = self.attached(spec)
        if store is not None:
            if edge_index is not None and not np.array_equal(store.rows, edge_index.numpy()):
                raise distgnn.NameConflictError(f"the name {spec.name!r} is open as {spec} with other edges")
            return store
        if edge_index is None:
            raise distgnn.RowsError(f"graph store {spec.name!r} is not open yet: give its edge_index of shape [2, E]")
        return self.keep(TemplateGraphStore(spec, edge_index))

    def close(self) -> None:
        for store in self.stores.values():
            store.close()
        self.closed = True

    def attached(self, spec: Any) -> Any:
        """Give the open store of that name and spec, or None."""
        if self.closed:
            raise distgnn.StoreClosedError(f"the {self.name} backend is closed, {spec} cannot be opened")
        store = self.stores.get(spec.name)
        if store is None or store.closed:
            return None
        if store.spec != spec:
            raise distgnn.NameConflictError(f"the name {spec.name!r} is open as {store.spec}, not as {spec}")
        return store

    def keep(self, store: Kept) -> Kept:
        self.stores[store.spec.name] = store
        return store


@distgnn.hookimpl
def distgnn_backend() -> type[TemplateBackend]:
    """Offer the backend."""
    return TemplateBackend
