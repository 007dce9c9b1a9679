"""What is refused before a model computes anything."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from distgnn.errors import GraphInputError
from distgnn.nn.norm.norms import batch_norm, graph_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.nn import Module
    from torch_geometric.typing import Adj

    from distgnn.nn.halo import Halo
    from distgnn.nn.models.layerwise import LayerwiseModel


_IDS = {torch.int32, torch.int64}
IN_STORES = (
    "rows of stores are no part of a graph of operations. Export a model of the same weights without the use_dist_ "
    "flags, whose x is the sum of features and looked up rows; torch.compile takes the model as it is"
)


def check_model(
    model: LayerwiseModel,
    x: Tensor | None,
    edge_weight: Tensor | None,
    edge_attr: Tensor | None,
    halo: Halo | None,
    batch: Tensor | None,
    per_hop: tuple[list[int] | None, list[int] | None],
) -> None:
    """See that arguments fit the model and each other.

    Args:
        model: Is given them.
        x: As in its forward.
        edge_weight: Likewise.
        edge_attr: Likewise.
        halo: Likewise.
        batch: Likewise.
        per_hop: How many nodes and edges were sampled, hop by hop.

    Raises:
        GraphInputError: They do not.
    """
    if x is None and model.node_features is None:
        raise GraphInputError("x=None needs stored node embeddings: make the model with use_dist_embedding=True")
    if isinstance(x, tuple):
        raise GraphInputError(
            "a model takes the features of one kind of nodes, x of shape [N, in_channels]; x=(x_src, x_dst) is for "
            "layers: DistributedGINConv, DistributedGINEConv"
        )
    check_features(x, None if model.in_channels == -1 else model.in_channels, "model")
    _check_supported(model, edge_weight, edge_attr)
    if halo is not None and not model.activations:
        raise GraphInputError(
            "a part of a graph exchanges rows through stores: make the model with use_dist_tensor=True"
        )
    if halo is not None and halo.history and is_explained(model):
        raise GraphInputError(
            "an explainer's masks would go into the layer outputs that other batches read: explain nodes of the whole "
            "graph, or of a sample, without halo"
        )
    if halo is not None and batch is not None:
        raise GraphInputError("batch= is for graphs that a rank has whole, halo= for one in parts: leave one out")
    if per_hop == (None, None):
        return
    if None in per_hop:
        raise GraphInputError("num_sampled_nodes_per_hop and num_sampled_edges_per_hop belong together: pass both")
    if batch is not None or model.activations or model.combines_layers:
        raise GraphInputError(
            "num_sampled_nodes_per_hop leaves out nodes layer by layer; batch, use_dist_tensor, readout='layer_sum' "
            "and jk need all nodes of each: leave out num_sampled_nodes_per_hop and num_sampled_edges_per_hop"
        )


def _check_supported(model: LayerwiseModel, edge_weight: Tensor | None, edge_attr: Tensor | None) -> None:
    if not model.supports_edge_attr and edge_attr is not None and edge_attr.dim() == 1:
        raise GraphInputError(
            f"{type(model).__name__} has no features of edges, and one number an edge is a weight: pass "
            "edge_weight=edge_attr, or learn from it as a feature, DistributedGINE(..., edge_dim=1) and "
            "edge_attr=edge_attr.view(-1, 1)"
        )
    if edge_weight is not None and not model.supports_edge_weight:
        raise GraphInputError(
            f"{type(model).__name__} does not take edge_weight: its layers have no weights. DistributedGIN and "
            "DistributedGINE multiply messages by them"
        )


def is_explained(model: Module) -> bool:
    """Tell whether an explainer masks the messages of a model."""
    return any(isinstance(module, MessagePassing) and module.explain for module in model.modules())


def check_features(x: object, channels: int | None, owner: str) -> None:
    """See that features are a matrix of the width that somebody was made for.

    Args:
        x: Features of nodes, or None.
        channels: The width, where it is known.
        owner: What was made for it.

    Raises:
        GraphInputError: They are not.
    """
    if x is None:
        return
    if not isinstance(x, Tensor) or x.dim() < 2:
        shape = f"shape {list(x.shape)}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
        raise GraphInputError(f"x must be a tensor of shape [N, {channels or 'F'}], a row a node, not of {shape}")
    if channels is not None and x.size(-1) != channels:
        raise GraphInputError(f"x has {x.size(-1)} features a node, the {owner} was made for {channels}")


def check_not_exported(stored: str) -> None:
    """Refuse to write down as a graph of operations what is read from a store at every call.

    Args:
        stored: What is in the store, and its name.

    Raises:
        GraphInputError: The model is exported or traced at the moment.
    """
    exports = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    if exports or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise GraphInputError(f"{stored} cannot be exported, traced or scripted: {IN_STORES}")


def check_batch_norm(model: Module, rows: Tensor) -> None:
    """Refuse to train with the batch statistics of one row.

    Args:
        model: With batch normalizations, or none.
        rows: What the first layer is given, ``[N, D]``.

    Raises:
        GraphInputError: There is one row, whose variance is 0.
    """
    if not model.training or rows.dim() != 2 or rows.size(0) != 1:
        return
    norm = batch_norm(model.named_modules())
    if norm is not None:
        raise GraphInputError(
            f"{norm} cannot take the mean and the variance of one row, and this batch is one node: leave a last small "
            "batch out by drop_last=True, choose another batch_size, or make the model with "
            "norm_kwargs={'allow_single_element': True}"
        )


def check_edge_weight(
    edge_weight: Tensor | None, edge_index: Adj, aggregate: Callable[..., Tensor] | None = None
) -> None:
    """See that there is one floating point number for each edge.

    Args:
        edge_weight: The weights, or None.
        edge_index: The edges.
        aggregate: The layer's method, which somebody may have overridden.

    Raises:
        GraphInputError: There is not, edges are in a sparse matrix, or the layer would leave weights out.
    """
    if edge_weight is None:
        return
    if aggregate is not None and "edge_weight" not in inspect.signature(aggregate).parameters:
        raise GraphInputError("the layer's aggregate() does not take edge_weight, so that weights would be left out")
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided:
        raise GraphInputError("edge_weight goes with edge_index of shape [2, E], not with a sparse matrix")
    if edge_weight.shape != (edge_index.size(1),) or not edge_weight.is_floating_point():
        raise GraphInputError(
            f"edge_weight must be floating point numbers of shape [{edge_index.size(1)}], one an edge, not "
            f"{edge_weight.dtype} of {list(edge_weight.shape)}"
        )


def check_edge_index(edge_index: Adj, num_nodes: int | None) -> None:
    """Refuse ends that are no nodes, with a word for edges counted from 1.

    On a GPU the check would wait for the device, and where a graph of operations is made there are no numbers yet;
    there PyG's layers find such ends themselves.
    """
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided or edge_index.device.type != "cpu":
        return
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    if edge_index.dim() != 2 or edge_index.size(0) != 2 or edge_index.dtype not in _IDS:
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


def takes_pairs(conv: Module) -> bool:
    """Return whether a layer takes the rows of sources and of destinations apart, by the annotation of its ``x``."""
    x = next(iter(inspect.signature(conv.forward).parameters.values())).annotation
    return x in {inspect.Parameter.empty, Any, "Any"} or re.search("(?i)pair|tuple", str(x)) is not None


def check_pairs(conv: Module, *, takes_pairs: bool) -> None:
    """Refuse a layer that cannot be sure to compute a node's output from its own row and its in-edges alone.

    Args:
        conv: The layer.
        takes_pairs: What :func:`takes_pairs` returned for it.

    Raises:
        GraphInputError: It takes one matrix, and may look at the degrees of sources, which a part does not know.
    """
    if not takes_pairs:
        raise GraphInputError(
            f"{type(conv).__name__} takes one matrix for sources and destinations, so its outputs may depend on edges "
            "that a part of a graph, or a batch of nodes, does not have: run the model on the whole graph or on "
            "samples, or use a layer whose forward takes x=(x_src, x_dst) as well, such as SAGEConv or GATConv"
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
