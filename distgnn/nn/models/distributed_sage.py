"""GraphSAGE as a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch_geometric.nn import SAGEConv

from distgnn.nn.models.base import DistributedGNN

if TYPE_CHECKING:
    from torch_geometric.nn import MessagePassing


class DistributedSAGE(DistributedGNN):
    r"""The GraphSAGE of the `"Inductive Representation Learning on Large Graphs"
    <https://arxiv.org/abs/1706.02216>`_ paper, with stored node embeddings.

    Without the ``use_dist_*`` flags and with ``readout=None`` it computes what
    :class:`torch_geometric.nn.GraphSAGE` computes, and takes its ``state_dict()``.

    Args:
        in_channels (int): Width of the node features, or :obj:`-1` to take it from the first forward.
        hidden_channels (int): Width of the hidden layers.
        **kwargs (optional): Arguments of :class:`DistributedGNN` and of :class:`torch_geometric.nn.SAGEConv`.
    """

    def init_conv(self, in_channels: int, out_channels: int, **kwargs: Any) -> MessagePassing:
        """Make a layer; see :meth:`DistributedGNN.init_conv`."""
        return SAGEConv(in_channels, out_channels, **kwargs)
