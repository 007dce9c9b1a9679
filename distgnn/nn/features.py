"""Features of nodes or edges, and the rows that are learned beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor
from torch.nn import Linear, Module

from distgnn.errors import GraphInputError
from distgnn.nn.checks import IN_STORES, check_not_exported
from distgnn.nn.embedding import StoredEmbedding

if TYPE_CHECKING:
    from distgnn.storage.protocols import Backend
    from distgnn.storage.specs import PartitionBook


class StoredFeatures(Module):
    r"""Features plus a stored embedding: :math:`\mathbf{x}_i + \mathbf{W} \mathbf{e}_{\mathrm{id}(i)}`.

    :math:`\mathbf{W}` is a learned linear map, there when the widths differ. Without features the embedding stands
    alone.

    Args:
        channels (int): Width of the features and of the output.
        embedding_dim (int, optional): Width of the embedding; :obj:`None` is ``channels``.
        name (str): Name of the store.
        backend (str or Backend, optional): As in :class:`StoredEmbedding`.
        std (float): As in :class:`StoredEmbedding`.

    Shapes:
        - **input:** features :math:`(N, \mathrm{channels})` or :obj:`None`, ids :math:`(N)` or :obj:`None` for
          :math:`0, \ldots, N - 1`
        - **output:** :math:`(N, \mathrm{channels})`
    """

    def __init__(
        self,
        channels: int,
        embedding_dim: int | None,
        *,
        name: str,
        backend: str | Backend | None = None,
        std: float,
    ) -> None:
        super().__init__()
        self.channels = channels
        embedding_dim = embedding_dim or channels
        self.embedding = StoredEmbedding(None, embedding_dim, name=name, backend=backend, std=std)
        self.lin = None if embedding_dim == channels else Linear(embedding_dim, channels, bias=False)

    def reset_parameters(self) -> None:
        """Start the rows and the linear map anew."""
        self.embedding.reset_parameters()
        if self.lin is not None:
            self.lin.reset_parameters()

    def __prepare_scriptable__(self) -> NoReturn:
        raise GraphInputError(f"embedding store {self.embedding.name!r} cannot be scripted: {IN_STORES}")

    def forward(self, features: Tensor | None, ids: Tensor | None) -> Tensor:
        """Sum features and embeddings."""
        name = self.embedding.name
        check_not_exported(f"embedding store {name!r}")
        if features is not None and (features.dim() < 2 or features.size(-1) != self.channels):
            raise GraphInputError(
                f"embedding store {name!r}: features must have shape [N, {self.channels}] to be added to, "
                f"not {list(features.shape)}"
            )
        if features is not None and not features.is_floating_point():
            raise GraphInputError(f"embedding store {name!r}: features of {features.dtype}; convert them with .float()")
        if ids is None:
            count = self.embedding.num_embeddings if features is None else features.size(-2)
            if count is None:
                raise GraphInputError(
                    f"embedding store {name!r}: with neither features nor ids the number of rows must "
                    "be known; call set_num_embeddings(...), or pass ids"
                )
            ids = torch.arange(count, device=None if features is None else features.device)
        if ids.dim() != 1 or (features is not None and features.size(-2) != ids.numel()):
            rows = "" if features is None else f" for {features.size(-2)} rows of features"
            raise GraphInputError(
                f"embedding store {name!r}: ids of shape {list(ids.shape)}{rows}; ids must be a vector, one a row"
            )
        embeddings: Tensor = self.embedding(ids)
        if self.lin is not None:
            embeddings = self.lin(embeddings.to(self.lin.weight.dtype))
        return embeddings if features is None else features + embeddings.to(features.dtype)


def set_num_embeddings(
    features: StoredFeatures | None, count: int | None, flag: str, partition: PartitionBook | None = None
) -> None:
    """Size the store behind ``features``, and place its rows, if a number or a partition is given.

    Raises:
        GraphInputError: One is given, but the layer was made without ``flag``.
    """
    if count is None and partition is not None:
        count = partition.num_rows
    if count is None:
        return
    if features is None:
        raise GraphInputError(
            f"set_num_embeddings got {count} for an embedding that this layer has not: set {flag}=True"
        )
    features.embedding.set_num_embeddings(count, partition=partition)
