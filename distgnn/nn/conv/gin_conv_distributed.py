"""PyG's GINConv and GINEConv with stored node and edge embeddings."""

# TorchScript and PyG's message passing read the annotations here, so they are neither postponed nor in PEP 604 form.

from typing import Any, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.jit import is_scripting  # type: ignore[attr-defined]  # it is there
from torch_geometric.nn import GINConv, GINEConv
from torch_geometric.typing import Adj, OptPairTensor, OptTensor, Size

from distgnn.errors import GraphInputError
from distgnn.nn.aggregation.messages import EdgeRows, sum_messages
from distgnn.nn.aggregation.weighted import Weighted
from distgnn.nn.arguments import check_keywords
from distgnn.nn.checks import check_edge_weight, check_features
from distgnn.nn.conv.masked import Masked
from distgnn.nn.embedding import default_name
from distgnn.nn.features import StoredFeatures, set_num_embeddings
from distgnn.nn.halo import Extended
from distgnn.storage.protocols import Backend

NodeIds = Union[Tensor, Tuple[Tensor, Tensor], None]


class DistributedGINConv(Masked, Weighted, GINConv):
    r"""The graph isomorphism operator from the `"How Powerful are Graph Neural Networks?"
    <https://arxiv.org/abs/1810.00826>`_ paper, with stored node embeddings.

    .. math::
        \mathbf{x}^{\prime}_i = h_{\mathbf{\Theta}} \left( (1 + \epsilon) \cdot
        \mathbf{h}_i + \sum_{j \in \mathcal{N}(i)} \mathbf{h}_j \right), \qquad
        \mathbf{h}_i = \mathbf{x}_i + \mathbf{W} \mathbf{e}_{\mathrm{id}(i)}

    where the embeddings :math:`\mathbf{e}` live in a store (see :class:`~distgnn.nn.StoredFeatures`). Without
    ``use_dist_embedding`` it is :class:`torch_geometric.nn.GINConv`.

    Args:
        nn (torch.nn.Module): A neural network :math:`h_{\mathbf{\Theta}}` that maps node features of shape
            :obj:`[-1, in_channels]` to shape :obj:`[-1, out_channels]`.
        eps (float, optional): (Initial) :math:`\epsilon`-value. (default: :obj:`0.`)
        train_eps (bool, optional): If set to :obj:`True`, :math:`\epsilon` will be a trainable parameter.
            (default: :obj:`False`)
        use_dist_embedding (bool, optional): Add a stored embedding to each node's features. (default: :obj:`False`)
        embedding_dim (int, optional): Width of the node embedding. (default: the input width of :obj:`nn`)
        embedding_name (str, optional): Name of its store; layers of one name share it. (default: a new name)
        embedding_std (float, optional): Standard deviation of its initial rows. (default: :obj:`0.01`)
        backend (str or Backend, optional): Where stores are opened. (default: the backend in use when the first store
            is needed)
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          node features :math:`(|\mathcal{V}|, F_{in})`, or
          :math:`((|\mathcal{V_s}|, F_{in}), (|\mathcal{V_t}|, F_{in}))` if bipartite, or :obj:`None` with
          ``use_dist_embedding``,
          edge indices :math:`(2, |\mathcal{E}|)`,
          edge weights :math:`(|\mathcal{E}|)` *(optional)*, what messages are multiplied by,
          node ids :math:`(|\mathcal{V}|)`, or :math:`((|\mathcal{V_s}|), (|\mathcal{V_t}|))` if bipartite
          *(optional: by default nodes are numbered as they stand)*
        - **output:** node features :math:`(|\mathcal{V}|, F_{out})` or :math:`(|\mathcal{V_t}|, F_{out})`
    """

    def __init__(
        self,
        nn: torch.nn.Module,
        eps: float = 0.0,
        train_eps: bool = False,
        *,
        use_dist_embedding: bool = False,
        embedding_dim: Optional[int] = None,
        embedding_name: Optional[str] = None,
        embedding_std: float = 0.01,
        backend: Union[str, Backend, None] = None,
        **kwargs: Any,
    ) -> None:
        check_keywords(type(self), kwargs)
        super().__init__(nn, eps, train_eps, **kwargs)
        self.in_channels = _in_channels(nn)
        self.node_features = None
        if use_dist_embedding:
            self.node_features = StoredFeatures(
                _known_channels(self.in_channels),
                embedding_dim,
                name=embedding_name or default_name("gin_conv_nodes"),
                backend=backend,
                std=embedding_std,
            )

    def reset_parameters(self) -> None:
        """Reset all learnable parameters, stored embeddings included."""
        super().reset_parameters()
        features = getattr(self, "node_features", None)  # PyG's constructor calls this before ours has made them
        if features is not None:
            features.reset_parameters()

    def set_num_embeddings(self, num_nodes: Optional[int] = None) -> None:
        """Size the store of node embeddings, before the first forward."""
        set_num_embeddings(self.node_features, num_nodes, "use_dist_embedding")

    def forward(
        self,
        x: Union[Tensor, OptPairTensor, None],
        edge_index: Adj,
        size: Size = None,
        node_ids: NodeIds = None,
        edge_weight: OptTensor = None,
    ) -> Tensor:
        """Run one layer; see the shapes above."""
        if not is_scripting():
            x = _node_inputs(self.node_features, self.in_channels, x, node_ids)
            check_edge_weight(edge_weight, edge_index, self.aggregate)
        assert x is not None
        if isinstance(x, Tensor):
            x = (x, x)

        out: OptTensor = None
        if not is_scripting():
            out, x = self.sum_messages(x, edge_index, None, edge_weight, size)
        if out is None:
            # propagate_type: (x: OptPairTensor, edge_weight: OptTensor)
            out = self.propagate(edge_index, x=x, edge_weight=edge_weight, size=size)

        x_r = x[1]
        if x_r is not None:
            out = out + (1 + self.eps) * x_r

        result: Tensor = self.nn(out)
        return result

    def sum_messages(
        self,
        x: Any,
        edge_index: Adj,
        edge_attr: OptTensor = None,  # noqa: ARG002  # GIN has none
        edge_weight: OptTensor = None,
        size: Size = None,
    ) -> Tuple[OptTensor, OptPairTensor]:
        """Sum the messages into each node where they lie; see :class:`~distgnn.nn.SumsOverHalo`."""
        return sum_messages(self, GINConv.message, x, edge_index, None, size, edge_weight)


class DistributedGINEConv(Masked, Weighted, GINEConv):
    r"""The modified :class:`DistributedGINConv` operator from the `"Strategies for Pre-training Graph Neural Networks"
    <https://arxiv.org/abs/1905.12265>`_ paper, with stored node and edge embeddings.

    .. math::
        \mathbf{x}^{\prime}_i = h_{\mathbf{\Theta}} \left( (1 + \epsilon) \cdot
        \mathbf{h}_i + \sum_{j \in \mathcal{N}(i)} \mathrm{ReLU}
        ( \mathbf{h}_j + \mathbf{e}_{j,i} ) \right)

    where a stored embedding is part of :math:`\mathbf{h}` as in :class:`DistributedGINConv`, and of the edge features
    :math:`\mathbf{e}_{j,i}` with ``use_dist_edge_embedding``. Without these flags it is
    :class:`torch_geometric.nn.GINEConv`.

    Args:
        nn (torch.nn.Module): A neural network :math:`h_{\mathbf{\Theta}}` that maps node features of shape
            :obj:`[-1, in_channels]` to shape :obj:`[-1, out_channels]`.
        eps (float, optional): (Initial) :math:`\epsilon`-value. (default: :obj:`0.`)
        train_eps (bool, optional): If set to :obj:`True`, :math:`\epsilon` will be a trainable parameter.
            (default: :obj:`False`)
        edge_dim (int, optional): Edge feature dimensionality; edge features are then linearly transformed to the node
            features' width. With :obj:`None` both widths are expected to match. (default: :obj:`None`)
        use_dist_embedding (bool, optional): Add a stored embedding to each node's features. (default: :obj:`False`)
        use_dist_edge_embedding (bool, optional): Add a stored embedding to each edge's features.
            (default: :obj:`False`)
        embedding_dim (int, optional): Width of the node embedding. (default: the input width of :obj:`nn`)
        edge_embedding_dim (int, optional): Width of the edge embedding. (default: that of the edge features)
        embedding_name (str, optional): Name of the node embedding's store. (default: a new name)
        edge_embedding_name (str, optional): Name of the edge embedding's store. (default: a new name)
        embedding_std (float, optional): Standard deviation of the initial rows of both. (default: :obj:`0.01`)
        backend (str or Backend, optional): Where stores are opened. (default: the backend in use when the first store
            is needed)
        **kwargs (optional): Additional arguments of :class:`torch_geometric.nn.conv.MessagePassing`.

    Shapes:
        - **input:**
          as :class:`DistributedGINConv`,
          edge features :math:`(|\mathcal{E}|, D)` *(optional with* ``use_dist_edge_embedding`` *)*,
          edge ids :math:`(|\mathcal{E}|)` *(optional: by default edges are numbered as they stand)*
        - **output:** node features :math:`(|\mathcal{V}|, F_{out})` or :math:`(|\mathcal{V_t}|, F_{out})`
    """

    def __init__(
        self,
        nn: torch.nn.Module,
        eps: float = 0.0,
        train_eps: bool = False,
        edge_dim: Optional[int] = None,
        *,
        use_dist_embedding: bool = False,
        use_dist_edge_embedding: bool = False,
        embedding_dim: Optional[int] = None,
        edge_embedding_dim: Optional[int] = None,
        embedding_name: Optional[str] = None,
        edge_embedding_name: Optional[str] = None,
        embedding_std: float = 0.01,
        backend: Union[str, Backend, None] = None,
        **kwargs: Any,
    ) -> None:
        check_keywords(type(self), kwargs)
        super().__init__(nn, eps, train_eps, edge_dim, **kwargs)
        self.in_channels = _in_channels(nn)
        self.node_features = None
        if use_dist_embedding:
            self.node_features = StoredFeatures(
                _known_channels(self.in_channels),
                embedding_dim,
                name=embedding_name or default_name("gine_conv_nodes"),
                backend=backend,
                std=embedding_std,
            )
        self.edge_features = None
        if use_dist_edge_embedding:
            self.edge_features = StoredFeatures(
                edge_dim or _known_channels(self.in_channels),
                edge_embedding_dim,
                name=edge_embedding_name or default_name("gine_conv_edges"),
                backend=backend,
                std=embedding_std,
            )

    def reset_parameters(self) -> None:
        """Reset all learnable parameters, stored embeddings included."""
        super().reset_parameters()
        for features in (getattr(self, "node_features", None), getattr(self, "edge_features", None)):
            if features is not None:
                features.reset_parameters()

    def set_num_embeddings(self, num_nodes: Optional[int] = None, num_edges: Optional[int] = None) -> None:
        """Size the stores of node and edge embeddings, before the first forward."""
        set_num_embeddings(self.node_features, num_nodes, "use_dist_embedding")
        set_num_embeddings(self.edge_features, num_edges, "use_dist_edge_embedding")

    def forward(
        self,
        x: Union[Tensor, OptPairTensor, None],
        edge_index: Adj,
        edge_attr: OptTensor = None,
        size: Size = None,
        node_ids: NodeIds = None,
        edge_ids: OptTensor = None,
        edge_weight: OptTensor = None,
    ) -> Tensor:
        """Run one layer; see the shapes above."""
        if not is_scripting():
            x = _node_inputs(self.node_features, self.in_channels, x, node_ids)
            channels = self.in_channels if self.lin is None else self.lin.in_channels
            edge_attr = edge_inputs(self.edge_features, channels, edge_index, edge_attr, edge_ids)
            check_edge_weight(edge_weight, edge_index, self.aggregate)
        assert x is not None
        if isinstance(x, Tensor):
            x = (x, x)

        out: OptTensor = None
        if not is_scripting():
            out, x = self.sum_messages(x, edge_index, edge_attr, edge_weight, size)
        if out is None:
            # propagate_type: (x: OptPairTensor, edge_attr: OptTensor, edge_weight: OptTensor)
            out = self.propagate(edge_index, x=x, edge_attr=edge_attr, edge_weight=edge_weight, size=size)

        x_r = x[1]
        if x_r is not None:
            out = out + (1 + self.eps) * x_r

        result: Tensor = self.nn(out)
        return result

    def sum_messages(
        self,
        x: Any,
        edge_index: Adj,
        edge_attr: OptTensor = None,
        edge_weight: OptTensor = None,
        size: Size = None,
    ) -> Tuple[OptTensor, OptPairTensor]:
        """Sum the messages into each node where they lie; see :class:`~distgnn.nn.SumsOverHalo`."""
        edges = EdgeRows(edge_attr, self.lin)
        return sum_messages(self, GINEConv.message, x, edge_index, edges, size, edge_weight)


def edge_inputs(
    features: Optional[StoredFeatures],
    channels: Optional[int],
    edge_index: Adj,
    edge_attr: OptTensor,
    edge_ids: OptTensor,
) -> OptTensor:
    """Add stored embeddings to edge features, and see that there are edge features.

    Raises:
        GraphInputError: There are none, or they do not fit the edges.
    """
    if not isinstance(edge_index, Tensor) or edge_index.is_sparse or edge_index.layout == torch.sparse_csr:
        if features is not None:
            raise GraphInputError("stored edge embeddings need edge_index of shape [2, E], not a sparse matrix")
        return edge_attr  # a sparse matrix carries them as its values
    num_edges = edge_index.size(1)
    if features is None and edge_attr is None:
        raise GraphInputError(
            "GINE needs edge features: pass edge_attr of shape [E, D], or make the layer with use_dist_edge_embedding="
            "True to learn them; GIN does without"
        )
    if edge_attr is not None:
        if edge_attr.dim() != 2 or edge_attr.size(0) != num_edges:
            raise GraphInputError(
                f"edge_attr of shape {list(edge_attr.shape)} for {num_edges} edges; there must be one row an edge"
            )
        if channels is not None and edge_attr.size(1) != channels:
            raise GraphInputError(f"edge_attr has {edge_attr.size(1)} features an edge, the layer takes {channels}")
    if features is None:
        return edge_attr
    ids = torch.arange(num_edges, device=edge_index.device) if edge_ids is None else edge_ids
    return features(edge_attr, ids)


def _node_inputs(
    features: Optional[StoredFeatures],
    in_channels: Optional[int],
    x: Union[Tensor, OptPairTensor, None],
    node_ids: NodeIds,
) -> Union[Tensor, OptPairTensor]:
    if x is None and features is None:
        raise GraphInputError("x=None needs stored node embeddings: make the layer with use_dist_embedding=True")
    sources = x[0] if isinstance(x, tuple) else x
    if not isinstance(sources, Extended):
        check_features(sources, in_channels, "layer")
    if features is None:
        assert x is not None
    elif isinstance(x, tuple):
        if not isinstance(node_ids, tuple):
            raise GraphInputError("a bipartite x=(x_src, x_dst) needs node_ids=(source_ids, destination_ids)")
        x = (features(x[0], node_ids[0]), None if x[1] is None else features(x[1], node_ids[1]))
    else:
        if isinstance(node_ids, tuple):
            raise GraphInputError("node_ids=(source_ids, destination_ids) needs a bipartite x=(x_src, x_dst)")
        x = features(x, node_ids)
    return x


def _in_channels(nn: torch.nn.Module) -> Optional[int]:
    """Tell the input width of ``nn``, or None where it cannot be told (lazy layers, modules of the user's own)."""
    while isinstance(nn, torch.nn.Sequential) and len(nn):
        nn = nn[0]
    for attribute in ("in_features", "in_channels"):
        channels = getattr(nn, attribute, None)
        if isinstance(channels, int) and channels > 0:
            return channels
    return None


def _known_channels(in_channels: Optional[int]) -> int:
    if in_channels is None:
        raise GraphInputError(
            "a stored embedding needs the input width of nn, which cannot be told from it: "
            "begin nn with a Linear or an MLP of known input width"
        )
    return in_channels
