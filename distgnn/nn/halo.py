"""The rows of other nodes that the layers over one part of a graph need, and the way back of their gradients."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distgnn.errors import GraphInputError
from distgnn.nn.norms import graph_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.nn import Module
    from torch_geometric.typing import Adj

    from distgnn.protocols import TensorStore


@dataclass(frozen=True, eq=False)
class Halo:
    """Where the nodes of a part, and the other nodes that its edges come from, are in the store of a layer.

    Args:
        own: ``[n]`` int64, the row of each node of the part; no other rank's part has it.
        remote: ``[h]`` int64, the rows of the halo nodes.
        num_rows: Number of rows of the store; the same for every part.
        history: The parts are batches, and a halo node's row is what the last batch with that node left there: no
            gradient goes to it. Otherwise the parts together are the graph, and every halo node is another's own.
    """

    own: Tensor
    remote: Tensor
    num_rows: int
    history: bool = False

    @property
    def is_whole_graph(self) -> bool:
        """Whether there is no other part; all parts agree on it."""
        return self.own.numel() == self.num_rows

    def bring(self, values: Tensor, store: TensorStore, open_sums: Callable[[], TensorStore]) -> Tensor:
        """Exchange rows; collective, and so is the backward pass.

        What is written is read in the same call, so a store may serve one forward after another before any backward.

        Args:
            values: ``[n, ...]``, the rows of the part's own nodes.
            store: ``[num_rows, ...]``, to exchange them through.
            open_sums: Opens a store of zeros of the same kind, where gradients are summed; closed by backward.

        Returns:
            The halo's rows ``[h, ...]``. In backward their gradients are added to those that their owners have for
            them; rows of a history have none.
        """
        given = values.detach() if self.history else values
        brought: Tensor = _Exchange.apply(given, self, store, open_sums)  # type: ignore[no-untyped-call]
        return brought


class _Exchange(torch.autograd.Function):
    """Rows go from owners to halos, gradients from halos to owners."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, halo: Halo, store: TensorStore, open_sums: Callable[[], TensorStore]
    ) -> Tensor:
        ctx.halo, ctx.open_sums = halo, open_sums
        store.write(halo.own, values)
        return store.read(halo.remote)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        with closing(ctx.open_sums()) as sums:
            sums.write(ctx.halo.remote, gradients.contiguous(), accumulate=True)
            return sums.read(ctx.halo.own), None, None, None


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
