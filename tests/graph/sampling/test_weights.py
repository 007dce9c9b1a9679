from __future__ import annotations

import pytest
import torch
from torch_geometric.nn import GINConv

from distgnn.errors import GraphInputError
from distgnn.graph import weighted_messages


def test_weights_of_a_column_are_those_of_a_dense_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    x, edge_index = torch.randn(6, 5, generator=generator), torch.randint(0, 6, (2, 9), generator=generator)
    weights = torch.rand(9, generator=generator)
    layer = GINConv(torch.nn.Identity())
    dense = torch.zeros(6, 6).index_put((edge_index[1], edge_index[0]), weights, accumulate=True)
    for shaped in (weights, weights.view(9, 1)):
        with weighted_messages(layer, shaped):
            torch.testing.assert_close(layer(x, edge_index), x + dense @ x)
    with (
        pytest.raises(GraphInputError, match=r"edge_weight of shape \[9, 2\]; an edge has one weight"),
        weighted_messages(layer, torch.rand(9, 2)),
    ):
        pass
