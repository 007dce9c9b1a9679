from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import Identity
from torch_geometric.nn import GINConv, GINEConv

from distgnn.nn.aggregation import chunks as aggregate
from distgnn.nn.aggregation import layout
from tests.nn.aggregation.pairs import PAIRS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(layout, "_WORTHWHILE", 0)  # small graphs are quickly tested


@pytest.fixture
def no_messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let PyG's way fail, so that what passes has not gone it."""
    for ours, _ in PAIRS:
        ours(Identity())  # PyG makes a propagate for a class once, by the signature of its message

    def message(*_: object, **__: object) -> Tensor:
        raise AssertionError("a message was made")

    with monkeypatch.context() as patch:
        patch.setattr(GINConv, "message", message)
        patch.setattr(GINEConv, "message", message)
        yield


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "_CHUNK", 8)
