"""The contract between distgnn's layers and a storage engine.

Words: a *rank* is one training process, the *world size* is how many there are, a *shard* is the rows that one rank or
server holds. Ids are int64 tensors of shape ``[K]`` in any order; duplicates are allowed and K may be 0.

What holds for every call below, unless it says otherwise:

* **Collective.** In a job of W ranks every rank makes the same sequence of store calls; a rank that has nothing to ask
  passes an empty id tensor. A backend may need less than this, never more.
* **Checked first.** Bad ids, shapes, dtypes and devices are refused, by the checks of :mod:`distgnn.storage.specs`,
  before anything is sent or changed.
* **Nothing hangs.** A peer that does not answer within the backend's timeout is a :class:`~distgnn.PeerLostError`; so
  is, for the others, a rank whose own call was refused.
* **After close()** every call but ``close()`` raises :class:`~distgnn.StoreClosedError`, also when the name has been
  opened anew; and a second ``close()`` leaves the new store alone.
* **Threads.** One thread at a time uses a store; a backend that allows more says so.

Implementations need no base class: they are recognised by their members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from distgnn.storage.specs import EmbeddingSpec, GraphSpec, TensorSpec


class StateSpec(NamedTuple):
    """One float32 tensor ``[num_embeddings, width]`` that an update rule keeps beside the rows.

    Args:
        width: Its number of columns.
        initial: The value of every element before the rule's first use.
    """

    width: int
    initial: float = 0.0


@runtime_checkable
class UpdateRule(Protocol):
    """How gradients change rows. Rules are frozen dataclasses that carry their learning rate and hold no tensors."""

    def state(self, embedding_dim: int) -> Mapping[str, StateSpec]:
        """Name the state that the rule keeps for each row of ``embedding_dim`` columns; may be empty."""
        ...

    def update(self, rows: Tensor, state: Mapping[str, Tensor], gradients: Tensor, step: int) -> None:
        """Change ``rows`` and ``state`` in place.

        A store may bring the rows that a step touches in several pieces, each row once, from several threads at once.

        Args:
            rows: ``[K, D]`` float32 (float64 for a float64 table), a copy of K different rows.
            state: A ``[K, width]`` float32 tensor a name of :meth:`state`, a copy of the same rows' state.
            gradients: ``[K, D]`` of the rows' dtype; may be overwritten.
            step: How many times the rule has been applied to the store, this time included: 1 at its first use.
        """
        ...


@runtime_checkable
class EmbeddingStore(Protocol):
    """A table of learnable rows ``[num_embeddings, embedding_dim]``, updated by the ids that a batch touched."""

    @property
    def num_embeddings(self) -> int:
        """Number of rows over all ranks."""
        ...

    @property
    def embedding_dim(self) -> int:
        """Number of columns."""
        ...

    def lookup(self, ids: Tensor) -> Tensor:
        """Fetch rows.

        A lookup sees every ``apply_gradients`` that came before it, by whichever rank.

        Args:
            ids: ``[K]`` int64, on the store's device.

        Returns:
            ``[K, embedding_dim]`` in the order of ``ids``, of the table's dtype, on the device of ``ids``. Fresh
            memory: changing it does not change the store, nor the other way round.

        Raises:
            IdsError: ``ids`` is not an int64 vector on the store's device.
            EmbeddingSizeError: An id is negative or not below ``num_embeddings``.
            PeerLostError: An owner of rows is gone.
        """
        ...

    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        """Update rows.

        The gradients of all ranks are summed by id, in float32 (float64 for a float64 table), then ``rule`` is applied
        once to each touched row and its state. Rows that no rank names do not change, and neither does their state.
        The store keeps the state, and the count of steps, by the rule's class from that class's first use on; the
        rule's numbers, such as lr, may differ from call to call. A call counts as a step also when no rank names a row.

        Args:
            ids: ``[K]`` int64, on the store's device.
            gradients: ``[K, embedding_dim]`` of the table's dtype or float32, on the same device. Left as it is.
            rule: The same on every rank.

        Raises:
            IdsError: ``ids`` is not an int64 vector on the store's device.
            EmbeddingSizeError: An id is negative or not below ``num_embeddings``.
            RowsError: ``gradients`` has another shape, dtype or device.
            NonFiniteGradientError: ``gradients`` holds NaN or infinity, when ``DISTGNN_DEBUG=1``.
            PeerLostError: An owner of rows is gone.
        """
        ...

    def close(self) -> None:
        """Free the rows on all ranks; the name can be opened anew. Closing twice is allowed."""
        ...


@runtime_checkable
class TensorStore(Protocol):
    """A tensor ``[num_rows, ...]`` of features or intermediate results that no one rank needs to hold whole."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor over all ranks."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements."""
        ...

    def read(self, ids: Tensor) -> Tensor:
        """Fetch rows; sees every ``write`` that came before it, by whichever rank.

        Args:
            ids: ``[K]`` int64, on the store's device.

        Returns:
            ``[K, ...]`` in the order of ``ids``, of the store's dtype, on the device of ``ids``; fresh memory.

        Raises:
            IdsError: ``ids`` is not an int64 vector on the store's device.
            IdRangeError: An id is negative or beyond the rows.
            PeerLostError: An owner of rows is gone.
        """
        ...

    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        """Replace rows, or add to them.

        A row that is named several times in one call, by one rank or by several, gets one of the values whole, never a
        mix of them. With ``accumulate`` all of them are added to it; float16 and bfloat16 are added in float32.

        Args:
            ids: ``[K]`` int64, on the store's device.
            values: ``[K, ...]`` of exactly the store's row shape and dtype (nothing is broadcast or converted). Left
                as it is, and not kept.
            accumulate: Add instead of replacing.

        Raises:
            IdsError: ``ids`` is not an int64 vector on the store's device.
            IdRangeError: An id is negative or beyond the rows.
            RowsError: ``values`` has another shape, dtype or device.
            PeerLostError: An owner of rows is gone.
        """
        ...

    def close(self) -> None:
        """Free the rows on all ranks; the name can be opened anew. Closing twice is allowed."""
        ...


class InEdges(NamedTuple):
    """The in-edges of a call: three int64 tensors ``[E]``."""

    sources: Tensor
    destinations: Tensor
    edge_ids: Tensor


@runtime_checkable
class GraphStore(Protocol):
    """The structure of a directed graph. An edge's id is its column in the ``edge_index`` it was opened with."""

    @property
    def num_nodes(self) -> int:
        """Number of nodes over all ranks."""
        ...

    @property
    def num_edges(self) -> int:
        """Number of edges over all ranks."""
        ...

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> InEdges:
        """Find edges that end in ``nodes``, all of them or a uniform sample without replacement.

        The sample of a node depends on (seed, node) alone: not on the other nodes of the call, nor on who asks, nor on
        the world size or the sharding. Duplicate edges count one by one; self loops are edges like others.

        Args:
            nodes: ``[K]`` int64, on the store's device.
            fanout: At most so many edges a node; -1 takes all.
            seed: Another seed gives an independent sample.

        Returns:
            The edges, grouped in the order of ``nodes`` (a node that is named twice brings its edges twice), and
            within a node in ascending order of edge ids.

        Raises:
            IdsError: ``nodes`` is not an int64 vector on the store's device.
            IdRangeError: A node is negative or not below ``num_nodes``.
            ValueError: ``fanout`` is below -1.
            PeerLostError: An owner of nodes is gone.
        """
        ...

    def close(self) -> None:
        """Free the graph on all ranks; the name can be opened anew. Closing twice is allowed."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A storage engine: opens stores by spec.

    Names are one space for all three kinds. Opening an open name with an equal spec attaches to that store: whoever
    closes it closes it for all.
    """

    @property
    def name(self) -> str:
        """The name that the backend is found by."""
        ...

    def open_embedding(self, spec: EmbeddingSpec) -> EmbeddingStore:
        """Open a table with the rows of :func:`distgnn.storage.toolkit.initial.initial_rows`, or attach to it.

        Raises:
            NameConflictError: The name is open with another spec; the text shows both.
            SpecError: The backend has no rows of that dtype. It must have float32.
            StoreClosedError: The backend is closed.
            PeerLostError: A peer is gone, or has not opened the store within the timeout.
        """
        ...

    def open_tensor(self, spec: TensorSpec) -> TensorStore:
        """Open a tensor of zeros, or attach to it.

        Raises:
            NameConflictError: The name is open with another spec; the text shows both.
            SpecError: The backend has no rows of that dtype. It must have float32 and int64.
            StoreClosedError: The backend is closed.
            PeerLostError: A peer is gone, or has not opened the store within the timeout.
        """
        ...

    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> GraphStore:
        """Open a graph, or attach to it.

        Args:
            spec: The graph's name and sizes.
            edge_index: ``[2, num_edges]`` int64, sources above destinations. Not kept as it is: later changes to the
                tensor do not change the graph. May be left out when the name is open.

        Raises:
            NameConflictError: The name is open with another spec (the text shows both) or with other edges.
            RowsError: ``edge_index`` is missing, or not int64 of the spec's shape.
            IdRangeError: An edge ends outside the graph.
            StoreClosedError: The backend is closed.
            PeerLostError: A peer is gone, or has not opened the store within the timeout.
        """
        ...

    def close(self) -> None:
        """Close every store and the engine. Closing twice is allowed."""
        ...
