"""Our stores as PyG's :class:`~torch_geometric.data.FeatureStore`, and PyG's as ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import FeatureStore, TensorAttr

from distgnn.errors import IdRangeError, IdsError, StoreClosedError, StoreError
from distgnn.storage.protocols import EmbeddingStore, TensorStore
from distgnn.storage.specs import TensorSpec

# Where rows of features can be.
Rows: TypeAlias = TensorStore | EmbeddingStore | Tensor


class StoreFeatures(FeatureStore):
    """Feature tensors that live in stores; see :func:`as_feature_store`."""

    def __init__(self, stores: Mapping[str, Rows], group_name: str | None) -> None:
        super().__init__()
        for name, store in stores.items():
            if not isinstance(store, TensorStore | EmbeddingStore | Tensor):
                raise StoreError(f"{name!r} is a {type(store).__name__}; features are stores of a backend, or tensors")
        self._stores = dict(stores)
        self._group_name = group_name

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        """List the attributes."""
        return [TensorAttr(self._group_name, name) for name in self._stores]

    def update_tensor(self, tensor: Tensor | np.ndarray[Any, Any], *args: Any, **kwargs: Any) -> bool:
        """Write rows as :meth:`put_tensor` does, where PyG would remove the tensor first."""
        return bool(self.put_tensor(tensor, *args, **kwargs))

    def _get_tensor(self, attr: TensorAttr) -> Tensor:
        store = self._of(attr)
        if store is None:
            raise KeyError(f"no {attr} here, only {self.get_all_tensor_attrs()}")
        ids = _ids(attr.index, shape_of(store)[0])
        flat = ids.flatten()
        if isinstance(store, Tensor):
            rows = store.index_select(0, flat.to(store.device))
        else:
            rows = store.lookup(flat) if isinstance(store, EmbeddingStore) else store.read(flat)
        return rows.view(*ids.shape, *rows.shape[1:])

    def _put_tensor(self, tensor: Tensor | np.ndarray[Any, Any], attr: TensorAttr) -> bool:
        store = self._of(attr)
        if isinstance(store, EmbeddingStore):
            raise StoreError(
                f"the rows of {attr.attr_name!r} are an embedding store's: they are changed by its optimizer alone"
            )
        if not isinstance(store, TensorStore):
            known = ", ".join(map(repr, self._stores)) or "nothing"
            where = f" of group {attr.group_name!r}" if attr.group_name is not None else ""
            raise StoreError(
                f"{attr.attr_name!r}{where} is no tensor store of this view, which has {known}"
                f"{f' of group {self._group_name!r}' if self._group_name is not None else ''}; open a store for it, "
                "and view the stores together"
            )
        ids = _ids(attr.index, store.shape[0])
        values = torch.as_tensor(tensor)
        if values.shape[: ids.dim()] == ids.shape:
            values = values.reshape(ids.numel(), *values.shape[ids.dim() :])
        store.write(ids.flatten(), values)
        return True

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        if self._of(attr) is None:
            return False
        del self._stores[attr.attr_name]
        return True

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...] | None:
        store = self._of(attr)
        return None if store is None else shape_of(store)

    def _of(self, attr: TensorAttr) -> Rows | None:
        group_name = attr.group_name if attr.is_set("group_name") else None
        return self._stores.get(attr.attr_name) if group_name == self._group_name else None


def as_feature_store(
    store: Rows | Mapping[str, Rows],
    *,
    group_name: str | None = None,
    attr_name: str = "x",
) -> StoreFeatures:
    """View a store, or several, as a :class:`torch_geometric.data.FeatureStore`, for PyG's loaders.

    Getting a tensor with an index reads those rows only: ids in a tensor or a list, a range, a slice, a mask, or one
    id, with the meaning that they have for a tensor. Putting or updating one writes rows of a tensor store. Removing
    it ends the view and leaves the store.

    Args:
        store: Where the rows are; several stores by what each feature is called. Tensors are taken too, to be read.
        group_name: The node or edge type; None in a homogeneous graph.
        attr_name: What the feature of a single store is called.

    Raises:
        StoreError: Something is no store; and by the view, when a tensor is put to what is no tensor store: the rows
            of an embedding store are changed by its optimizer alone.
        KeyError: By the view, when a tensor is got that is not there.
        IdsError: By the view, when an index is of a kind that has no meaning for rows.
        IdRangeError: By the view, when an index is beyond the rows.
    """
    return StoreFeatures(store if isinstance(store, Mapping) else {attr_name: store}, group_name)


class FeatureStoreTensors:
    """One attribute of a PyG feature store, read as a :class:`~distgnn.TensorStore`; see :func:`as_tensor_store`."""

    def __init__(self, features: FeatureStore, group_name: str | None, attr_name: str) -> None:
        self._features = features
        self._group_name = group_name
        # A Data has no groups, which its attributes say by leaving the name unset.
        attributes = {
            (a.group_name if isinstance(a.group_name, str) else None, a.attr_name): a
            for a in features.get_all_tensor_attrs()
        }
        if (group_name, attr_name) not in attributes:
            known = ", ".join(map(str, attributes)) or "nothing"
            raise StoreError(f"the feature store has no {(group_name, attr_name)}; it has {known}")
        self._attribute = attributes[group_name, attr_name]
        size = features.get_tensor_size(self._attribute)
        first = self._rows(torch.zeros(1, dtype=torch.int64))
        self.spec = TensorSpec(attr_name, tuple(size), first.dtype)
        self._device = first.device
        self._closed = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return self.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements."""
        return self.spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        """Fetch rows; see :meth:`distgnn.TensorStore.read`."""
        if self._closed:
            raise StoreClosedError(f"store {self.spec.name!r} is closed")
        self.spec.check_ids(ids, self._device)
        return self._rows(ids)

    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        """Refuse: the features are PyG's to change.

        Raises:
            StoreError: Always.
        """
        del ids, values, accumulate
        raise StoreError(f"store {self.spec.name!r} is a read-only view of a PyG feature store; use its put_tensor()")

    def close(self) -> None:
        """End the view; the feature store stays."""
        self._closed = True

    def _rows(self, ids: Tensor) -> Tensor:
        attribute = copy.copy(self._attribute)
        attribute.group_name, attribute.index = self._group_name, ids
        rows: Tensor = self._features.get_tensor(attribute, convert_type=True)
        return rows.clone()


def as_tensor_store(features: FeatureStore, *, group_name: str | None = None, attr_name: str = "x") -> TensorStore:
    """View one attribute of a PyG feature store as a read-only :class:`~distgnn.TensorStore`.

    Args:
        features: Any PyG feature store, a :class:`torch_geometric.data.Data` included.
        group_name: The node or edge type; None in a homogeneous graph.
        attr_name: Which feature.

    Raises:
        StoreError: The feature store has no such attribute; the text lists those that it has.
    """
    return FeatureStoreTensors(features, group_name, attr_name)


def shape_of(rows: Rows) -> tuple[int, ...]:
    """Shape of all the rows together."""
    return (rows.num_embeddings, rows.embedding_dim) if isinstance(rows, EmbeddingStore) else tuple(rows.shape)


def _ids(index: object, num_rows: int) -> Tensor:
    """Turn an index into the ids that a tensor's first dimension would take for it, in its shape; None is all rows."""
    if index is None:
        return torch.arange(num_rows)
    if isinstance(index, slice):
        # Like a tensor's: a step is at least 1.
        if index.step is not None and index.step < 1:
            raise IdsError(f"a slice of rows has a step of at least 1, not {index.step}")
        return torch.arange(*index.indices(num_rows))
    if not isinstance(index, Tensor | np.ndarray | np.integer | int | Sequence) or isinstance(index, str | tuple):
        raise IdsError(f"rows are chosen by ids, a mask or a slice, not by {index!r}; give several ids as a list")
    ids = torch.as_tensor(index if isinstance(index, Tensor | np.ndarray) else np.asarray(index))
    if ids.dtype == torch.bool:
        if ids.shape != (num_rows,):
            raise IdsError(f"a mask of {num_rows} rows has the shape [{num_rows}], not {list(ids.shape)}")
        return ids.nonzero().flatten()
    if ids.numel() == 0:
        return ids.long()  # also of an empty list, which has no type
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.uint8:
        raise IdsError(f"ids of rows are integers, not {ids.dtype}; a mask is of torch.bool")
    ids = ids.long()
    least = int(ids.min())
    if least < -num_rows:
        raise IdRangeError(f"id {least} is beyond the {num_rows} rows, of which negative ids count from the end")
    return torch.where(ids < 0, ids + num_rows, ids) if least < 0 else ids
