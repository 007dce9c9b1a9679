"""Base model: stored embeddings at the input, layers, and a readout for graphs."""

from __future__ import annotations

import copy
import inspect
import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.nn import Dropout, Identity, Linear, Module, ModuleList
from torch.torch_version import TorchVersion
from torch_geometric.nn import JumpingKnowledge
from torch_geometric.nn.resolver import activation_resolver, aggregation_resolver, normalization_resolver
from torch_geometric.utils import trim_to_layer

from distgnn.errors import GraphInputError
from distgnn.nn.activations import StoredActivation
from distgnn.nn.ages import StoredAges
from distgnn.nn.aggregation.messages import SumsOverHalo
from distgnn.nn.arguments import check_options, keywords_after_widths
from distgnn.nn.checks import (
    check_batch_norm,
    check_edge_index,
    check_edge_weight,
    check_halo,
    check_model,
    check_not_exported,
    is_explained,
    takes_pairs,
)
from distgnn.nn.embedding import StoredEmbedding, default_name
from distgnn.nn.features import StoredFeatures, set_num_embeddings
from distgnn.nn.halo import Extended
from distgnn.nn.models.layerwise import LayerwiseModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch_geometric.nn import MessagePassing
    from torch_geometric.nn.aggr import Aggregation
    from torch_geometric.typing import Adj

    from distgnn.nn.halo import Halo
    from distgnn.storage.protocols import Backend
    from distgnn.storage.specs import PartitionBook


class DistributedGNN(LayerwiseModel):
    r"""A graph neural network of any message passing layer, with stored node embeddings.

    As in :class:`torch_geometric.nn.models.basic_gnn.BasicGNN` a model says by :meth:`init_conv` what its layers are,
    and whether they take features of edges. Stores, halos, histories, readout and layer-wise inference come with it.
    All arguments but the first two are given by keyword.

    Args:
        in_channels (int): Width of the node features, or :obj:`-1` to take it from the first forward.
        hidden_channels (int): Width of the hidden layers.
        num_layers (int): Number of message passing layers.
        out_channels (int, optional): Width of the output. (default: ``hidden_channels``)
        dropout (float, optional): Dropout probability, after each layer; with ``readout="layer_sum"`` that of the
            scores that each layer's features are mapped to, and of nothing else. (default: :obj:`0.`)
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

    @keywords_after_widths
    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        *,
        num_layers: int,
        out_channels: int | None = None,
        dropout: float = 0.0,
        act: str | Callable[..., Any] | None = "relu",
        act_first: bool = False,
        act_kwargs: dict[str, Any] | None = None,
        norm: str | Callable[..., Any] | None = None,
        norm_kwargs: dict[str, Any] | None = None,
        jk: str | None = None,
        readout: str | Aggregation | None = "sum",
        use_dist_embedding: bool = False,
        embedding_dim: int | None = None,
        embedding_name: str | None = None,
        embedding_std: float = 0.01,
        use_dist_tensor: bool = False,
        halo_staleness: int = 0,
        backend: str | Backend | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        by_layer = readout == "layer_sum"
        check_options(
            type(self).__name__,
            in_channels,
            num_layers,
            jk=jk,
            by_layer=by_layer,
            use_dist_embedding=use_dist_embedding,
            halo_staleness=halo_staleness,
        )
        out_channels = hidden_channels if out_channels is None else out_channels
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.num_layers = num_layers
        self.jk_mode = jk

        self.node_features: StoredFeatures | None = None
        self.edge_features: StoredFeatures | None = None
        if use_dist_embedding:
            self.node_features = StoredFeatures(
                in_channels,
                embedding_dim,
                name=embedding_name or default_name(type(self).__name__),
                backend=backend,
                std=embedding_std,
            )

        # From here to the end of the constructor as torch_geometric.nn.models.basic_gnn, so that weights carry over.
        self.dropout = Dropout(dropout)
        self.act = activation_resolver(act, **(act_kwargs or {}))
        self.act_first = act_first
        self.norm = norm if isinstance(norm, str) else None
        self.norm_kwargs = norm_kwargs
        ends_in_conv = jk is None and not by_layer
        widths = [in_channels] + [hidden_channels] * num_layers
        if ends_in_conv:
            widths[-1] = out_channels
        self.convs = ModuleList(itertools.starmap(partial(self.init_conv, **kwargs), itertools.pairwise(widths)))
        self.sums_over_halo = [isinstance(conv, SumsOverHalo) for conv in self.convs]
        self.takes_pairs = [takes_pairs(conv) for conv in self.convs]
        norm_layer = normalization_resolver(norm, hidden_channels, **(norm_kwargs or {})) or Identity()
        self.norms = ModuleList(copy.deepcopy(norm_layer) for _ in range(num_layers))
        if ends_in_conv:
            self.norms[-1] = Identity()
        self.supports_norm_batch = "batch" in inspect.signature(norm_layer.forward).parameters
        self.jk: Module | None = None
        self.lin: Module | None = None
        if jk not in {None, "last"}:
            self.jk = JumpingKnowledge(jk, hidden_channels, num_layers)
        if jk is not None:
            self.lin = Linear(num_layers * hidden_channels if jk == "cat" else hidden_channels, out_channels)
        self.heads = ModuleList(Linear(width, out_channels) for width in widths) if by_layer else None
        self.readout = None if readout is None else aggregation_resolver("sum" if by_layer else readout)
        self.activations = ModuleList(
            StoredActivation(
                name=default_name(f"{type(self).__name__}_layer_{layer}"), backend=backend, staleness=halo_staleness
            )
            for layer in range(num_layers if use_dist_tensor else 0)
        )
        self.ages = StoredAges(name=default_name(f"{type(self).__name__}_ages"), backend=backend)
        self._num_nodes: int | None = None

    def init_conv(self, in_channels: int, out_channels: int, **kwargs: Any) -> MessagePassing:
        """Make a layer.

        Args:
            in_channels: Width of its inputs, or -1.
            out_channels: Width of its outputs.
            **kwargs: What the model was given beside its own arguments.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its layers are: override init_conv")

    def reset_parameters(self) -> None:
        """Reset all learnable parameters, stored embeddings included."""
        self.close()
        layers: list[Any] = [*self.convs, *self.norms, self.jk, self.lin, *(self.heads or ())]
        for module in [self.node_features, *layers, self.edge_features]:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def set_num_embeddings(
        self,
        num_nodes: int | None = None,
        num_edges: int | None = None,
        *,
        node_partition: PartitionBook | None = None,
        edge_partition: PartitionBook | None = None,
    ) -> None:
        """Say how many rows the stores have, before the first forward.

        Without this call the first forward sizes them by the largest ids that it is given, and warns.

        Args:
            num_nodes (int, optional): How many nodes there are.
            num_edges (int, optional): How many edges there are, with ``use_dist_edge_embedding``.
            node_partition (PartitionBook, optional): Which rank owns which nodes, and so their rows:
                ``data.halo.partition`` of a part of a graph. (default: they are cut evenly by id)
            edge_partition (PartitionBook, optional): The same of edges, as from
                :func:`distgnn.graph.edge_partition`. (default: they are cut evenly by id)
        """
        self._num_nodes = num_nodes or self._num_nodes
        if self.node_features is not None or not self.activations:
            set_num_embeddings(self.node_features, num_nodes, "use_dist_embedding", node_partition)
        set_num_embeddings(self.edge_features, num_edges, "use_dist_edge_embedding", edge_partition)

    def close(self) -> None:
        """Free the stores of embeddings and layer outputs, on all ranks; the next forward starts from initial rows."""
        for module in self.modules():
            if isinstance(module, StoredEmbedding | StoredActivation):
                module.close()

    def forward(
        self,
        x: Tensor | None,
        edge_index: Adj,
        edge_attr: Tensor | None = None,
        *,
        edge_weight: Tensor | None = None,
        node_ids: Tensor | None = None,
        edge_ids: Tensor | None = None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        halo: Halo | None = None,
        num_sampled_nodes_per_hop: list[int] | None = None,
        num_sampled_edges_per_hop: list[int] | None = None,
    ) -> Tensor:
        """Compute node outputs, or graph outputs when ``batch`` is given.

        With ``halo`` the nodes are those of one part of a graph and, behind them, those of its halo; every rank calls
        with its part. Between layers the halo's rows come from their owners, and in backward their gradients go back,
        so that outputs and gradients are those of the whole graph. Made by :func:`distgnn.graph.cut_part` and
        :func:`distgnn.graph.load_part`.

        With the halo of a batch, made by :func:`distgnn.graph.batch_halo`, the halo's rows are what earlier batches
        left in the stores, without gradient, as in the `"GNNAutoScale" <https://arxiv.org/abs/2106.05609>`_ paper.
        ``ages`` counts how old they are.

        Args:
            x: Node features ``[N, in_channels]``, or None with stored node embeddings.
            edge_index: Edges ``[2, E]``, or a sparse adjacency as PyG's layers take it.
            edge_attr: Edge features ``[E, edge_dim]``. Models that do not use them accept them, so that one loop drives
                all.
            edge_weight: ``[E]``, what the messages of every layer are multiplied by, of a model that supports it.
            node_ids: ``[N]``, the rows of the nodes in the stores; by default nodes are numbered as they stand.
            edge_ids: ``[E]``, the rows of the edges in the store of edge embeddings; by default as they stand.
            batch: ``[N]``, the graph that each node belongs to.
            batch_size: Number of graphs; by default the largest of ``batch`` plus 1.
            halo: Where the nodes are in the stores of layer outputs; needs ``use_dist_tensor``.
            num_sampled_nodes_per_hop: Of a sample of PyG's loaders, so that each layer leaves out the nodes that the
                seeds do not see through the layers to come. Outputs are then those of the nodes that are left.
            num_sampled_edges_per_hop: Likewise.

        Returns:
            ``[N, out_channels]``, or ``[batch_size, out_channels]`` with ``batch``; with ``halo`` the rows of the
            part's own nodes alone.

        Raises:
            GraphInputError: The inputs do not fit the model or each other.
            EmbeddingSizeError: Ids beyond the stores.
        """
        if isinstance(edge_index, Proxy):
            return self._forward_of_types(x, edge_index, edge_attr, batch, batch_size)  # type: ignore[no-any-return]
        per_hop = num_sampled_nodes_per_hop, num_sampled_edges_per_hop
        check_model(self, x, edge_weight, edge_attr, halo, batch, per_hop)
        check_edge_index(edge_index, self._count_nodes(x, node_ids))
        h = x if self.node_features is None else self.node_features(x, node_ids)
        assert h is not None
        if halo is not None:
            ids = {"node_ids": (self.node_features, node_ids), "edge_ids": (self.edge_features, edge_ids)}
            check_halo(halo, self, h.size(0), edge_index, ids)
        edge_attr = self._edge_inputs(edge_index, edge_attr, edge_ids)
        check_edge_weight(edge_weight, edge_index)

        rows: Tensor | Extended = h if halo is None else Extended(h, halo.own.numel())
        layers = [rows.own if isinstance(rows, Extended) else rows]
        check_batch_norm(self, layers[0])
        # What an explainer's masks leave over is nobody else's layer output.
        publishes = len(self.activations) > 0 and (halo is not None or not is_explained(self))
        for index in range(self.num_layers):
            inputs = (rows, layers[-1]) if isinstance(rows, Extended) else rows
            if per_hop[0] is not None and per_hop[1] is not None:
                inputs, edge_index, edge_attr = trim_to_layer(index, *per_hop, inputs, edge_index, edge_attr)
                # The edges of the outermost hop are the last ones.
                edge_weight = None if edge_weight is None else edge_weight[: edge_index.size(1)]
            layers.append(self._run_layer(index, inputs, edge_index, edge_attr, batch, batch_size, edge_weight))
            rows = self._publish(index, layers[-1], node_ids, halo) if publishes else layers[-1]
        if halo is not None and halo.history:
            self.ages.count(halo)

        if batch is None or self.readout is None:
            return self.combine(layers)
        if self.heads is not None:
            return self.combine([self.readout(h, batch, dim_size=batch_size) for h in layers])
        pooled: Tensor = self.readout(self.combine(layers), batch, dim_size=batch_size)
        return pooled

    def _forward_of_types(self, x: Any, edge_index: Any, edge_attr: Any, batch: Any, batch_size: Any) -> Any:
        """Write down what a model without stores computes, for :func:`torch_geometric.nn.to_hetero` and its like."""
        if self.node_features is not None or self.edge_features is not None or self.activations:
            raise GraphInputError(
                "a model with stores has those of one node type and one edge type: give to_hetero a model without the "
                "use_dist_ flags, and add a StoredEmbedding of each type to its features"
            )
        layers = [x]
        for index in range(self.num_layers):
            features = edge_attr if self.supports_edge_attr else None
            layers.append(self._run_layer(index, layers[-1], edge_index, features, batch, batch_size))
        out = self.combine(layers)
        return out if self.readout is None else _of_nodes(out, batch)

    def _count_nodes(self, x: Tensor | None, node_ids: Tensor | None) -> int | None:
        if x is not None:
            return x.size(-2)
        assert self.node_features is not None
        return self.node_features.embedding.num_embeddings if node_ids is None else node_ids.numel()

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as a lookup
    def _publish(self, layer: int, h: Tensor, node_ids: Tensor | None, halo: Halo | None) -> Tensor | Extended:
        check_not_exported(f"the store of layer outputs {self.activations[layer].name!r}")
        if halo is not None and layer < self.num_layers - 1:
            extended: Extended = self.activations[layer].extend(h, halo)  # type: ignore[operator]
            return extended
        known = self._num_nodes if self.node_features is None else self.node_features.embedding.num_embeddings
        if halo is not None:
            own: Tensor = self.activations[layer](h, halo.own, halo.num_rows, halo.partition)
            return own
        ids = torch.arange(h.size(-2), device=h.device) if node_ids is None else node_ids
        num_rows = known or (int(ids.max()) + 1 if ids.numel() else 1)
        published: Tensor = self.activations[layer](h, ids, num_rows)
        return published

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, num_layers={self.num_layers})"


if torch.__version__ < TorchVersion("2.8"):
    # Its fx takes an annotation in words for another one at each place, and to_hetero stops at that.
    DistributedGNN.forward.__annotations__.clear()


@torch.fx.wrap
def _of_nodes(out: Tensor, batch: Tensor | None) -> Tensor:
    if batch is not None:
        raise GraphInputError(
            "a model by types gives the outputs of nodes: pool those of each type yourself, and make the model with "
            "readout=None to give batch to its normalizations"
        )
    return out
