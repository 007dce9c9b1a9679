"""Layers of ours beside PyG's, on the same graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Identity, Module
from torch_geometric.nn import GINConv, GINEConv

from distgnn.nn import DistributedGINConv, DistributedGINEConv

PAIRS = [(DistributedGINConv, GINConv), (DistributedGINEConv, GINEConv)]
both = pytest.mark.parametrize(("ours", "pygs"), PAIRS, ids=["GIN", "GINE"])


def random_graph(nodes: int = 50, edges: int = 300) -> Tensor:
    return torch.randint(nodes, (2, edges))


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def results(conv: Module, edge_index: Any, inputs: tuple[Any, ...], **kwargs: Any) -> list[Tensor | None]:
    """The output, and the gradients of inputs and parameters."""
    x, *rest = inputs
    out: Tensor = conv(x, edge_index, *rest, **kwargs)
    ends = x if isinstance(x, tuple) else (x,)
    leaves = [t for t in (*ends, *rest, *conv.parameters()) if t is not None and t.requires_grad]
    slopes = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
    return [out, *torch.autograd.grad(out, leaves, slopes, allow_unused=True)]


def inputs_for(conv: type, nodes: int, edges: int, width: int = 3, **kwargs: Any) -> tuple[Tensor, ...]:
    x = leaf(nodes, width, **kwargs)
    return (x, leaf(edges, width, **kwargs)) if issubclass(conv, GINEConv) else (x,)


def layers(ours: type, pygs: type, nn: Module | None = None, **kwargs: Any) -> tuple[Module, Module]:
    nn = nn or Identity()
    return ours(nn, train_eps=True, **kwargs).double(), pygs(nn, train_eps=True, **kwargs).double()
