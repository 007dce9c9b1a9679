"""Oracles: the contract one row and edge at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.storage.toolkit.initial import initial_rows

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.protocols import InEdges, UpdateRule
    from distgnn.storage.specs import EmbeddingSpec


class DictOfRows:
    """An embedding store as a dictionary of rows, each updated by itself.

    Args:
        spec: The store.
    """

    def __init__(self, spec: EmbeddingSpec) -> None:
        self._wide = torch.float64 if spec.dtype == torch.float64 else torch.float32
        self._rows = {row: initial_rows(spec, row, row + 1)[0] for row in range(spec.num_embeddings)}
        self._state: dict[tuple[type[UpdateRule], int], dict[str, Tensor]] = {}
        self._steps: dict[type[UpdateRule], int] = {}

    def apply_gradients(self, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        """Do what the store of that name does with the gradients of all ranks."""
        self._steps[type(rule)] = self._steps.get(type(rule), 0) + 1
        sums: dict[int, Tensor] = {}
        for row, gradient in zip(ids.tolist(), gradients.cpu().to(self._wide), strict=True):
            sums[row] = sums[row] + gradient if row in sums else gradient.clone()
        for row, total in sums.items():
            content = self._rows[row].to(self._wide)[None]
            if (type(rule), row) not in self._state:
                self._state[type(rule), row] = {
                    name: torch.full((1, spec.width), spec.initial)
                    for name, spec in rule.state(content.shape[1]).items()
                }
            rule.update(content, self._state[type(rule), row], total[None], self._steps[type(rule)])
            self._rows[row] = content[0].to(self._rows[row].dtype)

    def state(self, rule: UpdateRule, row: int) -> dict[str, Tensor]:
        """Give the state ``[1, width]`` of a row, by name."""
        width = self._rows[row].numel()
        initial = {name: torch.full((1, spec.width), spec.initial) for name, spec in rule.state(width).items()}
        return self._state.get((type(rule), row), initial)

    def table(self, device: torch.device) -> Tensor:
        """Give all rows, in order."""
        return torch.stack(list(self._rows.values())).to(device)


def in_edges(edge_index: Tensor, nodes: Tensor) -> list[list[int]]:
    """Find the ids of the edges that end in each of ``nodes``, ascending."""
    destinations = edge_index[1].tolist()
    return [[edge for edge, end in enumerate(destinations) if end == node] for node in nodes.tolist()]


def edges_by_node(found: InEdges, nodes: Tensor, counts: list[int]) -> list[list[int]]:
    """Take an answer apart into the edge ids of each of ``nodes``, given how many each must have.

    Raises:
        AssertionError: Another number of edges, or not grouped in the order of ``nodes``.
    """
    expected = [node for node, count in zip(nodes.tolist(), counts, strict=True) for _ in range(count)]
    assert found.destinations.tolist() == expected, f"edges of {nodes.tolist()} must end in {expected}"
    edges = found.edge_ids.tolist()
    stops = torch.tensor(counts, dtype=torch.int64).cumsum(0).tolist()
    return [edges[stop - count : stop] for stop, count in zip(stops, counts, strict=True)]
