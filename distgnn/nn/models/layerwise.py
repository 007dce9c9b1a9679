"""What GIN and GINE are to those who compute them layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NoReturn

import torch
from torch.nn import Module

from distgnn.errors import GraphInputError
from distgnn.nn.activations import StoredActivation
from distgnn.nn.checks import check_pairs
from distgnn.nn.halo import Extended
from distgnn.nn.inference import infer_by_layers
from distgnn.storage.protocols import GraphStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress
    from torch import Tensor
    from torch.nn import Dropout, ModuleList
    from torch_geometric.typing import Adj

    from distgnn.nn.ages import StoredAges
    from distgnn.nn.features import StoredFeatures
    from distgnn.storage.protocols import Backend, EmbeddingStore, TensorStore


class LayerwiseModel(Module):
    """Layers, each with a normalization, the non-linearity and dropout, and what combines their outputs.

    The parts are made by whoever inherits from it.
    """

    in_channels: int
    num_layers: int
    sums_over_halo: list[bool]
    takes_pairs: list[bool]
    node_features: StoredFeatures | None
    convs: ModuleList
    norms: ModuleList
    supports_norm_batch: bool
    act: Callable[[Tensor], Tensor] | None
    act_first: bool
    supports_edge_attr: ClassVar[bool] = False
    supports_edge_weight: ClassVar[bool] = False
    dropout: Dropout
    jk: Module | None
    lin: Module | None
    heads: ModuleList | None
    activations: ModuleList
    ages: StoredAges

    def inference(
        self,
        graph: GraphStore,
        features: TensorStore | EmbeddingStore | None = None,
        *,
        edge_features: TensorStore | EmbeddingStore | None = None,
        edge_weights: TensorStore | None = None,
        batch_size: int = 1024,
        backend: Backend | None = None,
        progress: bool | Progress = True,
        refresh: bool = False,
    ) -> TensorStore:
        """Compute the outputs of all nodes of a stored graph, layer by layer.

        See :func:`distgnn.graph.infer_by_layers`, which takes the same arguments, but for one.

        Args:
            graph: The graph.
            features: ``[num_nodes, in_channels]``; None where the model has stored embeddings alone.
            edge_features: ``[num_edges, edge_dim]``.
            edge_weights: ``[num_edges]``, of a model that supports them.
            batch_size: Nodes a batch.
            backend: Where layers are stored, and whose ranks take part; by default the one in use.
            progress: Show a progress bar on stderr, on rank 0; or what to show it in.
            refresh: Leave the layers' outputs in the model's own stores, where batches with a halo find them; needs
                ``use_dist_tensor``.

        Raises:
            GraphInputError: The model normalizes over all nodes at once, or has no stores to refresh.
            ValueError: A batch of no nodes.
        """
        if not isinstance(graph, GraphStore):
            raise GraphInputError(
                f"inference goes through a stored graph, not a {type(graph).__name__}: pass a GraphStore and "
                "features in a store (docs/how-to/infer-all-nodes.md); a loader's batches are given to the model itself"
            )
        if edge_weights is not None and not self.supports_edge_weight:
            raise GraphInputError(f"{type(self).__name__} does not take edge_weight: leave edge_weights out")
        if refresh and not self.activations:
            raise GraphInputError("there are no layer outputs to refresh: make the model with use_dist_tensor=True")
        outputs = infer_by_layers(
            self,
            graph,
            features,
            edge_features=edge_features,
            edge_weights=edge_weights,
            batch_size=batch_size,
            backend=backend,
            progress=progress,
            layers=[layer for layer in self.activations if refresh and isinstance(layer, StoredActivation)],
        )
        if refresh:
            self.ages.note_all_written()
        return outputs

    def __prepare_scriptable__(self) -> NoReturn:
        raise GraphInputError(
            f"{type(self).__name__} is no TorchScript: without stores torch.export and torch.compile take it, and "
            "torch_geometric.nn.GIN, which torch.jit.script takes, loads the state_dict of a DistributedGIN"
        )

    def input_rows(self, x: Tensor | None, node_ids: Tensor) -> Tensor:
        """Compute what the first layer is given for nodes ``[K]``, features and stored embeddings together."""
        h = x if self.node_features is None else self.node_features(x, node_ids)
        if h is None:
            raise GraphInputError("x=None needs stored node embeddings: make the model with use_dist_embedding=True")
        return h

    def layer(
        self,
        index: int,
        h: tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None,
        edge_ids: Tensor,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Compute the output of a layer for some nodes, from the rows of sources ``[S, width]`` and their own."""
        edge_attr = self._edge_inputs(edge_index, edge_attr, edge_ids)
        return self._run_layer(index, h, edge_index, edge_attr, edge_weight=edge_weight)

    @property
    def combines_layers(self) -> bool:
        """Whether the output needs the rows of other layers than the last."""
        return self.heads is not None or self.jk is not None

    def combine(self, layers: list[Tensor]) -> Tensor:
        """Compute the output from the input rows and those of each layer, or of the last one alone."""
        if self.heads is not None:
            return torch.stack([self.dropout(head(h)) for head, h in zip(self.heads, layers, strict=True)]).sum(dim=0)
        h: Tensor = layers[-1] if self.jk is None else self.jk(layers[1:])
        return h if self.lin is None else self.lin(h)

    def _run_layer(
        self,
        index: int,
        h: Tensor | tuple[Tensor | Extended, Tensor],
        edge_index: Adj,
        edge_attr: Tensor | None,
        batch: Tensor | None = None,
        batch_size: int | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        conv, norm = self.convs[index], self.norms[index]
        if isinstance(h, tuple):
            check_pairs(conv, takes_pairs=self.takes_pairs[index])
            if isinstance(h[0], Extended) and not self.sums_over_halo[index]:
                h = h[0].together(), h[1]
        weights = {} if edge_weight is None else {"edge_weight": edge_weight}
        edges = (edge_index,) if edge_attr is None else (edge_index, edge_attr)
        out: Tensor = conv(h, *edges, **weights)
        if index < self.num_layers - 1 or self.lin is not None or self.heads is not None:
            out = self.act(out) if self.act is not None and self.act_first else out
            out = norm(out, batch, batch_size) if self.supports_norm_batch else norm(out)
            out = self.act(out) if self.act is not None and not self.act_first else out
            if self.heads is None:  # the paper drops out what the heads give, and that alone
                out = self.dropout(out)
        return out

    def _edge_inputs(self, edge_index: Adj, edge_attr: Tensor | None, edge_ids: Tensor | None) -> Tensor | None:  # noqa: ARG002
        return edge_attr if self.supports_edge_attr else None
