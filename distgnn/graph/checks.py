"""Checks of the structure of a part of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from distgnn.storage.specs import PartitionBook

STRUCTURE = ("node_ids", "edge_ids", "colptr", "sources", "halo", "halo_ids")


def check_structure(
    path: Path, structure: Mapping[str, Tensor], nodes: PartitionBook, edges: PartitionBook, part: int
) -> None:
    """Refuse ids outside the graph, and edges that are not those of the part.

    Args:
        path: The file, for the error's text.
        structure: The tensors :data:`STRUCTURE`.
        nodes: Which part owns which nodes.
        edges: Which part owns which edges.
        part: Which part.

    Raises:
        DataFormatError: Something does not fit; the text names the file and the tensor.
    """
    (first, last), (first_edge, last_edge) = (book.bounds[part : part + 2] for book in (nodes, edges))
    num_nodes, num_edges = last - first, last_edge - first_edge
    halo = structure["halo"].numel()
    lengths = dict(zip(STRUCTURE, (num_nodes, num_edges, num_nodes + 1, num_edges, halo, halo), strict=True))
    for name, length in lengths.items():
        check_rows(path, name, structure[name], length)
        if structure[name].dtype != torch.int64 or structure[name].dim() != 1:
            raise _wrong(path, name, f"is of {structure[name].dtype} and shape {list(structure[name].shape)}")
    ends = {"node_ids": nodes.bounds[-1], "edge_ids": edges.bounds[-1], "sources": nodes.bounds[-1]}
    ends |= {"halo": nodes.bounds[-1], "halo_ids": nodes.bounds[-1]}
    for name, end in ends.items():
        ids = structure[name]
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= end):
            raise _wrong(path, name, f"holds ids {int(ids.min())} to {int(ids.max())}, the graph has 0 to {end - 1}")
    colptr, sources = structure["colptr"], structure["sources"]
    if int(colptr[0]) or int(colptr[-1]) != num_edges or bool((colptr.diff() < 0).any()):
        raise _wrong(path, "colptr", f"does not go from 0 to {num_edges} in steps of 0 or more")
    remote = sources[(sources < first) | (sources >= last)]
    if not torch.equal(torch.unique(remote), structure["halo"]):
        raise _wrong(path, "halo", "is not the nodes of other parts that the edges come from")


def check_rows(path: Path, name: str, tensor: Tensor, length: int) -> None:
    """Refuse a tensor of another number of rows."""
    rows = len(tensor) if tensor.dim() else 0
    if rows != length:
        raise _wrong(path, name, f"has {rows} rows, not {length}")


def _wrong(path: Path, name: str, what: str) -> DataFormatError:
    return DataFormatError(f"{path}: {name} {what}; partition the graph anew")
