"""Tensors and graphs in mapped temporary files, which end with their store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

import distgnn
from distgnn.optim import sum_by_id
from distgnn_mmap.exports import check_range, check_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from distgnn_mmap.rows import MappedRows

    OpenRows = Callable[[int, int, torch.dtype], MappedRows]

CPU = torch.device("cpu")


class MmapTensorStore:
    """A tensor, zero where nothing was written."""

    def __init__(self, spec: distgnn.TensorSpec, open_rows: OpenRows) -> None:
        self.spec = spec
        self.closed = False
        self._rows = open_rows(spec.shape[0], torch.Size(spec.shape[1:]).numel(), spec.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.spec.dtype

    def read(self, ids: Tensor) -> Tensor:
        self._check_open()
        self.spec.check_ids(ids, CPU)
        return self._rows.take(ids).view(-1, *self.shape[1:])

    @torch.no_grad()
    def write(self, ids: Tensor, values: Tensor, *, accumulate: bool = False) -> None:
        self._check_open()
        self.spec.check_values(ids, values, CPU)
        if accumulate:
            distinct, sums = sum_by_id(ids, values)
            rows = self.read(distinct).to(sums.dtype).add_(sums).to(self.dtype)
        else:
            numbers, last = np.unique(ids.flip(0).numpy(), return_index=True)
            distinct, rows = torch.from_numpy(numbers), values[ids.numel() - 1 - torch.from_numpy(last)]
        self._rows.put(distinct, rows.reshape(distinct.numel(), self._rows.rows.size(1)))

    @property
    def own_rows(self) -> range:
        return range(self.shape[0])

    def rule_states(self) -> dict[str, distgnn.RuleState]:
        self._check_open()
        return {}

    def reset_rule_states(self, _states: Mapping[str, distgnn.RuleState]) -> None:
        self._check_open()

    def export_rows(self, first: int, last: int) -> dict[str, Tensor]:
        self._check_open()
        check_range(self.spec.name, self.shape[0], first, last)
        return {"rows": self._rows.rows[first:last].view(-1, *self.shape[1:])}

    def import_rows(self, first: int, rows: Mapping[str, Tensor]) -> None:
        check_rows(self.spec.name, rows, self.export_rows(0, 0))
        last = first + rows["rows"].size(0)
        check_range(self.spec.name, self.shape[0], first, last)
        self._rows.put(torch.arange(first, last), rows["rows"].reshape(last - first, self._rows.rows.size(1)))

    def _check_open(self) -> None:
        if self.closed:
            raise distgnn.StoreClosedError(f"store {self.spec.name!r} is closed; open it again from its backend")

    def close(self) -> None:
        self.closed = True
        self._rows.close()


class MmapGraphStore:
    """A graph, its edges sorted by destination (CSC)."""

    def __init__(self, spec: distgnn.GraphSpec, edge_index: Tensor, open_rows: OpenRows) -> None:
        self.spec = spec
        self.closed = False
        self._parts = []
        for content in _sorted(spec, edge_index):
            self._parts.append(open_rows(content.numel(), 1, torch.int64))
            self._parts[-1].rows.copy_(content.unsqueeze(1))

    @property
    def num_nodes(self) -> int:
        return self.spec.num_nodes

    @property
    def num_edges(self) -> int:
        return self.spec.num_edges

    def holds(self, edge_index: Tensor) -> bool:
        """Tell whether it was made from these edges."""
        contents = _sorted(self.spec, edge_index)
        return all(torch.equal(part.rows.squeeze(1), own) for part, own in zip(self._parts, contents, strict=True))

    def in_neighbors(self, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> distgnn.InEdges:
        if self.closed:
            raise distgnn.StoreClosedError(f"store {self.spec.name!r} is closed; open it again from its backend")
        self.spec.check_query(nodes, fanout, CPU)
        colptr, sources, edge_ids = self._parts
        first = colptr.take(nodes).squeeze(1).numpy()
        degrees = colptr.take(nodes + 1).squeeze(1).numpy() - first
        kept = degrees if fanout < 0 else np.minimum(degrees, fanout)
        before = kept.cumsum() - kept
        places = (first - before).repeat(kept) + np.arange(kept.sum())
        for position in np.flatnonzero(degrees > kept):
            key = np.array([seed % 2**64, int(nodes[position])], dtype=np.uint64)
            drawn = np.random.Generator(np.random.Philox(key=key)).choice(degrees[position], fanout, replace=False)
            places[before[position] : before[position] + fanout] = first[position] + np.sort(drawn)
        chosen = torch.from_numpy(places)
        destinations = nodes.repeat_interleave(torch.from_numpy(kept))
        return distgnn.InEdges(sources.take(chosen).squeeze(1), destinations, edge_ids.take(chosen).squeeze(1))

    def close(self) -> None:
        self.closed = True
        for part in self._parts:
            part.close()


def _sorted(spec: distgnn.GraphSpec, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give where each node's edges begin ``[N + 1]``, their sources ``[E]`` and their ids ``[E]``."""
    edge_ids = edge_index[1].argsort(stable=True)
    degrees = torch.bincount(edge_index[1], minlength=spec.num_nodes)
    return torch.cat([degrees.new_zeros(1), degrees.cumsum(0)]), edge_index[0][edge_ids], edge_ids
