"""Cutting a graph into parts, each a folder that one worker loads without the others."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from distgnn._version import __version__
from distgnn.errors import ConfigError, DataFormatError
from distgnn.graph.assignment import assign_nodes
from distgnn.graph.partition_picture import draw_partition
from distgnn.graph.tensor_files import TensorFile, blocks, save_rows, save_tensors
from distgnn.specs import PartitionBook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch_geometric.data import Data

FORMAT, VERSION = "distgnn partition", 1
MANIFEST, IDS, PICTURE = "manifest.json", "ids.safetensors", "partition.png"


@dataclass(frozen=True)
class PartSummary:
    """What one part holds.

    Args:
        nodes: Nodes of its own.
        edges: Edges, which are those that end in them.
        cut_edges: Of these, edges that come from a node of another part.
        halo_nodes: Nodes of other parts that these come from.
    """

    nodes: int
    edges: int
    cut_edges: int
    halo_nodes: int


@dataclass(frozen=True)
class PartitionReport:
    """How well a graph was cut.

    Args:
        folder: Where the parts are.
        method: How nodes were assigned.
        parts: What each part holds.
        left_out: Attributes of the graph that are no rows of nodes or edges, and were not written.
    """

    folder: str
    method: str
    parts: tuple[PartSummary, ...]
    left_out: tuple[str, ...]

    @property
    def edge_cut(self) -> int:
        """Number of edges between nodes of different parts."""
        return sum(part.cut_edges for part in self.parts)

    @property
    def edge_cut_ratio(self) -> float:
        """The same as a share of all edges."""
        return self.edge_cut / max(1, sum(part.edges for part in self.parts))

    @property
    def node_balance(self) -> float:
        """Nodes of the largest part over those of the average part; 1 is best."""
        return _balance([part.nodes for part in self.parts])

    @property
    def edge_balance(self) -> float:
        """Edges of the largest part over those of the average part; 1 is best."""
        return _balance([part.edges for part in self.parts])

    @property
    def halo_ratio(self) -> float:
        """Halo nodes of all parts over all nodes: how much more memory features take when each part has its halo's."""
        return sum(part.halo_nodes for part in self.parts) / max(1, sum(part.nodes for part in self.parts))

    def as_dict(self) -> dict[str, object]:
        """Return fields and measures as the manifest has them."""
        measures = ("edge_cut", "edge_cut_ratio", "node_balance", "edge_balance", "halo_ratio")
        return asdict(self) | {name: getattr(self, name) for name in measures}


def partition_graph(
    graph: Data,
    out: str | Path,
    num_parts: int,
    *,
    method: str = "metis",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PartitionReport:
    """Cut a graph into parts and write each into a folder of its own.

    Nodes are numbered anew, so that every part owns a range of them, and within it in the order of the user's ids; an
    edge belongs to the part of its destination, and edges are numbered anew in the order of their destinations. A part
    has its nodes and edges, their rows of every feature, and the ids of its halo: the nodes of other parts that its
    edges come from. Features, which may be memory-mapped tensors larger than memory, go to their files in blocks; of
    the structure, one part and a few numbers for every node are in memory at a time (with METIS all of it).

    The folder appears when it is whole; a run that fails leaves none.

    Args:
        graph: ``edge_index`` and the number of nodes; tensors with a row for every node or edge are its features.
        out: The folder.
        num_parts: How many parts.
        method: See :func:`~distgnn.graph.assignment.assign_nodes`.
        seed: Of METIS and of the hash.
        overwrite: Replace a partition that is there.
        progress: Is called with the number of parts done.

    Returns:
        The report, which is also in the manifest and in ``partition.png``.

    Raises:
        ConfigError: ``out`` is there already or cannot be written, or the method or number of parts cannot be.
        DataFormatError: The graph has no nodes or edges to cut, or a feature of a type that cannot be saved.
    """
    out = Path(out)
    if graph.edge_index is None or not graph.num_nodes:
        raise DataFormatError("there is no graph to cut: it needs nodes and an edge_index of shape [2, E]")
    _check_free(out, overwrite=overwrite)
    features, left_out = _features(graph)
    parts = assign_nodes(graph.edge_index, graph.num_nodes, num_parts, method=method, seed=seed)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        writer = _Writer(unfinished, graph.edge_index, parts, num_parts, features)
        summaries = []
        for part in range(num_parts):
            summaries.append(writer.write(part))
            if progress is not None:
                progress(part + 1)
        report = PartitionReport(str(out), method, tuple(summaries), left_out)
        draw_partition(report, unfinished / PICTURE)
        writer.finish(report, seed)
        _move(unfinished, out)
    except OSError as error:
        raise ConfigError(f"the partition cannot be written to {out}: {error}; choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


class _Writer:
    """Writes the files of a partition, part by part.

    Args:
        folder: Where to.
        edge_index: ``[2, E]`` by the user's ids.
        parts: ``[N]``, the part of each node.
        num_parts: How many parts.
        features: Tensors with a row for each node, under ``"nodes"``, and edge, under ``"edges"``, by name.
    """

    def __init__(
        self, folder: Path, edge_index: Tensor, parts: Tensor, num_parts: int, features: Mapping[str, dict[str, Tensor]]
    ) -> None:
        self._folder = folder
        self._edge_index = edge_index
        self._parts = parts
        self._features = features
        self._nodes = parts.argsort(stable=True)  # the user's ids in the new order
        self._new = torch.empty_like(self._nodes)
        self._new[self._nodes] = torch.arange(parts.numel())
        sizes = parts.bincount(minlength=num_parts)
        self._bounds = PartitionBook((0, *sizes.cumsum(0).tolist()))
        self._edge_bounds = [0]
        ids = {"nodes": (torch.int64, (parts.numel(),)), "edges": (torch.int64, (edge_index.size(1),))}
        file = TensorFile(folder / IDS, ids)
        file.write("nodes", 0, self._new)
        file.close()
        # The new number of an edge is known when its part is written, so this tensor, the last, fills up in any order.
        self._new_edges = np.empty(0, dtype=np.int64)
        if edge_index.size(1):
            start = (folder / IDS).stat().st_size - 8 * edge_index.size(1)
            self._new_edges = np.memmap(folder / IDS, np.int64, "r+", start)

    def write(self, part: int) -> PartSummary:
        """Write one part."""
        first, last = self._bounds.bounds[part : part + 2]
        sources, positions, edge_ids = self._in_edges(part, first)
        order = positions.argsort(stable=True)
        sources, edge_ids = sources[order], edge_ids[order]
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), positions.bincount(minlength=last - first).cumsum(0)])
        remote = (sources < first) | (sources >= last)
        halo = torch.unique(sources[remote])
        nodes = self._nodes[first:last]
        folder = self._folder / f"part-{part}"
        folder.mkdir()
        structure = {
            "node_ids": nodes,
            "edge_ids": edge_ids,
            "colptr": starts,
            "sources": sources,
            "halo": halo,
            "halo_ids": self._nodes[halo],
        }
        save_tensors(folder / "graph.safetensors", structure)
        save_rows(folder / "nodes.safetensors", self._features["nodes"], nodes)
        save_rows(folder / "edges.safetensors", self._features["edges"], edge_ids)
        self._new_edges[edge_ids.numpy()] = np.arange(edge_ids.numel()) + self._edge_bounds[-1]
        self._edge_bounds.append(self._edge_bounds[-1] + edge_ids.numel())
        return PartSummary(last - first, edge_ids.numel(), int(remote.sum()), halo.numel())

    def _in_edges(self, part: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the new ids of sources, the destinations counted from the part's first node, and the user's edge ids."""
        found = []
        for begin, block in blocks(self._edge_index.size(1), 16):
            sources, destinations = self._edge_index[:, block]
            mine = (self._parts.index_select(0, destinations) == part).nonzero().flatten()
            new = (self._new.index_select(0, end.index_select(0, mine)) for end in (sources, destinations))
            found.append((*new, mine + begin))
        if not found:
            return (torch.empty(0, dtype=torch.int64),) * 3
        sources, destinations, edge_ids = (torch.cat(columns) for columns in zip(*found, strict=True))
        return sources, destinations - first, edge_ids

    def finish(self, report: PartitionReport, seed: int) -> None:
        """Write the manifest."""
        if isinstance(self._new_edges, np.memmap):
            self._new_edges.flush()
        files = sorted(path for path in self._folder.rglob("*.safetensors"))
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "written_by": f"distgnn {__version__}",
            "seed": seed,
            "num_nodes": self._parts.numel(),
            "num_edges": self._edge_index.size(1),
            "node_bounds": self._bounds.bounds,
            "edge_bounds": self._edge_bounds,
            "files": {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in files},
            "report": report.as_dict(),
        }
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _features(graph: Data) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Find what has a row for each node or edge, and the names of the rest."""
    features: dict[str, dict[str, Tensor]] = {"nodes": {}, "edges": {}}
    left_out = []
    for name, value in graph.to_dict().items():
        if name in {"edge_index", "num_nodes"}:
            continue
        in_rows = isinstance(value, Tensor) and value.layout == torch.strided and not graph.__cat_dim__(name, value)
        if in_rows and graph.is_node_attr(name):
            features["nodes"][name] = value
        elif in_rows and graph.is_edge_attr(name):
            features["edges"][name] = value
        else:
            left_out.append(name)
    return features, tuple(left_out)


def _check_free(out: Path, *, overwrite: bool) -> None:
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise ConfigError(f"{out} is there already; choose another folder, or ask for it to be overwritten")
    if not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} is there and is no partition, so it is not overwritten; choose another folder")


def _move(unfinished: Path, out: Path) -> None:
    """Give the folder its name; one that has it steps aside first, and is removed afterwards."""
    old = unfinished.with_suffix(".replaced")
    if out.exists():
        out.rename(old)
    unfinished.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _balance(sizes: list[int]) -> float:
    return max(sizes) * len(sizes) / max(1, sum(sizes))
