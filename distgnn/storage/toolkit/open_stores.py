"""The open stores of a backend, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from distgnn.errors import NameConflictError, RowsError, StoreClosedError
from distgnn.storage.specs import check_same_spec

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.specs import GraphSpec, Spec


class OpenStore(Protocol):
    """The members of a store that is kept open."""

    @property
    def spec(self) -> Spec: ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


_T = TypeVar("_T")
_S = TypeVar("_S", bound=OpenStore)


class OpenStores:
    """The open stores of a process; a base of backends."""

    name: str

    def __init__(self) -> None:
        self._stores: dict[str, OpenStore] | None = {}

    def close(self) -> None:
        """Close every store; none can be opened any more."""
        for store in (self._stores or {}).values():
            store.close()
        self._stores = None

    def check_open(self, spec: Spec) -> None:
        """Refuse to open a store once the backend is closed.

        Raises:
            StoreClosedError: It is.
        """
        if self._stores is None:
            raise StoreClosedError(
                f"the {self.name} backend is closed, {spec} cannot be opened; call distgnn.use({self.name!r})"
            )

    @overload
    def attached(self, spec: Spec, kind: type[_S]) -> _S | None: ...

    @overload
    def attached(self, spec: Spec) -> Any: ...

    def attached(self, spec: Spec, kind: type[_S] | None = None) -> Any:
        """Return the open store of that name, or None.

        Args:
            spec: What is to be opened.
            kind: What its class is known to be, for type checkers.

        Raises:
            NameConflictError: It is open with another spec.
            StoreClosedError: The backend is closed.
        """
        self.check_open(spec)
        store = (self._stores or {}).get(spec.name)
        if store is None or store.closed:
            return None
        check_same_spec(store.spec, spec)
        return store if kind is None or isinstance(store, kind) else None

    def keep(self, store: _S) -> _S:
        """Remember a new store, and return it."""
        assert self._stores is not None
        self._stores[store.spec.name] = store
        return store


def require_edges(spec: GraphSpec, edge_index: Tensor | None) -> Tensor:
    """Return the edges of a graph that is not open yet.

    Raises:
        RowsError: They were left out.
    """
    if edge_index is None:
        raise RowsError(f"graph store {spec.name!r} is not open yet: give its edge_index of shape [2, E]")
    return edge_index


def already_open_error(spec: GraphSpec) -> NameConflictError:
    """Make the error of a graph that is to be opened from parts, and is open."""
    return NameConflictError(f"the name {spec.name!r} is open as {spec}; attach to it by open_graph(spec), or close it")


def edges_conflict_error(spec: GraphSpec) -> NameConflictError:
    """Make the error of a graph that is open with other edges than those that it was asked for with."""
    return NameConflictError(f"the name {spec.name!r} is open as {spec} with other edges; choose another name")


def require_open(content: _T | None, spec: Spec) -> _T:
    """Return what a store holds.

    Raises:
        StoreClosedError: It holds nothing any more.
    """
    if content is None:
        raise StoreClosedError(f"store {spec.name!r} is closed; open it again from its backend")
    return content
