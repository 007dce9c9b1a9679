"""Frozen descriptions of stores, with their checks.

A backend calls the checks before it sends or changes anything, so that the same mistake gets the same error on every
backend.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from distgnn.errors import (
    EmbeddingSizeError,
    IdRangeError,
    IdsError,
    NameConflictError,
    NonFiniteGradientError,
    RowsError,
    SpecError,
)
from distgnn.storage.partition_book import PartitionBook

__all__ = ["EmbeddingSpec", "GraphSpec", "PartitionBook", "Spec", "TensorSpec", "check_same_spec"]

# Names become file names, socket messages and keys of other engines.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


_TRAINABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class EmbeddingSpec:
    r"""A table of learnable rows.

    Its initial rows are drawn from :math:`\mathcal{N}(0, \mathrm{std}^2)` and depend on (seed, name, row id) alone:
    see :func:`distgnn.storage.toolkit.initial.initial_rows`.

    Args:
        name: Letters, digits, ``_``, ``-`` and ``.``, not starting with ``.`` or ``-``.
        num_embeddings: Number of rows, at least 1.
        embedding_dim: Number of columns, at least 1.
        dtype: ``torch.float32``, ``torch.float16``, ``torch.bfloat16`` or ``torch.float64``.
        seed: Seed of the initial rows.
        std: Standard deviation of the initial rows; 0 starts from zeros.
        partition: Which rank owns which rows, where a backend spreads them over ranks; None cuts them evenly by id. It
            changes where rows are and nothing else, and a backend that has all of them in one place has no use for it.

    Raises:
        SpecError: No store can be like this.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    dtype: torch.dtype = torch.float32
    seed: int = 0
    std: float = 1.0
    partition: PartitionBook | None = None

    def __post_init__(self) -> None:
        _check_name(self.name, "an embedding store")
        _check_sizes(self, "embedding store", (self.num_embeddings, self.embedding_dim))
        _check_partition(self, "embedding store", self.num_embeddings)
        if self.dtype not in _TRAINABLE:
            known = ", ".join(map(str, _TRAINABLE))
            raise SpecError(
                f"embedding store {self.name!r}: rows of {self.dtype} cannot be trained; use one of {known}"
            )
        if not 0 <= self.std < float("inf"):
            raise SpecError(f"embedding store {self.name!r}: std must be finite and at least 0, not {self.std}")

    def check_ids(self, ids: Tensor, device: torch.device) -> None:
        """Refuse ids that are not an int64 vector on ``device`` within the table.

        Raises:
            IdsError: Wrong type, shape or device.
            EmbeddingSizeError: Negative or too large.
        """
        hint = "make room for it with set_num_embeddings(...) before the first forward"
        _check_ids(f"embedding store {self.name!r}", ids, self.num_embeddings, device, EmbeddingSizeError, hint)

    def check_gradients(self, ids: Tensor, gradients: Tensor, device: torch.device) -> None:
        """Refuse ids as :meth:`check_ids` does, and gradients that are not one row of the table's kind an id.

        Raises:
            IdsError: Ids of a wrong type, shape or device.
            EmbeddingSizeError: Ids negative or too large.
            RowsError: Gradients that are not ``[K, embedding_dim]`` of the table's dtype or float32 on ``device``.
            NonFiniteGradientError: NaN or infinity in them, when ``DISTGNN_DEBUG=1``.
        """
        self.check_ids(ids, device)
        label = f"embedding store {self.name!r}: gradients"
        _check_rows(label, gradients, (ids.numel(), self.embedding_dim), {self.dtype, torch.float32}, device)
        if os.environ.get("DISTGNN_DEBUG") == "1" and not bool(torch.isfinite(gradients).all()):
            bad = (~torch.isfinite(gradients)).any(dim=1).nonzero().flatten()
            raise NonFiniteGradientError(
                f"{label} of {bad.numel()} ids hold NaN or infinity, the first is id {int(ids[bad[0]])}; "
                "nothing was changed. Look for a division by zero or a learning rate that is too large"
            )


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of rows, all zero at first.

    Args:
        name: As in :class:`EmbeddingSpec`.
        shape: ``(num_rows, ...)``, every size at least 1.
        dtype: Any dtype.
        partition: As in :class:`EmbeddingSpec`.

    Raises:
        SpecError: No store can be like this.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    partition: PartitionBook | None = None

    def __post_init__(self) -> None:
        _check_name(self.name, "a tensor store")
        object.__setattr__(self, "shape", tuple(self.shape))
        _check_sizes(self, "tensor store", self.shape or (0,))
        _check_partition(self, "tensor store", self.shape[0])

    def check_ids(self, ids: Tensor, device: torch.device) -> None:
        """Refuse ids that are not an int64 vector on ``device`` within the rows.

        Raises:
            IdsError: Wrong type, shape or device.
            IdRangeError: Negative or too large.
        """
        _check_ids(f"tensor store {self.name!r}", ids, self.shape[0], device, IdRangeError, "open a larger store")

    def check_values(self, ids: Tensor, values: Tensor, device: torch.device) -> None:
        """Refuse ids as :meth:`check_ids` does, and values that are not exactly one row of this store an id.

        Raises:
            IdsError: Ids of a wrong type, shape or device.
            IdRangeError: Ids negative or too large.
            RowsError: Values that are not ``[K, ...]`` of the store's dtype on ``device``.
        """
        self.check_ids(ids, device)
        shape = (ids.numel(), *self.shape[1:])
        _check_rows(f"tensor store {self.name!r}: values", values, shape, {self.dtype}, device)


@dataclass(frozen=True)
class GraphSpec:
    """A directed graph.

    Args:
        name: As in :class:`EmbeddingSpec`.
        num_nodes: Number of nodes, at least 1.
        num_edges: Number of edges; 0 is a graph too.

    Raises:
        SpecError: No graph can be like this.
    """

    name: str
    num_nodes: int
    num_edges: int

    def __post_init__(self) -> None:
        _check_name(self.name, "a graph store")
        _check_sizes(self, "graph store", (self.num_nodes, self.num_edges + 1))

    def check_nodes(self, nodes: Tensor, device: torch.device) -> None:
        """Refuse nodes that are not an int64 vector on ``device`` within the graph.

        Raises:
            IdsError: Wrong type, shape or device.
            IdRangeError: Negative or too large.
        """
        _check_ids(f"graph store {self.name!r}", nodes, self.num_nodes, device, IdRangeError, "the graph ends there")

    def check_query(self, nodes: Tensor, fanout: int, device: torch.device) -> None:
        """Refuse nodes as :meth:`check_nodes` does, and a fanout below -1.

        Raises:
            IdsError: Nodes of a wrong type, shape or device.
            IdRangeError: Nodes negative or too large.
            ValueError: ``fanout`` is below -1.
        """
        self.check_nodes(nodes, device)
        if fanout < -1:
            raise ValueError(f"graph store {self.name!r}: fanout must be -1 (all) or at least 0, not {fanout}")

    def check_edges(self, edge_index: Tensor, edge_ids: Tensor | None = None) -> None:
        """Refuse edges that are not this graph's: all of them or, with ``edge_ids``, those.

        Raises:
            RowsError: Not an int64 tensor of shape ``[2, num_edges]``, or ``[2, E]`` beside ids ``[E]``.
            IdRangeError: An end is not a node, or an id no edge.
        """
        label = f"graph store {self.name!r}: edges"
        num_edges = self.num_edges
        if edge_ids is not None:
            _check_rows(f"{label}: ids", edge_ids, (edge_ids.numel(),), {torch.int64}, edge_index.device)
            _check_ids(label, edge_ids, num_edges, edge_ids.device, IdRangeError, "the graph has no more edges")
            num_edges = edge_ids.numel()
        _check_rows(label, edge_index, (2, num_edges), {torch.int64}, None)
        self.check_nodes(edge_index.flatten(), edge_index.device)


Spec = EmbeddingSpec | TensorSpec | GraphSpec


def check_same_spec(opened: Spec, asked: Spec) -> None:
    """Refuse to attach to an open store with another spec.

    Raises:
        NameConflictError: Shows both specs and where they differ.
    """
    if opened == asked:
        return
    differ = ""
    if type(opened) is type(asked):
        names = [f.name for f in fields(opened) if getattr(opened, f.name) != getattr(asked, f.name)]
        differ = f" They differ in {', '.join(names)}."
    raise NameConflictError(
        f"the name {asked.name!r} is open as {opened}, and was asked for as {asked}.{differ} "
        "Choose another name, or close() the open store first"
    )


def _check_name(name: str, label: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} cannot be the name of {label}: use 1 to 128 letters, digits, '_', '-' and '.', "
            "starting with a letter, a digit or '_'"
        )


def _check_sizes(spec: Spec, label: str, sizes: tuple[int, ...]) -> None:
    if not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise SpecError(f"{label} {spec.name!r}: every size must be a whole number of at least 1, in {spec}")


def _check_partition(spec: EmbeddingSpec | TensorSpec, label: str, num_rows: int) -> None:
    book = spec.partition
    if book is not None and not isinstance(book, PartitionBook):
        raise SpecError(f"{label} {spec.name!r}: partition must be a PartitionBook, not {type(book).__name__}")
    if book is not None and book.num_rows != num_rows:
        raise SpecError(
            f"{label} {spec.name!r} has {num_rows} rows, and its partition {book} has {book.num_rows}: give it the "
            "book of these rows, or none"
        )


def _check_ids(
    label: str, ids: Tensor, size: int, device: torch.device, range_error: type[IdRangeError], hint: str
) -> None:
    if ids.dtype != torch.int64:
        raise IdsError(f"{label}: ids must be torch.int64, not {ids.dtype}; convert them with ids.long()")
    if ids.dim() != 1:
        raise IdsError(f"{label}: ids must have shape [K], not {list(ids.shape)}; flatten them with ids.flatten()")
    if ids.device != device:
        raise IdsError(f"{label}: ids are on {ids.device}, the store is on {device}; move them with ids.to({device})")
    if ids.numel() == 0:
        return
    low, high = (int(end) for end in ids.aminmax())
    if low < 0:
        raise range_error(f"{label}: id {low} is negative; ids go from 0 to {size - 1}")
    if high >= size:
        raise range_error(f"{label}: id {high} is beyond its {size} rows; {hint}")


def _check_rows(
    label: str, rows: Tensor, shape: tuple[int, ...], dtypes: set[torch.dtype], device: torch.device | None
) -> None:
    if tuple(rows.shape) != shape:
        raise RowsError(f"{label} must have shape {list(shape)}, not {list(rows.shape)}")
    if rows.dtype not in dtypes:
        known = " or ".join(sorted(map(str, dtypes)))
        raise RowsError(f"{label} must be {known}, not {rows.dtype}; convert them with .to(...)")
    if device is not None and rows.device != device:
        raise RowsError(f"{label} are on {rows.device}, the store is on {device}; move them with .to({device})")
