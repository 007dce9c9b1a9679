"""The ``memory`` backend: every row in this process. The default, the reference, and the double in unit tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from distgnn.errors import NameConflictError, RowsError, StoreClosedError
from distgnn.hookspecs import hookimpl
from distgnn.initial import initial_rows
from distgnn.optim.rows import accumulation_dtype, new_state, sum_by_id, update_rows
from distgnn.protocols import InEdges
from distgnn.specs import EmbeddingSpec, GraphSpec, Spec, TensorSpec, check_same_spec

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.protocols import UpdateRule


class MemoryEmbeddingStore:
    """Rows, and the state of each rule that was used, in plain tensors."""

    def __init__(self, spec: EmbeddingSpec, device: torch.device) -> None:
        self.spec = spec
        self._device = device
        self._rows: Tensor | None = initial_rows(spec, 0, spec.num_embeddings).to(device)
        self._state: dict[type[UpdateRule], dict[str, Tensor]] = {}
        self._steps: dict[type[UpdateRule], int] = {}

    @property
    def num_embeddings(self) -> int:
        return self.spec.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.spec.embedding_dim

    def lookup(self, ids: Tensor) -> Tensor:
        rows = _opened(self._rows, self.spec)
        self.spec.check_ids(ids, self._device)
        return rows.index_select(0, ids)

    @torch.no_grad()
    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        rows = _opened(self._rows, self.spec)
        self.spec.check_gradients(ids, gradients, self._device)
        kind = type(rule)
        if kind not in self._state:
            self._state[kind] = new_state(rule, self.num_embeddings, self.embedding_dim, self._device)
        self._steps[kind] = self._steps.get(kind, 0) + 1
        sums = sum_by_id(ids, gradients.to(accumulation_dtype(self.spec.dtype)))
        update_rows(rows, self._state[kind], *sums, rule, self._steps[kind])

    def close(self) -> None:
        self._rows = None
        self._state.clear()

    @property
    def closed(self) -> bool:
        return self._rows is None


class MemoryTensorStore:
    """A plain tensor."""

    def __init__(self, spec: TensorSpec, device: torch.device) -> None:
        self.spec = spec
        self._device = device
        self._values: Tensor | None = torch.zeros(spec.shape, dtype=spec.dtype, device=device)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        values = _opened(self._values, self.spec)
        self.spec.check_ids(ids, self._device)
        return values.index_select(0, ids)

    @torch.no_grad()
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        stored = _opened(self._values, self.spec)
        self.spec.check_values(ids, values, self._device)
        if accumulate:
            ids, sums = sum_by_id(ids, values)
            rows = stored.index_select(0, ids).to(accumulation_dtype(self.dtype))
            stored.index_copy_(0, ids, rows.add_(sums).to(self.dtype))
        else:
            # index_copy_ may run in threads: each row must be named once, here by its last value.
            distinct, slots = torch.unique(ids, return_inverse=True)
            last = torch.zeros_like(distinct)
            last.scatter_reduce_(0, slots, torch.arange(ids.numel(), device=self._device), "amax")
            stored.index_copy_(0, distinct, values.index_select(0, last))

    def close(self) -> None:
        self._values = None

    @property
    def closed(self) -> bool:
        return self._values is None


class MemoryGraphStore:
    """In-edges sorted by destination (CSC)."""

    def __init__(self, spec: GraphSpec, edge_index: Tensor, device: torch.device) -> None:
        self.spec = spec
        self._device = device
        sources, destinations = edge_index.to(device)
        self._edge_ids: Tensor | None = destinations.argsort(stable=True)
        self._sources = sources.index_select(0, self._edge_ids)
        degrees = torch.bincount(destinations, minlength=spec.num_nodes)
        self._start = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])

    @property
    def num_nodes(self) -> int:
        return self.spec.num_nodes

    @property
    def num_edges(self) -> int:
        return self.spec.num_edges

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        edge_ids = _opened(self._edge_ids, self.spec)
        self.spec.check_nodes(nodes, self._device)
        if fanout < -1:
            raise ValueError(f"graph store {self.spec.name!r}: fanout must be -1 (all) or at least 0, not {fanout}")
        first = self._start.index_select(0, nodes)
        degree = self._start.index_select(0, nodes + 1) - first
        after = degree.cumsum(0)
        before = after - degree
        count = torch.arange(int(after[-1]) if nodes.numel() else 0, device=self._device)
        position = torch.searchsorted(after, count, right=True)  # which of the nodes an edge belongs to
        edges = count + (first - before).index_select(0, position)
        if fanout >= 0:
            # A node keeps the edges whose random numbers are its smallest: a uniform sample without replacement.
            numbers = _random_numbers(edge_ids.index_select(0, edges), seed)
            order = numbers.argsort()
            order = order.index_select(0, position.index_select(0, order).argsort(stable=True))
            rank = count - before.index_select(0, position)
            kept = order[rank < fanout].sort().values
            edges, position = edges.index_select(0, kept), position.index_select(0, kept)
        return InEdges(
            self._sources.index_select(0, edges), nodes.index_select(0, position), edge_ids.index_select(0, edges)
        )

    def close(self) -> None:
        self._edge_ids = None
        self._sources = self._start = torch.empty(0)

    @property
    def closed(self) -> bool:
        return self._edge_ids is None

    def holds(self, edge_index: Tensor) -> bool:
        """Tell whether these are the edges that the graph was opened with."""
        assert self._edge_ids is not None
        sources, destinations = edge_index.to(self._device).index_select(1, self._edge_ids)
        degrees = torch.bincount(destinations, minlength=self.num_nodes)
        return torch.equal(sources, self._sources) and torch.equal(degrees.cumsum(0), self._start[1:])


def _opened(content: Tensor | None, spec: Spec) -> Tensor:
    if content is None:
        raise StoreClosedError(f"store {spec.name!r} is closed; open it again from its backend")
    return content


def _random_numbers(keys: Tensor, seed: int) -> Tensor:
    """Give each int64 key a random int64 of its own by SplitMix64 (Steele et al. 2014), whatever stands beside it."""
    state = keys * -7046029254386353131 + (seed * 6364136223846793005 + 1442695040888963407) % 2**63
    state = (state ^ (state >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    state = (state ^ (state >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return state ^ (state >> 31 & 0x1FFFFFFFF)


_Store = TypeVar("_Store", MemoryEmbeddingStore, MemoryTensorStore, MemoryGraphStore)


class MemoryBackend:
    """Stores in this process.

    Args:
        device: Where the rows live, for example ``"cpu"`` or ``"cuda:0"``.
    """

    name = "memory"

    def __init__(self, *, device: str | torch.device = "cpu") -> None:
        # The device of a tensor carries an index, "cuda" alone does not.
        self._device = torch.empty(0, device=device).device
        self._stores: dict[str, MemoryEmbeddingStore | MemoryTensorStore | MemoryGraphStore] | None = {}

    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        return self._attached(spec, MemoryEmbeddingStore) or self._keep(MemoryEmbeddingStore(spec, self._device))

    def open_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        return self._attached(spec, MemoryTensorStore) or self._keep(MemoryTensorStore(spec, self._device))

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        if edge_index is not None:
            spec.check_edges(edge_index)
        store = self._attached(spec, MemoryGraphStore)
        if store is not None:
            if edge_index is not None and not store.holds(edge_index):
                raise NameConflictError(
                    f"the name {spec.name!r} is open as {spec} with other edges; choose another name"
                )
            return store
        if edge_index is None:
            raise RowsError(f"graph store {spec.name!r} is not open yet: give its edge_index of shape [2, E]")
        return self._keep(MemoryGraphStore(spec, edge_index, self._device))

    def close(self) -> None:
        for store in (self._stores or {}).values():
            store.close()
        self._stores = None

    def _attached(self, spec: Spec, kind: type[_Store]) -> _Store | None:
        if self._stores is None:
            raise StoreClosedError(f"the memory backend is closed, {spec} cannot be opened; call distgnn.use('memory')")
        store = self._stores.get(spec.name)
        if store is None or store.closed:
            return None
        check_same_spec(store.spec, spec)
        return store if isinstance(store, kind) else None

    def _keep(self, store: _Store) -> _Store:
        assert self._stores is not None
        self._stores[store.spec.name] = store
        return store


@hookimpl
def distgnn_backend() -> type[MemoryBackend]:
    """Offer the in-memory backend."""
    return MemoryBackend
