"""Capabilities beyond the contract, one idea a protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from distgnn.storage.protocols import GraphStore, StateSpec
    from distgnn.storage.specs import GraphSpec, PartitionBook


@runtime_checkable
class SupportsPrefetch(Protocol):
    """An embedding store that can fetch rows while its caller does something else."""

    def prefetch(self, ids: Tensor) -> Callable[[], Tensor]:
        """Begin a lookup.

        The function that is returned ends it, and returns what ``lookup(ids)`` would return at that moment: rows that
        an ``apply_gradients`` has changed since are brought again. Both are collective, and other calls may come
        between them; the function is called once.

        Args:
            ids: As for :meth:`EmbeddingStore.lookup`; may be changed afterwards.

        Raises:
            IdsError: As :meth:`EmbeddingStore.lookup`.
            EmbeddingSizeError: As :meth:`EmbeddingStore.lookup`.
            PeerLostError: An owner of rows is gone; the function raises it too.
        """
        ...


@runtime_checkable
class SupportsResize(Protocol):
    """An embedding store that can get more rows."""

    def resize(self, num_embeddings: int) -> None:
        """Add rows at the end; collective, and not between a prefetch and its end.

        Rows that are there keep their ids, their values and their state. The others are as in a new store of that size,
        with the initial state of the rules that were used; by a partition they are the last rank's. The name is open
        with the new size then, and with :meth:`PartitionBook.grown` of the partition.

        Args:
            num_embeddings: How many rows there are afterwards; the same on every rank.

        Raises:
            EmbeddingSizeError: Fewer than there are.
            StoreClosedError: The store is closed.
            PeerLostError: A peer is gone.
        """
        ...


class RuleState(NamedTuple):
    """A store's state for one class of update rules.

    Args:
        steps: How often rules of the class have been applied to the store.
        tensors: The rows of state beside its own, by name; empty for a rule that keeps none.
    """

    steps: int
    tensors: Mapping[str, StateSpec]


@runtime_checkable
class SupportsPlacement(Protocol):
    """An embedding or tensor store that keeps each row with the rank that a partition book names."""

    @property
    def partition(self) -> PartitionBook:
        """Who owns which rows: that of the store's spec, or the even one where that has none.

        Of a job of one rank it may be the one of no order: then all rows are here, whatever the spec says.
        """
        ...


def order_of(store: object) -> PartitionBook | None:
    """Return the book of a store whose rows are not in the order of their ids; None for all others."""
    book = store.partition if isinstance(store, SupportsPlacement) else None
    return None if book is None or book.order is None else book


@runtime_checkable
class SupportsCheckpoint(Protocol):
    """An embedding or tensor store whose rows can be taken out in blocks and put back, bit for bit, with their state.

    Every rank takes out, and puts back, rows of its own. So these calls are not collective, but for
    :meth:`reset_rule_states`; ranks make them while no other rank uses the store, that is, they meet before and
    afterwards. None comes between a prefetch and its end.

    Rows are counted by their ids or, where the store :class:`SupportsPlacement` by a book with an order, by their
    places in it.
    """

    @property
    def own_rows(self) -> range:
        """The rows that this rank deals with; those of all ranks, one after the other, are all rows, each once."""
        ...

    def rule_states(self) -> Mapping[str, RuleState]:
        """Tell what is kept beside the rows, by the rules' classes.

        A class is called by its ``key``, or without one ``module.QualifiedName``.

        The same on every rank; a tensor store keeps nothing.
        """
        ...

    def reset_rule_states(self, states: Mapping[str, RuleState]) -> None:
        """Forget all that is kept beside the rows, and begin with ``states``: their steps, and initial values.

        Collective. A class is known by its name alone and need not be there; when a rule of that name is applied to the
        store it finds this state.

        Args:
            states: The same on every rank; as :meth:`rule_states` gives them.
        """
        ...

    def export_rows(self, first: int, last: int) -> Mapping[str, Tensor]:
        """Take out rows ``first`` to ``last``, excluded.

        Returns:
            ``"rows"``: ``[last - first, ...]`` of the store's dtype, and for each tensor of state
            ``"class/name"``: ``[last - first, width]``, on the CPU. They may be the store's own memory:
            they are left as they are, and used before the next call of the store.

        Raises:
            IdRangeError: The rows are not all within :attr:`own_rows`.
            StoreClosedError: The store is closed.
        """
        ...

    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        """Put back rows from ``first`` on. Other rows, and steps, are left as they are.

        Args:
            first: Where they begin.
            rows: As :meth:`export_rows` gives them, with the same tensors of state as this store keeps. They are not
                kept: their memory is used for the next ones.

        Raises:
            IdRangeError: The rows are not all within :attr:`own_rows`.
            RowsError: There are other tensors than the store keeps, or of other types or shapes; nothing was changed.
            StoreClosedError: The store is closed.
        """
        ...


@runtime_checkable
class SupportsTraffic(Protocol):
    """A backend that counts what goes from rank to rank."""

    @property
    def bytes_sent(self) -> int:
        """The bytes that this rank has sent over a network for its stores, since the backend was opened."""
        ...


@runtime_checkable
class SupportsCache(Protocol):
    """A backend that keeps some rows nearer than the others, and counts how often those were asked for."""

    @property
    def cache_counts(self) -> tuple[int, int]:
        """How many rows were found near, and of how many; both since the backend was opened. A sample will do."""
        ...


@runtime_checkable
class SupportsGraphParts(Protocol):
    """A backend of several ranks that opens a graph which no rank has whole."""

    def open_graph_part(self, spec: GraphSpec, edge_index: Tensor, edge_ids: Tensor) -> GraphStore:
        """Open a graph from the edges that each rank has; its name must not be open. Then others attach by name.

        Args:
            spec: The name and the sizes of the whole graph; the same on every rank.
            edge_index: ``[2, E]`` int64, this rank's edges, which may end in any nodes of the graph.
            edge_ids: ``[E]`` int64, which of the graph's edges they are. Each edge is given once, by one rank:
                :func:`distgnn.graph.open_part` makes sure of it.

        Raises:
            NameConflictError: The name is open.
            RowsError: ``edge_index`` or ``edge_ids`` has another shape or dtype.
            IdRangeError: An edge, or an end of it, is not in the graph.
            StoreClosedError: The backend is closed.
            PeerLostError: A peer is gone, or has not opened the store within the timeout.
        """
        ...
