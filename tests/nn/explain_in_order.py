"""Mask edges of PyG's layers and of ours, in a process whose first layers are those that argv says."""

from __future__ import annotations

import sys

import torch
from torch_geometric.nn import GIN, MLP, GINEConv
from torch_geometric.nn.conv.message_passing import MessagePassing

from distgnn.nn import DistributedGIN, DistributedGINConv, DistributedGINEConv

SIZES = {"num_layers": 2, "out_channels": 3}


class Users(DistributedGINConv):
    """A layer of a user."""


def first(order: str) -> None:
    """Make the layers that come first."""
    for name in order.split(","):
        if name == "pygs":
            GIN(4, 8, **SIZES)
            GINEConv(MLP([4, 8]))
        else:
            DistributedGIN(4, 8, num_layers=2)
            DistributedGINEConv(MLP([4, 8]))
            Users(MLP([4, 8]))


def masked(module: torch.nn.Module, mask: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """Compute an output under a mask, and the mask's gradients."""
    for conv in module.modules():
        if isinstance(conv, MessagePassing):
            conv.explain, conv._edge_mask, conv._apply_sigmoid = True, mask, False
    out = module(*inputs)
    gradients = torch.autograd.grad(out.square().sum(), mask)[0]
    for conv in module.modules():
        if isinstance(conv, MessagePassing):
            conv.explain = False
    return torch.cat([out.flatten(), gradients, module(*inputs).flatten()])


if __name__ == "__main__":
    first(sys.argv[1])
    x, edges, edge_attr = torch.randn(9, 4), torch.randint(9, (2, 30)), torch.randn(30, 4)
    mask = torch.rand(30).requires_grad_()
    pygs, ours = GIN(4, 8, **SIZES), DistributedGIN(4, 8, num_layers=2, out_channels=3)
    ours.load_state_dict(pygs.state_dict())
    torch.testing.assert_close(masked(ours, mask, x, edges), masked(pygs, mask, x, edges))
    for layer, peer in ((Users(MLP([4, 8])), pygs.convs[0]), (DistributedGINEConv(MLP([4, 8])), GINEConv(MLP([4, 8])))):
        inputs = (x, edges) if isinstance(layer, Users) else (x, edges, edge_attr)
        layer.nn = peer.nn
        torch.testing.assert_close(masked(layer, mask, *inputs), masked(peer, mask, *inputs))
