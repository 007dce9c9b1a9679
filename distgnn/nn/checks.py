"""What is refused before a model computes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distgnn.errors import GraphInputError
from distgnn.nn.norms import graph_norm

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module
    from torch_geometric.typing import Adj

    from distgnn.nn.halo import Halo


def check_edge_index(edge_index: Adj, num_nodes: int | None) -> None:
    """Refuse ends that are no nodes, with a word for edges counted from 1.

    On a GPU the check would wait for the device; there PyG's layers find such ends themselves.
    """
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided or edge_index.is_cuda:
        return
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype != torch.int64:
        raise GraphInputError(
            f"edge_index must be int64 of shape [2, E], not {edge_index.dtype} of {list(edge_index.shape)}"
        )
    if num_nodes is None or edge_index.numel() == 0:
        return
    low, high = (int(end) for end in edge_index.aminmax())
    if low < 0 or high >= num_nodes:
        counted = "; it seems to count from 1: subtract 1" if low == 1 and high == num_nodes else ""
        raise GraphInputError(
            f"edge_index holds nodes {low} to {high}, the graph has nodes 0 to {num_nodes - 1}{counted}"
        )


def check_halo(
    halo: Halo,
    model: Module,
    num_nodes: int,
    edge_index: Adj,
    ids: Mapping[str, tuple[Module | None, Tensor | None]],
) -> None:
    """See that a part fits a model.

    Args:
        halo: Of the part.
        model: Is given it.
        num_nodes: How many rows of nodes it is given.
        edge_index: The part's edges.
        ids: By the name of an argument, stored features and the ids that are given for them.

    Raises:
        GraphInputError: It does not.
    """
    own, remote = halo.own.numel(), halo.remote.numel()
    if num_nodes != own + remote:
        raise GraphInputError(
            f"{num_nodes} rows of nodes for a part of {own} nodes and a halo of {remote}: both are given, the "
            "halo's behind"
        )
    last = int(edge_index[1].max()) if isinstance(edge_index, Tensor) and edge_index.numel() else -1
    if last >= own:
        raise GraphInputError(f"an edge ends in node {last}, and the part's own nodes end at {own - 1}")
    for name, (features, given) in ids.items():
        if features is not None and given is None:
            raise GraphInputError(f"the embeddings of a part are not numbered as they stand: pass {name}")
    norm = None if halo.is_whole_graph else graph_norm(model.named_modules())
    if norm is not None:
        raise GraphInputError(
            f"{norm}, and a rank has one part of them: use norm='batch_norm' or LayerNorm(mode='node')"
        )
