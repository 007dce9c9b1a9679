"""Our stores as PyG's :class:`~torch_geometric.data.FeatureStore`, and PyG's as ours."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from torch_geometric.data import FeatureStore, TensorAttr

from distgnn.errors import StoreClosedError, StoreError
from distgnn.protocols import EmbeddingStore, TensorStore
from distgnn.specs import TensorSpec


class StoreFeatures(FeatureStore):
    """Feature tensors that live in stores; see :func:`as_feature_store`."""

    def __init__(self, stores: Mapping[str, TensorStore | EmbeddingStore], group_name: str | None) -> None:
        super().__init__()
        self._stores = dict(stores)
        self._group_name = group_name

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        """List the attributes."""
        return [TensorAttr(self._group_name, name) for name in self._stores]

    def _get_tensor(self, attr: TensorAttr) -> Tensor:
        store = self._of(attr)
        if store is None:
            raise KeyError(f"no {attr} here, only {self.get_all_tensor_attrs()}")
        ids = _ids(attr.index, _shape(store)[0])
        return store.lookup(ids) if isinstance(store, EmbeddingStore) else store.read(ids)

    def _put_tensor(self, tensor: Tensor, attr: TensorAttr) -> bool:
        store = self._of(attr)
        if not isinstance(store, TensorStore):
            return False
        store.write(_ids(attr.index, store.shape[0]), tensor)
        return True

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        if self._of(attr) is None:
            return False
        del self._stores[attr.attr_name]
        return True

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...] | None:
        store = self._of(attr)
        return None if store is None else _shape(store)

    def _of(self, attr: TensorAttr) -> TensorStore | EmbeddingStore | None:
        group_name = attr.group_name if attr.is_set("group_name") else None
        return self._stores.get(attr.attr_name) if group_name == self._group_name else None


def as_feature_store(
    store: TensorStore | EmbeddingStore | Mapping[str, TensorStore | EmbeddingStore],
    *,
    group_name: str | None = None,
    attr_name: str = "x",
) -> StoreFeatures:
    """View a store, or several, as a :class:`torch_geometric.data.FeatureStore`, for PyG's loaders.

    Getting a tensor with an index reads those rows only. Putting one writes rows of a tensor store; the rows of an
    embedding store are changed by its optimizer alone, and PyG says so with a :class:`KeyError`. Removing the tensor
    ends the view and leaves the store.

    Args:
        store: Where the rows are; several stores by what each feature is called.
        group_name: The node or edge type; None in a homogeneous graph.
        attr_name: What the feature of a single store is called.
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


def _shape(store: TensorStore | EmbeddingStore) -> tuple[int, ...]:
    return (store.num_embeddings, store.embedding_dim) if isinstance(store, EmbeddingStore) else store.shape


def _ids(index: object, num_rows: int) -> Tensor:
    """Turn what PyG calls an index into ids; one that is not set means all rows."""
    if isinstance(index, Tensor):
        return index.nonzero().flatten() if index.dtype == torch.bool else index.long()
    if isinstance(index, int):
        return torch.tensor([index])
    return torch.arange(num_rows)[index if isinstance(index, slice) else slice(None)]
