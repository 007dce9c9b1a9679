"""Embeddings whose rows live in a backend's stores: the seam between layers and storage.

The only file under ``nn`` that resolves a backend, and only when a store is first needed.
"""

from __future__ import annotations

import itertools
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from distgnn.errors import CallOrderError, EmbeddingSizeError, IdsError, StoreError
from distgnn.protocols import SupportsPrefetch, SupportsResize
from distgnn.ranks import communicator_of
from distgnn.registry import get_backend
from distgnn.specs import EmbeddingSpec
from distgnn.storage.toolkit.rows import sum_by_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from distgnn.protocols import Backend, EmbeddingStore

_numbers: dict[str, itertools.count[int]] = {}


def default_name(prefix: str) -> str:
    """Make a store name for a module that was given none: ``prefix_0``, ``prefix_1``, ... in order of construction."""
    return f"{prefix}_{next(_numbers.setdefault(prefix, itertools.count()))}"


class StoredEmbedding(Module):
    r"""A lookup table as :class:`torch.nn.Embedding`, whose rows live in an
    :class:`~distgnn.protocols.EmbeddingStore`.

    The rows are no :class:`torch.nn.Parameter`: they are trained by an optimizer of :mod:`distgnn.optim`, and are not
    part of ``state_dict()``. Two modules of one name share one table; so does a deep copy with its original.

    Args:
        num_embeddings (int, optional): Number of rows. With :obj:`None` the first forward sizes the table by the
            largest id that any rank passes, and warns.
        embedding_dim (int): Number of columns :math:`D`.
        name (str): Name of the store.
        dtype (torch.dtype): Type of the rows. (default: :obj:`torch.float32`)
        backend (str or Backend, optional): Where the store is opened; with :obj:`None`, in the backend in use when it
            is first needed. (default: :obj:`None`)
        seed (int, optional): Seed of the initial rows; with :obj:`None`, that of :func:`torch.manual_seed` on rank 0.
            (default: :obj:`None`)
        std (float): Standard deviation of the initial rows. (default: :obj:`1.0`)

    Shapes:
        - **input:** ids :math:`(*)` of an integer type, in :math:`[0, \mathrm{num\_embeddings})`
        - **output:** rows :math:`(*, D)`
    """

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        *,
        name: str,
        dtype: torch.dtype = torch.float32,
        backend: str | Backend | None = None,
        seed: int | None = None,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.name = name
        self.dtype = dtype
        self.backend = backend
        self.seed = seed
        self.std = std
        self.handle = torch.empty(0, requires_grad=True)
        self._store: EmbeddingStore | None = None
        self._gradients: list[tuple[Tensor, Tensor]] = []
        self._pending: tuple[Tensor, Callable[[], Tensor]] | None = None  # ids of a prefetch, and what ends it
        self._device = torch.device("cpu")  # of the last ids
        self.reset_parameters()
        self._spec(1 if num_embeddings is None else num_embeddings)  # a spec that no store can have fails here

    def reset_parameters(self) -> None:
        """Close the store, if this module has opened it, and let its rows start anew from the seed of now."""
        self.close()
        self._seed = torch.initial_seed() % 2**63 if self.seed is None else self.seed

    def close(self) -> None:
        """Close the store, if this module has opened it: its next forward starts from initial rows.

        Other modules that use the store get :class:`~distgnn.StoreClosedError` until they are closed too.
        """
        if self._store is not None:
            self._store.close()
        self._store = self._pending = None
        self._gradients.clear()

    def set_num_embeddings(self, num_embeddings: int) -> None:
        """Set the number of rows, before the first forward, or later a larger one where the store can grow.

        Rows that are there stay as they are, with their state. Collective, once the store is open.

        Raises:
            StoreError: The store is open with another size, and cannot grow to this one.
        """
        if (
            self._store is not None
            and num_embeddings > self._store.num_embeddings
            and isinstance(self._store, SupportsResize)
        ):
            self._store.resize(num_embeddings)
        elif self._store is not None and num_embeddings != self._store.num_embeddings:
            raise StoreError(
                f"embedding store {self.name!r} is open with {self._store.num_embeddings} rows and cannot become "
                f"{num_embeddings}: set it before the first forward, call reset_parameters() first, or load a "
                "checkpoint of it into a larger one"
            )
        self._spec(num_embeddings)
        self.num_embeddings = num_embeddings

    def open_store(self) -> EmbeddingStore | None:
        """Return the store, opening it at the first call, or :obj:`None` while its size is not known."""
        if self._store is None and self.num_embeddings is not None:
            backend = resolve(self.backend)
            if self.seed is None:
                self._seed = int(communicator_of(backend).broadcast(torch.tensor(self._seed)))
            self._store = backend.open_embedding(self._spec(self.num_embeddings))
        return self._store

    def take_gradients(self) -> tuple[Tensor, Tensor]:
        """Return ids ``[K]`` and gradients ``[K, D]`` gathered since the last call, and forget them."""
        if not self._gradients:
            empty = torch.empty(0, dtype=torch.int64, device=self._device)
            return empty, torch.empty(0, self.embedding_dim, dtype=self.dtype, device=self._device)
        ids, gradients = zip(*self._gradients, strict=True)
        self._gradients.clear()
        if len(ids) == 1:
            return ids[0], gradients[0].to(self.dtype)
        wide = self.dtype if len({rows.dtype for rows in gradients}) == 1 else torch.float32
        return torch.cat(ids), torch.cat([rows.to(wide) for rows in gradients])

    def prefetch(self, ids: Tensor) -> None:
        """Begin to fetch the rows of the next forward, which must be of the same ids.

        Call it when this batch's forward is done, so that the next batch's rows come while this one's gradients are
        computed; its update is seen all the same. Where the store cannot do it, nothing happens. Collective, as a
        forward is.

        Args:
            ids: As for :meth:`forward`.
        """
        store = self.open_store()
        if isinstance(store, SupportsPrefetch):
            flat = self._flat(ids)
            self._pending = (flat.clone(), store.prefetch(flat))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a store is no graph of tensor operations
    def forward(self, ids: Tensor) -> Tensor:
        """Look rows up."""
        flat = self._flat(ids)
        self._device = flat.device
        if self.num_embeddings is None:
            self.num_embeddings = _size_from(flat, self.name, resolve(self.backend))
        store = self.open_store()
        assert store is not None
        lookup: Callable[[], Tensor] = partial(store.lookup, flat)
        if self._pending is not None:
            expected, lookup = self._pending
            self._pending = None
            if not torch.equal(expected, flat):
                raise CallOrderError(
                    f"embedding store {self.name!r}: the forward after a prefetch must be of the ids that were "
                    f"prefetched, {expected.numel()} of them, and is of {flat.numel()} others"
                )
        rows: Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.handle, lookup, flat, self
        )
        return rows.view(*ids.shape, self.embedding_dim)

    def _flat(self, ids: Tensor) -> Tensor:
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise IdsError(f"embedding store {self.name!r}: ids must be of an integer type, not {ids.dtype}")
        return ids.reshape(-1).long()

    def _spec(self, num_embeddings: int) -> EmbeddingSpec:
        return EmbeddingSpec(self.name, num_embeddings, self.embedding_dim, self.dtype, self._seed, self.std)

    def add_gradients(self, ids: Tensor, rows: Tensor) -> None:
        """Gather the gradients ``[K, D]`` of one backward pass, until :meth:`take_gradients`."""
        self._gradients.append((ids, rows))
        # Without an optimizer that takes them, gradients would pile up: keep no more rows than the table has.
        if sum(ids.numel() for ids, _ in self._gradients) > max(ids.numel(), self.num_embeddings or 0):
            self._gradients.append(sum_by_id(*self.take_gradients()))

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredEmbedding:
        copied = StoredEmbedding(
            self.num_embeddings,
            self.embedding_dim,
            name=self.name,
            dtype=self.dtype,
            backend=self.backend,
            seed=self._seed,
            std=self.std,
        )
        return copied.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        # A backend that was given as an object stays in its process.
        backend = self.backend if isinstance(self.backend, str) else None
        return {**self.__dict__, "backend": backend, "_store": None, "_pending": None, "_gradients": []}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_embeddings}, {self.embedding_dim}, name={self.name!r})"


class _Lookup(torch.autograd.Function):
    """A lookup whose gradient goes to the module instead of to a dense tensor."""

    @staticmethod
    def forward(
        ctx: Any, handle: Tensor, lookup: Callable[[], Tensor], ids: Tensor, embedding: StoredEmbedding
    ) -> Tensor:
        del handle  # its requires_grad makes autograd call backward
        ctx.ids, ctx.embedding = ids, embedding
        return lookup()

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[None, ...]:
        ctx.embedding.add_gradients(ctx.ids, gradients.detach())
        return (None,) * 4


def resolve(backend: str | Backend | None) -> Backend:
    """Return the backend that a module was given, by itself or by name, or else the one in use."""
    return get_backend(backend) if backend is None or isinstance(backend, str) else backend


def _size_from(ids: Tensor, name: str, backend: Backend) -> int:
    if ids.numel() and int(ids.min()) < 0:
        raise EmbeddingSizeError(f"embedding store {name!r}: id {int(ids.min())} is negative; ids go from 0")
    largest = int(ids.max()) if ids.numel() else -1
    size = int(communicator_of(backend).all_reduce(torch.tensor(largest), "max")) + 1
    if size == 0:
        raise StoreError(
            f"embedding store {name!r}: the first forward has no ids to size it by; call set_num_embeddings(...) first"
        )
    warnings.warn(
        f"embedding store {name!r} gets {size} rows from the largest id of the first forward; a larger id will be an "
        "error. Call set_num_embeddings(...) to say how many there are",
        stacklevel=2,
    )
    return size
