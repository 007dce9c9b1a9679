"""GIN and GINE as whole models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch_geometric.nn import MLP

from distgnn.nn.arguments import check_keywords, keywords_after_widths
from distgnn.nn.conv.gin_conv_distributed import DistributedGINConv, DistributedGINEConv, edge_inputs
from distgnn.nn.embedding import default_name
from distgnn.nn.features import StoredFeatures
from distgnn.nn.models.base import DistributedGNN

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.nn import MessagePassing
    from torch_geometric.typing import Adj


class DistributedGIN(DistributedGNN):
    r"""The Graph Isomorphism Network from the `"How Powerful are Graph Neural Networks?"
    <https://arxiv.org/abs/1810.00826>`_ paper, with stored node embeddings.

    Without the ``use_dist_*`` flags it computes what :class:`torch_geometric.nn.GIN` computes, and takes its
    ``state_dict()``. All arguments but the first two are given by keyword.

    Args:
        in_channels (int): Width of the node features, or :obj:`-1` to take it from the first forward.
        hidden_channels (int): Width of the hidden layers.
        num_layers (int): Number of message passing layers.
        out_channels (int, optional): Width of the output. (default: ``hidden_channels``)
        dropout (float, optional): Dropout probability, after each layer; with ``readout="layer_sum"`` that of the
            scores that each layer's features are mapped to, and of nothing else. (default: :obj:`0.`)
        train_eps (bool, optional): Learn :math:`\epsilon` of each layer. (default: :obj:`False`)
        act (str or Callable, optional): The non-linearity. (default: :obj:`"relu"`)
        act_first (bool, optional): Apply it before the normalization. (default: :obj:`False`)
        act_kwargs (Dict[str, Any], optional): Its arguments. (default: :obj:`None`)
        norm (str or Callable, optional): The normalization, of the layers and inside their MLPs.
            (default: :obj:`None`)
        norm_kwargs (Dict[str, Any], optional): Its arguments. (default: :obj:`None`)
        jk (str, optional): The Jumping Knowledge mode (:obj:`None`, :obj:`"last"`, :obj:`"cat"`, :obj:`"max"`,
            :obj:`"lstm"`), with a final linear map as in PyG. (default: :obj:`None`)
        readout (str or Aggregation, optional): How node outputs become a graph's when ``batch`` is given: any PyG
            aggregation, or :obj:`"layer_sum"`, the paper's: each layer's node features, the input's included, are
            summed over the graph and mapped linearly to the output, and these are summed over layers. It takes the
            place of ``jk``. With :obj:`None` outputs stay those of nodes and ``batch`` is for normalizations alone, as
            in PyG. (default: :obj:`"sum"`)
        use_dist_embedding (bool, optional): Add a stored embedding to each node's features. (default: :obj:`False`)
        embedding_dim (int, optional): Its width. (default: ``in_channels``)
        embedding_name (str, optional): Name of its store; models of one name share it. (default: a new name)
        embedding_std (float, optional): Standard deviation of its initial rows. (default: :obj:`0.01`)
        use_dist_tensor (bool, optional): Keep each layer's output in a tensor store, at the rows ``node_ids``; over
            parts of a graph, at those of its ``halo``, through which parts exchange rows. (default: :obj:`False`)
        halo_staleness (int, optional): In training, use the rows of a halo that a forward exchanged for so many
            forwards more, as the DistGNN and PipeGCN papers do; their gradients then do not go back. Outputs of the
            evaluation mode, or without gradients, stay exact. (default: :obj:`0`)
        backend (str or Backend, optional): Where stores are opened. (default: the backend in use when the first store
            is needed)
        **kwargs (optional): Additional arguments of the layers.
    """

    supports_edge_weight: ClassVar[bool] = True

    def init_conv(self, in_channels: int, out_channels: int, **kwargs: Any) -> MessagePassing:
        """Make a layer; see :meth:`DistributedGNN.init_conv`."""
        check_keywords(type(self), kwargs.keys() - {"train_eps"})
        return DistributedGINConv(_mlp(self, in_channels, out_channels), **kwargs)


class DistributedGINE(DistributedGNN):
    r"""The GIN of :class:`DistributedGIN` with edge features, by the operator of the `"Strategies for Pre-training
    Graph Neural Networks" <https://arxiv.org/abs/1905.12265>`_ paper, with stored node and edge embeddings.

    Args:
        in_channels (int): Width of the node features.
        hidden_channels (int): Width of the hidden layers.
        num_layers (int): Number of message passing layers.
        out_channels (int, optional): Width of the output. (default: ``hidden_channels``)
        edge_dim (int, optional): Width of the edge features. (default: ``edge_embedding_dim``)
        use_dist_edge_embedding (bool, optional): Add a stored embedding to each edge's features.
            (default: :obj:`False`)
        edge_embedding_dim (int, optional): Its width. (default: ``edge_dim``)
        edge_embedding_name (str, optional): Name of its store. (default: a new name)
        **kwargs (optional): Additional arguments of :class:`DistributedGIN`.
    """

    supports_edge_attr: ClassVar[bool] = True
    supports_edge_weight: ClassVar[bool] = True

    @keywords_after_widths
    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        *,
        num_layers: int,
        out_channels: int | None = None,
        edge_dim: int | None = None,
        use_dist_edge_embedding: bool = False,
        edge_embedding_dim: int | None = None,
        edge_embedding_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        edge_dim = edge_dim or edge_embedding_dim
        if edge_dim is None:
            raise ValueError("DistributedGINE needs the width of the edge features: pass edge_dim")
        if in_channels == -1:
            raise ValueError("edge features are mapped to the width of the nodes', which in_channels=-1 leaves open")
        super().__init__(
            in_channels, hidden_channels, num_layers=num_layers, out_channels=out_channels, edge_dim=edge_dim, **kwargs
        )
        if use_dist_edge_embedding:
            self.edge_features = StoredFeatures(
                edge_dim,
                edge_embedding_dim,
                name=edge_embedding_name or default_name("DistributedGINE_edges"),
                backend=kwargs.get("backend"),
                std=kwargs.get("embedding_std", 0.01),
            )
        self.edge_dim = edge_dim

    def init_conv(self, in_channels: int, out_channels: int, **kwargs: Any) -> MessagePassing:
        """Make a layer; see :meth:`DistributedGNN.init_conv`."""
        check_keywords(type(self), kwargs.keys() - {"edge_dim", "train_eps"})
        return DistributedGINEConv(_mlp(self, in_channels, out_channels), **kwargs)

    def _edge_inputs(self, edge_index: Adj, edge_attr: Tensor | None, edge_ids: Tensor | None) -> Tensor | None:
        inputs: Tensor | None = edge_inputs(self.edge_features, self.edge_dim, edge_index, edge_attr, edge_ids)
        return inputs


def _mlp(model: DistributedGNN, in_channels: int, out_channels: int) -> MLP:
    """Make the network of a GIN's layer, with the non-linearity and the normalization of its model."""
    return MLP(
        [in_channels, out_channels, out_channels],
        act=model.act,
        act_first=model.act_first,
        norm=model.norm,
        norm_kwargs=model.norm_kwargs,
    )
