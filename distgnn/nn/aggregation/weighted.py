"""Layers whose messages are multiplied by weights of edges."""

# TorchScript and PyG's message passing read the annotations here, so they are neither postponed nor in PEP 604 form.

from typing import Optional

from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import OptTensor


class Weighted(MessagePassing):
    """A layer that multiplies its messages, whatever they are, by a number an edge before it aggregates them."""

    def aggregate(
        self,
        inputs: Tensor,
        index: Tensor,
        ptr: OptTensor = None,
        dim_size: Optional[int] = None,
        edge_weight: OptTensor = None,
    ) -> Tensor:
        """Aggregate messages ``[*, E, F]``, as :meth:`torch_geometric.nn.MessagePassing.aggregate`."""
        if edge_weight is not None:
            inputs = edge_weight.view(-1, 1) * inputs
        out: Tensor = self.aggr_module(inputs, index, ptr=ptr, dim_size=dim_size, dim=self.node_dim)
        return out
