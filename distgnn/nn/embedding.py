"""Embeddings whose rows live in a backend's stores: the seam between layers and storage.

The only file under ``nn`` that resolves a backend, and only when a store is first needed.
"""

from __future__ import annotations

import copy
import itertools
import operator
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from distgnn.distributed.communicator import barrier, communicator_of
from distgnn.errors import CallOrderError, EmbeddingSizeError, IdsError, StoreError
from distgnn.nn.row_gradients import RowGradients, joined
from distgnn.optim.table_state import are_left_out, export_table, import_table, steps_of
from distgnn.storage.capabilities import SupportsCheckpoint, SupportsPrefetch, SupportsResize, order_of
from distgnn.storage.registry import get_backend
from distgnn.storage.specs import EmbeddingSpec
from distgnn.storage.toolkit.initial import initial_rows, initial_rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from distgnn.storage.protocols import Backend, EmbeddingStore
    from distgnn.storage.specs import PartitionBook

_numbers: dict[str, itertools.count[int]] = {}
_open: WeakSet[StoredEmbedding] = WeakSet()
_NO_WEIGHT = (
    "has no weight: its rows live in a store. Read them by calling the module with ids, and set them by "
    "load_state_dict({'weight': rows})"
)


def default_name(prefix: str) -> str:
    """Make a store name for a module that was given none: ``prefix_0``, ``prefix_1``, ... in order of construction."""
    return f"{prefix}_{next(_numbers.setdefault(prefix, itertools.count()))}"


class StoredEmbedding(Module):
    r"""A lookup table as :class:`torch.nn.Embedding`, whose rows live in an
    :class:`~distgnn.storage.protocols.EmbeddingStore`.

    The rows are no :class:`torch.nn.Parameter`: they are trained by an optimizer of :mod:`distgnn.optim`. What stands
    for them among ``parameters()`` is one number, ``handle``: where that is frozen by ``requires_grad_(False)``, or its
    gradient dropped by ``zero_grad()``, so are the rows and theirs.

    ``state_dict()`` has the rows as ``weight``, as :class:`torch.nn.Embedding` has, those of this rank; a table of more
    than 2 GiB a rank is left out, with a warning. A deep copy and a pickle have rows of their own. Two modules of one
    name share one table; the second one warns if it is trained already.

    Args:
        num_embeddings (int, optional): Number of rows. With :obj:`None` the first forward sizes the table by the
            largest id that any rank passes, and warns.
        embedding_dim (int): Number of columns :math:`D`.
        name (str): Name of the store.
        dtype (torch.dtype, optional): Type of the rows; with :obj:`None`, torch's default type. Until the table is
            open ``.to(dtype)``, ``.half()`` and the like change it, and afterwards that of the output.
            (default: :obj:`None`)
        backend (str or Backend, optional): Where the store is opened; with :obj:`None`, in the backend in use when it
            is first needed. (default: :obj:`None`)
        seed (int, optional): Seed of the initial rows; with :obj:`None`, that of :func:`torch.manual_seed` on rank 0.
            (default: :obj:`None`)
        std (float): Standard deviation of the initial rows. (default: :obj:`1.0`)
        shared (bool): Use the table of that name as it is, although others have trained it. (default: :obj:`False`)
        partition (PartitionBook, optional): Which rank owns which rows; with :obj:`None` they are cut evenly by id.
            (default: :obj:`None`)

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
        dtype: torch.dtype | None = None,
        backend: str | Backend | None = None,
        seed: int | None = None,
        std: float = 1.0,
        shared: bool = False,
        partition: PartitionBook | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = None if num_embeddings is None else _whole(num_embeddings)
        self.embedding_dim = _whole(embedding_dim)
        self.name = name
        self.dtype = torch.get_default_dtype() if dtype is None else dtype
        self.backend = backend
        self.seed = seed
        self.std = std
        self.shared = shared
        self.partition = partition
        self.handle = Parameter(torch.zeros(1, dtype=torch.float32))
        self._is_trained = False  # by an optimizer of distgnn.optim
        self._is_warned = False
        self._output = self.dtype
        self._store: EmbeddingStore | None = None
        self._initial: Tensor | EmbeddingSpec | None = None  # this rank's rows, or whose initial rows, to begin with
        self._gradients = RowGradients(name)
        self._pending: tuple[Tensor, Callable[[], Tensor]] | None = None  # ids of a prefetch, and what ends it
        self._device = torch.device("cpu")  # of the last ids
        self.reset_parameters()
        # These fail for what no store can be.
        self._spec(1 if self.num_embeddings is None else self.num_embeddings, partition)

    def reset_parameters(self) -> None:
        """Close the store, if this module has opened it, and let its rows start anew from the seed of now."""
        self.close()
        self._seed = torch.initial_seed() % 2**63 if self.seed is None else self.seed
        self._initial = None

    def close(self) -> None:
        """Close the store, if this module has opened it: its next forward starts from initial rows.

        Other modules that use the store get :class:`~distgnn.StoreClosedError` until they are closed too.
        """
        if self._store is not None:
            self._store.close()
        self._store = self._pending = None
        self._drop_gradients()

    def set_num_embeddings(self, num_embeddings: int, *, partition: PartitionBook | None = None) -> None:
        """Set the number of rows, before the first forward, or later a larger one where the store can grow.

        Rows that are there stay as they are, with their state. Collective, once the store is open.

        Args:
            num_embeddings: How many there are.
            partition: Which rank owns which. Rows that an open store grows by are the last rank's, where it has a
                partition; it keeps that, whether it is named again or not.

        Raises:
            StoreError: The store is open with another size, and cannot grow to this one, or with another partition.
            SpecError: The partition is of another number of rows.
        """
        num_embeddings = _whole(num_embeddings)
        if self._store is not None:
            partition = self._grown_partition(num_embeddings, partition)
        self._spec(num_embeddings, partition)
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
        self.num_embeddings, self.partition = num_embeddings, partition

    def _grown_partition(self, num_embeddings: int, asked: PartitionBook | None) -> PartitionBook | None:
        """Return the partition of the open store when it has so many rows, and refuse another that was asked for."""
        kept = self.partition
        if kept is not None and num_embeddings > kept.num_rows:
            kept = kept.grown(num_embeddings)
        if asked is not None and asked != kept:
            raise StoreError(
                f"embedding store {self.name!r} is open with partition={kept} and cannot be cut by {asked}: set it "
                "before the first forward, or save a checkpoint and load it into a model that is cut so"
            )
        return kept

    def open_store(self) -> EmbeddingStore | None:
        """Return the store, opening it at the first call, or :obj:`None` while its size is not known.

        Warns, if others have trained the table and nobody has said that it is :attr:`shared`.
        """
        if self._store is None and self.num_embeddings is not None:
            backend = resolve(self.backend)
            if self.seed is None:
                self._seed = int(communicator_of(backend).broadcast(torch.tensor(self._seed)))
            store = backend.open_embedding(self._spec(self.num_embeddings, self.partition))
            steps = steps_of(store)
            if self._initial is not None and (steps or any(other.has_open(store) for other in _open)):
                self._rename()  # a pickle of a table that is open here
                store = backend.open_embedding(self._spec(self.num_embeddings, self.partition))
            elif steps and not self.shared:
                warnings.warn(
                    f"embedding store {self.name!r} is open, and was trained by {steps} steps: this module goes on "
                    "with its rows. To start anew call close() on the model before it, or choose another name; to "
                    "share it on purpose, StoredEmbedding(..., shared=True), or .shared = True on the module; in tests "
                    "take the fixture memory_backend",
                    stacklevel=2,
                )
            self._store = store
            _open.add(self)
            if isinstance(self._initial, Tensor) or self._initial not in {None, self._spec(1)}:
                self._begin_with(self._initial)
            self._initial = None
        return self._store

    @property
    def is_open(self) -> bool:
        """Whether this module has opened the store."""
        return self._store is not None

    @property
    def is_shared_by_ranks(self) -> bool:
        """Whether the rows are those of several ranks."""
        return communicator_of(resolve(self.backend)).world_size > 1

    def has_open(self, store: EmbeddingStore) -> bool:
        """Whether this module looks rows up in ``store``."""
        return self._store is store

    def take_gradients(self) -> tuple[Tensor, Tensor]:
        """Return ids ``[K]`` and gradients ``[K, D]`` gathered since the last call, and forget them."""
        self._is_trained = True
        taken = self._gradients.take(self.handle, is_step=True)
        if not taken:
            empty = torch.empty(0, dtype=torch.int64, device=self._device)
            return empty, torch.empty(0, self.embedding_dim, dtype=self.dtype, device=self._device)
        ids, gradients = joined(taken, self.dtype)
        return ids, gradients.to(self.dtype) if len(taken) == 1 else gradients

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients gathered since the last step."""
        super().zero_grad(set_to_none)
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        self._gradients.take(self.handle, is_step=False)

    @property
    def slot(self) -> Tensor:
        """What stands for the rows in the groups of an optimizer."""
        return self._gradients.slot

    def merged_gradients(self) -> Tensor | None:
        """Return the gathered gradients, one row an id, to be changed in place; :obj:`None` where there are none."""
        return self._gradients.merged(self.handle)

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
        lookup: Callable[[Tensor], Tensor] = store.lookup
        if self._pending is not None:
            (expected, fetch), self._pending = self._pending, None
            if not torch.equal(expected, flat):
                raise CallOrderError(
                    f"embedding store {self.name!r}: the forward after a prefetch must be of the ids that were "
                    f"prefetched, {expected.numel()} of them, and is of {flat.numel()} others"
                )
            lookup = lambda _ids: fetch()  # noqa: E731
        self._check_parameter()
        self._gradients.watch(self.handle)
        rows: Tensor = _Lookup.apply(  # type: ignore[no-untyped-call]
            self.handle, flat, lookup, self
        )
        return rows.view(*ids.shape, self.embedding_dim).to(self._output)

    def _flat(self, ids: Tensor) -> Tensor:
        if ids.is_nested:
            raise IdsError(f"embedding store {self.name!r}: ids must not be a nested tensor; look up its values()")
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise IdsError(f"embedding store {self.name!r}: ids must be of an integer type, not {ids.dtype}")
        return ids.reshape(-1).long()

    def _spec(self, num_embeddings: int, partition: PartitionBook | None = None) -> EmbeddingSpec:
        sizes = (num_embeddings, self.embedding_dim)
        return EmbeddingSpec(self.name, *sizes, self.dtype, self._seed, self.std, partition)

    def add_gradients(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Gather the gradients ``[K, D]`` of one backward pass, until :meth:`take_gradients`."""
        return self._gradients.add(self.handle, ids, rows, self.num_embeddings or 0)

    def _check_parameter(self) -> None:
        """Warn, where somebody trains or averages the parameter that stands for the rows, and nobody the rows."""
        if self._is_trained or self._is_warned or type(self.handle) is not Parameter or self.handle.is_meta:
            return
        if self.handle.detach().item() != 0:
            self._is_warned = True
            warnings.warn(
                f"an optimizer or an average of torch has changed what stands for embedding store {self.name!r} among "
                "parameters(), which does not reach its rows: train them by an optimizer of distgnn.optim, such as "
                "SparseAdam(model); an averaged model has the rows of the moment when it was made",
                stacklevel=3,
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StoredEmbedding:
        """Follow ``.to()``, ``.half()`` and the like; what stands for the rows keeps its type."""
        was_shared = self.handle.is_shared()  # type: ignore[no-untyped-call]
        super()._apply(lambda tensor: fn(tensor).to(torch.float32), recurse)  # type: ignore[no-untyped-call]
        if self.handle.is_shared() and not was_shared and self.handle.is_cpu:  # type: ignore[no-untyped-call]
            warnings.warn(
                f"share_memory() does not share the rows of embedding store {self.name!r}, which live in a store: "
                "other processes see them as ranks of one job, with a backend of several ranks such as 'pyg'",
                stacklevel=2,
            )
        if not self.handle.is_meta:
            self.handle.data.zero_()  # to_empty() leaves anything in it
        self._output = fn(torch.empty(0, dtype=self._output)).dtype
        if self._store is None:
            self.dtype = self._output
        return self

    def _rows_key(self) -> str:
        """Name this rank's rows in a ``state_dict()``."""
        own = self._store.own_rows if isinstance(self._store, SupportsCheckpoint) else None
        book = order_of(self._store)
        if own is None or (len(own) == self.num_embeddings and book is None):
            return "weight"
        return f"weight_{own.start}_{own.stop}" if book is None else f"weight_{own.start}_{own.stop}_of_{book.digest}"

    def _own_rows(self) -> Tensor | None:
        """Copy this rank's rows; None where they are not there yet, or too many."""
        if isinstance(self._initial, Tensor):
            return self._initial.clone()
        if self.num_embeddings is None or (self._store is None and self.is_shared_by_ranks):
            return None  # to open it would be collective
        self.open_store()
        table = export_table(self._store, self.name)
        return None if table is None else table["rows"]

    def _kept_rows(self) -> Tensor | EmbeddingSpec | None:
        """Return what a copy begins with."""
        if self._store is not None:
            return self._own_rows()
        return self._spec(1) if self._initial is None else self._initial

    def _begin_with(self, rows: Tensor | EmbeddingSpec | None) -> None:
        """Replace this rank's rows by some that were kept, or by the initial rows of another table."""
        store = self._store
        if not isinstance(store, SupportsCheckpoint):
            raise StoreError(
                f"embedding store {self.name!r} cannot take the rows of another: its {type(store).__name__} has not "
                "the members of SupportsCheckpoint"
            )
        if isinstance(rows, EmbeddingSpec):
            initial, own, book = replace(rows, seed=self._seed), store.own_rows, order_of(store)
            places = (own.start, own.stop)
            rows = initial_rows(initial, *places) if book is None else initial_rows_of(initial, book.ids(*places))
        if rows is None or tuple(rows.shape) != (len(store.own_rows), self.embedding_dim):
            raise StoreError(
                f"embedding store {self.name!r}: rows of shape {list(() if rows is None else rows.shape)} do not fit "
                f"the {[len(store.own_rows), self.embedding_dim]} of this rank; save and load it by a Checkpoint"
            )
        import_table(store, {"rows": rows})
        barrier(communicator_of(resolve(self.backend)))  # nobody looks rows up before all are there
        self._initial = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        del keep_vars
        rows = None if are_left_out() else self._own_rows()
        if rows is not None:
            destination[prefix + self._rows_key()] = rows

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        del local_metadata, strict, missing_keys  # weights of PyG's GIN have no rows, and are taken all the same
        given = [key for key in state_dict if key.startswith(prefix)]
        if are_left_out():
            return
        if self._store is None and self.num_embeddings is None and prefix + "weight" in given:
            self.set_num_embeddings(state_dict[prefix + "weight"].size(0))
        if given:
            self.open_store()
        key = prefix + self._rows_key()
        for other in given:
            if other.startswith(prefix + "weight") and other != key:
                error_msgs.append(
                    f"{other} has rows of embedding store {self.name!r} that are not this rank's, {key}: save and load "
                    "it by a distgnn.checkpoint.Checkpoint"
                )
            elif other != key:
                unexpected_keys.append(other)
        if key in given:
            try:
                self._begin_with(state_dict[key])
            except StoreError as error:
                error_msgs.append(f"{key}: {error}")
        elif self._store is not None and steps_of(self._store) and not error_msgs:
            warnings.warn(
                f"the state that is loaded has no rows of embedding store {self.name!r}, which stay as they are, "
                f"trained by {steps_of(self._store)} steps; keep and bring back all of a model by its whole "
                "state_dict(), or by a distgnn.checkpoint.Checkpoint",
                stacklevel=2,
            )

    def begin_as(self, spec: EmbeddingSpec) -> None:
        """Have rows of its own, under another name, which begin as those of ``spec`` where they were not copied."""
        self._initial = spec if self._initial is None else self._initial
        self._rename()

    def _rename(self) -> None:
        self.name = self._gradients.name = default_name(f"{self.name[:100]}.copy")

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredEmbedding:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy({**self.__getstate__(), "backend": None}, memo))
        copied.backend = self.backend
        copied.begin_as(self._spec(1))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        # A backend that was given as an object stays in its process.
        return {
            **self.__dict__,
            "backend": self.backend if isinstance(self.backend, str) else None,
            "_store": None,
            "_pending": None,
            "_initial": self._kept_rows(),
        }

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(f"embedding store {self._named()!r} {_NO_WEIGHT}")
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise AttributeError(f"embedding store {self._named()!r} {_NO_WEIGHT}")
        super().__setattr__(name, value)

    def _named(self) -> str:
        return str(self.__dict__.get("name"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_embeddings}, {self.embedding_dim}, name={self.name!r})"


class _Lookup(torch.autograd.Function):
    """A lookup whose gradient goes to the module instead of to a dense tensor."""

    @staticmethod
    def forward(handle: Tensor, ids: Tensor, lookup: Callable[[Tensor], Tensor], embedding: StoredEmbedding) -> Tensor:
        del handle, embedding  # the handle's requires_grad makes autograd call backward
        return lookup(ids)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        _, ids, _, ctx.embedding = inputs
        ctx.save_for_backward(ids)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        # torch.func adds to no tensor's gradient.
        if torch._C._functorch.is_functorch_wrapped_tensor(gradients):  # noqa: SLF001
            return torch.zeros_like(ctx.embedding.handle), None, None, None
        return ctx.embedding.add_gradients(ids.clone(), gradients.detach()), None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        handle: Tensor,
        ids: Tensor,
        lookup: Callable[[Tensor], Tensor],
        embedding: StoredEmbedding,
    ) -> tuple[Tensor, int | None]:
        del info
        if in_dims[0] is not None:
            raise StoreError(
                f"embedding store {embedding.name!r}: torch.func.vmap over stacked models would look up the rows of "
                "one of them; call the models one by one"
            )
        batched = ids if in_dims[1] is None else ids.movedim(in_dims[1], 0)
        rows: Tensor = _Lookup.apply(handle, batched.reshape(-1), lookup, embedding)  # type: ignore[no-untyped-call]
        return rows.view(*batched.shape, -1), None if in_dims[1] is None else 0


def layer_parameters(module: Module) -> list[Parameter]:
    """Return the parameters of a module but those that stand for the rows of its tables."""
    handles = {id(part.handle) for part in module.modules() if isinstance(part, StoredEmbedding)}
    return [each for each in module.parameters() if id(each) not in handles]


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


def _whole(number: int) -> int:
    """Take NumPy's integers for sizes, and leave what is none to the spec to refuse."""
    return operator.index(number) if hasattr(number, "__index__") else number
